//! The parts of a policy that are understood and kept, and that nothing acts upon yet.

use crate::Policy;

const NOT_TESTED: &str = "what is reachable between segments is not tested yet";
const NOT_SENT: &str = "alerts are made and shown, and not sent to anybody yet";

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// Such as `[[receiver]] oncall` or `check shop-front: service on port 443`.
    pub what: String,
    /// What does not happen.
    pub why: &'static str,
}

/// Whether nothing acts upon things of this kind, as differences call it.
pub fn is_inactive(kind: &str) -> bool {
    matches!(kind, "service" | "segmentation" | "flow" | "receiver" | "route")
}

/// All of them, in the order of a policy file.
pub fn inactive(policy: &Policy) -> Vec<Inactive> {
    let mut all = Vec::new();
    let mut add = |what: String, why| all.push(Inactive { what, why });
    for (name, segment) in &policy.segments {
        if !segment.labels.is_empty() {
            add(format!("segment {name}: labels"), "alerts do not carry the labels of segments yet");
        }
        if !segment.seen_as.is_empty() {
            add(format!("segment {name}: seen_as"), NOT_TESTED);
        }
    }
    for name in policy.services.keys() {
        add(format!("[service.{name}]"), "only flows lead to it, and they are not tested yet");
    }
    for (name, check) in &policy.checks {
        for step in &check.services {
            let what = format!("check {name}: service on port {} ({})", step.port, step.probe);
            add(what, "only whether the port is open is looked at yet");
        }
    }
    if policy.segmentation.is_some() {
        add("[segmentation]".to_owned(), NOT_TESTED);
    }
    for name in policy.flows.keys() {
        add(format!("[[flow]] {name}"), NOT_TESTED);
    }
    for (name, receiver) in &policy.receivers {
        add(format!("[[receiver]] {name} ({})", receiver.kind), NOT_SENT);
    }
    for (i, route) in policy.routes.iter().enumerate() {
        add(format!("[[route]] number {} (to {})", i + 1, route.to.join(", ")), NOT_SENT);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PolicyFile, read};

    #[test]
    fn nothing_of_the_contract_is_silently_ignored() {
        let text = include_str!("../tests/fixtures/contract.toml").to_owned();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let policy = read(&[PolicyFile { name: "contract.toml".to_owned(), text }], now).unwrap();
        let all: Vec<_> = inactive(&policy).into_iter().map(|part| part.what).collect();
        assert_eq!(
            all,
            [
                "segment pci: labels",
                "segment pci: seen_as",
                "[service.dns]",
                "check mail-in: service on port 25 (tcp)",
                "check shop-front: service on port 443 (http)",
                "check shop-front: service on port 80 (http)",
                "[segmentation]",
                "[[flow]] NET-112",
                "[[flow]] bastion",
                "[[flow]] infra-dns",
                "[[flow]] staff-to-shop",
                "[[receiver]] netops (email)",
                "[[receiver]] oncall (webhook)",
                "[[receiver]] siem (syslog)",
                "[[route]] number 1 (to netops, oncall, siem)",
                "[[route]] number 2 (to netops)",
            ]
        );
    }
}
