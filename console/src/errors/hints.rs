//! What to do about a call that the server refused, by what was attempted and how it was refused.

use super::is_certificate_refused;
use tonic::{Code, Status};

/// Where something that is not there may be found: by a part of what was attempted, the first that fits.
const NOT_FOUND: &[(&str, &str)] = &[
    ("satellite", "`portolan satellite list` shows the satellites there are"),
    ("scan `", "`portolan scans` shows those that run"),
    (
        "the baseline of",
        "`portolan baseline take NAME` takes one; `portolan check list` shows the checks there are",
    ),
    ("check `", "`portolan check list` shows the checks there are"),
    ("alert `", "`portolan alert list --all` shows those that are kept"),
    ("silence `", "`portolan silence list` shows those that hold or will"),
    ("change `", "`portolan change list` shows those that are open"),
    ("version", "`portolan policy history` shows the versions there are"),
    ("the policy", "there is one from the first on that is applied: portolan policy apply FILE"),
];

/// `action` is a verb with its object.
pub fn of_call(action: &str, status: &Status) -> Option<&'static str> {
    if is_certificate_refused(status) {
        return Some(
            "it was revoked or comes from another deployment; issue a new one on the server: portolan-server admin \
             --data-dir DIR",
        );
    }
    match status.code() {
        Code::NotFound if action == "scan" => Some(NOT_FOUND[0].1),
        Code::NotFound => NOT_FOUND.iter().find(|(part, _)| action.contains(part)).map(|(_, hint)| *hint),
        Code::AlreadyExists if action.contains("change `") => {
            Some("choose another name, or close the other first: portolan change close NAME")
        }
        Code::AlreadyExists => {
            Some("choose another name; a satellite that is gone is removed with `portolan satellite remove`")
        }
        Code::FailedPrecondition if action.starts_with("remove") => {
            Some("revoke it first: portolan satellite revoke NAME")
        }
        Code::Aborted if action.contains("policy") => {
            Some("see what applying yours would change now: portolan policy diff PATH")
        }
        Code::Unimplemented => Some("update portolan-server to the console's version"),
        Code::PermissionDenied | Code::Unauthenticated => {
            Some("use an operator's context: --context NAME, or PORTOLAN_CONTEXT")
        }
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown => {
            Some("`portolan status` tells whether the server answers; its own log tells why not")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_looked_for_where_it_would_be() {
        for (action, command) in [
            ("scan", "satellite list"),
            ("show satellite `a`", "satellite list"),
            ("pause scan `01a1`", "portolan scans"),
            ("run check `shop`", "check list"),
            ("take a baseline of check `shop`", "check list"),
            ("show the baseline of check `shop`", "baseline take"),
            ("show alert `01a1`", "alert list --all"),
            ("expire silence `01a1`", "silence list"),
            ("close change `CHG1`", "change list"),
            ("show version 9 of the policy", "policy history"),
            ("go back to version 9", "policy history"),
            ("show the policy", "policy apply"),
        ] {
            let hint = of_call(action, &Status::not_found("")).unwrap();
            assert!(hint.contains(command), "{action}: {hint}");
        }
        let taken = Status::already_exists("");
        assert!(of_call("open change `CHG1`", &taken).unwrap().contains("change close"));
        assert!(of_call("add satellite `a`", &taken).unwrap().contains("satellite remove"));
    }
}
