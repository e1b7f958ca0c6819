//! What is said of a policy beside its mistakes: warnings, and what it sends.

#![allow(clippy::unwrap_used, reason = "tests")]

use jiff::Timestamp;
use portolan_policy::compile::SatelliteFacts;
use portolan_policy::{Policy, PolicyFile, Warning, World, load, read, warnings};

const SEGMENTS: &str = "version = 1\n\
    [segment.office]\ncidrs = [\"10.99.1.0/24\"]\n\
    [segment.dmz]\ncidrs = [\"10.99.2.0/24\"]\n\
    [segment.printers]\ncidrs = [\"10.99.2.128/25\"]\n\
    [segment.lab]\ncidrs = [\"10.99.1.0/24\"]\ntenant = \"acme\"\n";

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn policy(text: &str) -> Policy {
    let file = PolicyFile { name: "p.toml".to_owned(), text: format!("{SEGMENTS}{text}") };
    read(&[file], now())
        .unwrap_or_else(|mistakes| panic!("{}", mistakes.iter().map(ToString::to_string).collect::<String>()))
}

fn check(name: &str, from: &str, targets: &str, rest: &str) -> String {
    format!("[[check]]\nname = \"{name}\"\nfrom = [\"{from}\"]\ntargets = [{targets}]\n{rest}\n")
}

fn satellite(name: &str, segment: &str) -> (String, SatelliteFacts) {
    let facts = SatelliteFacts {
        segment: segment.to_owned(),
        tenant: "default".to_owned(),
        runs_checks: Some(true),
        ..SatelliteFacts::default()
    };
    (name.to_owned(), facts)
}

fn world(satellites: impl IntoIterator<Item = (String, SatelliteFacts)>) -> World {
    World { satellites: satellites.into_iter().collect(), ..World::default() }
}

fn said(text: &str, world: &World) -> Vec<(&'static str, String, String)> {
    let all = warnings(&policy(text), world, now());
    all.into_iter().map(|Warning { kind, subject, message, .. }| (kind, subject, message)).collect()
}

