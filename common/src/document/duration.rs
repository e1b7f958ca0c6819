//! Durations as files write them: `500ms`, `30s`, `1h30m`, `14d`.

use super::Flaw;
use std::time::Duration;

/// The units, largest first, in milliseconds.
const UNITS: [(&str, u64); 6] =
    [("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads whole numbers with the units `w`, `d`, `h`, `m`, `s`, `ms`, the largest first: `30s`, `1h30m`. A day is 24
/// hours.
///
/// # Errors
/// When it is anything else, or longer than `u64` milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, Flaw> {
    let error = |message: &str| Flaw::new(message).hint("such as 500ms, 30s, 15m, 1h30m, 14d or 2w");
    if text.is_empty() {
        return Err(error("a duration is missing"));
    }
    let (mut rest, mut total) = (text, 0u64);
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        if digits.is_empty() {
            return Err(error("not a duration: a number must come first"));
        }
        if unit.is_empty() {
            return Err(error("not a duration: the unit is missing"));
        }
        // The search goes on where the last unit was found, so that each comes once and the largest first.
        let Some((_, scale)) = units.find(|(name, _)| *name == unit) else {
            return Err(error(if UNITS.iter().any(|(name, _)| *name == unit) {
                "not a duration: the larger unit comes first, each once"
            } else {
                "not a duration: unknown unit"
            }));
        };
        total = digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(*scale))
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(|| error("the duration is too long"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// The text that [`parse_duration`] reads back, in the largest units that fit: `1h30m`. Weeks are not among them: `31d`
/// says more than `4w3d`. What is below a millisecond is left out.
pub fn duration_text(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS.into_iter().filter(|(unit, _)| *unit != "w") {
        let count = rest / u128::from(scale);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
        rest %= u128::from(scale);
    }
    text
}
