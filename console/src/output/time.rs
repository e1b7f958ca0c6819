//! Times for people: the reader's own clock, and how long ago.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `2026-05-01 12:00:00`, on the reader's clock.
pub fn local(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `3m ago`, `in 29d`, `now`.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - at.as_second();
    match seconds {
        -1..=1 => "now".to_owned(),
        2.. => format!("{} ago", span(seconds)),
        _ => format!("in {}", span(-seconds)),
    }
}

/// `2026-05-01 12:00:00 (3m ago)`.
pub fn local_and_relative(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    format!("{} ({})", local(at, zone), relative(at, now))
}

/// A length of time in its largest unit, or its two largest while the first is small: `42s`, `3m`, `1h 20m`, `3d 4h`.
pub fn span(seconds: i64) -> String {
    let (minute, hour, day) = (60, 3_600, 86_400);
    match seconds {
        s if s < minute => format!("{}s", s.max(0)),
        s if s < hour => format!("{}m", s / minute),
        s if s < 10 * hour => two(s / hour, "h", s % hour / minute, "m"),
        s if s < day => format!("{}h", s / hour),
        s if s < 10 * day => two(s / day, "d", s % day / hour, "h"),
        s => format!("{}d", s / day),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit} {small}{small_unit}")
    }
}

/// A wire time; 0 is none, and what no calendar holds is none either.
pub fn from_wire(ms: i64) -> Option<Timestamp> {
    (ms != 0).then(|| Timestamp::from_millisecond(ms).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_times_read_well() {
        let now = Timestamp::from_second(1_777_636_800).unwrap();
        let at = |ago: i64| relative(Timestamp::from_second(now.as_second() - ago).unwrap(), now);
        for (ago, text) in [
            (0, "now"),
            (42, "42s ago"),
            (200, "3m ago"),
            (4_800, "1h 20m ago"),
            (7_200, "2h ago"),
            (80_000, "22h ago"),
            (86_400 * 3 + 3_600 * 4, "3d 4h ago"),
            (86_400 * 40, "40d ago"),
            (-86_400 * 29, "in 29d"),
        ] {
            assert_eq!(at(ago), text);
        }
    }

    #[test]
    fn zero_is_never() {
        assert_eq!(from_wire(0), None);
        assert_eq!(from_wire(i64::MAX), None);
        assert_eq!(from_wire(1_000).unwrap().to_string(), "1970-01-01T00:00:01Z");
    }
}
