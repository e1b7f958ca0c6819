//! Sizes as files write them: `512KiB`, `64MiB`, `1GiB`.

use super::Flaw;

/// The units, largest first, in bytes.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a whole number with one of the units `B`, `KiB`, `MiB`, `GiB`, `TiB`: powers of 1024.
///
/// # Errors
/// When it is anything else, or more than `u64` bytes.
pub fn parse_size(text: &str) -> Result<u64, Flaw> {
    let error = |message: &str| Flaw::new(message).hint("such as 512KiB, 64MiB or 1GiB");
    if text.is_empty() {
        return Err(error("a size is missing"));
    }
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    if digits.is_empty() {
        return Err(error("not a size: a whole number must come first"));
    }
    if unit.is_empty() {
        return Err(error("not a size: the unit is missing"));
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(error("not a size: unknown unit"));
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*scale));
    bytes.ok_or_else(|| error("the size is too large"))
}

/// The text that [`parse_size`] reads back, in the largest unit that leaves a whole number.
pub fn size_text(bytes: u64) -> String {
    let whole = UNITS.iter().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale));
    let (unit, scale) = whole.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}
