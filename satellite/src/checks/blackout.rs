//! Whether anything may be sent just now. Windows are by the wall clock; what it says may change at any time, so it is
//! asked often, and the answer is remembered for as long as it holds.

use jiff::Timestamp;
use portolan_common::schedule::Window;
use std::time::Duration;

/// How often the wall clock is looked at, in case it is set.
const PERIOD: Duration = Duration::from_secs(1);

/// When nothing may be sent.
#[derive(Debug, Default)]
pub struct Blackouts {
    windows: Vec<Window>,
    answer: Option<Answer>,
}

/// What holds from one time to before another.
#[derive(Clone, Copy, Debug)]
struct Answer {
    dark: bool,
    from: Timestamp,
    until: Timestamp,
}

impl Blackouts {
    /// These.
    pub fn new(windows: Vec<Window>) -> Self {
        Self { windows, answer: None }
    }

    /// Whether `now` lies in one.
    pub fn hold(&mut self, now: Timestamp) -> bool {
        if self.windows.is_empty() {
            return false;
        }
        let known = self.answer.filter(|answer| (answer.from..answer.until).contains(&now));
        let answer = known.unwrap_or_else(|| self.find(now));
        self.answer = Some(answer);
        answer.dark
    }

    fn find(&self, now: Timestamp) -> Answer {
        let end = self.windows.iter().filter_map(|window| window.end(now)).max();
        // A blackout that others prolong is asked again at its end.
        let next = || self.windows.iter().filter_map(|window| window.next_start(now)).min();
        let until = end.or_else(next).unwrap_or(Timestamp::MAX);
        Answer { dark: end.is_some(), from: now, until }
    }

    /// How long until it has to be asked again; `None` when it never has to.
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        if self.windows.is_empty() {
            return None;
        }
        let until = self.answer.map_or(now, |answer| answer.until);
        Some(Duration::try_from(until.duration_since(now)).unwrap_or_default().min(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_common::schedule::Cron;

    #[test]
    fn it_is_dark_from_the_beginning_to_before_the_end() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let window = |cron: &str, minutes: u64| Window {
            cron: Cron::new(cron, "Europe/Berlin").unwrap(),
            lasts: Duration::from_secs(minutes * 60),
        };
        let mut blackouts = Blackouts::new(vec![window("0 2 * * *", 60), window("30 2 * * *", 60)]);
        // The night in which the clock leaps over 02:00 to 03:00: both begin at 03:00, which is 01:00 in UTC.
        assert!(!blackouts.hold(at("2026-03-29T00:59:59Z")));
        assert_eq!(blackouts.wait(at("2026-03-29T00:59:59.75Z")), Some(Duration::from_millis(250)));
        assert!(blackouts.hold(at("2026-03-29T01:00:00Z")));
        assert_eq!(blackouts.wait(at("2026-03-29T01:00:00Z")), Some(PERIOD));
        assert!(!blackouts.hold(at("2026-03-29T02:00:00Z")));
        // An ordinary night: from 02:00 to 03:30.
        assert!(blackouts.hold(at("2026-03-30T00:00:00Z")));
        assert!(blackouts.hold(at("2026-03-30T01:00:00Z")), "the other one goes on");
        assert!(!blackouts.hold(at("2026-03-30T01:30:00Z")));
        // The clock is set back.
        assert!(blackouts.hold(at("2026-03-30T00:30:00Z")));
        let mut none = Blackouts::default();
        assert!(!none.hold(at("2026-03-29T01:00:00Z")) && none.wait(Timestamp::MIN).is_none());
    }
}
