//! Times that come again: how often a check runs, and windows such as maintenance. Cron expressions have five fields
//! and a time zone; what they mean on days when a clock is changed is said at [`Cron`].

use crate::document::{Flaw, duration_text, parse_duration};
use cronexpr::{Crontab, MakeTimestamp};
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, TimeZone};
use std::fmt;
use std::time::Duration;

/// The shortest interval of a check.
pub const MIN_EVERY: Duration = Duration::from_secs(1);
/// The longest interval of a check, and the longest window.
pub const MAX_EVERY: Duration = Duration::from_secs(30 * 86_400);

/// A cron expression in a time zone. As cron(8) has it: where the hour is named, a time that the clock leaps over comes
/// when it has leapt, and one that the clock passes twice comes once, at the first passing; where every hour or every
/// n-th is meant, real time counts.
#[derive(Clone)]
pub struct Cron {
    text: String,
    timezone: String,
    zone: TimeZone,
    /// In its zone where every hour is meant, by the calendar (as if it were UTC) where the hour is named.
    crontab: Crontab,
    names_hours: bool,
}

impl Cron {
    /// Reads five fields (minute, hour, day of month, month, day of week) and an IANA time zone's name.
    ///
    /// # Errors
    /// When either cannot be read, or the time never comes.
    pub fn new(text: &str, timezone: &str) -> Result<Self, Flaw> {
        let zone = TimeZone::get(timezone)
            .map_err(|_| Flaw::new("no such time zone").hint("an IANA name, such as Europe/Berlin or UTC"))?;
        let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let hint = "minute hour day month weekday, such as \"0 2 * * SUN\"";
        if text.split(' ').count() != 5 {
            return Err(Flaw::new("a cron expression has five fields").hint(hint));
        }
        let names_hours = !text.split(' ').nth(1).is_some_and(|hours| hours.starts_with('*'));
        let read_in = if names_hours { "UTC" } else { timezone };
        let crontab = cronexpr::parse_crontab(&format!("{text} {read_in}"))
            .map_err(|_| Flaw::new("not a cron expression").hint(hint))?;
        let cron = Self { text, timezone: timezone.to_owned(), zone, crontab, names_hours };
        match cron.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(Flaw::new("this time never comes").hint(hint)),
        }
    }

    /// The first time after `now`; `None` when there is none.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.names_hours {
            return self.found_after(now);
        }
        let as_utc = |civil: jiff::civil::DateTime| Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp());
        let mut calendar = as_utc(now.to_zoned(self.zone.clone()).datetime())?;
        loop {
            calendar = self.found_after(calendar)?;
            let civil = calendar.to_zoned(TimeZone::UTC).datetime();
            let ambiguous = self.zone.to_ambiguous_timestamp(civil);
            let at = match ambiguous.offset() {
                AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                    ambiguous.earlier().ok()?
                }
                // Read by the offset after the leap it lies before it; the first change from there on is the leap.
                AmbiguousOffset::Gap { .. } => {
                    let before = ambiguous.earlier().ok()?;
                    self.zone.following(before).next()?.timestamp()
                }
            };
            if at > now {
                return Some(at);
            }
        }
    }

    fn found_after(&self, at: Timestamp) -> Option<Timestamp> {
        self.crontab.find_next(MakeTimestamp(at)).ok().map(|zoned| zoned.timestamp())
    }

    /// The five fields.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The time zone's name.
    pub fn timezone(&self) -> &str {
        &self.timezone
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.timezone) == (&other.text, &other.timezone)
    }
}

impl Eq for Cron {}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({self})")
    }
}

/// `0 2 * * SUN (Europe/Berlin)`; UTC goes without saying.
impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.timezone == "UTC" { Ok(()) } else { write!(f, " ({})", self.timezone) }
    }
}

/// When a check runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Again and again: [`MIN_EVERY`] to [`MAX_EVERY`].
    Every(Duration),
    /// At these times.
    Cron(Cron),
}

/// Reads the `every` of a policy: `1s` to `30d`.
///
/// # Errors
/// When it is no duration, or beyond the bounds.
pub fn parse_every(text: &str) -> Result<Duration, Flaw> {
    let every = parse_duration(text)?;
    if (MIN_EVERY..=MAX_EVERY).contains(&every) {
        Ok(every)
    } else {
        Err(Flaw::new(format!("{text} is not from 1s to 30d")).hint("cron = \"…\" for what is rarer"))
    }
}

impl Schedule {
    /// The longest time between two runs that is still usual: the interval, or the distance of the two times of a cron
    /// expression around `now`.
    pub fn interval(&self, now: Timestamp) -> Duration {
        match self {
            Self::Every(every) => *every,
            Self::Cron(cron) => {
                let distance = cron.next_after(now).and_then(|next| {
                    let after = cron.next_after(next)?;
                    Duration::try_from(after.duration_since(next)).ok()
                });
                distance.unwrap_or(MAX_EVERY).clamp(MIN_EVERY, MAX_EVERY)
            }
        }
    }
}

impl Schedule {
    /// When so many more runs were due since a time: nights and weekends without any do not count. The end of all times
    /// when there are not so many.
    pub fn after_runs(&self, since: Timestamp, runs: u32) -> Timestamp {
        let at = match self {
            Self::Every(every) => {
                let all = jiff::SignedDuration::try_from(every.saturating_mul(runs));
                all.ok().and_then(|all| since.checked_add(all).ok())
            }
            Self::Cron(cron) => (0..runs).try_fold(since, |at, _| cron.next_after(at)),
        };
        at.unwrap_or(Timestamp::MAX)
    }
}

/// `30s`, or the cron expression.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(every) => f.write_str(&duration_text(*every)),
            Self::Cron(cron) => cron.fmt(f),
        }
    }
}

