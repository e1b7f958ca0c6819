//! Lists in sentences: short, whatever is in them.

use std::fmt::Display;

/// How many things a sentence names.
const MAX_NAMED: usize = 5;

/// `10.0.0.1, 10.0.0.7 and 3 more`.
pub(crate) fn list<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    let mut things = things.into_iter();
    let named: Vec<_> = things.by_ref().take(MAX_NAMED).map(|thing| thing.to_string()).collect();
    match things.count() {
        0 => named.join(", "),
        rest => format!("{} and {rest} more", named.join(", ")),
    }
}

/// `shop-front`, `shop-front and 1 other check`, `shop-front and 3 other checks`.
pub(crate) fn checks(names: &[&str]) -> String {
    match names {
        [] => "no check".to_owned(),
        [one] => format!("check {one}"),
        [first, others @ ..] => {
            let s = if others.len() == 1 { "" } else { "s" };
            format!("check {first} and {} other check{s}", others.len())
        }
    }
}

/// Has or have, is or are: by how many things there are.
pub(crate) fn looks(names: &[&str]) -> &'static str {
    if names.len() == 1 { "looks" } else { "look" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_short() {
        assert_eq!(list([1, 2]), "1, 2");
        assert_eq!(list(1..=8), "1, 2, 3, 4, 5 and 3 more");
        assert_eq!(checks(&["a"]), "check a");
        assert_eq!(checks(&["a", "b"]), "check a and 1 other check");
        assert_eq!(checks(&["a", "b", "c"]), "check a and 2 other checks");
    }
}
