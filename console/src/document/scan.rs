//! `portolan scan -o json`: the document that scripts read.

use crate::scan_result::{PortLine, SatelliteResult, ScanResult, SeenHost, port_lines, protocols};
use jiff::Timestamp;
use portolan_common::observation::{HostObservation, PortState, Protocol, Suspicion};
use portolan_common::ports::PortSpec;
use serde::{Serialize, Serializer};
use std::net::IpAddr;

/// The whole document.
#[derive(Serialize)]
pub struct ScanDocument<'a> {
    scan_id: &'a str,
    started_at: Timestamp,
    finished_at: Timestamp,
    /// Only when the operator stopped it.
    #[serde(skip_serializing_if = "is_false")]
    interrupted: bool,
    satellites: Vec<SatelliteReport<'a>>,
    hosts: HostReports<'a>,
}

/// One vantage point.
#[derive(Serialize)]
struct SatelliteReport<'a> {
    name: &'a str,
    segment: &'a str,
    complete: bool,
    error: Option<&'a str>,
    /// What its own scope forbids.
    refused: Vec<RefusalReport<'a>>,
    /// Refusals beyond those listed; only when there are any.
    #[serde(skip_serializing_if = "is_zero")]
    refused_unlisted: u64,
    /// `NAME: reason`.
    unresolved: &'a [String],
    /// `connect`, `syn` or `udp`; null when it never began.
    method: Option<&'a str>,
    method_reason: Option<&'a str>,
    /// What else should be known, a sentence each.
    notes: &'a [String],
    hosts_up: u64,
    hosts_total: u64,
    probes_sent: u64,
}

#[derive(Serialize)]
struct RefusalReport<'a> {
    target: &'a str,
    /// Empty: all that were asked.
    ports: &'a str,
    rule: &'a str,
}

/// One host as one satellite saw it: an element of `hosts`, a line of `-o jsonl`.
#[derive(Serialize)]
pub struct HostReport<'a> {
    satellite: &'a str,
    target: &'a str,
    address: IpAddr,
    up: bool,
    /// The open ones; with `--all` every one.
    ports: Vec<PortReport>,
    ranges: Ranges,
    #[serde(flatten)]
    suspicion: Option<SuspicionReport<'a>>,
}

/// Only where there is one.
#[derive(Serialize)]
struct SuspicionReport<'a> {
    /// `syn-proxy`, `rst-injection`, `tarpit`.
    suspect: &'static str,
    /// From 0 to 1.
    confidence: f64,
    suspect_evidence: &'a str,
}

#[derive(Serialize)]
struct PortReport {
    protocol: &'static str,
    port: u16,
    state: &'static str,
    reason: &'static str,
    /// Null when it was not measured.
    rtt_us: Option<u32>,
}

/// Accounts for every port asked; a protocol that was not asked for is absent.
#[derive(Serialize)]
struct Ranges {
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<StateRanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<StateRanges>,
}

/// Ports in nmap's syntax.
#[derive(Serialize)]
struct StateRanges {
    open: String,
    closed: String,
    filtered: String,
    /// UDP only.
    #[serde(rename = "open|filtered", skip_serializing_if = "Option::is_none")]
    open_filtered: Option<String>,
    /// Never probed, since the satellite's scope forbids it; only when there are any.
    #[serde(skip_serializing_if = "String::is_empty")]
    unscanned: String,
}

/// Made one at a time: a host with every port listed is large, and there may be many.
struct HostReports<'a> {
    scan: &'a ScanResult,
    all: bool,
}

impl<'a> ScanDocument<'a> {
    /// With every port listed if `all`.
    pub fn new(scan: &'a ScanResult, all: bool) -> Self {
        Self {
            scan_id: &scan.scan_id,
            started_at: scan.started_at,
            finished_at: scan.finished_at,
            interrupted: scan.interrupted,
            satellites: scan.satellites.iter().map(SatelliteReport::new).collect(),
            hosts: HostReports { scan, all },
        }
    }
}