/// A time that comes again and lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it begins.
    pub cron: Cron,
    /// How long it lasts: one minute to [`MAX_EVERY`].
    pub lasts: Duration,
}

impl Window {
    /// When the window that `now` lies in ends; `None` when it lies in none. Windows that overlap or meet are one.
    pub fn end(&self, now: Timestamp) -> Option<Timestamp> {
        let lasts = self.lasts.try_into().unwrap_or(jiff::SignedDuration::MAX);
        // A window that began at or before this is over.
        let mut over = now.saturating_sub(lasts).ok()?;
        let mut end = None;
        // One that is always renewed has no end worth naming.
        for _ in 0..1000 {
            let Some(start) = self.cron.next_after(over) else { break };
            if start > end.unwrap_or(now) {
                break;
            }
            end = start.saturating_add(lasts).ok();
            over = start;
        }
        end
    }

    /// Whether `now` lies in it.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.end(now).is_some()
    }

    /// When it begins next.
    pub fn next_start(&self, now: Timestamp) -> Option<Timestamp> {
        self.cron.next_after(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn window(cron: &str, timezone: &str, lasts: &str) -> Window {
        Window { cron: Cron::new(cron, timezone).unwrap(), lasts: parse_duration(lasts).unwrap() }
    }

    #[test]
    fn a_window_has_its_beginning_and_not_its_end() {
        let window = window("0 2 * * SUN", "UTC", "2h");
        // 2026-11-22 is a Sunday.
        assert!(!window.contains(at("2026-11-22T01:59:59Z")));
        assert_eq!(window.end(at("2026-11-22T02:00:00Z")), Some(at("2026-11-22T04:00:00Z")));
        assert!(window.contains(at("2026-11-22T03:59:59Z")));
        assert!(!window.contains(at("2026-11-22T04:00:00Z")));
        assert_eq!(window.next_start(at("2026-11-22T02:00:00Z")), Some(at("2026-11-29T02:00:00Z")));
    }

    #[test]
    fn windows_that_overlap_are_one() {
        let window = window("0,30 2 * * *", "UTC", "45m");
        assert_eq!(window.end(at("2026-11-22T02:10:00Z")), Some(at("2026-11-22T03:15:00Z")));
        let always = Window { cron: Cron::new("* * * * *", "UTC").unwrap(), lasts: Duration::from_secs(120) };
        assert!(always.contains(at("2026-11-22T02:10:00Z")));
    }

    /// 2026: clocks in Berlin go from 02:00 to 03:00 on March 29, and from 03:00 back to 02:00 on October 25.
    #[test]
    fn days_on_which_clocks_change() {
        let night = window("30 2 * * *", "Europe/Berlin", "1h");
        assert!(night.contains(at("2026-03-28T01:45:00Z")), "the day before: 02:45 is 01:45 UTC");
        assert_eq!(night.next_start(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
        assert_eq!(night.next_start(at("2026-03-29T01:00:00Z")), Some(at("2026-03-30T00:30:00Z")));
        assert_eq!(night.next_start(at("2026-10-24T12:00:00Z")), Some(at("2026-10-25T00:30:00Z")));
        assert_eq!(night.next_start(at("2026-10-25T00:30:00Z")), Some(at("2026-10-26T01:30:00Z")));
        let first = window("0 2 * * *", "Europe/Berlin", "1h");
        assert_eq!(first.next_start(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
        let often = window("*/30 * * * *", "Europe/Berlin", "1m");
        assert_eq!(often.next_start(at("2026-10-25T00:30:00Z")), Some(at("2026-10-25T01:00:00Z")));
        // What began before the change lasts as long as it was to.
        let evening = window("0 23 * * *", "Europe/Berlin", "6h");
        assert_eq!(evening.end(at("2026-03-28T23:00:00Z")), Some(at("2026-03-29T04:00:00Z")));
    }

    #[test]
    fn what_is_no_cron_expression_is_refused() {
        for (text, zone, message) in [
            ("0 2 * *", "UTC", "five fields"),
            ("0 25 * * *", "UTC", "not a cron"),
            ("0 2 * * SUN", "Europe/Berlim", "time zone"),
            ("0 0 31 2 *", "UTC", "never comes"),
        ] {
            let flaw = Cron::new(text, zone).unwrap_err();
            assert!(flaw.message.contains(message), "{text}: {}", flaw.message);
        }
        assert!(parse_every("500ms").is_err() && parse_every("31d").is_err() && parse_every("30d").is_ok());
    }

    #[test]
    fn runs_are_counted_over_nights_and_weekends() {
        let every = Schedule::Every(Duration::from_secs(60));
        assert_eq!(every.after_runs(at("2026-11-20T18:59:30Z"), 3), at("2026-11-20T19:02:30Z"));
        let work = Schedule::Cron(Cron::new("*/30 8-18 * * 1-5", "UTC").unwrap());
        // A Friday.
        assert_eq!(work.after_runs(at("2026-11-20T10:00:05Z"), 3), at("2026-11-20T11:30:00Z"));
        assert_eq!(work.after_runs(at("2026-11-20T18:30:05Z"), 3), at("2026-11-23T09:00:00Z"));
    }

    #[test]
    fn intervals() {
        let now = at("2026-11-22T02:10:00Z");
        assert_eq!(Schedule::Every(Duration::from_secs(5)).interval(now), Duration::from_secs(5));
        let daily = Schedule::Cron(Cron::new("0 2 * * *", "UTC").unwrap());
        assert_eq!(daily.interval(now), Duration::from_secs(86_400));
        assert_eq!(daily.to_string(), "0 2 * * *");
    }
}
