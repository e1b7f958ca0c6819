//! How results look: one module a format. Rendering is pure; only [`print`] and [`warn`] touch the outside.

pub mod columns;
pub mod csv;
pub mod grepable;
pub mod nmap_xml;
pub mod paint;
pub mod sparkline;
pub mod structured;
pub mod table;
pub mod text;
pub mod time;

use crate::errors::ConsoleError;
use clap::ValueEnum;
use console::Term;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use paint::{Paint, styles};
use std::io::{self, BufWriter, StdoutLock, Write};

/// What `-o` can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Jsonl,
    Yaml,
    Csv,
    NmapXml,
    Grepable,
}

impl Format {
    /// For one thing.
    pub const ONE: &'static [Self] = &[Self::Table, Self::Json, Self::Jsonl, Self::Yaml];
    /// For a list.
    pub const LIST: &'static [Self] = &[Self::Table, Self::Json, Self::Jsonl, Self::Yaml, Self::Csv];
    /// For a scan.
    pub const SCAN: &'static [Self] =
        &[Self::Table, Self::Json, Self::Jsonl, Self::Yaml, Self::Csv, Self::NmapXml, Self::Grepable];

    fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Yaml => "yaml",
            Self::Csv => "csv",
            Self::NmapXml => "nmap-xml",
            Self::Grepable => "grepable",
        }
    }

    /// The format asked for, a table by default, if the command has it.
    ///
    /// # Errors
    /// [`ConsoleError::Usage`], naming those that it has.
    pub fn choose(asked: Option<Self>, allowed: &[Self], command: &str) -> Result<Self, ConsoleError> {
        let format = asked.unwrap_or(Self::Table);
        if allowed.contains(&format) {
            return Ok(format);
        }
        let mistake = format!("`portolan {command}` cannot print {}", format.as_str());
        let names: Vec<_> = allowed.iter().map(|f| f.as_str()).collect();
        Err(match names.is_empty() {
            true => ConsoleError::usage(mistake, "leave out -o: its output has one form"),
            false => ConsoleError::usage(mistake, format!("it prints {}", names.join(", "))),
        })
    }
}

/// What a page for people depends on besides its content.
#[derive(Clone, Debug)]
pub struct View {
    /// Colours or none.
    pub paint: Paint,
    /// What relative times are relative to.
    pub now: Timestamp,
    /// The reader's own.
    pub zone: TimeZone,
    /// Columns of the terminal; none where there is none.
    pub width: Option<usize>,
}

impl View {
    /// For stdout, here and now.
    pub fn of_stdout() -> Self {
        let term = Term::stdout();
        let width = term.is_term().then(|| term.size_checked()).flatten();
        Self {
            paint: Paint::for_stdout(),
            now: Timestamp::now(),
            zone: TimeZone::system(),
            width: width.map(|(_, columns)| columns.into()),
        }
    }

    /// A fixed one: no colours, no width, UTC, 2026-05-01 12:00.
    #[cfg(test)]
    pub fn fixed() -> Self {
        let now = Timestamp::from_second(1_777_636_800).unwrap();
        Self { paint: Paint::off(), now, zone: TimeZone::UTC, width: None }
    }
}

/// Writes a result to stdout.
///
/// # Errors
/// [`ConsoleError::Output`].
pub fn print(
    write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
) -> Result<(), ConsoleError> {
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}

/// Something that the operator should know besides the result.
pub fn warn(text: &str) {
    let paint = Paint::for_stderr();
    // When stderr is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "{} {text}", paint.apply(styles::WARNING, "warning:"));
}

/// What goes on meanwhile.
pub fn note(text: &str) {
    let paint = Paint::for_stderr();
    let _ = writeln!(io::stderr(), "{} {text}", paint.apply(styles::HINT, "note:"));
}

/// What the operator can do about the warnings before it.
pub fn hint(text: &str) {
    let paint = Paint::for_stderr();
    let _ = writeln!(io::stderr(), "{} {text}", paint.apply(styles::HINT, "hint:"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_makes_no_sense_is_refused_with_those_that_do() {
        assert_eq!(Format::choose(None, Format::ONE, "status").unwrap(), Format::Table);
        let error = Format::choose(Some(Format::NmapXml), Format::LIST, "satellite list").unwrap_err();
        assert_eq!(error.to_string(), "`portolan satellite list` cannot print nmap-xml");
        assert_eq!(error.hint().unwrap(), "it prints table, json, jsonl, yaml, csv");
        assert_eq!(error.exit(), crate::errors::Exit::Usage);
    }
}
