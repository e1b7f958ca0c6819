//! Colours: only on a terminal, never with `NO_COLOR`, and never the only carrier of a meaning.

use anstyle::Style;
use std::io::{self, IsTerminal};

/// Whether colours are used.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// None.
    #[cfg(test)]
    pub const fn off() -> Self {
        Self(false)
    }

    /// As stdout and the environment allow.
    pub fn for_stdout() -> Self {
        Self(io::stdout().is_terminal() && environment_allows())
    }

    /// As stderr and the environment allow.
    pub fn for_stderr() -> Self {
        Self(io::stderr().is_terminal() && environment_allows())
    }

    /// The text in a style.
    pub fn apply(self, style: Style, text: &str) -> String {
        if self.0 && style != Style::new() && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

/// <https://no-color.org>: set and not empty.
fn environment_allows() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// What means what.
pub mod styles {
    use anstyle::{AnsiColor, Style};
    use portolan_common::observation::PortState;

    pub const PLAIN: Style = Style::new();
    pub const TITLE: Style = Style::new().bold();
    pub const QUIET: Style = Style::new().dimmed();
    pub const GOOD: Style = AnsiColor::Green.on_default();
    pub const CAUTION: Style = AnsiColor::Yellow.on_default();
    pub const BAD: Style = AnsiColor::Red.on_default();
    pub const ERROR: Style = AnsiColor::Red.on_default().bold();
    pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    pub const HINT: Style = AnsiColor::Cyan.on_default().bold();

    /// Open is what one looks for, silence deserves a look, a refusal is the quiet normal.
    pub const fn of_state(state: PortState) -> Style {
        match state {
            PortState::Open => GOOD,
            PortState::Closed => QUIET,
            PortState::Filtered | PortState::OpenFiltered => CAUTION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_when_on() {
        assert_eq!(Paint::off().apply(styles::GOOD, "open"), "open");
        assert_eq!(Paint(true).apply(styles::GOOD, "open"), "\u{1b}[32mopen\u{1b}[0m");
        assert_eq!(Paint(true).apply(styles::PLAIN, "open"), "open");
    }
}
