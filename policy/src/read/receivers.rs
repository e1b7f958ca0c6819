//! `[[receiver]]`: who is told.

use super::Part;
use super::fields::{self, Named, not_empty, url};
use crate::model::Receiver;
use portolan_common::document::{Flaw, Reader};

/// What a receiver can be: one of these keys.
const KINDS: [&str; 16] = [
    "webhook",
    "email",
    "syslog",
    "pagerduty",
    "opsgenie",
    "alertmanager",
    "slack",
    "teams",
    "discord",
    "jira",
    "servicenow",
    "github",
    "gitlab",
    "exec",
    "action",
    "watchdog",
];
const WEBHOOK_FORMATS: [&str; 5] = ["portolan", "alertmanager", "slack", "teams", "discord"];
const SYSLOG_FORMATS: [&str; 3] = ["rfc5424", "cef", "ocsf"];

pub(super) fn read(root: &mut Reader<'_>, part: &mut Part) {
    for mut table in root.tables("receiver") {
        let name = fields::name(&mut table, "receiver");
        let value = receiver(&mut table);
        part.receivers.extend(name.map(|name| Named { name, value }));
    }
}

fn receiver(table: &mut Reader<'_>) -> Receiver {
    let kinds: Vec<&'static str> = KINDS.into_iter().filter(|kind| table.has(kind)).collect();
    let [kind] = kinds.as_slice() else {
        let flaw = match kinds.as_slice() {
            [] => "the receiver does not say what it is".to_owned(),
            several => format!("the receiver is several at once: {}", several.join(", ")),
        };
        let hint = format!("give it one of {}", KINDS.join(", "));
        table.mistake(table.span(), Flaw::new(flaw).hint(hint));
        return Receiver { kind: String::new(), text: String::new() };
    };
    let text = table.table(kind).map(|mut settings| {
        match *kind {
            "webhook" => webhook(&mut settings),
            "email" => email(&mut settings),
            "syslog" => syslog(&mut settings),
            // Their settings are kept as they are.
            _ => settings.allow_unknown(),
        }
        settings.to_inline()
    });
    Receiver { kind: (*kind).to_owned(), text: text.unwrap_or_default() }
}

fn webhook(table: &mut Reader<'_>) {
    // Many a webhook's URL is a secret by itself.
    match ["url", "url_file", "url_env"].into_iter().filter(|key| table.has(key)).count() {
        0 => table.require(&["url"]),
        1 => {}
        _ => table.mistake(
            table.span(),
            Flaw::new("the webhook's URL is given more than once").hint("one of url, url_file, url_env"),
        ),
    }
    table.string("url_file");
    table.string("url_env");
    table.parse_with("url", |text| url(text, &["http", "https"], "such as https://chat.example.com/hook"));
    one_of(table, "format", &WEBHOOK_FORMATS);
    table.string_map("headers");
    secret(table);
}

fn email(table: &mut Reader<'_>) {
    table.require(&["to", "from", "smtp"]);
    let to = table.parse_all("to", mailbox).unwrap_or_default();
    not_empty(table, "to", &to);
    table.parse_with("from", mailbox);
    table.parse_with("smtp", |text| url(text, &["smtp", "smtps"], "such as smtp://mail.example.com:587"));
    table.string("username");
    secret(table);
}

fn syslog(table: &mut Reader<'_>) {
    table.require(&["address"]);
    table.parse_with("address", |text| url(text, &["udp", "tcp", "tls"], "such as udp://10.0.0.5:514"));
    one_of(table, "format", &SYSLOG_FORMATS);
}

/// Where the server finds the receiver's secret.
fn secret(table: &mut Reader<'_>) {
    table.string("secret_file");
    table.string("secret_env");
}

fn one_of(table: &mut Reader<'_>, key: &'static str, words: &[&str]) {
    let words: Vec<_> = words.iter().map(|word| (*word, ())).collect();
    table.choice(key, &words);
}

/// An address as RFC 5321 section 4.1.2 has the usual ones; the mail server has the last word.
fn mailbox(text: &str) -> Result<(), Flaw> {
    let plain =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control());
    match text.rsplit_once('@') {
        Some((local, domain)) if plain(local) && plain(domain) && text.len() <= 254 => Ok(()),
        _ => Err(Flaw::new("not an e-mail address").hint("such as netops@example.com")),
    }
}
