//! Words and numbers for people, and the armour against text from the network.

use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::PortSet;
use portolan_common::targets::{Target, TargetSpec};
use std::borrow::Cow;

/// How much of a long port list a line of a table repeats, in characters.
const MAX_PORTS_TEXT: usize = 48;

/// The text with everything escaped that could move the cursor, recolour, or reorder what stands beside it.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 8), |mut safe, c| {
        if is_dangerous(c) {
            safe.extend(c.escape_unicode())
        } else {
            safe.push(c)
        }
        safe
    }))
}

/// Text of several lines on one, printable.
pub fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    printable(&lines.join(" ")).into_owned()
}

/// Control characters, the invisible ones that change direction, join or tag (Unicode's Cf, as far as it matters), and
/// the two that XML 1.0 has no place for.
pub fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `65,532`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 port`, `65,532 ports`.
pub fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// A length of time: `45 s`, `1 min 30 s`, `2 h 5 min`.
pub fn length(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, 0) => format!("{min} min"),
        (0, min, s) => format!("{min} min {s} s"),
        (h, 0, _) => format!("{} h", grouped(h)),
        (h, min, _) => format!("{} h {min} min", grouped(h)),
    }
}

/// nmap's own words: `1 IP address (1 host up)`, `4 IP addresses (2 hosts up)`.
pub fn nmap_hosts(up: usize, total: usize) -> String {
    let addresses = if total == 1 { "address" } else { "addresses" };
    let hosts = if up == 1 { "host" } else { "hosts" };
    format!("{total} IP {addresses} ({up} {hosts} up)")
}

/// `412 B`, `3.4 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A round-trip time: `0.41 ms`, `4.1 ms`, `41 ms`; nothing when it was not measured.
pub fn rtt(us: Option<u32>) -> String {
    let Some(us) = us else { return String::new() };
    let ms = f64::from(us) / 1000.0;
    match us {
        0..1_000 => format!("{ms:.2} ms"),
        1_000..10_000 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

/// A length of time in seconds: `0.42`, `12.3`, `318`.
pub fn seconds(duration: jiff::SignedDuration) -> String {
    let seconds = duration.as_secs_f64().max(0.0);
    match seconds {
        s if s < 1.0 => format!("{s:.2}"),
        s if s < 100.0 => format!("{s:.1}"),
        s => grouped(s as u64),
    }
}

/// `22,80,8000-8100`, cut after whole ranges when it is long: `1-21,23-79,… (65,532 ports)`.
pub fn ports(ports: &PortSet, protocol: Protocol) -> String {
    let whole = ports.to_string();
    if whole.len() <= MAX_PORTS_TEXT {
        let number = ports.len() as u64;
        // A plain list counts itself; a range does not.
        let counted =
            if whole.contains('-') { format!(" ({})", count(number, "port")) } else { String::new() };
        return format!("{whole}/{protocol}{counted}");
    }
    let cut = whole[..MAX_PORTS_TEXT].rfind(',').map_or(MAX_PORTS_TEXT, |comma| comma + 1);
    format!("{}…/{protocol} ({})", &whole[..cut], count(ports.len() as u64, "port"))
}

/// `65,532 closed (conn-refused)`; with the protocol where there are two.
pub fn summary(n: u64, state: PortState, reason: &str, protocol: Option<Protocol>) -> String {
    let protocol = protocol.map(|p| format!("{p} ")).unwrap_or_default();
    format!("{} {protocol}{state} ({reason})", grouped(n))
}

/// A host for people: its address, and the name it was asked for by.
pub fn host_name(target: &str) -> Option<Cow<'_, str>> {
    // A network or range says nothing about the one host.
    let is_name = !target.is_empty()
        && target.parse::<TargetSpec>().is_ok_and(|spec| matches!(spec.target, Target::Name(_)));
    is_name.then(|| printable(target))
}

/// How many characters of these ids tell them apart, 8 at least. They are ASCII and begin with their time, so that the
/// ids of one minute begin alike.
pub fn id_length<'a>(ids: impl Iterator<Item = &'a str>) -> usize {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let needed = ids.windows(2).map(|pair| common(pair[0], pair[1]) + 1).max().unwrap_or(0);
    // A part that is all but a hyphen long is shown whole.
    match needed.max(8) {
        9 | 14 | 19 | 24 => needed + 1,
        length => length,
    }
}

/// The beginning of an id.
pub fn short_id(id: &str, length: usize) -> String {
    printable(id).chars().take(length).collect()
}

