//! Matchers over labels, as Alertmanager writes them: `name=value`, `name!=value`, `name=~regex`, `name!~regex`. A
//! label that is absent counts as empty; a regular expression has to match the whole value.

use portolan_common::document::Flaw;
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The longest matcher, in bytes.
pub const MAX_TEXT: usize = 1000;

/// What a label's value must be.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: String,
    op: Op,
    value: String,
    /// Only with `=~` and `!~`.
    regex: Option<Regex>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Matches,
    MatchesNot,
}

impl Op {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Matches => "=~",
            Self::MatchesNot => "!~",
        }
    }
}

impl Matcher {
    /// Exactly this value.
    pub fn equal(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), op: Op::Equal, value: value.to_owned(), regex: None }
    }

    /// Whether the labels are as it wants them.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.name).map_or("", String::as_str);
        let found = self.regex.as_ref().is_some_and(|regex| regex.is_match(value));
        match self.op {
            Op::Equal => value == self.value,
            Op::NotEqual => value != self.value,
            Op::Matches => found,
            Op::MatchesNot => !found,
        }
    }

    /// The label and the value that it must have, where it is exactly one: what an index can find.
    pub fn equality(&self) -> Option<(&str, &str)> {
        (self.op == Op::Equal && !self.value.is_empty()).then_some((&self.name, &self.value))
    }

    /// The label that it is about.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A label's name as Prometheus has it: a letter or `_`, then letters, digits, `_`.
pub fn is_label_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl FromStr for Matcher {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let hint = "such as team=shop, severity!=info or check=~\"shop-.*\"";
        if text.len() > MAX_TEXT {
            return Err(Flaw::new(format!("a matcher is at most {MAX_TEXT} bytes long")));
        }
        let text = text.trim();
        let end =
            text.find(['=', '!']).ok_or_else(|| Flaw::new("not a matcher: there is no =").hint(hint))?;
        let (name, rest) = text.split_at(end);
        let name = name.trim();
        if !is_label_name(name) {
            return Err(Flaw::new("not a matcher: that is no label's name").hint(hint));
        }
        // Two characters first: `=` begins `=~` as well.
        let ops = [Op::NotEqual, Op::Matches, Op::MatchesNot, Op::Equal];
        let op = ops.into_iter().find(|op| rest.starts_with(op.as_str()));
        let op = op.ok_or_else(|| Flaw::new("not a matcher: no such operator").hint("=, !=, =~ or !~"))?;
        let value = rest[op.as_str().len()..].trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value).to_owned();
        let regex = match op {
            Op::Equal | Op::NotEqual => None,
            Op::Matches | Op::MatchesNot => Some(regex(&value)?),
        };
        Ok(Self { name: name.to_owned(), op, value, regex })
    }
}

/// A regular expression over a whole value, of bounded size.
fn regex(value: &str) -> Result<Regex, Flaw> {
    regex::RegexBuilder::new(&format!("^(?:{value})$")).size_limit(1 << 20).build().map_err(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Flaw::new(format!("the regular expression does not compile: {why}"))
    })
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

impl Eq for Matcher {}

/// As [`FromStr`] reads it back.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}\"{}\"", self.name, self.op.as_str(), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(matcher: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let matcher: Matcher = matcher.parse().unwrap();
        assert_eq!(matcher.to_string().parse::<Matcher>().unwrap(), matcher);
        matcher.matches(&labels)
    }

    #[test]
    fn operators() {
        let labels = [("team", "shop"), ("port", "443")];
        assert!(matches("team=shop", &labels) && !matches("team!=shop", &labels));
        assert!(matches("team = \"shop\"", &labels) && !matches("team=sho", &labels));
        assert!(matches("port=~4.*|80", &labels) && !matches("port=~4", &labels));
        assert!(matches("port!~4", &labels));
        assert!(matches("owner=", &labels) && matches("owner!=x", &labels));
    }

    #[test]
    fn only_equality_with_something_can_be_looked_up() {
        let equality = |text: &str| {
            let matcher: Matcher = text.parse().unwrap();
            matcher.equality().map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        assert_eq!(equality("team=shop"), Some(("team".into(), "shop".into())));
        for text in ["team=", "team!=shop", "team=~shop", "team!~shop"] {
            assert_eq!(equality(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        for text in ["team", "=x", "a-b=x", "a!x", "a=~(", "a=~.{99999}{99999}"] {
            assert!(text.parse::<Matcher>().is_err(), "{text}");
        }
    }
}
