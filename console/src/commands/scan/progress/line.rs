//! One satellite's line: its name, a bar, and as many fields as fit as a whole.

use crate::output::text::printable;

/// How long a satellite that is away is waited for, in seconds: the server's patience.
const PATIENCE: u64 = 60;
/// How wide the bar is within its brackets, in columns.
const BAR: usize = 16;

/// What is known of a satellite, in fields.
pub struct Line {
    name: String,
    /// What matters most comes first.
    fields: Vec<String>,
    /// From 0 to 1.
    share: f64,
}

impl Line {
    /// Nothing is known yet. The name is padded so that bars stand below each other.
    pub fn new(name: String) -> Self {
        Self { name, fields: vec!["waiting".to_owned()], share: 0.0 }
    }

    /// These fields, and a bar that is as long as the share (0 to 1).
    pub fn show(&mut self, fields: Vec<String>, share: f64) {
        (self.fields, self.share) = (fields, share.clamp(0.0, 1.0));
    }

    /// Words in place of the fields; the bar is full if `done`.
    pub fn say(&mut self, text: String, done: bool) {
        self.fields = vec![text];
        if done {
            self.share = 1.0;
        }
    }

    /// The line in so many columns. What does not fit is left out as a whole: an empty bar first, then the last fields,
    /// then the bar. Only a first field that is too long for itself is cut, where the words end in `…`.
    pub fn fit(&self, columns: usize) -> String {
        let filled = (self.share * BAR as f64) as usize;
        let bar = match filled {
            0 => format!("[{:BAR$}]  ", ""),
            filled => format!("[{:BAR$}]  ", format!("{}>", "=".repeat(filled - 1))),
        };
        let with =
            |bar: &str, fields: usize| format!("{}  {bar}{}", self.name, self.fields[..fields].join(", "));
        let fits = |text: &String| text.chars().count() <= columns;
        let whole = with(&bar, self.fields.len());
        if fits(&whole) {
            return whole;
        }
        let bars: &[&str] = if filled == 0 { &[""] } else { &[&bar, ""] };
        for bar in bars {
            for fields in (1..=self.fields.len()).rev() {
                let text = with(bar, fields);
                if fits(&text) {
                    return text;
                }
            }
        }
        let words = with("", self.fields.len().min(1));
        let kept: String = words.chars().take(columns.saturating_sub(1)).collect();
        if columns == 0 { kept } else { format!("{kept}…") }
    }
}

/// That a satellite is gone in mid-scan, and what comes next.
pub fn away(name: &str) -> String {
    format!("{} is away; waiting up to {PATIENCE} s for it", printable(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(share: f64) -> Line {
        let mut line = Line::new("office-1".into());
        let fields = ["12/256 hosts", "3 open", "2/4,352,000 ports", "2,000 probes/s", "4m left"];
        line.show(fields.map(str::to_owned).into(), share);
        line
    }

    #[test]
    fn what_does_not_fit_is_left_out_as_a_whole() {
        let all = "office-1  12/256 hosts, 3 open, 2/4,352,000 ports, 2,000 probes/s, 4m left";
        assert!(line(0.0).fit(120).contains("  [                ]  12/256 hosts"));
        assert_eq!(line(0.0).fit(80), all, "the empty bar goes first");
        assert_eq!(line(0.0).fit(73), "office-1  12/256 hosts, 3 open, 2/4,352,000 ports, 2,000 probes/s");
        assert_eq!(
            line(0.5).fit(80),
            "office-1  [=======>        ]  12/256 hosts, 3 open, 2/4,352,000 ports"
        );
        assert_eq!(line(0.5).fit(30), "office-1  12/256 hosts, 3 open");
        for columns in 0..120 {
            let text = line(0.5).fit(columns);
            assert!(text.chars().count() <= columns, "{columns}: {text}");
            let is_whole = |field: &str| line(0.5).fields.iter().any(|known| known == field);
            let said = text.rsplit("  ").next().unwrap_or_default();
            assert!(columns < 22 || said.split(", ").all(is_whole), "{columns}: {text}");
        }
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(away("a\u{1b}[A"), "a\\u{1b}[A is away; waiting up to 60 s for it");
    }

    #[test]
    fn a_full_bar_and_words_that_are_too_long() {
        let mut line = line(0.2);
        line.say("done, 3 of 256 hosts up".into(), true);
        assert_eq!(line.fit(60), "office-1  [===============>]  done, 3 of 256 hosts up");
        line.say("its connection broke".into(), false);
        assert_eq!(line.fit(20), "office-1  its conne…");
    }
}