/// The one warning that there is.
fn only(text: &str, world: &World) -> (&'static str, String, String) {
    let mut all = said(text, world);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn a_policy_that_finds_everything_has_no_warning() {
    let (name, mut facts) = satellite("office-1", "office");
    facts.scope = Some(vec!["10.99.0.0/16".parse().unwrap()]);
    let text = check("shop", "segment:office", "\"10.99.2.10\", \"shop.internal\"", "open = \"80\"");
    assert_eq!(said(&text, &world([(name, facts)])), []);
}

#[test]
fn a_scope_that_does_not_cover_the_checks() {
    let (name, mut facts) = satellite("office-1", "office");
    facts.scope = Some(vec!["10.99.2.0/30".parse().unwrap()]);
    facts.scope_denies = vec!["10.99.2.3/32".parse().unwrap()];
    let text = check("shop", "segment:office", "\"10.99.2.3-10.99.2.6\"", "open = \"80\"")
        + &check("web", "segment:office", "\"10.99.1.9\"", "open = \"80\"");
    let world = world([(name, facts)]);
    let all = warnings(&policy(&text), &world, now());
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(
        (all[0].kind, &*all[0].subject, &*all[0].satellite),
        ("outside-scope", "office-1", "office-1")
    );
    let add: Vec<_> = all[0].add_to_scope.iter().map(ToString::to_string).collect();
    assert_eq!(add, ["10.99.1.9/32", "10.99.2.4/31", "10.99.2.6/32"]);
    assert_eq!(
        all[0].message,
        "the scope of satellite office-1 forbids what check shop and 1 other check look at; to allow 10.99.1.9, \
         10.99.2.4-10.99.2.6, write in its satellite.toml, under [scope]: allow = [\"10.99.1.9/32\", \"10.99.2.0/30\", \
         \"10.99.2.4/31\", \"10.99.2.6/32\"]; `deny` there forbids 10.99.2.3: take that out of it, or `exclude` it \
         from the checks"
    );
}

#[test]
fn a_very_scattered_addition_to_a_scope_is_cut() {
    let (name, mut facts) = satellite("office-1", "office");
    facts.scope = Some(Vec::new());
    let targets: Vec<_> = (0..4).map(|n| format!("\"10.99.{n}.1,3,5,7,9-250\"")).collect();
    let many: Vec<_> = (0..250).map(|n| format!("\"10.98.{n}.1,3,5,7,9,11\"")).collect();
    let text = check(
        "shop",
        "segment:office",
        &[targets, many].concat().join(", "),
        "open = \"80\"\nevery = \"1d\"",
    );
    let all = warnings(&policy(&text), &world([(name, facts)]), now());
    assert_eq!((all[0].kind, all[0].add_to_scope.len()), ("outside-scope", 1000));
    assert!(all[0].message.contains("that is not all of it"), "{}", all[0].message);
}

#[test]
fn vantage_points_that_are_not_there() {
    let office = world([satellite("office-1", "office")]);
    let target = "\"10.99.2.10\"";
    let warning = only(&check("shop", "segment:dmz", target, "open = \"80\""), &office);
    assert_eq!(
        warning,
        (
            "no-vantage-point",
            "dmz".to_owned(),
            "segment dmz has no satellite, and check shop looks from there: portolan satellite add NAME --segment dmz"
                .to_owned()
        )
    );
    let warning = only(&check("shop", "satellite:ofice-1", target, "open = \"80\""), &office);
    assert_eq!((warning.0, &*warning.1), ("unknown-satellite", "ofice-1"));
    assert!(warning.2.ends_with("did you mean office-1?"), "{}", warning.2);
    let warning = only(&check("shop", "*", target, "open = \"80\""), &World::default());
    assert_eq!((warning.0, &*warning.1), ("no-vantage-point", "default"));
    let of_acme = check("shop", "satellite:office-1", "\"10.99.1.1\"", "open = \"80\"\ntenant = \"acme\"");
    let warning = only(&of_acme, &office);
    assert_eq!((warning.0, &*warning.1), ("unknown-satellite", "office-1"));
    assert!(warning.2.ends_with("write tenant = \"default\""), "{}", warning.2);
    let blackout =
        "[[blackout]]\nname = \"n\"\nfrom = [\"satellite:x\"]\ncron = \"0 2 * * *\"\nlasts = \"1h\"\n";
    assert_eq!(only(blackout, &office).0, "unknown-satellite");
}

#[test]
fn satellites_that_cannot_run_checks_yet() {
    let text = check("shop", "segment:office", "\"10.99.2.10\"", "open = \"80\"");
    let (name, facts) = satellite("office-1", "office");
    let pending = SatelliteFacts { pending: true, runs_checks: None, ..facts.clone() };
    assert_eq!(only(&text, &world([(name.clone(), pending)])).0, "satellite-pending");
    let old = SatelliteFacts { runs_checks: Some(false), ..facts };
    assert_eq!(only(&text, &world([(name, old)])).0, "satellite-too-old");
}

#[test]
fn targets_in_no_segment_and_udp_that_nobody_can_decide() {
    let office = world([satellite("office-1", "office")]);
    let text = check("shop", "segment:office", "\"10.99.2.254-10.99.3.1\"", "open = \"80\"");
    let warning = only(&text, &office);
    assert_eq!((warning.0, &*warning.1), ("target-in-no-segment", "shop"));
    assert!(
        warning.2.contains("looks at 10.99.3.0-10.99.3.1, which no segment of tenant default"),
        "{}",
        warning.2
    );
    let text =
        check("shop", "segment:office", "\"10.99.2.10\"", "closed = \"22,U:161\"\nblocked = \"U:162\"");
    let warning = only(&text, &office);
    assert_eq!((warning.0, &*warning.1), ("udp-undecidable", "shop"));
    assert!(warning.2.contains("of UDP 161-162"), "{}", warning.2);
}

#[test]
fn checks_that_contradict_each_other() {
    let both = world([satellite("office-1", "office"), satellite("dmz-1", "dmz")]);
    let shop =
        check("shop", "segment:office", "\"10.99.2.10-10.99.2.20\", \"a.internal\"", "open = \"80,443\"");
    let of = |rest: &str| said(&(shop.clone() + rest), &both);
    let other = |from: &str, targets: &str, ports: &str| check("audit", from, targets, ports);
    let all = of(&other("*", "\"10.99.2.8/29\", \"10.99.2.16/29\"", "closed = \"22,443\"\nblocked = \"80\""));
    let told = "check shop expects that 80,443 is open at 10.99.2.10-10.99.2.20, and check audit that it is not, both \
                from satellite office-1: one of them will fire; take it out of one";
    assert_eq!(all, [("contradiction", "audit".to_owned(), told.to_owned())]);
    let all = of(&other("segment:office", "\"a.internal\"", "closed = \"1-100\""));
    assert!(all[0].2.contains("80 is open at a.internal"), "{all:#?}");
    for fine in [
        other("segment:dmz", "\"10.99.2.10\"", "closed = \"443\""),
        other("*", "\"10.99.2.9\"", "closed = \"443\""),
        other("*", "\"10.99.2.10\"", "closed = \"22\"\nopen = \"80\""),
    ] {
        assert_eq!(of(&fine), [], "{fine}");
    }
}

/// The work is bounded, however many checks look at the same.
#[test]
fn thousands_of_checks_of_the_same_addresses() {
    let text: String = (0..4000)
        .map(|n| check(&format!("c{n}"), "*", "\"10.99.2.1,3,5,7\"", "open = \"80\"\nevery = \"30d\""))
        .collect();
    let all = said(&text, &world([satellite("office-1", "office")]));
    assert_eq!(all, []);
}

#[test]
fn what_no_route_takes() {
    let text = "[[receiver]]\nname = \"a\"\nslack = {}\n[[route]]\nmatch = { team = \"a\" }\nto = [\"a\"]\n";
    assert_eq!(only(text, &World::default()).0, "unrouted");
}

#[test]
fn a_path_on_which_gentle_probing_cannot_hold_the_interval() {
    let office = world([satellite("office-1", "office"), satellite("office-2", "office")]);
    // 250 addresses, 60 ports, once a minute: 250 a second to one /24; 2 ports more to all of it and its neighbour.
    let text = check("busy", "satellite:office-1", "\"10.99.2.1-10.99.2.250\"", "closed = \"1-60\"")
        + &check("calm", "segment:office", "\"10.99.1.0-10.99.2.255\"", "closed = \"70-71\"");
    let warning = only(&text, &office);
    assert_eq!((warning.0, &*warning.1), ("path-too-busy", "office-1"));
    assert!(
        warning
            .2
            .contains("259 probes a second to 10.99.2.0/24, most of them for check busy: 200 are the limit"),
        "{}",
        warning.2
    );
    let text =
        check("named", "satellite:office-1", "\"shop.internal\"", "closed = \"1-300\"\nevery = \"1s\"");
    assert!(only(&text, &office).2.contains("300 probes a second to shop.internal, most"));
}

#[test]
fn what_crosses_from_segment_to_segment() {
    let world =
        world([satellite("dmz-1", "dmz"), satellite("office-1", "office"), satellite("office-2", "office")]);
    // 8 addresses of the DMZ and 8 of the printers in it, 3 ports, every minute, twice; one name, once an hour.
    let text =
        check("a", "segment:office", "\"10.99.2.120-10.99.2.135\"", "open = \"80\"\nclosed = \"22,U:53\"")
            + &check(
                "b",
                "segment:dmz",
                "\"shop.internal\", \"10.99.9.9\"",
                "open = \"443\"\ncron = \"0 * * * *\"",
            );
    let load = load(&policy(&text), &world, now());
    let pairs: Vec<_> =
        load.pairs.iter().map(|pair| (&*pair.from, &*pair.to, pair.probes_per_hour)).collect();
    let each = 8 * 3 * 60 * 2;
    assert_eq!(pairs, [("office", "dmz", each), ("office", "printers", each), ("dmz", "(none)", 2)]);
    let busiest = load.busiest.unwrap();
    assert_eq!((&*busiest.satellite, &*busiest.network), ("office-1", "10.99.2.0/24"));
    assert!((busiest.probes_per_second - 0.8).abs() < 1e-6, "{}", busiest.probes_per_second);
}

#[test]
fn paused_checks_send_nothing() {
    let text = check("a", "segment:office", "\"10.99.2.1\"", "open = \"80\"");
    let mut world = world([satellite("office-1", "office")]);
    world.paused.insert("a".to_owned());
    assert_eq!(load(&policy(&text), &world, now()), portolan_policy::Load::default());
    assert_eq!(said(&text, &world), []);
}

/// Sources may bring what a policy could not say itself.
#[test]
fn the_largest_networks_and_port_lists_are_not_counted_through() {
    let text = check(
        "a",
        "segment:office",
        "{ file_sd = \"all.json\" }",
        "exclusive = true\nopen = \"U:-\"\nevery = \"1s\"",
    );
    let mut world = world([satellite("office-1", "office")]);
    let policy = policy(&text);
    let source = policy.checks["a"].targets[0].clone();
    world.sources.insert(source, ["10.0.0.0/8", "::/0", "0.0.0.0/0"].map(str::to_owned).to_vec());
    let load = load(&policy, &world, now());
    assert_eq!(load.pairs[0].probes_per_hour, u64::MAX);
    assert!(load.busiest.unwrap().probes_per_second > 1e18);
    let all = warnings(&policy, &world, now());
    assert!(
        all.iter().any(|warning| warning.message.contains("(as to 18446744073726328831 other networks)")),
        "{all:#?}"
    );
}

/// One check more or less is not what a large policy is about: all of it has to be read.
#[test]
fn ten_thousand_checks() {
    let mut text = String::new();
    for n in 0..10_000 {
        let target = format!("\"10.{}.{}.{}\"", n / 2500, n / 250 % 10, n % 250 + 1);
        text += &check(
            &format!("c{n}"),
            "segment:office",
            &target,
            "open = \"80,443\"\nclosed = \"22\"\nevery = \"30s\"",
        );
    }
    let policy = policy(&text);
    assert_eq!(policy.checks.len(), 10_000);
    let world = world([satellite("office-1", "office"), satellite("office-2", "office")]);
    assert_eq!(
        load(&policy, &world, now()).pairs.iter().map(|p| p.probes_per_hour).sum::<u64>(),
        10_000 * 3 * 120 * 2
    );
    let all = warnings(&policy, &world, now());
    assert_eq!(all.len(), warnings::MAX_WARNINGS + 1);
    assert_eq!(all.last().unwrap().kind, "omitted");
}
