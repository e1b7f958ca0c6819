//! Host names, RFC 1123 section 2.1; underscores pass, since real networks have them.

use super::TargetError;

/// The longest name in bytes without a trailing dot, RFC 1035 section 3.1.
const MAX_NAME: usize = 253;

/// The longest label, in bytes.
const MAX_LABEL: usize = 63;

/// The name in lower case, with its trailing dot if it has one.
pub(super) fn parse(text: &str) -> Result<String, TargetError> {
    let error = |problem: String, hint: &str| Err(TargetError::new(text, problem, hint));
    let shape = "a host name has letters, digits and dashes between dots, such as shop.internal";
    let bare = text.strip_suffix('.').unwrap_or(text);
    if bare.len() > MAX_NAME {
        return error(format!("{} bytes are too long for a host name", bare.len()), "253 is the limit");
    }
    for label in bare.split('.') {
        if label.is_empty() {
            return error("there is nothing between two dots".to_owned(), shape);
        }
        if let Some(other) = label.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')) {
            let hint =
                if other.is_alphabetic() { "write an international name in its xn-- form" } else { shape };
            return error(format!("`{}` is not allowed in a host name", other.escape_debug()), hint);
        }
        if label.len() > MAX_LABEL {
            return error(
                format!("`{label}` has {} characters", label.len()),
                "63 between two dots are the limit",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return error(format!("`{label}` begins or ends with a dash"), shape);
        }
    }
    // Resolvers of some systems take such names for addresses (`10.300`, `0x7f000001`): none may pass for a name.
    let last = bare.rsplit('.').next().unwrap_or(bare).to_ascii_lowercase();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return error(
            "a name that ends in a number is an address gone wrong".to_owned(),
            "an IPv4 address has four numbers from 0 to 255, such as 10.0.0.3",
        );
    }
    Ok(text.to_ascii_lowercase())
}
