//! Secrets that stand in clear in a policy: files of it are kept in history and in version control.

use portolan_common::document::{Flaw, Reader};

/// Keys that hold a secret, alone or after a dash.
const SECRET_KEYS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "api_key",
    "apikey",
    "routing_key",
    "integration_key",
    "private_key",
    "authorization",
];
/// Tables whose keys are names that people give.
const FREE_NAMES: [&str; 3] = ["labels", "match", "seen_as"];
/// Parameters of a URL that hold a secret, besides those keys.
const SECRET_PARAMETERS: [&str; 3] = ["key", "sig", "signature"];
const HINT: &str = "write secret_file = \"…\" or secret_env = \"…\": the server reads the secret from there";
const URL_HINT: &str = "write url_file = \"…\" or url_env = \"…\": the server reads the URL from there";

/// Notes every secret of the file, and hides it in whatever is reported.
pub(super) fn find(root: &Reader<'_>) {
    root.each_string(|keys, text| {
        let [parents @ .., key] = keys else { return };
        let free = parents.last().is_some_and(|parent| FREE_NAMES.contains(parent));
        let what = if !free && !text.is_empty() && is_secret_key(key) {
            format!("`{}`", key.escape_debug())
        } else if let Some(what) = in_url(text) {
            what
        } else {
            return;
        };
        let flaw = Flaw::new(format!("a secret in clear: {what}"));
        root.mistake(text.span.clone(), flaw.hint(if *key == "url" { URL_HINT } else { HINT }));
        root.hide(text.span.clone());
    });
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SECRET_KEYS.iter().any(|secret| {
        key.strip_suffix(secret).is_some_and(|before| before.is_empty() || before.ends_with('_'))
    })
}

/// What is secret in a URL; `None` for everything else.
fn in_url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (userinfo, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if userinfo.split_once(':').is_some_and(|(_, password)| !password.is_empty()) {
        return Some("the URL has a password".to_owned());
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if is_chat_webhook(host, path) {
        return Some("whoever has this URL can write to the channel".to_owned());
    }
    let parameters = query.split(['&', ';']).filter_map(|parameter| parameter.split_once('='));
    let is_secret = |name: &str| {
        is_secret_key(name) || SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
    };
    let (name, _) = parameters.into_iter().find(|(name, value)| !value.is_empty() && is_secret(name))?;
    Some(format!("`{}` in the URL", name.escape_debug()))
}

/// Whether it is a webhook of Slack, Teams or Discord: their paths are the secret.
fn is_chat_webhook(host: &str, path: &str) -> bool {
    let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let at = |domain: &str| host.strip_suffix(domain).is_some_and(|sub| sub.is_empty() || sub.ends_with('.'));
    let path = path.trim_start_matches('/');
    (at("hooks.slack.com") || at("webhook.office.com")) && !path.is_empty()
        || at("outlook.office.com") && path.starts_with("webhook/")
        || (at("discord.com") || at("discordapp.com"))
            && path.starts_with("api/")
            && path.contains("webhooks/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_secrets_and_those_that_are_not() {
        for url in [
            "https://hooks.slack.com/services/T000/B000/XXXX",
            "https://HOOKS.slack.com:443/workflows/T000",
            "https://example.webhook.office.com/webhookb2/1",
            "https://outlook.office.com/webhook/1",
            "https://discord.com/api/webhooks/1/abc",
            "https://ptb.discordapp.com/api/v10/webhooks/1/abc",
            "https://chat.example.com/hook?room=1&token=abc",
            "https://chat.example.com/hook?access-token=abc",
            "https://chat.example.com?API_KEY=abc#top",
            "https://chat.example.com/?sp=1;sig=abc",
            "smtp://me:geheim@mail.example.com",
        ] {
            assert!(in_url(url).is_some(), "{url}");
        }
        for url in [
            "https://hooks.slack.com/",
            "https://hooks.slack.com.example.com/services/T000",
            "https://myhooks.slack.com/services/T000",
            "https://discord.com/channels/1",
            "https://chat.example.com/hook?token=&room=key",
            "https://chat.example.com/hook?monkey=1#token=abc",
            "https://chat.example.com/token=abc",
            "hook?token=abc",
        ] {
            assert_eq!(in_url(url), None, "{url}");
        }
    }
}
