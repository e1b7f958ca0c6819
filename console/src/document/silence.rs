//! `portolan silence list -o json`: a list.

use super::{Row, cell};
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::v1;
use serde::Serialize;

/// One silence.
#[derive(Serialize)]
pub struct SilenceDocument<'a> {
    /// UUID in text.
    pub id: &'a str,
    /// All must hold.
    pub matchers: &'a [String],
    pub author: &'a str,
    pub reason: &'a str,
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    /// `pending`, `active`, `expired`.
    pub status: &'static str,
    /// How many alerts it holds back now.
    pub alerts: u64,
}

impl<'a> SilenceDocument<'a> {
    /// As it is at a time.
    pub fn new(silence: &'a v1::Silence, now: Timestamp) -> Self {
        let now = now.as_millisecond();
        Self {
            id: &silence.id,
            matchers: &silence.matchers,
            author: &silence.author,
            reason: &silence.reason,
            starts_at: time::from_wire(silence.starts_at_ms),
            ends_at: time::from_wire(silence.ends_at_ms),
            status: match (silence.starts_at_ms > now, silence.ends_at_ms > now) {
                (_, false) => "expired",
                (true, true) => "pending",
                (false, true) => "active",
            },
            alerts: silence.alerts,
        }
    }
}

impl Row for SilenceDocument<'_> {
    const HEADER: &'static [&'static str] =
        &["id", "matchers", "author", "reason", "starts_at", "ends_at", "status", "alerts"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_owned(),
            self.matchers.join(" "),
            self.author.to_owned(),
            self.reason.to_owned(),
            cell(self.starts_at),
            cell(self.ends_at),
            self.status.to_owned(),
            self.alerts.to_string(),
        ]
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::scan_result::fixture::noon;
    use serde_json::json;

    const HOUR: i64 = 3_600_000;

    /// One that holds for an hour more.
    pub fn silence() -> v1::Silence {
        v1::Silence {
            id: "01a1f82d-c1f4-72f9-8fcd-2e760e5281d2".into(),
            matchers: vec!["check=\"shop-front\"".into(), "port=~\"80|443\"".into()],
            author: "ada".into(),
            reason: "new switch in rack 4".into(),
            starts_at_ms: noon().as_millisecond() - HOUR,
            ends_at_ms: noon().as_millisecond() + HOUR,
            alerts: 2,
        }
    }

    #[test]
    fn a_silence_says_whether_it_holds() {
        let wire = silence();
        let document = SilenceDocument::new(&wire, noon());
        assert_eq!(
            serde_json::to_value(&document).unwrap(),
            json!({
                "id": "01a1f82d-c1f4-72f9-8fcd-2e760e5281d2",
                "matchers": ["check=\"shop-front\"", "port=~\"80|443\""], "author": "ada",
                "reason": "new switch in rack 4", "starts_at": "2026-05-01T11:00:00Z",
                "ends_at": "2026-05-01T13:00:00Z", "status": "active", "alerts": 2,
            })
        );
        assert_eq!(document.cells().len(), SilenceDocument::HEADER.len());
        let status = |starts, ends| {
            let now = noon().as_millisecond();
            let wire = v1::Silence { starts_at_ms: now + starts, ends_at_ms: now + ends, ..silence() };
            SilenceDocument::new(&wire, noon()).status
        };
        assert_eq!((status(1, 2), status(-2, 0), status(0, 1)), ("pending", "expired", "active"));
    }
}
