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
const HINT: &str = "write secret_file = \"…\" or secret_env = \"…\": the server reads the secret from there";

/// Notes every secret of the file.
pub(super) fn find(root: &Reader<'_>) {
    root.each_string(|keys, text| {
        let [parents @ .., key] = keys else { return };
        let free = parents.last().is_some_and(|parent| FREE_NAMES.contains(parent));
        if !free && !text.is_empty() && is_secret_key(key) {
            let flaw = Flaw::new(format!("a secret in clear: `{}`", key.escape_debug()));
            root.mistake(text.span.clone(), flaw.hint(HINT));
        } else if has_password(text) {
            root.mistake(
                text.span.clone(),
                Flaw::new("a secret in clear: the URL has a password").hint(HINT),
            );
        }
    });
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SECRET_KEYS.iter().any(|secret| {
        key.strip_suffix(secret).is_some_and(|before| before.is_empty() || before.ends_with('_'))
    })
}

/// Whether it is a URL with `user:password@` before its host.
fn has_password(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let userinfo = authority.rsplit_once('@').map(|(userinfo, _)| userinfo);
        userinfo
            .and_then(|userinfo| userinfo.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    })
}
