//! What somebody who mistyped a word may have meant.

/// Longer words are not compared, in bytes.
const MAX_WORD: usize = 100;

/// The candidate that differs from a word by the fewest slips of the finger (a letter too many, too few, another one,
/// two swapped); `None` when even that is another word.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    // One slip in a short word, one more for every three letters.
    let most = 1 + word.len() / 4;
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= most && *candidate != word)
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= most && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let names = ["office", "guest", "dmz", "pci"];
        for (word, meant) in [
            ("ofice", Some("office")),
            ("offcie", Some("office")),
            ("dmx", Some("dmz")),
            ("vlan-12", None),
            ("x", None),
        ] {
            assert_eq!(closest(word, names), meant, "{word}");
        }
        assert_eq!(closest(&"x".repeat(MAX_WORD + 1), [&*"x".repeat(MAX_WORD)]), None);
    }
}
