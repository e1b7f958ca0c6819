//! The mistakes of a file, and the report that shows each with its line.

use super::{Flaw, MAX_MISTAKES};
use std::fmt;
use std::ops::Range;

/// How much of a line a report shows, in characters.
const MAX_SHOWN: usize = 160;

/// One mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// Where it begins in the line, in characters, counted from 1.
    pub column: usize,
    /// The bytes of the file at fault; empty when something is missing there.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// The mistakes of one file, and its text to show them in. `Display` prints each as compilers do: the message, the
/// place, the line with the fault underlined, the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    /// The file's name, as it is to be printed.
    pub file_name: String,
    /// The file's text, without what is hidden in it.
    pub source: String,
    /// What is wrong with it, in the order of the file; at most [`MAX_MISTAKES`].
    pub mistakes: Vec<Mistake>,
    /// How many more there were.
    pub omitted: usize,
    line_starts: Vec<usize>,
}

impl Mistakes {
    /// A file with nothing wrong so far.
    pub fn new(file_name: &str, source: &str) -> Self {
        let line_starts =
            std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self {
            file_name: file_name.to_owned(),
            source: source.to_owned(),
            mistakes: Vec::new(),
            omitted: 0,
            line_starts,
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Adds a mistake about the given bytes of the file.
    pub fn add(&mut self, span: Range<usize>, flaw: impl Into<Flaw>) {
        if self.mistakes.len() >= MAX_MISTAKES {
            self.omitted += 1;
            return;
        }
        let flaw = flaw.into();
        let start = self.boundary(span.start);
        let end = self.boundary(span.end).max(start);
        let line = self.line_of(start);
        let column =
            self.source.get(self.line_start(line)..start).map_or(0, |before| before.chars().count()) + 1;
        let mistake = Mistake { line, column, span: start..end, message: flaw.message, hint: flaw.hint };
        let place = self.mistakes.partition_point(|other| other.span.start <= start);
        self.mistakes.insert(place, mistake);
    }

    /// Puts asterisks in the place of some bytes of the file's text, but for quotes at both ends.
    pub fn hide(&mut self, span: Range<usize>) {
        let span = self.boundary(span.start)..self.boundary(span.end);
        let Some(text) = self.source.get(span.clone()) else { return };
        let quoted = |c: char| matches!(c, '"' | '\'');
        let inside = text.trim_start_matches(quoted);
        let from = span.start + text.len() - inside.len();
        let hidden: String = inside
            .trim_end_matches(quoted)
            .chars()
            // No byte moves, so that every place stays where it is.
            .map(|c| if c == '\n' { "\n".to_owned() } else { "*".repeat(c.len_utf8()) })
            .collect();
        self.source.replace_range(from..from + hidden.len(), &hidden);
    }

    /// The line, counted from 1, that a byte of the file stands on.
    pub fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    fn line_start(&self, line: usize) -> usize {
        self.line_starts.get(line - 1).copied().unwrap_or(self.source.len())
    }

    /// The nearest place at or before the offset where the text can be cut.
    fn boundary(&self, offset: usize) -> usize {
        self.source.floor_char_boundary(offset.min(self.source.len()))
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, mistake: &Mistake) -> fmt::Result {
        let start = self.line_start(mistake.line);
        let text = self.source.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        let gutter = mistake.line.to_string().len();
        writeln!(f, "error: {}", mistake.message)?;
        writeln!(f, "{:gutter$}--> {}:{}:{}", "", self.file_name, mistake.line, mistake.column)?;
        writeln!(f, "{:gutter$} |", "")?;
        // A long line is shown from a little before the fault.
        let before = mistake.column - 1;
        let skip = if before > MAX_SHOWN / 2 { before - MAX_SHOWN / 4 } else { 0 };
        let shown: String = text.chars().skip(skip).take(MAX_SHOWN).map(printable).collect();
        writeln!(f, "{} | {}", mistake.line, shown.trim_end())?;
        let length = self.source.get(mistake.span.clone()).and_then(|fault| fault.lines().next());
        let length = length.map_or(0, |fault| fault.chars().count()).clamp(1, MAX_SHOWN - (before - skip));
        writeln!(f, "{:gutter$} | {:indent$}{}", "", "", "^".repeat(length), indent = before - skip)?;
        if let Some(hint) = &mistake.hint {
            writeln!(f, "{:gutter$} = hint: {hint}", "")?;
        }
        Ok(())
    }
}

/// Each character takes one cell, and none moves a terminal's cursor.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.mistakes {
            self.print(f, mistake)?;
            writeln!(f)?;
        }
        let count = self.mistakes.len() + self.omitted;
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} mistake{s}", self.file_name)?;
        if self.omitted > 0 {
            write!(f, ", of which the first {} are shown", self.mistakes.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
