//! Port sets in the notation that every scanner takes: `22,80,8000-8100`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

/// A set of ports of one protocol.
pub type Ports = BTreeSet<u16>;

/// Reads `22,80,8000-8100`; the empty text is the empty set.
pub fn parse(text: &str) -> Result<Ports> {
    let mut ports = Ports::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |number: &str| {
            number.trim().parse::<u16>().with_context(|| format!("`{part}` is no port or range"))
        };
        ports.extend(bound(first)?..=bound(last)?);
    }
    Ok(ports)
}

/// Writes them one by one, for programs that know no ranges.
pub fn list(ports: &Ports) -> String {
    let mut text = String::new();
    for port in ports {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{port}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_listed() -> Result<()> {
        assert_eq!(list(&parse("22,1-3")?), "1,2,3,22");
        assert_eq!(parse("")?, Ports::new());
        assert!(parse("a").is_err() && parse("1-70000").is_err());
        Ok(())
    }
}
