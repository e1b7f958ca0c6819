use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn spec(text: &str) -> PortSpec {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> PortSpecError {
    text.parse::<PortSpec>().expect_err(text)
}

#[test]
fn nmap_syntax_is_read() {
    for (text, printed) in [
        ("22,80,8000-8100", "22,80,8000-8100"),
        ("80,22,22,79-81", "22,79-81"),
        ("-", "1-65535"),
        ("-100", "1-100"),
        ("60000-", "60000-65535"),
        ("0", "0"),
        ("0-", "0-65535"),
        ("U:53", "U:53"),
        ("T:22,U:53", "T:22,U:53"),
        ("U:53,161,T:22-23,25", "T:22-23,25,U:53,161"),
        ("80,U:53,T:443", "T:80,443,U:53"),
        ("t:22,u:53", "T:22,U:53"),
        ("http", "80"),
        ("HTTP,https", "80,443"),
        ("U:snmp,ntp", "U:123,161"),
        ("http-proxy", "8080"),
        (" 22, 80 ,443 ", "22,80,443"),
        ("top-1", "443"),
        ("T:-,U:-", "T:1-65535,U:1-65535"),
    ] {
        assert_eq!(spec(text).to_string(), printed, "{text}");
    }
    assert_eq!(spec("top-1000").tcp.len(), 1000);
    assert_eq!(spec("U:top-3").to_string(), "U:53,123,161");
    assert_eq!((spec("top-10,U:top-100").tcp.len(), spec("top-10,U:top-100,53").udp.len()), (10, 100));
    let both = PortSpec::parse_both("top-1000").unwrap();
    assert!(both.udp == both.tcp && both.tcp.len() == 1000);
    assert_eq!(spec("top-1000,T:22,top-10").tcp.len(), 1000);
    assert!(spec("-").udp.is_empty());
    assert!(!spec("-").tcp.contains(0));
}

#[test]
fn a_mistake_is_named_with_its_place_and_a_hint() {
    for (text, piece, column, problem, hint) in [
        ("", "", 1, "missing", "-"),
        ("22,", "", 4, "missing", "-"),
        ("22,,80", "", 4, "missing", "-"),
        ("22,80-70", "80-70", 4, "backwards", "70-80"),
        ("65536", "65536", 1, "not a port", "65535"),
        ("1-65536", "1-65536", 1, "not a port", "65535"),
        ("1-2-3", "1-2-3", 1, "dash", "8000-8100"),
        ("22, httpx", "httpx", 5, "neither", "number"),
        ("é,22x", "é", 1, "neither", "number"),
        ("22,é,x", "é", 4, "neither", "number"),
        ("top-0", "top-0", 1, "no such list", "top-1000"),
        ("top-1001", "top-1001", 1, "no such list", "top-1000"),
        ("top-", "top-", 1, "no such list", "top-1000"),
        ("U:top-101", "U:top-101", 1, "no such list", "U:top-100"),
        ("S:22", "S:22", 1, "unknown protocol", "U:"),
        ("ntp", "ntp", 1, "UDP only", "U:ntp"),
        ("U:ftp", "U:ftp", 1, "TCP only", "T:ftp"),
        ("99999999999999999999", "99999999999999999999", 1, "not a port", "65535"),
    ] {
        let error = error(text);
        assert_eq!((error.piece.as_str(), error.column), (piece, column), "{text}: {error}");
        assert!(error.problem.contains(problem), "{text}: {error}");
        assert!(error.hint.contains(hint), "{text}: {error}");
    }
}

#[test]
fn hostile_text_is_bounded_and_printed_harmlessly() {
    let long = error(&"1,".repeat(MAX_TEXT));
    assert!(long.problem.contains("bytes long"));
    assert!(long.to_string().len() < 400, "{long}");
    let escape = error("\u{1b}[2J");
    assert!(!escape.to_string().contains('\u{1b}'), "{escape}");
    assert_eq!(spec(&vec!["top-1000"; MAX_TEXT / 9].join(",")).len(), 1000);
}

#[test]
fn limits_count_for_both_protocols() {
    for (text, printed) in [
        ("-", "1-65535"),
        ("9100-9107", "9100-9107"),
        ("T:22", "T:22"),
        ("U:53", "U:53"),
        ("80,U:53", "T:80,U:53,80"),
        ("domain", "53"),
        ("ntp", "U:123"),
    ] {
        let spec = PortSpec::parse_both(text).unwrap();
        assert_eq!(spec.to_text_both(), printed, "{text}");
        assert_eq!(PortSpec::parse_both(printed).unwrap(), spec, "{text}");
    }
}

#[test]
fn the_flaw_points_at_the_piece() {
    let flaw = crate::document::Flaw::from(error("22,  80-70,5"));
    assert_eq!(flaw.within, Some(5..10));
}

fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    // Small numbers meet and touch often, large ones reach the end.
    let port = prop_oneof![0..40u16, 65_500..=u16::MAX, any::<u16>()];
    prop::collection::vec((port.clone(), port).prop_map(|(a, b)| (a.min(b), a.max(b))), 0..8)
}

fn set(ranges: &[(u16, u16)]) -> PortSet {
    ranges.iter().map(|(a, b)| *a..=*b).collect()
}

fn model(ranges: &[(u16, u16)]) -> BTreeSet<u16> {
    ranges.iter().flat_map(|(a, b)| *a..=*b).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sets_agree_with_the_model(a in ranges(), b in ranges(), port: u16) {
        let (x, y) = (set(&a), set(&b));
        let (mx, my) = (model(&a), model(&b));
        prop_assert!(x.iter().eq(mx.iter().copied()));
        prop_assert_eq!(x.len(), mx.len());
        prop_assert_eq!(x.is_empty(), mx.is_empty());
        prop_assert_eq!(x.contains(port), mx.contains(&port));
        prop_assert!(x.union(&y).iter().eq(mx.union(&my).copied()));
        prop_assert!(x.intersection(&y).iter().eq(mx.intersection(&my).copied()));
        prop_assert!(x.difference(&y).iter().eq(mx.difference(&my).copied()));
        // One set, one form: otherwise equality would lie.
        prop_assert_eq!(&mx.iter().copied().collect::<PortSet>(), &x);
        for (left, right) in x.ranges().zip(x.ranges().skip(1)) {
            prop_assert!(u32::from(*left.end()) + 1 < u32::from(*right.start()));
        }
    }

    #[test]
    fn what_is_printed_reads_back(tcp in ranges(), udp in ranges()) {
        let spec = PortSpec { tcp: set(&tcp), udp: set(&udp) };
        prop_assume!(!spec.is_empty());
        prop_assert_eq!(&spec.to_string().parse::<PortSpec>().unwrap(), &spec);
        prop_assert_eq!(&PortSpec::parse_both(&spec.to_text_both()).unwrap(), &spec);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        let _ = text.parse::<PortSpec>();
    }

    #[test]
    fn any_text_like_a_port_list_is_read_or_refused(text in "[-,:TU0-9a-z. ]{0,30}") {
        if let Ok(spec) = text.parse::<PortSpec>() {
            prop_assert_eq!(spec.to_string().parse::<PortSpec>().unwrap(), spec);
        }
    }
}
