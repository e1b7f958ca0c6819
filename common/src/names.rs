//! The names that people give: of satellites, segments, tenants, checks.

use crate::document::Flaw;

/// The longest name, in characters; it fits a DNS label.
pub const MAX_NAME: usize = 63;

/// A name that cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a {kind} name: {problem} (1 to 63 characters: lower-case letters, digits, `-`, `_` and `.`, \
     beginning with a letter or digit)"
)]
pub struct NameError {
    kind: String,
    text: String,
    problem: String,
}

impl From<NameError> for Flaw {
    fn from(error: NameError) -> Self {
        Self::new(format!("not a {} name: {}", error.kind, error.problem)).hint(
            "1 to 63 characters: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
        )
    }
}

/// Checks a name; `kind` says in the error what it was to name (`satellite`, `segment`, `tenant`).
///
/// # Errors
/// Unless it has 1 to 63 characters out of lower-case ASCII letters, digits, `-`, `_` and `.`, the first being a
/// letter or digit.
pub fn check_name(kind: &str, text: &str) -> Result<(), NameError> {
    let problem = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(other) = text.chars().find(|c| !is_allowed(*c)) {
        if other.is_uppercase() {
            "it has upper-case letters".to_owned()
        } else {
            format!("`{}` is not allowed in it", other.escape_default())
        }
    } else if text.len() > MAX_NAME {
        format!("it is {} characters long", text.len())
    } else if text.starts_with(['-', '_', '.']) {
        "it begins with a punctuation mark".to_owned()
    } else {
        return Ok(());
    };
    // The cut keeps a hostile name from filling a log.
    let text = text.chars().take(MAX_NAME + 1).flat_map(char::escape_debug).collect();
    Err(NameError { kind: kind.to_owned(), text, problem })
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_people_give_pass() {
        for name in ["office-1", "pci", "a", "0", "acme_lan", "site.rack-7", &"x".repeat(63)] {
            assert_eq!(check_name("satellite", name), Ok(()), "{name}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        for (name, reason) in [
            ("", "empty"),
            ("Office", "upper-case"),
            ("-x", "punctuation"),
            (".x", "punctuation"),
            ("_x", "punctuation"),
            ("a b", "` `"),
            ("a/b", "`/`"),
            ("a\u{1b}[2J", "\\u{1b}"),
            ("büro", "\\u{fc}"),
            (&"x".repeat(64), "64"),
        ] {
            let error = check_name("segment", name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
            assert!(!error.chars().any(char::is_control), "{error}");
        }
    }
}
