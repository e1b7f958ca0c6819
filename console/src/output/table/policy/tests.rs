use super::*;
use crate::document::policy::FileDocument;
use crate::document::policy::tests::{report as wire_report, version};
use portolan_proto::v1;

fn page(wire: &v1::PolicyReport, tense: Tense) -> String {
    let inactive = wire.inactive.iter().map(InactiveDocument::from).collect();
    report(&ReportDocument::new(&[], inactive, Some(wire)), tense, &View::fixed())
}

#[test]
fn everything_that_is_to_be_said_of_a_policy() {
    assert_eq!(
        page(&wire_report(), Tense::Would),
        "
3 differences
  would start   check  shop-front  every 30s from segment:office
  would stop    check  old-shop
  would change  check  mail-in     every 30s instead of 1m; 25 must be open

3 warnings
  no-vantage-point
    mail-in: segment dmz has no satellite
  outside-scope
    office-1: its scope does not cover 10.99.3.0/24
    office-1: its scope does not cover 10.99.3.0/24

To add to `allow` under [scope], on the satellite's own machine
  office-1: \"10.99.2.0/24\", \"10.99.3.0/24\"

Understood and kept, not acted upon yet
  [[receiver]] oncall: nobody is told of alerts yet

It would send
  FROM    TO      PROBES AN HOUR
  office  dmz     14,400
  office  (none)  60
  The busiest path is from office-1 to 10.99.2.0/24: 4.0 probes a second.
"
    );
}

#[test]
fn what_is_not_acted_upon_is_marked() {
    let difference = |kind: &str| v1::PolicyDifference {
        change: v1::policy_difference::Change::Start.into(),
        kind: kind.into(),
        name: "a".into(),
        words: "webhook {}".into(),
    };
    let busiest = v1::PathLoad { probes_per_second: 0.04, ..Default::default() };
    let wire = v1::PolicyReport {
        differences: vec![difference("receiver"), difference("blackout")],
        load: Some(v1::PolicyLoad { pairs: vec![], busiest: Some(busiest) }),
        ..Default::default()
    };
    let page = page(&wire, Tense::Would);
    assert!(page.contains("receiver  a  webhook {} (kept, not acted upon yet)\n"), "{page}");
    assert!(page.contains("blackout  a  webhook {}\n"), "{page}");
    assert!(page.contains(": less than 0.1 probes a second."), "{page}");
}

#[test]
fn nothing_to_say_is_short() {
    let wire = v1::PolicyReport::default();
    assert_eq!(page(&wire, Tense::Would), "\nNothing would change.\n\nIt would send\n  nothing\n");
    assert_eq!(page(&wire, Tense::Did), "\nNothing changed.\n\nIt sends\n  nothing\n");
}

#[test]
fn many_warnings_are_counted() {
    let warning = |n| v1::PolicyWarning {
        kind: "target-in-no-segment".into(),
        subject: format!("check-{n}"),
        message: "\u{1b}[2J".into(),
        ..Default::default()
    };
    let wire = v1::PolicyReport { warnings: (0..1_500).map(warning).collect(), ..Default::default() };
    let page = page(&wire, Tense::Did);
    assert!(
        page.contains("1,500 warnings\n") && page.contains("    and 1,480 more: -o json lists all\n"),
        "{page}"
    );
    assert_eq!(page.matches("check-").count(), MAX_LISTED);
    assert!(!page.contains('\u{1b}'));
}

#[test]
fn mistakes_are_printed_as_compilers_do() {
    let mut file = Mistakes::new("shop.toml", "every = \"1x\"\n");
    file.add(8..12, portolan_common::document::Flaw::new("not a duration").hint("such as 30s"));
    assert_eq!(
        mistakes(&[file], Paint::off()),
        "\
error: not a duration
 --> shop.toml:1:9
  |
1 | every = \"1x\"
  |         ^^^^
  = hint: such as 30s

shop.toml: 1 mistake
"
    );
}

#[test]
fn versions_have_a_line_each() {
    let back =
        v1::PolicyVersion { version: 13, rollback_to: 11, changes: vec!["stop check x".into()], ..version() };
    let wire = [back, version(), v1::PolicyVersion { changes: vec![], message: String::new(), ..version() }];
    let documents: Vec<_> = wire.iter().map(VersionDocument::from).collect();
    assert_eq!(history(&documents, &View::fixed()), "\
VERSION  APPLIED                      AUTHOR  CHANGES                            MESSAGE
13       2026-05-01 10:00:00  2h ago  ada     stop check x                       back to version 11. NET-112: payment API
12       2026-05-01 10:00:00  2h ago  ada     start check shop-fro…, and 1 more  NET-112: payment API
12       2026-05-01 10:00:00  2h ago  ada     none
");
}

#[test]
fn what_is_shown_can_be_applied_again() {
    let wire = version();
    let file = |name, text| FileDocument { name, text };
    let policy = |files| PolicyDocument { version: VersionDocument::from(&wire), files };
    let one = show(&policy(vec![file("a.toml", "version = 1\n\t# \u{1b}x\n")]), &View::fixed());
    assert_eq!(
        one,
        "# version 12, applied by ada at 2026-05-01 10:00:00 (2h ago): NET-112: payment API\nversion = 1\n\t# \\u{1b}x\n"
    );
    let two = show(&policy(vec![file("a.toml", "version = 1"), file("b.toml", "")]), &View::fixed());
    assert!(two.ends_with("\n\n# ---- a.toml\nversion = 1\n\n# ---- b.toml\n"), "{two}");
}