impl<'a> SatelliteReport<'a> {
    fn new(satellite: &'a SatelliteResult) -> Self {
        let refusal = |refusal: &'a portolan_proto::v1::Refusal| RefusalReport {
            target: &refusal.target,
            ports: &refusal.ports,
            rule: &refusal.rule,
        };
        Self {
            name: &satellite.name,
            segment: &satellite.segment,
            complete: satellite.complete,
            error: satellite.error.as_deref(),
            refused: satellite.refusals.iter().map(refusal).collect(),
            refused_unlisted: satellite.refusals_dropped,
            unresolved: &satellite.unresolved,
            method: super::non_empty(&satellite.method),
            method_reason: super::non_empty(&satellite.method_reason),
            notes: &satellite.notes,
            hosts_up: satellite.hosts_up,
            hosts_total: satellite.hosts_total,
            probes_sent: satellite.probes_sent,
        }
    }
}

impl<'a> HostReport<'a> {
    /// With every port listed if `all`.
    pub fn new(scan: &'a ScanResult, host: &'a SeenHost, all: bool) -> Self {
        let seen = &host.seen;
        Self {
            satellite: &scan.satellites[host.satellite].name,
            target: &seen.target,
            address: seen.address,
            up: seen.up,
            ports: port_lines(seen, all).into_iter().map(PortReport::from).collect(),
            ranges: Ranges::new(seen, &scan.asked),
            suspicion: seen.suspect.as_ref().map(SuspicionReport::from),
        }
    }
}

impl<'a> From<&'a Suspicion> for SuspicionReport<'a> {
    fn from(suspicion: &'a Suspicion) -> Self {
        Self {
            suspect: suspicion.kind.as_str(),
            confidence: f64::from(suspicion.confidence) / 100.0,
            suspect_evidence: &suspicion.evidence,
        }
    }
}

impl From<PortLine> for PortReport {
    fn from(line: PortLine) -> Self {
        Self {
            protocol: line.protocol.as_str(),
            port: line.port,
            state: line.state.as_str(),
            reason: line.reason.as_str(),
            rtt_us: line.rtt_us,
        }
    }
}

impl Ranges {
    fn new(seen: &HostObservation, asked: &PortSpec) -> Self {
        let of = |protocol| {
            protocols(asked).any(|p| p == protocol).then(|| {
                let text = |state| seen.ports_in(protocol, state).to_string();
                StateRanges {
                    open: text(PortState::Open),
                    closed: text(PortState::Closed),
                    filtered: text(PortState::Filtered),
                    open_filtered: (protocol == Protocol::Udp).then(|| text(PortState::OpenFiltered)),
                    unscanned: seen.unscanned.of(protocol).to_string(),
                }
            })
        };
        Self { tcp: of(Protocol::Tcp), udp: of(Protocol::Udp) }
    }
}

impl Serialize for HostReports<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.scan.hosts.iter().map(|host| HostReport::new(self.scan, host, self.all)))
    }
}

