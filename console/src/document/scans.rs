//! `portolan scans -o json`: a list of the scans that run, oldest first.

use super::{Row, non_empty};
use crate::output::time;
use jiff::Timestamp;
use portolan_proto::v1;
use serde::Serialize;

/// One scan that runs. The numbers are of all its satellites together, as each last told.
#[derive(Serialize)]
pub struct RunningDocument<'a> {
    /// UUID in text.
    pub scan_id: &'a str,
    pub started_at: Option<Timestamp>,
    /// Who started it.
    pub operator: Option<&'a str>,
    /// An operator paused it; each satellite says whether it took that up.
    pub paused: bool,
    /// It is to end and not all satellites have confirmed it.
    pub cancelled: bool,
    #[serde(flatten)]
    pub total: Numbers,
    /// In the order asked.
    pub satellites: Vec<PartDocument<'a>>,
}

/// One satellite's part.
#[derive(Serialize)]
pub struct PartDocument<'a> {
    pub name: &'a str,
    #[serde(flatten)]
    pub numbers: Numbers,
    /// Its connection to the server stands.
    pub connected: bool,
    /// It sends nothing until the scan is resumed.
    pub paused: bool,
    /// Its part is over, or never began.
    pub ended: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Numbers {
    pub hosts_done: u64,
    pub hosts_total: u64,
    /// (host, port) pairs decided, and to decide.
    pub ports_done: u64,
    pub ports_total: u64,
    pub open_found: u64,
    pub probes_sent: u64,
}

/// `scans pause`, `scans resume`.
#[derive(Serialize)]
pub struct PausedDocument<'a> {
    pub scan_id: &'a str,
    /// What was asked for.
    pub paused: bool,
    /// Where the scan goes on as before.
    pub failed: Vec<FailureDocument<'a>>,
}

/// A satellite that was not told.
#[derive(Serialize)]
pub struct FailureDocument<'a> {
    pub satellite: &'a str,
    pub error: &'a str,
}

/// `scans cancel`.
#[derive(Serialize)]
pub struct CancelledDocument<'a> {
    pub scan_id: &'a str,
    pub cancelled: bool,
}

impl<'a> From<&'a v1::RunningScan> for RunningDocument<'a> {
    fn from(scan: &'a v1::RunningScan) -> Self {
        Self {
            scan_id: &scan.scan_id,
            started_at: time::from_wire(scan.started_at_ms),
            operator: non_empty(&scan.operator),
            paused: scan.paused,
            cancelled: scan.cancelled,
            total: scan.satellites.iter().map(Numbers::from).fold(Numbers::default(), Numbers::plus),
            satellites: scan.satellites.iter().map(PartDocument::from).collect(),
        }
    }
}

impl<'a> From<&'a v1::SatelliteProgress> for PartDocument<'a> {
    fn from(part: &'a v1::SatelliteProgress) -> Self {
        Self {
            name: &part.satellite,
            numbers: Numbers::from(part),
            connected: !part.disconnected,
            paused: part.paused && !part.ended,
            ended: part.ended,
        }
    }
}

impl From<&v1::SatelliteProgress> for Numbers {
    fn from(part: &v1::SatelliteProgress) -> Self {
        Self {
            hosts_done: part.hosts_done,
            hosts_total: part.hosts_total,
            ports_done: part.ports_done,
            ports_total: part.ports_total,
            open_found: part.open_found,
            probes_sent: part.probes_sent,
        }
    }
}

impl Numbers {
    /// What satellites claim may be anything.
    fn plus(self, other: Self) -> Self {
        Self {
            hosts_done: self.hosts_done.saturating_add(other.hosts_done),
            hosts_total: self.hosts_total.saturating_add(other.hosts_total),
            ports_done: self.ports_done.saturating_add(other.ports_done),
            ports_total: self.ports_total.saturating_add(other.ports_total),
            open_found: self.open_found.saturating_add(other.open_found),
            probes_sent: self.probes_sent.saturating_add(other.probes_sent),
        }
    }
}

