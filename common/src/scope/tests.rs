use super::*;
use crate::addresses::{AddressSet, parse_network};
use crate::observation::Protocol;
use jiff::{Timestamp, Zoned};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const EXAMPLE: &str = r#"
[scope]
allow     = ["10.99.0.0/16", "fd00:99::/32"]
deny      = ["10.99.2.66"]                     # deny wins
ports     = "-"
max_rate  = 100000
payloads  = "builtin"

[[scope.careful]]
cidrs      = ["10.99.7.0/24"]
max_rate   = 5
in_flight  = 1
payloads   = "none"
deny_ports = "9100-9107"
hours      = "02:00-04:00"
"#;

fn scope(text: &str) -> Scope {
    Scope::from_toml("satellite.toml", text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ports(text: &str) -> PortSpec {
    text.parse().unwrap()
}

fn at(text: &str) -> Zoned {
    format!("{text}[Europe/Berlin]").parse().unwrap()
}

fn noon() -> Zoned {
    at("2026-01-15T12:00:00")
}

/// The ports permitted and the rules against the others, as text.
fn verdict(guard: &Guard, address: &str, asked: &str, now: &Zoned) -> (String, Vec<String>) {
    let permit = guard.permit(ip(address), &ports(asked), now);
    let refused = permit.refused.iter().map(|r| match &r.ports {
        Some(ports) => format!("{ports}: {}", r.rule),
        None => r.rule.clone(),
    });
    (permit.target.map(|target| target.ports().to_string()).unwrap_or_default(), refused.collect())
}

#[test]
fn the_example_is_read() {
    let scope = scope(EXAMPLE);
    assert_eq!(scope.deny, [parse_network("10.99.2.66/32").unwrap()]);
    assert_eq!(scope.ports.len(), 2 * 65_535);
    assert_eq!((scope.max_rate, scope.payloads), (100_000, Payloads::Builtin));
    let careful = &scope.careful[0];
    assert_eq!((careful.max_rate, careful.in_flight, careful.payloads), (5, 1, Payloads::None));
    assert_eq!(careful.deny_ports.to_string(), "T:9100-9107,U:9100-9107");
    assert_eq!(careful.hours.unwrap().to_string(), "02:00-04:00");
}

#[test]
fn what_is_left_out_has_its_default() {
    let read = scope("[scope]\nallow = [\"10.0.0.0/8\"]\n[[scope.careful]]\ncidrs = [\"10.1.0.0/16\"]\n");
    let mut defaults = Scope::allowing(&[parse_network("10.0.0.0/8").unwrap()]);
    assert_eq!(defaults.max_rate, 200_000);
    defaults.careful.push(Careful {
        cidrs: vec![parse_network("10.1.0.0/16").unwrap()],
        max_rate: 5,
        in_flight: 1,
        payloads: Payloads::None,
        deny_ports: PortSpec::default(),
        hours: None,
    });
    assert_eq!(read, defaults);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = "[scope]\nallow = [\"10.0.0.5/8\", \"office\"]\nports = \"22,80-70\"\nmax_rate = 0\npayload = \"any\"\n\
                payloads = \"all\"\n[[scope.careful]]\nin_flight = 99999999\nhours = \"2-4\"\n";
    let report = Scope::from_toml("satellite.toml", text).unwrap_err().to_string();
    for part in [
        "satellite.toml:2:10",
        "write 10.0.0.0/8 or 10.0.0.5",
        "satellite.toml:2:24",
        "satellite.toml:3:13",
        "the range runs backwards",
        "`max_rate` is out of range",
        "unknown key `payload` in `scope`",
        "one of \"none\", \"builtin\", \"any\"",
        "`scope.careful[1]` has no `cidrs`",
        "from 1 to 65536",
        "the beginning is no time of day",
        "satellite.toml: 9 mistakes",
    ] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
    assert!(Scope::from_toml("x", "").unwrap_err().to_string().contains("no `scope`"));
    assert!(Scope::from_toml("x", "[scope]\n").unwrap_err().to_string().contains("no `allow`"));
    for ports in ["T:-", "top-10", "http"] {
        assert!(
            Scope::from_toml("x", &format!("[scope]\nallow = []\nports = \"{ports}\"\n")).is_ok(),
            "{ports}"
        );
    }
}

#[test]
fn what_is_written_reads_back() {
    let mut many = scope(EXAMPLE);
    assert_eq!(scope(&many.to_toml()), many);
    many.allow.extend((0..20).map(|i| parse_network(&format!("192.168.{i}.0/24")).unwrap()));
    many.ports = ports("22,U:53");
    many.careful.push(Careful { hours: Some("22:00-24:00".parse().unwrap()), ..many.careful[0].clone() });
    assert_eq!(scope(&many.to_toml()), many);
    // Host bits and IPv4-mapped networks are straightened before they are written.
    let first = Scope::allowing(&["10.0.0.5/8".parse().unwrap(), "::ffff:192.0.2.0/120".parse().unwrap()]);
    assert!(first.to_toml().contains("allow = [\"10.0.0.0/8\", \"192.0.2.0/24\"]"), "{}", first.to_toml());
    assert_eq!(scope(&first.to_toml()), first);
}

#[test]
fn every_refusal_names_its_rule() {
    let guard =
        Guard::new(Scope { ports: PortSpec::parse_both("1-1024,9000-9999").unwrap(), ..scope(EXAMPLE) });
    let night = at("2026-01-15T03:00:00");
    for (address, asked, permitted, rules) in [
        ("10.99.1.1", "22,80", "22,80", vec![]),
        ("10.99.1.1", "22,8080,U:53", "T:22,U:53", vec!["8080: ports 1-1024,9000-9999"]),
        ("10.99.1.1", "8080", "", vec!["8080: ports 1-1024,9000-9999"]),
        ("10.98.1.1", "22", "", vec!["allow (no network contains it)"]),
        ("10.99.2.66", "22", "", vec!["deny 10.99.2.66/32"]),
        ("::ffff:10.99.2.66", "22", "", vec!["deny 10.99.2.66/32"]),
        ("fd00:99::1", "22", "22", vec![]),
        ("0.0.0.0", "22", "", vec!["reserved address"]),
        ("0.1.2.3", "22", "", vec!["reserved address"]),
        ("224.0.0.1", "22", "", vec!["reserved address"]),
        ("::ffff:224.0.0.1", "22", "", vec!["reserved address"]),
        ("255.255.255.255", "22", "", vec!["reserved address"]),
        ("::", "22", "", vec!["reserved address"]),
        ("ff02::1", "22", "", vec!["reserved address"]),
        ("10.99.7.9", "22,9101,U:9100", "22", vec!["T:9101,U:9100: careful[1].deny_ports 9100-9107"]),
        (
            "10.99.7.9",
            "9101,8080",
            "",
            vec!["8080: ports 1-1024,9000-9999", "9101: careful[1].deny_ports 9100-9107"],
        ),
    ] {
        let rules: Vec<String> = rules.into_iter().map(str::to_owned).collect();
        assert_eq!(
            verdict(&guard, address, asked, &night),
            (permitted.to_owned(), rules),
            "{address} {asked}"
        );
    }
    let rules = vec!["careful[1].hours 02:00-04:00".to_owned()];
    assert_eq!(verdict(&guard, "10.99.7.9", "22", &noon()), (String::new(), rules));
}

#[test]
fn a_permitted_target_carries_its_limits() {
    let mut two = scope(EXAMPLE);
    two.payloads = Payloads::Any;
    two.careful.push(Careful {
        cidrs: vec![parse_network("10.99.0.0/16").unwrap()],
        max_rate: 50,
        in_flight: 9,
        payloads: Payloads::Builtin,
        deny_ports: PortSpec::default(),
        hours: Some("01:00-03:30".parse().unwrap()),
    });
    let guard = Guard::new(two);
    let now = at("2026-01-15T03:00:00");
    let target = guard.permit(ip("::ffff:10.99.7.9"), &ports("22"), &now).target.unwrap();
    assert_eq!(target.address(), ip("10.99.7.9"));
    let limit = |block, max_rate, in_flight, payloads| CarefulLimit { block, max_rate, in_flight, payloads };
    assert_eq!(target.limits().careful, [limit(0, 5, 1, Payloads::None), limit(1, 50, 9, Payloads::Builtin)]);
    assert_eq!(target.payloads(), Payloads::None);
    assert_eq!(target.until(), Some(at("2026-01-15T03:30:00").timestamp()));
    let target = guard.permit(ip("fd00:99::1"), &ports("22"), &now).target.unwrap();
    assert_eq!((target.payloads(), target.until()), (Payloads::Any, None));
    assert!(target.limits().careful.is_empty());
    let none = guard.permit(ip("fd00:99::1"), &PortSpec::default(), &now);
    assert!(none.target.is_some_and(|target| target.ports().is_empty()) && none.refused.is_empty());
}

#[test]
fn a_denied_host_is_denied_behind_nat64_too() {
    let mut wide = scope(EXAMPLE);
    wide.allow = vec![parse_network("::/0").unwrap(), parse_network("0.0.0.0/0").unwrap()];
    let guard = Guard::new(wide);
    for (address, rule) in [
        ("64:ff9b::10.99.2.66", "deny 10.99.2.66/32"),
        ("64:ff9b::10.99.7.1", "careful[1].hours 02:00-04:00"),
        ("64:ff9b::224.0.0.1", "reserved address"),
    ] {
        assert_eq!(verdict(&guard, address, "22", &noon()).1, [rule], "{address}");
    }
    assert_eq!(verdict(&guard, "64:ff9b::10.99.2.67", "22", &noon()).0, "22");
}

#[test]
fn large_ranges_are_refused_as_ranges() {
    let guard = Guard::new(scope(EXAMPLE));
    let asked: AddressSet =
        ["0.0.0.0/0", "fd00:99::/64", "ff00::/8"].iter().map(|net| parse_network(net).unwrap()).collect();
    let (permitted, refused) = guard.allowed(&asked);
    assert_eq!(
        permitted.to_string(),
        "10.99.0.0-10.99.2.65,10.99.2.67-10.99.255.255,fd00:99::-fd00:99::ffff:ffff:ffff:ffff"
    );
    let rules: Vec<_> = refused.iter().map(|(set, rule)| (set.range_count(), rule.as_str())).collect();
    assert_eq!(
        rules,
        [(4, "reserved address"), (3, "allow (no network contains it)"), (1, "deny 10.99.2.66/32")]
    );
    let all = refused.iter().fold(permitted, |all, (set, _)| all.union(set));
    assert_eq!(all, asked);
}

#[test]
fn hours_are_read_and_printed() {
    for text in ["02:00-04:00", "22:00-05:30", "00:00-00:01", "23:59-24:00"] {
        assert_eq!(text.parse::<Hours>().unwrap().to_string(), text);
    }
    assert_eq!("22:00-00:00".parse::<Hours>().unwrap().to_string(), "22:00-24:00");
    for text in [
        "",
        "02:00",
        "2-4",
        "02:00-02:00",
        "00:00-24:00",
        "24:00-02:00",
        "02:60-03:00",
        "02:00-24:01",
        "+2:00-03:00",
    ] {
        assert!(text.parse::<Hours>().is_err(), "{text}");
    }
}

#[test]
fn hours_end_by_the_local_clock() {
    for (hours, now, end) in [
        ("02:00-04:00", "2026-01-15T02:00:00", Some("2026-01-15T04:00:00")),
        ("02:00-04:00", "2026-01-15T03:59:59", Some("2026-01-15T04:00:00")),
        ("02:00-04:00", "2026-01-15T04:00:00", None),
        ("02:00-04:00", "2026-01-15T01:59:59", None),
        ("22:00-05:30", "2026-01-15T23:00:00", Some("2026-01-16T05:30:00")),
        ("22:00-05:30", "2026-01-15T05:29:00", Some("2026-01-15T05:30:00")),
        ("22:00-05:30", "2026-01-15T05:30:00", None),
        ("22:00-24:00", "2026-12-31T23:59:59", Some("2027-01-01T00:00:00")),
        // Clocks go forward at 02:00 on 29 March: a window that ends in the missing hour ends there.
        ("01:00-02:30", "2026-03-29T01:30:00", Some("2026-03-29T03:00:00")),
        ("01:00-04:00", "2026-03-29T01:30:00", Some("2026-03-29T04:00:00")),
        // They go back at 03:00 on 25 October: the hour from 02:00 comes twice, and so does this window's end.
        ("01:00-02:30", "2026-10-25T02:15:00+02:00", Some("2026-10-25T02:30:00+02:00")),
        ("01:00-02:30", "2026-10-25T02:15:00+01:00", Some("2026-10-25T02:30:00+01:00")),
        ("01:00-03:00", "2026-10-25T02:15:00+02:00", Some("2026-10-25T03:00:00")),
    ] {
        let hours: Hours = hours.parse().unwrap();
        let end: Option<Timestamp> = end.map(|end| at(end).timestamp());
        assert_eq!(hours.end(&at(now)), end, "{hours} {now}");
        assert_eq!(hours.contains(&at(now)), end.is_some(), "{hours} {now}");
    }
}

/// Networks and addresses of a small world, so that they meet often, each family with its awkward spellings.
fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (0..4u8, 0..=255u8, 20..=32u8)
        .prop_map(|(c, d, p)| IpNet::new(Ipv4Addr::new(10, 0, c, d).into(), p).unwrap());
    let mapped = (0..4u8, 0..=255u8, 116..=128u8)
        .prop_map(|(c, d, p)| IpNet::new(Ipv4Addr::new(10, 0, c, d).to_ipv6_mapped().into(), p).unwrap());
    let v6 = (0..=255u16, 120..=128u8)
        .prop_map(|(d, p)| IpNet::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, d).into(), p).unwrap());
    let wide = prop_oneof![Just("::/0"), Just("0.0.0.0/0"), Just("::/64"), Just("224.0.0.0/4")]
        .prop_map(|text| text.parse().unwrap());
    prop_oneof![6 => v4, 2 => mapped, 4 => v6, 1 => wide]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..4u8, 0..=255u8).prop_map(|(c, d)| Ipv4Addr::new(10, 0, c, d));
    prop_oneof![
        v4.clone().prop_map(IpAddr::from),
        v4.clone().prop_map(|a| a.to_ipv6_mapped().into()),
        v4.prop_map(|a| format!("64:ff9b::{a}").parse().unwrap()),
        (0..=255u16).prop_map(|d| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, d).into()),
        Just(ip("::")),
        Just(ip("::1")),
        Just(ip("ff02::1")),
        Just(ip("224.0.0.251")),
        Just(ip("255.255.255.255")),
        Just(ip("::ffff:255.255.255.255")),
    ]
}

