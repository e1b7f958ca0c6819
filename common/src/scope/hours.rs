//! The hours of the day in which something may happen, by the local clock.

use crate::document::Flaw;
use jiff::civil::{DateTime, Time};
use jiff::tz::AmbiguousOffset;
use jiff::{Timestamp, ToSpan, Zoned};
use std::fmt;
use std::str::FromStr;

/// A day's minutes.
const DAY: u16 = 24 * 60;

/// From one time of day to another, which is no longer in it; past midnight when the second is the earlier. `24:00` is
/// the end of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hours {
    /// Minutes since midnight: below 1440.
    from: u16,
    /// Minutes since midnight: 1 to 1440, never `from`.
    to: u16,
}

impl FromStr for Hours {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let error =
            |message: &str| Flaw::new(message).hint("such as 02:00-04:00, or 22:00-05:30 past midnight");
        let (from, to) = text.split_once('-').ok_or_else(|| error("hours have a beginning and an end"))?;
        let from = minutes(from)
            .filter(|from| *from < DAY)
            .ok_or_else(|| error("the beginning is no time of day"))?;
        let to = minutes(to).ok_or_else(|| error("the end is no time of day"))?;
        if from == to || (from == 0 && to == DAY) {
            return Err(
                error("these hours do not limit anything").hint("leave out `hours` to mean the whole day")
            );
        }
        // Midnight as an end is the end of the day before.
        Ok(Self { from, to: if to == 0 { DAY } else { to } })
    }
}

fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two = |digits: &str| match digits.as_bytes() {
        [a, b] if a.is_ascii_digit() && b.is_ascii_digit() => digits.parse::<u16>().ok(),
        _ => None,
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= DAY).then_some(hours * 60 + minutes)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, self.to / 60, self.to % 60)
    }
}

impl Hours {
    /// Whether the local time lies in them.
    pub fn contains(&self, now: &Zoned) -> bool {
        let minute = now.hour() as u16 * 60 + now.minute() as u16;
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }

    /// When the hours that `now` lies in end; `None` when it lies in none. A clock that is put forward over the end
    /// ends them; one that is put back past the end ends them at the first passing.
    pub fn end(&self, now: &Zoned) -> Option<Timestamp> {
        if !self.contains(now) {
            return None;
        }
        let minute = now.hour() as u16 * 60 + now.minute() as u16;
        let days = i32::from(minute >= self.to) + i32::from(self.to == DAY);
        let date = now.date().checked_add(days.days()).ok()?;
        let to = self.to % DAY;
        let end = DateTime::from_parts(date, Time::new((to / 60) as i8, (to % 60) as i8, 0, 0).ok()?);
        let zone = now.time_zone();
        let ambiguous = zone.to_ambiguous_timestamp(end);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { .. } => {
                zone.following(now.timestamp()).next().map(|change| change.timestamp())
            }
            _ => [ambiguous.earlier().ok()?, ambiguous.later().ok()?]
                .into_iter()
                .find(|t| *t > now.timestamp()),
        }
    }
}
