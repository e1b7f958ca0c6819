//! Texts that come from elsewhere, cut to what a message has room for.

/// The beginning of a text, where it is longer than so many bytes.
pub fn shown(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most.saturating_sub('…'.len_utf8()))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_letters() {
        assert_eq!(shown("short", 5), "short");
        assert_eq!(shown("äääää", 8), "ää…");
        assert!((0..20).all(|most| shown("äöüäöüäöü", most).len() <= most.max(3)));
    }
}