fn port_list() -> impl Strategy<Value = PortSpec> {
    let set = || prop::collection::vec((0..30u16, 0..6u16).prop_map(|(a, n)| a..=a + n), 0..4);
    (set(), set())
        .prop_map(|(tcp, udp)| PortSpec { tcp: tcp.into_iter().collect(), udp: udp.into_iter().collect() })
}

prop_compose! {
    fn careful()(
        cidrs in prop::collection::vec(network(), 1..3),
        deny_ports in port_list(),
        from in 0..24u8,
        to in 0..24u8,
        limited: bool,
    ) -> Careful {
        let hours = limited.then(|| format!("{from:02}:00-{to:02}:30").parse().unwrap());
        Careful { cidrs, max_rate: 5, in_flight: 1, payloads: Payloads::None, deny_ports, hours }
    }
}

/// Whether a network contains an address, one address at a time and by the text of the two alone.
fn inside(net: &IpNet, address: IpAddr) -> bool {
    match (canonical_network(*net), address.to_canonical()) {
        (IpNet::V4(net), IpAddr::V4(address)) => net.contains(&address),
        (IpNet::V6(net), IpAddr::V6(address)) => net.contains(&address),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_guard_never_permits_what_the_scope_forbids(
        allow in prop::collection::vec(network(), 0..4),
        deny in prop::collection::vec(network(), 0..4),
        careful in prop::collection::vec(careful(), 0..3),
        permitted_ports in port_list(),
        addresses in prop::collection::vec(address(), 1..20),
        asked in port_list(),
        minute in 0..1440i64,
    ) {
        let scope = Scope { deny, careful, ports: permitted_ports, ..Scope::allowing(&allow) };
        let guard = Guard::new(scope.clone());
        let now = Timestamp::from_second(1_770_000_000 + minute * 60).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let (open, _) = guard.allowed(&addresses.iter().copied().collect());
        for address in addresses {
            let canonical = address.to_canonical();
            let reserved = match canonical {
                IpAddr::V4(a) => a.octets()[0] == 0 || a.is_multicast() || a.is_broadcast(),
                IpAddr::V6(a) => a.is_unspecified() || a.is_multicast(),
            };
            let allowed = scope.allow.iter().any(|net| inside(net, address));
            let denied = scope.deny.iter().any(|net| inside(net, address));
            let blocks: Vec<_> =
                scope.careful.iter().filter(|c| c.cidrs.iter().any(|net| inside(net, address))).collect();
            let closed = blocks.iter().any(|c| c.hours.is_some_and(|hours| !hours.contains(&now)));
            let translated = address.to_string().starts_with("64:ff9b");

            let permit = guard.permit(address, &asked, &now);
            if let Some(target) = &permit.target {
                prop_assert!(!reserved && allowed && !denied && !closed);
                prop_assert_eq!(target.address(), canonical);
                for protocol in Protocol::ALL {
                    for port in target.ports().of(*protocol).iter() {
                        prop_assert!(asked.contains(*protocol, port));
                        prop_assert!(scope.ports.contains(*protocol, port));
                        prop_assert!(!blocks.iter().any(|c| c.deny_ports.contains(*protocol, port)));
                    }
                }
                prop_assert_eq!(target.until().is_some(), target.limits().careful.iter()
                    .any(|limit| scope.careful[limit.block].hours.is_some()));
                prop_assert!(target.until().is_none_or(|until| until > now.timestamp()));
            }
            // And it refuses nothing else: what was asked is either permitted or refused, and by the book.
            let left = permit.target.as_ref().map(|target| target.ports().clone()).unwrap_or_default();
            let refused = permit.refused.iter().fold(PortSpec::default(), |all, refused| {
                all.union(refused.ports.as_ref().unwrap_or(&asked))
            });
            prop_assert_eq!(left.union(&refused), asked.clone());
            prop_assert!(left.intersection(&refused).is_empty());
            prop_assert!(!permit.refused.iter().any(|r| r.ports.as_ref().is_some_and(PortSpec::is_empty)));
            if !translated {
                let expected = if reserved || !allowed || denied || closed {
                    PortSpec::default()
                } else {
                    blocks.iter().fold(asked.intersection(&scope.ports), |left, c| left.difference(&c.deny_ports))
                };
                prop_assert_eq!(&left, &expected);
                prop_assert_eq!(open.contains(address), !reserved && allowed && !denied);
            }
            prop_assert!(permit.target.is_none() || open.contains(address));
        }
    }

    #[test]
    fn any_scope_that_is_written_reads_back(
        allow in prop::collection::vec(network(), 0..8),
        deny in prop::collection::vec(network(), 0..8),
        careful in prop::collection::vec(careful(), 0..3),
        max_rate in 1..=HIGHEST_MAX_RATE,
    ) {
        let straight = |nets: Vec<_>| -> Vec<_> { nets.into_iter().map(canonical_network).collect() };
        let careful = careful.into_iter().map(|c| Careful { cidrs: straight(c.cidrs), ..c }).collect();
        let scope = Scope { deny: straight(deny), careful, max_rate, ..Scope::allowing(&allow) };
        let text = scope.to_toml();
        prop_assert_eq!(Scope::from_toml("x", &text).map_err(|m| m.to_string()), Ok(scope), "{}", text);
    }
}
