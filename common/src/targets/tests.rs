use super::*;
use proptest::prelude::*;

fn parsed(text: &str) -> String {
    match text.parse::<TargetSpec>().unwrap_or_else(|error| panic!("{error}")).target {
        Target::Addresses(set) => set.to_string(),
        Target::Name(name) => format!("name {name}"),
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn nmap_syntax_is_read() {
    for (text, meaning) in [
        ("10.0.0.1", "10.0.0.1"),
        (" 10.0.0.1\t", "10.0.0.1"),
        ("10.0.0.0/30", "10.0.0.0-10.0.0.3"),
        ("10.0.0.7/30", "10.0.0.4-10.0.0.7"),
        ("10.0.0.7/32", "10.0.0.7"),
        ("0.0.0.0/0", "0.0.0.0-255.255.255.255"),
        ("10.0.0-1.1-2", "10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2"),
        ("10.0.0-3.*", "10.0.0.0-10.0.3.255"),
        ("10.0.0-3.-", "10.0.0.0-10.0.3.255"),
        ("10.0.0,2.*", "10.0.0.0-10.0.0.255,10.0.2.0-10.0.2.255"),
        ("*.*.*.*", "0.0.0.0-255.255.255.255"),
        ("10.0.0.1,5,9", "10.0.0.1,10.0.0.5,10.0.0.9"),
        ("10.0.0.1,5-6,-2,254-", "10.0.0.0-10.0.0.2,10.0.0.5-10.0.0.6,10.0.0.254-10.0.0.255"),
        ("10.0.0-1.*", "10.0.0.0-10.0.1.255"),
        ("10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9"),
        ("10.0.0.1-10.0.1.9", "10.0.0.1-10.0.1.9"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("fd00::/126", "fd00::-fd00::3"),
        ("[fd00::5]/126", "fd00::4-fd00::7"),
        ("fd00::1-fd00::9", "fd00::1-fd00::9"),
        ("[fd00::1]-[fd00::9]", "fd00::1-fd00::9"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.0/120", "10.0.0.0-10.0.0.255"),
        ("shop.internal", "name shop.internal"),
        ("Shop.Internal.", "name shop.internal."),
        ("db_1", "name db_1"),
        ("3com.example", "name 3com.example"),
        ("10.0.0.1.example", "name 10.0.0.1.example"),
        ("xn--bcher-kva.example", "name xn--bcher-kva.example"),
        ("a-b", "name a-b"),
    ] {
        assert_eq!(parsed(text), meaning, "{text}");
    }
}

#[test]
fn a_mistake_says_what_to_type() {
    let label = "x".repeat(64);
    let name = format!("{}example", "abcdefg.".repeat(31));
    for (text, part) in [
        ("", "empty"),
        ("10.0.0.300", "300` is not a number from 0 to 255"),
        ("1.2.3", "this has 3"),
        ("10.0.0.1.2", "this has 5"),
        ("10.0.0.1.", "trailing dot"),
        ("10.0.0.1,10.0.0.2", "target of its own"),
        ("300", "this has 1"),
        ("10.0.0.01", "octal"),
        ("10.0.0.9-1", "backwards"),
        ("10.0.0.9-10.0.0.1", "write 10.0.0.1-10.0.0.9"),
        ("10.0.0.1,,2", "a number is missing"),
        ("10.0..1", "a number is missing"),
        ("10.0.0.0/33", "0 to 32"),
        ("10.0.0.0/-1", "0 to 32"),
        ("10.0.0.0/024", "0 to 32"),
        ("10.0.0.0/255.255.255.0", "netmasks"),
        ("shop.internal/24", "only an address"),
        ("10.0.0-3.1/24", "only an address"),
        ("*.*.*.1", "65536"),
        ("*.1.*.1,3", "65536"),
        ("fe80::1%eth0", "zone"),
        ("fd00::/129", "0 to 128"),
        ("fd00::9-fd00::1", "backwards"),
        ("fd00::1-9", "both ends in full"),
        ("::1-::ffff:10.0.0.1", "IPv4 and the other IPv6"),
        ("shop.internal:443", "-p"),
        ("[::1]:443", "-p"),
        ("fd00:::1", "not an IPv6 address"),
        ("http://shop.internal/", "URL"),
        ("shop internal", "white space"),
        ("-shop", "dash"),
        ("shop..internal", "nothing between"),
        (".", "trailing dot"),
        ("bücher.example", "xn--"),
        ("shop.123", "ends in a number"),
        ("0x7f000001", "ends in a number"),
        ("a.0x7f", "ends in a number"),
        ("shop$", "`$`"),
        (label.as_str(), "63"),
        (name.as_str(), "253"),
    ] {
        let error = text.parse::<TargetSpec>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_target_may_come_to_as_many_ranges_as_the_limit_says() {
    let set = match "10.*.*.1".parse::<TargetSpec>().unwrap().target {
        Target::Addresses(set) => set,
        Target::Name(name) => panic!("{name}"),
    };
    assert_eq!(set.range_count(), MAX_RANGES);
    let many = vec!["10.*.*.1".to_owned(); MAX_RANGES_TOTAL / MAX_RANGES + 3];
    let errors = parse_all(&many, &[]).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].problem.contains("with it the list"));
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let errors =
        parse_all(&strings(&["10.0.0.300", "10.0.0.1", "a b"]), &strings(&["1.2.3", "fd00::1"])).unwrap_err();
    let texts: Vec<_> = errors.iter().map(|error| (error.text.as_str(), error.excluded)).collect();
    assert_eq!(texts, [("10.0.0.300", false), ("a b", false), ("1.2.3", true)]);
    assert!(errors[2].to_string().starts_with("excluded target `1.2.3`"));
}

#[test]
fn names_are_looked_up_and_each_address_is_there_once() {
    let targets = parse_all(
        &strings(&["10.0.0.0/29", "shop.internal", "10.0.0.0/24", "gone.internal", "Shop.internal"]),
        &strings(&["10.0.0.5", "db.internal", "nowhere.internal"]),
    )
    .unwrap();
    assert_eq!(
        Vec::from_iter(targets.names()),
        ["db.internal", "gone.internal", "nowhere.internal", "shop.internal"]
    );
    let lookup = BTreeMap::from([
        ("shop.internal".to_owned(), vec!["10.0.0.3".parse().unwrap(), "10.0.0.9".parse().unwrap()]),
        ("db.internal".to_owned(), vec!["::ffff:10.0.0.4".parse().unwrap()]),
        ("gone.internal".to_owned(), vec![]),
    ]);
    let resolved = targets.resolve(&lookup);
    assert_eq!(resolved.addresses.to_string(), "10.0.0.0-10.0.0.3,10.0.0.6-10.0.0.255");
    assert_eq!(resolved.unresolved, ["gone.internal"]);
    assert_eq!(resolved.unresolved_excludes, ["nowhere.internal"]);
    for (address, typed) in [
        ("10.0.0.3", "10.0.0.0/29"),
        ("::ffff:10.0.0.3", "10.0.0.0/29"),
        ("10.0.0.9", "shop.internal"),
        ("10.0.0.10", "10.0.0.0/24"),
        ("10.0.1.0", ""),
        ("::1", ""),
    ] {
        assert_eq!(resolved.typed(address.parse().unwrap()), typed, "{address}");
    }
}

#[test]
fn long_lists_resolve_quickly() {
    let list: Vec<String> =
        (0..60_000u32).map(|i| format!("10.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255)).collect();
    let resolved = parse_all(&list, &list[..10]).unwrap().resolve(&BTreeMap::new());
    assert_eq!(resolved.addresses.len(), 59_990);
    assert_eq!(resolved.typed("10.0.200.7".parse().unwrap()), "10.0.200.7");
}

fn cut() -> impl Strategy<Value = String> {
    let v4 = (0..60u8, 0..20u8).prop_map(|(a, n)| format!("10.0.0.{a}-10.0.0.{}", a + n));
    let v6 = (0..60u16, 0..20u16).prop_map(|(a, n)| format!("fd00::{a:x}-fd00::{:x}", a + n));
    let end = (200..=255u8).prop_map(|a| format!("255.255.255.{a}-255.255.255.255"));
    let v6_end = (0..9u16).prop_map(|a| format!("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff{a}/124"));
    prop_oneof![4 => v4, 4 => v6, 1 => end, 1 => v6_end, 1 => Just("0.0.0.0/0".to_owned()), 1 => Just("::/0".to_owned())]
}

proptest! {
    #[test]
    fn the_first_target_with_an_address_is_named(
        list in prop::collection::vec(cut(), 1..8),
        exclude in prop::collection::vec(cut(), 0..2),
    ) {
        let targets = parse_all(&list, &exclude).unwrap();
        let specs = targets.specs.clone();
        let excluded = targets.exclude.clone();
        let resolved = targets.resolve(&BTreeMap::new());
        let mut probes: Vec<IpAddr> = (0..=90u32)
            .flat_map(|i| [IpAddr::from([10, 0, 0, i as u8]), format!("fd00::{i:x}").parse().unwrap()])
            .collect();
        for text in ["0.0.0.0", "255.255.255.255", "255.255.255.200", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            probes.push(text.parse().unwrap());
        }
        for probe in probes {
            let first = specs.iter().find(|spec| matches!(&spec.target, Target::Addresses(set) if set.contains(probe)));
            prop_assert_eq!(resolved.typed(probe), first.map_or("", |spec| &spec.text), "{}", probe);
            let wanted = first.is_some() && !excluded.contains(probe);
            prop_assert_eq!(resolved.addresses.contains(probe), wanted, "{}", probe);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
        let _ = text.parse::<TargetSpec>();
    }

    #[test]
    fn any_text_like_a_target_is_read_or_refused(text in "[-0-9a-fx.,:*/%\\[\\]]{0,40}") {
        if let Ok(spec) = text.parse::<TargetSpec>() {
            prop_assert_eq!(spec.text.parse::<TargetSpec>().unwrap(), spec);
        }
    }
}