impl<'a> PausedDocument<'a> {
    /// From the server's answer.
    pub fn new(scan_id: &'a str, paused: bool, answer: &'a v1::PauseScanResponse) -> Self {
        let failure = |failure: &'a v1::SatelliteFailure| FailureDocument {
            satellite: &failure.satellite,
            error: &failure.error,
        };
        Self { scan_id, paused, failed: answer.failed.iter().map(failure).collect() }
    }
}

impl Row for RunningDocument<'_> {
    const HEADER: &'static [&'static str] = &[
        "scan_id",
        "started_at",
        "operator",
        "satellites",
        "paused",
        "cancelled",
        "hosts_done",
        "hosts_total",
        "ports_done",
        "ports_total",
        "open_found",
        "probes_sent",
    ];

    fn cells(&self) -> Vec<String> {
        let names: Vec<&str> = self.satellites.iter().map(|part| part.name).collect();
        vec![
            self.scan_id.to_owned(),
            self.started_at.map(|at| at.to_string()).unwrap_or_default(),
            self.operator.unwrap_or_default().to_owned(),
            names.join(" "),
            self.paused.to_string(),
            self.cancelled.to_string(),
            self.total.hosts_done.to_string(),
            self.total.hosts_total.to_string(),
            self.total.ports_done.to_string(),
            self.total.ports_total.to_string(),
            self.total.open_found.to_string(),
            self.total.probes_sent.to_string(),
        ]
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::scan_result::fixture::noon;
    use serde_json::{json, to_value};

    /// A paused scan from two satellites, of which one is done.
    pub fn running() -> v1::RunningScan {
        let part = |name: &str, hosts_done: u64| v1::SatelliteProgress {
            satellite: name.into(),
            hosts_done,
            hosts_total: 254,
            ports_done: hosts_done * 1000,
            ports_total: 254_000,
            open_found: 3,
            probes_sent: hosts_done * 1200,
            ..Default::default()
        };
        v1::RunningScan {
            scan_id: "01a1f82d-c1f4-72f9-8fcd-2e760e5281d2".into(),
            started_at_ms: noon().as_millisecond() - 90_000,
            operator: "ada".into(),
            satellites: vec![
                v1::SatelliteProgress { paused: true, ..part("office-1", 12) },
                v1::SatelliteProgress { ended: true, ..part("pci-1", 254) },
            ],
            paused: true,
            cancelled: false,
        }
    }

    #[test]
    fn the_document_accounts_for_each_satellite_and_for_all() {
        let wire = running();
        let document = RunningDocument::from(&wire);
        let part = |name: &str, done: u64, paused: bool, ended: bool| {
            json!({"name": name, "hosts_done": done, "hosts_total": 254, "ports_done": done * 1000,
                "ports_total": 254_000, "open_found": 3, "probes_sent": done * 1200, "connected": true,
                "paused": paused, "ended": ended})
        };
        assert_eq!(
            to_value(&document).unwrap(),
            json!({
                "scan_id": "01a1f82d-c1f4-72f9-8fcd-2e760e5281d2", "started_at": "2026-05-01T11:58:30Z",
                "operator": "ada", "paused": true, "cancelled": false, "hosts_done": 266, "hosts_total": 508,
                "ports_done": 266_000, "ports_total": 508_000, "open_found": 6, "probes_sent": 319_200,
                "satellites": [part("office-1", 12, true, false), part("pci-1", 254, false, true)],
            })
        );
        assert_eq!(document.cells().len(), RunningDocument::HEADER.len());
        let claims = v1::SatelliteProgress { hosts_total: u64::MAX, ..Default::default() };
        let wild = v1::RunningScan { satellites: vec![claims.clone(), claims], ..Default::default() };
        assert_eq!(RunningDocument::from(&wild).total.hosts_total, u64::MAX);
    }

    #[test]
    fn a_pause_names_where_it_failed() {
        let failed = vec![v1::SatelliteFailure { satellite: "a".into(), error: "too old".into() }];
        let answer = v1::PauseScanResponse { failed };
        assert_eq!(
            to_value(PausedDocument::new("01a1", true, &answer)).unwrap(),
            json!({"scan_id": "01a1", "paused": true, "failed": [{"satellite": "a", "error": "too old"}]})
        );
    }
}