/// `a`, `a and b`, `a, b and c`.
pub fn and(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// A list after a lead, in lines of so many columns that break between items; those after the first stand below the
/// first item. An item that is wider than a line has one for itself.
pub fn listing(lead: &str, items: &[String], width: Option<usize>) -> Vec<String> {
    let indent = lead.chars().count();
    let mut lines: Vec<String> = Vec::new();
    let mut line = lead.to_owned();
    for (i, item) in items.iter().enumerate() {
        let piece = if i + 1 < items.len() { format!("{item},") } else { item.clone() };
        let is_begun = line.chars().count() > indent;
        let columns = line.chars().count() + usize::from(is_begun) + piece.chars().count();
        if is_begun && width.is_some_and(|width| columns > width) {
            lines.push(std::mem::replace(&mut line, format!("{:indent$}{piece}", "")));
        } else {
            line.push_str(if is_begun { " " } else { "" });
            line.push_str(&piece);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_several() {
        assert_eq!(nmap_hosts(1, 1), "1 IP address (1 host up)");
        assert_eq!(nmap_hosts(0, 2), "2 IP addresses (0 hosts up)");
        assert_eq!(
            [45, 60, 90, 3_600, 7_512].map(length),
            ["45 s", "1 min", "1 min 30 s", "1 h", "2 h 5 min"]
        );
    }

    #[test]
    fn hostile_text_cannot_reach_the_terminal() {
        assert_eq!(printable("shop.internal"), "shop.internal");
        assert_eq!(printable("büro"), "büro");
        assert_eq!(printable("a\u{1b}[31mb\r\n\u{9b}"), "a\\u{1b}[31mb\\u{d}\\u{a}\\u{9b}");
        assert_eq!(printable("a\u{202e}txt"), "a\\u{202e}txt");
        assert_eq!(one_line("power cut\r\n\n  in hall 2\u{1b}\n"), "power cut in hall 2\\u{1b}");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1_000, 65_532, 1_000_000].map(grouped),
            ["0", "999", "1,000", "65,532", "1,000,000"]
        );
        assert_eq!((count(1, "port"), count(0, "port")), ("1 port".into(), "0 ports".into()));
        assert_eq!(
            [412, 1024, 3_565_158, u64::MAX].map(bytes),
            ["412 B", "1.0 KiB", "3.4 MiB", "16384.0 PiB"]
        );
        assert_eq!([Some(412), Some(4_120), Some(41_200), None].map(rtt), ["0.41 ms", "4.1 ms", "41 ms", ""]);
    }

    #[test]
    fn long_port_lists_are_cut_at_a_whole_range() {
        assert_eq!(ports(&[22, 80].into_iter().collect(), Protocol::Tcp), "22,80/tcp");
        assert_eq!(ports(&PortSet::all(), Protocol::Udp), "0-65535/udp (65,536 ports)");
        let even: PortSet = (0..2000u16).filter(|p| p % 2 == 0).collect();
        let text = ports(&even, Protocol::Tcp);
        assert!(text.ends_with(",…/tcp (1,000 ports)"), "{text}");
        assert!(text.len() < 80, "{text}");
    }

    #[test]
    fn lists_break_between_items() {
        let items = ["1,020 closed (reset)", "7 filtered (no-response)", "1 open"].map(str::to_owned);
        assert_eq!(
            listing("Not shown: ", &items, None),
            ["Not shown: 1,020 closed (reset), 7 filtered (no-response), 1 open"]
        );
        assert_eq!(
            listing("Not shown: ", &items, Some(45)),
            ["Not shown: 1,020 closed (reset),", "           7 filtered (no-response), 1 open"]
        );
        assert_eq!(listing("Not shown: ", &items, Some(3)).len(), 3);
        assert_eq!(listing("Not shown: ", &[], Some(3)), ["Not shown: "]);
    }

    #[test]
    fn ids_are_as_long_as_it_takes() {
        let length = |ids: &[&str]| id_length(ids.iter().copied());
        let (a, b) = ("01a1f82d-c1f4-72f9-8fcd-2e760e5281d2", "01a1f82d-c1f4-74b9-b8b4-a98be55d5ccb");
        assert_eq!((length(&[]), length(&[a]), length(&[b, a])), (8, 8, 16));
        assert_eq!(length(&[a, "01a1f82d-d1f4-72f9-8fcd-2e760e5281d2"]), 10);
        assert_eq!((short_id(a, 8).as_str(), short_id("\u{1b}", 8).as_str()), ("01a1f82d", "\\u{1b}"));
    }

    #[test]
    fn only_names_are_shown_beside_an_address() {
        assert_eq!(host_name("shop.internal").as_deref(), Some("shop.internal"));
        for target in ["", "10.0.0.1", "10.0.0.0/24", "10.0.0-3.1-254", "fd00::1"] {
            assert_eq!(host_name(target), None, "{target}");
        }
    }
}
