//! What is said of a policy, as it goes over the wire.

use super::sources::{Failing, SourceId};
use jiff::Timestamp;
use portolan_common::document::{Mistake, Mistakes};
use portolan_policy::{Change, Difference, Load, Policy, Warning, World};
use portolan_policy::{differences, inactive, load, warnings};
use portolan_proto::v1;

/// Characters of a line at fault that are sent.
const MAX_TEXT: usize = 1000;

/// A report of nothing but mistakes.
pub fn mistaken(files: &[Mistakes]) -> v1::PolicyReport {
    let mistakes = files.iter().flat_map(|file| file.mistakes.iter().map(move |found| mistake(file, found)));
    v1::PolicyReport {
        mistakes: mistakes.collect(),
        mistakes_omitted: files.iter().map(|file| file.omitted as u64).sum(),
        ..v1::PolicyReport::default()
    }
}

fn mistake(file: &Mistakes, found: &Mistake) -> v1::PolicyMistake {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let fault = file.source.get(found.span.clone()).unwrap_or_default();
    // Only what stands on the first line can be underlined.
    let length = fault.lines().next().map_or(0, |fault| fault.chars().count());
    let text = file.source.lines().nth(found.line.saturating_sub(1)).unwrap_or_default();
    v1::PolicyMistake {
        file: file.file_name.clone(),
        line: number(found.line),
        column: number(found.column),
        length: number(length.max(1)),
        message: found.message.clone(),
        hint: found.hint.clone().unwrap_or_default(),
        // All of the policy may stand on one line, with many mistakes in it.
        text: text.chars().take(MAX_TEXT).collect(),
    }
}

/// A report of a policy without mistakes; `old` is the one in force.
pub fn report(
    old: Option<&Policy>,
    policy: &Policy,
    world: &World,
    checks: usize,
    failing: &[(SourceId, Failing)],
    now: Timestamp,
) -> v1::PolicyReport {
    let sources = failing.iter().map(|(id, failing)| source_warning(id, failing));
    v1::PolicyReport {
        warnings: warnings(policy, world, now).into_iter().map(warning).chain(sources).collect(),
        inactive: inactive(policy)
            .into_iter()
            .map(|part| v1::PolicyInactive { what: part.what, why: part.why.to_owned() })
            .collect(),
        differences: differences(old, policy).into_iter().map(difference).collect(),
        load: Some(sent(load(policy, world, now))),
        checks: checks as u64,
        ..v1::PolicyReport::default()
    }
}

fn warning(warning: Warning) -> v1::PolicyWarning {
    v1::PolicyWarning {
        kind: warning.kind.to_owned(),
        subject: warning.subject,
        message: warning.message,
        satellite: warning.satellite,
        add_to_scope: warning.add_to_scope.iter().map(ToString::to_string).collect(),
    }
}

fn source_warning(id: &SourceId, failing: &Failing) -> v1::PolicyWarning {
    v1::PolicyWarning {
        kind: "source-failed".to_owned(),
        subject: id.to_string(),
        message: format!("since {:.0} it gives no targets that can be used: {}", failing.since, failing.why),
        ..v1::PolicyWarning::default()
    }
}

fn difference(difference: Difference) -> v1::PolicyDifference {
    use v1::policy_difference::Change as Wire;
    let change = match difference.change {
        Change::Start => Wire::Start,
        Change::Stop => Wire::Stop,
        Change::Change => Wire::Change,
    };
    v1::PolicyDifference {
        change: change.into(),
        kind: difference.kind.to_owned(),
        name: difference.name,
        words: difference.words,
    }
}

fn sent(load: Load) -> v1::PolicyLoad {
    let pair = |pair: portolan_policy::PairLoad| v1::PairLoad {
        from: pair.from,
        to: pair.to,
        probes_per_hour: pair.probes_per_hour,
    };
    v1::PolicyLoad {
        pairs: load.pairs.into_iter().map(pair).collect(),
        busiest: load.busiest.map(|path| v1::PathLoad {
            satellite: path.satellite,
            network: path.network,
            probes_per_second: path.probes_per_second,
        }),
    }
}

/// A difference as the history has it: `start check shop-front: …`.
pub fn change_line(difference: &v1::PolicyDifference) -> String {
    use v1::policy_difference::Change as Wire;
    let change = match difference.change() {
        Wire::Start => "start",
        Wire::Stop => "stop",
        Wire::Change | Wire::Unspecified => "change",
    };
    let colon = if difference.words.is_empty() { "" } else { ": " };
    format!("{change} {} {}{colon}{}", difference.kind, difference.name, difference.words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let mut file = Mistakes::new("shop.toml", "version = 1\nopen = \"é, 99999\"\n");
        file.add(24..29, "no port");
        file.add(0..0, "something is missing");
        let report = mistaken(&[file]);
        let [first, second] = &report.mistakes[..] else { panic!("{report:?}") };
        assert_eq!((first.line, first.column, first.length, first.text.as_str()), (1, 1, 1, "version = 1"));
        assert_eq!((second.line, second.column, second.length), (2, 12, 5));
        assert_eq!((second.text.as_str(), second.file.as_str()), ("open = \"é, 99999\"", "shop.toml"));
    }

    #[test]
    fn a_line_is_sent_up_to_a_bound() {
        let mut file = Mistakes::new("shop.toml", &"x".repeat(100_000));
        file.add(99_990..99_995, "no target");
        let report = mistaken(&[file]);
        assert_eq!((report.mistakes[0].column, report.mistakes[0].text.len()), (99_991, MAX_TEXT));
    }

    #[test]
    fn history_is_in_words() {
        let line = |words: &str| {
            change_line(&v1::PolicyDifference {
                change: v1::policy_difference::Change::Start.into(),
                kind: "check".into(),
                name: "shop".into(),
                words: words.into(),
            })
        };
        assert_eq!(line("every 30s"), "start check shop: every 30s");
        assert_eq!(line(""), "start check shop");
    }
}
