//! The lines at the bottom of a terminal that are drawn over and over.
//!
//! After each drawing the cursor stands at the beginning of the first line. So whatever the terminal writes there by
//! itself, such as the `^C` that it echoes, moves nothing: the next drawing begins with that line again.

use super::line::Line;
use console::Term;
use std::fmt::Write as _;

/// To the beginning of the line, and away with everything from there on (ECMA-48 ED).
const ERASE: &str = "\r\x1b[J";

/// The lower end of the terminal on stderr.
pub struct Screen(Term);

impl Screen {
    /// None when nobody watches, or when the terminal cannot erase.
    pub fn on_stderr() -> Option<Self> {
        let term = Term::stderr();
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        // Only where there is one: dropping it writes.
        (term.is_term() && !is_dumb).then(|| Self(term))
    }

    /// The lines in place of those drawn before.
    pub fn draw<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) {
        let (rows, columns) = self.0.size();
        self.write(&drawing(lines, rows.into(), columns.into()));
    }

    /// No lines.
    pub fn clear(&mut self) {
        self.write(ERASE);
    }

    /// A terminal that went away shows nothing, which is no error.
    fn write(&self, text: &str) {
        let _ = self.0.write_str(text);
    }
}

/// Whatever comes next, an error or the result, finds nothing there.
impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What is written for these lines. A line ends before the last column, where terminals differ in what comes next; the
/// last row is left free, so that nothing scrolls away that could not be erased.
fn drawing<'a>(lines: impl Iterator<Item = &'a Line>, rows: usize, columns: usize) -> String {
    let texts: Vec<String> =
        lines.take(rows.saturating_sub(1).max(1)).map(|line| line.fit(columns.saturating_sub(1))).collect();
    let mut text = format!("{ERASE}{}\r", texts.join("\r\n"));
    if texts.len() > 1 {
        // String's `write!` cannot fail.
        let _ = write!(text, "\x1b[{}A", texts.len() - 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_returns_to_where_the_next_drawing_begins() {
        let lines = [Line::new("a".into()), Line::new("b".into()), Line::new("c".into())];
        assert_eq!(drawing(lines[..1].iter(), 24, 12), "\r\x1b[Ja  waiting\r");
        let three = drawing(lines.iter(), 24, 12);
        assert_eq!(three, "\r\x1b[Ja  waiting\r\nb  waiting\r\nc  waiting\r\x1b[2A");
        // Too low for all: what would scroll is left out.
        assert_eq!(drawing(lines.iter(), 3, 12).matches("waiting").count(), 2);
        assert_eq!(drawing(lines.iter(), 0, 0), "\r\x1b[J\r");
    }
}
