//! What a source of targets answers: Prometheus's service discovery in JSON, `[{"targets": ["host:port"], "labels":
//! {}}]`. Only the hosts count: which ports are looked at is said by the check. Pure.

use portolan_common::targets::{Target, TargetSpec};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Targets of one source at most.
pub const MAX_TARGETS: usize = 65_536;

/// What a source said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Addresses and host names, ascending, each once.
    pub targets: Vec<String>,
    /// What of it is no host, in words: how many, and the first of them.
    pub unread: Option<String>,
}

/// An answer that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is something else.
    #[error("it is no list of target groups ([{{\"targets\": [\"host:port\"]}}]) in JSON: {0}")]
    Json(String),
    /// It is too long.
    #[error("it names more than {MAX_TARGETS} targets")]
    TooMany,
}

#[derive(Deserialize)]
struct Group {
    targets: Vec<String>,
}

/// Reads answers that count as one: the files of a pattern, or the one body of a request.
///
/// # Errors
/// [`AnswerError`] when one of them is no such list, or all together are too long. A target that is no host makes no
/// error: it is left out, and said.
pub fn read<'a>(bodies: impl IntoIterator<Item = &'a [u8]>) -> Result<Answer, AnswerError> {
    let mut targets = BTreeSet::new();
    let (mut unread, mut first) = (0usize, None);
    for body in bodies {
        let groups: Vec<Group> =
            serde_json::from_slice(body).map_err(|error| AnswerError::Json(error.to_string()))?;
        for text in groups.iter().flat_map(|group| &group.targets) {
            match host(text) {
                Ok(host) => {
                    targets.insert(host);
                    if targets.len() > MAX_TARGETS {
                        return Err(AnswerError::TooMany);
                    }
                }
                Err(why) => {
                    unread += 1;
                    first.get_or_insert(why);
                }
            }
        }
    }
    let unread = first.map(|why| match unread {
        1 => format!("one target is no host: {why}"),
        _ => format!("{unread} targets are no hosts, the first: {why}"),
    });
    Ok(Answer { targets: targets.into_iter().collect(), unread })
}

/// The host of `host:port`, `host`, `address`, `[v6]:port`.
fn host(text: &str) -> Result<String, String> {
    let spec = without_port(text.trim()).parse::<TargetSpec>().map_err(|error| error.to_string())?;
    match spec.target {
        Target::Name(name) => Ok(name),
        Target::Addresses(set) if set.len() == 1 => {
            Ok(set.iter().next().map(|address| address.to_string()).unwrap_or_default())
        }
        Target::Addresses(_) => Err(format!("target `{}`: a network or range is no host", spec.text)),
    }
}

fn without_port(text: &str) -> &str {
    if text.parse::<IpAddr>().is_ok() {
        return text;
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => host,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> Result<Answer, AnswerError> {
        read([text.as_bytes()])
    }

    #[test]
    fn hosts_are_taken_without_their_ports_and_each_once() {
        let answer = hosts(
            r#"[{"targets": ["10.0.0.2:9100", "10.0.0.1", "Web.example:443", "[fd00::1]:80"], "labels": {"a": "b"}},
                {"targets": ["[fd00::2]", "fd00::3", "10.0.0.2:443", "web.example"]}, {"targets": []}]"#,
        );
        assert_eq!(
            answer.unwrap(),
            Answer {
                targets: ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "fd00::3", "web.example"]
                    .map(str::to_owned)
                    .to_vec(),
                unread: None
            }
        );
        assert_eq!(hosts("[]").unwrap(), Answer::default());
    }

    #[test]
    fn what_is_no_host_is_left_out_and_said() {
        let answer = hosts(r#"[{"targets": ["http://web.example/health", "10.0.0.0/24", "10.0.0.9"]}]"#);
        let answer = answer.unwrap();
        assert_eq!(answer.targets, ["10.0.0.9"]);
        assert!(answer.unread.unwrap().starts_with("2 targets are no hosts, the first: target `http://web"));
    }

    #[test]
    fn what_is_no_such_list_is_refused() {
        for text in ["", "{}", "[1]", r#"[{"targets": "10.0.0.1"}]"#, r#"[{"labels": {}}]"#, "[{\"targets\""]
        {
            assert!(matches!(hosts(text), Err(AnswerError::Json(_))), "{text}");
        }
        let many: Vec<String> = (0..=MAX_TARGETS).map(|n| format!("\"h{n}.example\"")).collect();
        let many = format!("[{{\"targets\": [{}]}}]", many.join(","));
        assert_eq!(hosts(&many), Err(AnswerError::TooMany));
    }

    #[test]
    fn files_count_as_one() {
        let answer = read([&br#"[{"targets": ["a:1"]}]"#[..], br#"[{"targets": ["b:1", "a:2"]}]"#]).unwrap();
        assert_eq!(answer.targets, ["a", "b"]);
    }
}
