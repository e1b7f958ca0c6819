//! The machine output's contract: one file a command, each the structures that its JSON and YAML show, field by field.

pub mod history;
pub mod ports;
pub mod satellite;
pub mod scan;
pub mod scans;
pub mod status;

/// A row of CSV.
pub trait Row {
    /// The first line.
    const HEADER: &'static [&'static str];

    /// As many as [`Row::HEADER`] names.
    fn cells(&self) -> Vec<String>;
}

/// An absent text is `null`, not an empty string.
fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
