use super::*;
use crate::{PolicyFile, read};

fn policy(text: &str) -> Policy {
    let text = format!("version = 1\n{text}");
    let now = "2026-11-20T12:00:00Z".parse().unwrap();
    read(&[PolicyFile { name: "p.toml".to_owned(), text }], now)
        .unwrap_or_else(|mistakes| panic!("{}", mistakes.iter().map(ToString::to_string).collect::<String>()))
}

/// `change kind name: words`, a line each.
fn said(old: &str, new: &str) -> String {
    lines(&differences(Some(&policy(old)), &policy(new)))
}

fn lines(differences: &[Difference]) -> String {
    let line = |d: &Difference| format!("{:?} {} {}: {}", d.change, d.kind, d.name, d.words);
    differences.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn check(rest: &str) -> String {
    format!("[[check]]\nname = \"shop\"\nfrom = [\"satellite:a\"]\n{rest}\n")
}

#[test]
fn another_spelling_is_no_difference() {
    let old = "[segment.a]\ncidrs = [\"10.0.0.0/24\", \"10.0.1.0/24\"]\n[segment.b]\ncidrs = []\n".to_owned()
        + &check("targets = [\"10.0.0.0/30\", \"Shop.internal\"]\nopen = \"80,443\"\nevery = \"1m\"")
        + "[[check]]\nname = \"b\"\nfrom = [\"segment:b\", \"segment:a\"]\ntargets = [\"10.0.0.9\"]\nopen = \"T:1-3\"\n"
        + "[[receiver]]\nname = \"r\"\nwatchdog = { url = \"x\", every = 0x10 }\n";
    let new = "[[receiver]]\nname = \"r\"\n[receiver.watchdog]\nevery = 16 # sixteen\nurl = 'x'\n".to_owned()
        + "[[check]]\nopen = \"1,2-3\"\nfrom = [\"segment:a\", \"segment:b\"]\ntargets = [\"10.0.0.9\"]\nname = \"b\"\n"
        + &check(
            "targets = [\"shop.internal\", \"10.0.0.2-3\", \"10.0.0.0/31\"]\nopen = \"443,80\"\nevery = \"60s\"\nconfirm = 2",
        )
        + "[segment.b]\ncidrs = []\n[segment.a]\ncidrs = [\"10.0.1.0/24\", \"10.0.0.0/24\"]\n";
    assert_eq!(said(&old, &new), "");
}

#[test]
fn what_changes_of_a_check_is_said() {
    let old =
        check("targets = [\"10.0.0.1\", \"10.0.0.2\", \"a.example\"]\nopen = \"80\"\nclosed = \"22,23\"");
    let new = check(
        "targets = [\"10.0.0.1\", \"10.0.0.4/31\", { file_sd = \"web.json\" }]\nopen = \"80,8080\"\nclosed = \"23\"\n\
         every = \"30s\"\nquorum = \"all\"\nseverity = { open = \"info\" }\nlabels = { team = \"shop\" }\nmethod = \"syn\"",
    );
    assert_eq!(
        said(&old, &new),
        "Change check shop: also looks at 10.0.0.4-10.0.0.5, file_sd web.json every 1m; no longer looks at 10.0.0.2, \
         a.example; every 30s instead of every 1m; 8080 must be open; 22 no longer looked at; quorum of open all \
         instead of majority; quorum of closed all instead of any; quorum of blocked all instead of any; severity of \
         open info instead of warning; labels team=shop; method syn instead of auto"
    );
}

#[test]
fn what_begins_and_ends_is_said() {
    let old = check("targets = [\"10.0.0.1\"]\nopen = \"22\"\nexclusive = true\ncron = \"0 2 * * *\"");
    assert_eq!(
        said(&old, ""),
        "Stop check shop: looks at 10.0.0.1 from satellite:a; at 0 2 * * *; 22 must be open; every other TCP port \
         must be closed"
    );
    let contract = include_str!("../../tests/fixtures/contract.toml").replacen("version = 1", "", 1);
    let all = differences(None, &policy(&contract));
    assert!(all.iter().all(|d| d.change == Change::Start && !d.words.is_empty()), "{}", lines(&all));
    assert_eq!(all.len(), 3 + 5 + 1 + 1 + 4 + 3 + 2 + 1);
}

#[test]
fn ports_that_change_sides_are_said_once() {
    let with = |ports: &str| check(&format!("targets = [\"10.0.0.1\"]\n{ports}"));
    for (old, new, words) in [
        ("open = \"80\"", "closed = \"80\"", "80 must be closed"),
        ("open = \"80\"", "open = \"80\"\nexclusive = true", "every other TCP port must be closed"),
        ("open = \"80,81\"\nexclusive = true", "open = \"80\"\nexclusive = true", "81 must be closed"),
        ("closed = \"81\"\nexclusive = true", "exclusive = true", ""),
        (
            "open = \"80\"\nexclusive = true",
            "open = \"80\"\nclosed = \"22\"",
            "22 must be closed; other TCP ports may be open",
        ),
        ("open = \"80,U:53\"", "open = \"80\"\nwatch = \"U:53\"", "U:53 watched"),
    ] {
        let said = said(&with(old), &with(new));
        assert_eq!(said.strip_prefix("Change check shop: ").unwrap_or(&said), words, "{old} -> {new}");
    }
}

#[test]
fn everything_else_is_said_too() {
    let cases = [
        (
            "[segment.a]\ncidrs = [\"10.0.0.0/24\"]",
            "[segment.a]\ncidrs = [\"10.0.1.0/24\"]\ntenant = \"acme\"",
            "Change segment a: tenant acme instead of default; also 10.0.1.0/24; no longer 10.0.0.0/24",
        ),
        (
            "[service.d]\nhosts = [\"10.0.0.1\"]\nports = \"53\"",
            "[service.d]\nhosts = [\"10.0.0.1\"]\nports = \"53,U:53\"",
            "Change service d: ports T:53,U:53 instead of 53",
        ),
        ("[segmentation]", "[segmentation]\nevery = \"2h\"", "Change segmentation : every 2h instead of 1h"),
        (
            "[[flow]]\nname = \"f\"\nfrom = [\"*\"]\nto = [\"*\"]\nallow = \"80\"",
            "[[flow]]\nname = \"f\"\nfrom = [\"*\"]\nto = [\"*\"]\nallow = \"80\"\nexpires = \"2027-06-30\"\nowner = \"x\"",
            "Change flow f: owner \"x\"; ends 2027-07-01T00:00:00Z instead of never",
        ),
        (
            "[[maintenance]]\nname = \"n\"\ncron = \"0 2 * * *\"\nlasts = \"1h\"",
            "[[maintenance]]\nname = \"n\"\ncron = \"0 2 * * *\"\nlasts = \"2h\"\nmatch = { team = \"a\" }",
            "Change maintenance n: at 0 2 * * * for 2h instead of at 0 2 * * * for 1h; for team=a instead of everything",
        ),
        (
            "[[blackout]]\nname = \"n\"\nfrom = [\"*\"]\ncron = \"0 2 * * *\"\nlasts = \"1h\"",
            "[[blackout]]\nname = \"n\"\nfrom = [\"satellite:a\"]\ncron = \"0 2 * * *\"\nlasts = \"60m\"",
            "Change blackout n: also for satellite:a; no longer for *",
        ),
    ];
    for (old, new, words) in cases {
        assert_eq!(said(old, new), words);
    }
}

#[test]
fn routes_are_what_they_say() {
    let receiver = "[[receiver]]\nname = \"a\"\nwatchdog = {}\n[[receiver]]\nname = \"b\"\nwatchdog = {}\n";
    let (a, b) = ("[[route]]\nto = [\"a\"]\n", "[[route]]\nto = [\"b\"]\n");
    let with = |routes: &[&str]| format!("{receiver}{}", routes.concat());
    assert_eq!(said(&with(&[a, b]), &with(&[a])), "Stop route b: { to = [\"b\"] }");
    assert_eq!(said(&with(&[a]), &with(&[b, a])), "Start route b: { to = [\"b\"] }");
    let moved = said(&with(&[a, b]), &with(&[b, a]));
    assert_eq!(moved, "Change route : in another order, which decides who is told");
}

/// A URL may be a secret, whatever the host.
#[test]
fn paths_of_urls_are_not_told() {
    let with = |path: &str| {
        let url = format!("https://chat.example.com/{path}");
        format!(
            "[[receiver]]\nname = \"a\"\nwebhook = {{ url = \"{url}\", format = \"slack\" }}\n[[route]]\nto = [\"a\"]\n"
        )
    };
    let told = "webhook { format = \"slack\", url = \"https://chat.example.com/…\" }";
    let begun = said("", &with("geheim"));
    assert!(begun.contains(told), "{begun}");
    assert_eq!(
        said(&with("geheim"), &with("geheim-2")),
        format!("Change receiver a: {told} with another path in a URL")
    );
}