// serde's predicates take references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::{
        self, end, event, finished, host, one_vantage, ports, result, started, suspect,
    };
    use portolan_common::observation::{Reason, StateRun};
    use portolan_proto::v1::{self, scan_event::Event};
    use serde_json::{Value, json, to_value};

    #[test]
    fn the_document_is_what_the_contract_says() {
        let scan = one_vantage();
        let mut document = to_value(ScanDocument::new(&scan, false)).unwrap();
        let hosts = document["hosts"].take();
        assert_eq!(
            document,
            json!({
                "scan_id": "01890a5d-ac96-774b-bcce-b302099a8057",
                "started_at": "2026-05-01T12:00:00Z",
                "finished_at": "2026-05-01T12:00:12.3Z",
                "satellites": [{
                    "name": "office-1", "segment": "office", "complete": true, "error": null,
                    "refused": [], "unresolved": [], "method": "connect", "method_reason": "no raw sockets",
                    "notes": [],
                    "hosts_up": 2, "hosts_total": 4, "probes_sent": 3210,
                }],
                "hosts": null,
            })
        );
        let port = |port: u16| json!({"protocol": "tcp", "port": port, "state": "open", "reason": "syn-ack", "rtt_us": 412});
        assert_eq!(
            hosts[2],
            json!({
                "satellite": "office-1", "target": "shop.internal", "address": "10.99.2.10", "up": true,
                "ports": [port(22), port(80), port(443)],
                "ranges": {"tcp": {"open": "22,80,443", "closed": "1-21,23-79,81-442,444-1023", "filtered": "1024"}},
            })
        );
        assert_eq!(hosts[0]["up"], false);
        assert_eq!(hosts[0]["ranges"], json!({"tcp": {"open": "", "closed": "", "filtered": "1-1024"}}));
        assert_eq!(hosts.as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn with_all_every_port_is_listed() {
        let scan = one_vantage();
        let document = to_value(ScanDocument::new(&scan, true)).unwrap();
        let shop = &document["hosts"][2]["ports"];
        assert_eq!(shop.as_array().map(Vec::len), Some(1024));
        assert_eq!(shop[1023]["state"], "filtered");
        assert_eq!(shop[1023]["rtt_us"], Value::Null);
    }

    #[test]
    fn udp_has_its_own_state_and_forbidden_ports_their_own_key() {
        let mut seen = host("10.0.0.1", "10.0.0.1", true, &[]);
        seen.runs = vec![StateRun {
            protocol: Protocol::Udp,
            state: PortState::OpenFiltered,
            reason: Reason::NoResponse,
            ports: ports("53"),
        }];
        seen.unscanned.udp = ports("161");
        let refusal =
            v1::Refusal { target: "10.0.0.1".into(), ports: "U:161".into(), rule: "deny_ports 161".into() };
        let last = v1::SatelliteEnd { refusals: vec![refusal], ..end("a", 1, 1, 4) };
        let scan = result(
            "U:53,161",
            &["a"],
            vec![started(&[("a", "x")]), fixture::hosts("a", &[seen]), event(Event::End(last)), finished()],
        );
        let document = to_value(ScanDocument::new(&scan, false)).unwrap();
        assert_eq!(
            document["hosts"][0]["ranges"],
            json!({"udp": {"open": "", "closed": "", "filtered": "", "open|filtered": "53", "unscanned": "161"}})
        );
        assert_eq!(
            document["satellites"][0]["refused"],
            json!([{"target": "10.0.0.1", "ports": "U:161", "rule": "deny_ports 161"}])
        );
    }

    #[test]
    fn suspicions_and_notes_have_their_keys() {
        let seen = suspect(host("10.0.0.7", "10.0.0.7", true, &[]));
        let last = v1::SatelliteEnd {
            notes: vec!["host discovery needs CAP_NET_RAW: every address was probed".into()],
            ..end("a", 1, 1, 4)
        };
        let events =
            vec![started(&[("a", "x")]), fixture::hosts("a", &[seen]), event(Event::End(last)), finished()];
        let document = to_value(ScanDocument::new(&result("22", &["a"], events), false)).unwrap();
        let found = &document["hosts"][0];
        assert_eq!((&found["suspect"], &found["confidence"]), (&json!("syn-proxy"), &json!(0.95)));
        assert_eq!(found["suspect_evidence"], "3 of 3 random high ports answered");
        assert_eq!(
            document["satellites"][0]["notes"],
            json!(["host discovery needs CAP_NET_RAW: every address was probed"])
        );
    }

    #[test]
    fn an_interrupted_scan_says_so() {
        let mut scan = one_vantage();
        scan.finish(true, scan.finished_at);
        assert_eq!(to_value(ScanDocument::new(&scan, false)).unwrap()["interrupted"], true);
    }
}
