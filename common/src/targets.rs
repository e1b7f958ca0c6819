//! What is to be scanned: targets in nmap's syntax, what is left out, and the addresses they come to once the names
//! are looked up.

mod name;
mod resolved;
mod syntax;
#[cfg(test)]
mod tests;

use crate::addresses::AddressSet;
use crate::document::Flaw;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

pub use resolved::ResolvedTargets;

/// How many separate ranges one target may come to.
pub const MAX_RANGES: usize = 65_536;

/// How many separate ranges all targets of one list may come to.
pub const MAX_RANGES_TOTAL: usize = 1 << 20;

/// The longest target that is read, in bytes.
pub const MAX_TEXT: usize = 4096;

/// What one target means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// These addresses.
    Addresses(AddressSet),
    /// Whatever this host name stands for: lower case, with its trailing dot if it was typed with one.
    Name(String),
}

/// One target as it was typed and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// As typed, without the white space around it.
    pub text: String,
    /// What it means.
    pub target: Target,
}

/// A target that cannot be read: what was typed, what is wrong with it and what to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} `{text}`: {problem} ({hint})", if *.excluded { "excluded target" } else { "target" })]
pub struct TargetError {
    /// As typed (cut when it is long).
    pub text: String,
    /// Whether it was to be left out rather than scanned.
    pub excluded: bool,
    /// What is wrong with it.
    pub problem: String,
    /// What to type instead.
    pub hint: String,
}

impl From<TargetError> for Flaw {
    fn from(error: TargetError) -> Self {
        Self::new(format!("not a target: {}", error.problem)).hint(error.hint)
    }
}

impl TargetError {
    fn new(text: &str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        if text.chars().nth(80).is_some() {
            shown.push('…');
        }
        Self { text: shown, excluded: false, problem: problem.into(), hint: hint.into() }
    }
}

/// An address, a CIDR (its host bits are ignored), octet ranges (`10.0.0-3.1-254`, `10.0.0.1,5,9`, `10.0.*.1`), a
/// full range (`10.0.0.1-10.0.0.9`), or a host name. IPv6 may stand in brackets.
impl FromStr for TargetSpec {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        Ok(Self { text: text.to_owned(), target: syntax::parse(text)? })
    }
}

/// The targets of one scan or check, and what is to be left out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// In the order typed.
    pub specs: Vec<TargetSpec>,
    /// Addresses to leave out.
    pub exclude: AddressSet,
    /// Names whose addresses are to be left out.
    pub exclude_names: Vec<String>,
}

/// Reads all targets and exclusions.
///
/// # Errors
/// Every mistake in either list, in the order typed.
pub fn parse_all(targets: &[String], exclude: &[String]) -> Result<Targets, Vec<TargetError>> {
    let mut errors = Vec::new();
    let mut ranges = 0;
    let mut read = |list: &[String], excluded| {
        let mut specs = Vec::new();
        for text in list {
            let room = ranges <= MAX_RANGES_TOTAL;
            match text.parse::<TargetSpec>() {
                Ok(spec) => {
                    ranges = spec.range_count().saturating_add(ranges);
                    if ranges <= MAX_RANGES_TOTAL {
                        specs.push(spec);
                    } else if room {
                        // Only the target that crosses the line is named; what follows is only checked, not kept.
                        let problem =
                            format!("with it the list comes to over {MAX_RANGES_TOTAL} separate ranges");
                        let error = TargetError::new(text, problem, "write larger blocks or scan in parts");
                        errors.push(TargetError { excluded, ..error });
                    }
                }
                Err(error) => errors.push(TargetError { excluded, ..error }),
            }
        }
        specs
    };
    let specs = read(targets, false);
    let mut exclude_ranges = Vec::new();
    let mut exclude_names = Vec::new();
    for spec in read(exclude, true) {
        match spec.target {
            Target::Addresses(set) => exclude_ranges.extend(set.ranges()),
            Target::Name(name) => exclude_names.push(name),
        }
    }
    if errors.is_empty() {
        Ok(Targets { specs, exclude: exclude_ranges.into_iter().collect(), exclude_names })
    } else {
        Err(errors)
    }
}

impl TargetSpec {
    fn range_count(&self) -> usize {
        match &self.target {
            Target::Addresses(set) => set.range_count(),
            Target::Name(_) => 1,
        }
    }
}

impl Targets {
    /// The host names to look up, targets and exclusions together, each once, ascending: the keys that
    /// [`Targets::resolve`] asks for.
    pub fn names(&self) -> BTreeSet<String> {
        let named = self.specs.iter().filter_map(|spec| match &spec.target {
            Target::Name(name) => Some(name),
            Target::Addresses(_) => None,
        });
        named.chain(&self.exclude_names).cloned().collect()
    }

    /// Puts the looked-up addresses in the names' place. A name without any is in
    /// [`ResolvedTargets::unresolved`] or [`ResolvedTargets::unresolved_excludes`].
    pub fn resolve(self, lookup: &BTreeMap<String, Vec<IpAddr>>) -> ResolvedTargets {
        ResolvedTargets::new(self, lookup)
    }
}
