//! Aligned columns without borders, as kubectl and nmap print them.

use super::paint::{Paint, styles};
use anstyle::Style;

/// One piece of a row.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// In a style.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    /// Unstyled.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(text, styles::PLAIN)
    }

    /// Beside the point.
    pub fn quiet(text: impl Into<String>) -> Self {
        Self::new(text, styles::QUIET)
    }
}

/// Rows under a heading.
#[derive(Debug)]
pub struct Columns {
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

impl Columns {
    /// With these headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new(), indent: 0 }
    }

    /// Moved right.
    #[must_use]
    pub fn indented(self, indent: usize) -> Self {
        Self { indent, ..self }
    }

    /// One row more; as many cells as headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text. A column in which every row is empty is left out.
    pub fn render(&self, paint: Paint) -> String {
        let mut widths: Vec<usize> = self.headings.iter().map(|h| width(h)).collect();
        let mut used = vec![false; widths.len()];
        for row in &self.rows {
            for (i, cell) in row.iter().enumerate().take(widths.len()) {
                widths[i] = widths[i].max(width(&cell.text));
                used[i] |= !cell.text.is_empty();
            }
        }
        let headings: Vec<_> = self.headings.iter().map(|h| Cell::new(h.clone(), styles::TITLE)).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = " ".repeat(self.indent);
            let mut padding = 0;
            for (i, cell) in row.iter().enumerate().take(widths.len()).filter(|(i, _)| used[*i]) {
                // The gap is written before the next cell, so that no line ends in blanks.
                if !cell.text.is_empty() {
                    line.push_str(&" ".repeat(padding));
                    line.push_str(&paint.apply(cell.style, &cell.text));
                    padding = 0;
                }
                padding += widths[i] - width(&cell.text) + 2;
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A line a fact; those without a value are left out.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    facts.map(|(name, value)| format!("{name:<13} {value}\n")).collect()
}

/// What stands in columns is ASCII but for an ellipsis, bars and arrows, so that a character is a column wide.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_empty_ones_vanish() {
        let mut columns = Columns::new(["PORT", "NOTE", "STATE", "RTT"]).indented(2);
        columns.row(["22/tcp", "", "open", "0.41 ms"].map(Cell::plain));
        columns.row(["8080/tcp", "", "filtered", ""].map(Cell::plain));
        assert_eq!(
            columns.render(Paint::off()),
            "  PORT      STATE     RTT\n  22/tcp    open      0.41 ms\n  8080/tcp  filtered\n"
        );
    }
}
