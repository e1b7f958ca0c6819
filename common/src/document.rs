//! Reading TOML files so that every mistake in one is reported at once, each with its place and a hint.
//!
//! A file is read key by key from a [`Reader`]; a getter gives `None` for a key that is absent *and* for one whose
//! value is wrong, having noted the mistake in the second case. So a reading function asks for all its keys first and
//! decides afterwards, and whatever it returns counts only if no mistake was noted:
//!
//! ```
//! use portolan_common::document;
//!
//! let result = document::read("server.toml", "[web]\nport = 99999\nprot = 1\n", |root| {
//!     let mut web = root.table("web")?;
//!     web.integer("port", 1..=65_535u16).map(|port| port.value)
//! });
//! let report = result.unwrap_err().to_string();
//! assert!(report.contains("server.toml:2:8"), "{report}");
//! assert!(report.contains("unknown key `prot`"), "{report}");
//! ```

mod closest;
mod duration;
mod reader;
mod report;
mod size;
#[cfg(test)]
mod tests;
mod tree;

use std::ops::Range;

pub use closest::closest;
pub use duration::{duration_text, parse_duration};
pub use reader::{At, Item, Reader};
pub use report::{Mistake, Mistakes};
pub use size::{parse_size, size_text};

/// The longest file that is read, in bytes.
pub const MAX_FILE: usize = 4 * 1024 * 1024;

/// How many mistakes of one file are kept; those beyond it are only counted.
pub const MAX_MISTAKES: usize = 200;

/// What is wrong with a value, before it is known where the value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Which bytes of the value's text are at fault; all of it when `None`.
    pub within: Option<Range<usize>>,
}

impl Flaw {
    /// A flaw of the whole value, without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, within: None }
    }

    /// With what to write instead.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Narrowed to some bytes of the value's text.
    #[must_use]
    pub fn within(self, within: Range<usize>) -> Self {
        Self { within: Some(within), ..self }
    }
}

impl From<String> for Flaw {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Flaw {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

/// Reads a whole file. `body` gets its top table; what it returns is given back if neither the file's syntax nor
/// `body` had anything to object to.
///
/// # Errors
/// All mistakes of the file.
pub fn read<T>(
    file_name: &str,
    source: &str,
    body: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    let (value, mut mistakes) = read_with(file_name, source, body);
    match value {
        Some(value) if mistakes.is_empty() => Ok(value),
        None if mistakes.is_empty() => {
            // A body that gives up ought to say why; an error without a mistake would leave the reader puzzled.
            mistakes.add(0..0, "something that is needed is missing from this file");
            Err(mistakes)
        }
        _ => Err(mistakes),
    }
}

/// As [`read`], but gives the mistakes with whatever was read, so that the checks that need several files can add
/// theirs to the file at fault.
pub fn read_with<T>(
    file_name: &str,
    source: &str,
    body: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> (Option<T>, Mistakes) {
    reader::read_root(Mistakes::new(file_name, source), source, body)
}
