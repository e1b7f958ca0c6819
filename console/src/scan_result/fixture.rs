//! Scans for the tests of rendering.

use super::ScanResult;
use jiff::Timestamp;
use portolan_common::observation::{
    HostObservation, PortDetail, PortState, Protocol, Reason, StateRun, SuspectKind, Suspicion,
};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_proto::v1::{self, scan_event::Event};
use prost::Message as _;

/// 2026-05-01 12:00:00 UTC.
pub fn noon() -> Timestamp {
    Timestamp::from_second(1_777_636_800).unwrap()
}

pub fn ports(text: &str) -> PortSet {
    text.parse::<PortSpec>().unwrap().tcp
}

/// A host with TCP runs; open ports get 412 µs.
pub fn host(target: &str, address: &str, up: bool, runs: &[(PortState, Reason, &str)]) -> HostObservation {
    let (given, mut runs) = (runs, Vec::<StateRun>::new());
    for (state, reason, spec) in given {
        match runs.iter_mut().find(|run| (run.state, run.reason) == (*state, *reason)) {
            Some(run) => run.ports = run.ports.union(&ports(spec)),
            None => runs.push(StateRun {
                protocol: Protocol::Tcp,
                state: *state,
                reason: *reason,
                ports: ports(spec),
            }),
        }
    }
    let open = runs.iter().filter(|run| run.state == PortState::Open).flat_map(|run| run.ports.iter());
    HostObservation {
        target: target.into(),
        address: address.parse().unwrap(),
        up,
        observed_at: noon(),
        details: open.map(|port| PortDetail { protocol: Protocol::Tcp, port, rtt_us: 412 }).collect(),
        runs,
        unscanned: PortSpec::default(),
        suspect: None,
    }
}

/// The same host, of which a satellite says that a SYN proxy may answer for it.
pub fn suspect(seen: HostObservation) -> HostObservation {
    let suspicion = Suspicion {
        kind: SuspectKind::SynProxy,
        confidence: 95,
        evidence: "3 of 3 random high ports answered".into(),
    };
    HostObservation { suspect: Some(suspicion), ..seen }
}

/// What 30 UDP ports of a host look like: one answers, some are closed, the rest is silent for one of two reasons.
pub fn udp(silent: &str, limited: &str) -> HostObservation {
    let run = |state, reason, spec| StateRun { protocol: Protocol::Udp, state, reason, ports: ports(spec) };
    HostObservation {
        runs: vec![
            run(PortState::Open, Reason::UdpResponse, "53"),
            run(PortState::Closed, Reason::PortUnreach, "1-9"),
            run(PortState::OpenFiltered, Reason::NoResponse, silent),
            run(PortState::OpenFiltered, Reason::IcmpRateLimited, limited),
        ],
        details: vec![PortDetail { protocol: Protocol::Udp, port: 53, rtt_us: 412 }],
        ..host("10.0.0.7", "10.0.0.7", true, &[])
    }
}

pub fn down(target: &str, address: &str, asked: &str) -> HostObservation {
    host(target, address, false, &[(PortState::Filtered, Reason::NoResponse, asked)])
}

pub fn event(event: Event) -> v1::ScanEvent {
    v1::ScanEvent { event: Some(event) }
}

pub fn started(satellites: &[(&str, &str)]) -> v1::ScanEvent {
    let satellites = satellites
        .iter()
        .map(|(name, segment)| v1::Satellite {
            name: (*name).into(),
            segment: (*segment).into(),
            ..Default::default()
        })
        .collect();
    event(Event::Started(v1::ScanStarted {
        scan_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
        started_at_ms: noon().as_millisecond(),
        satellites,
    }))
}

pub fn hosts(satellite: &str, hosts: &[HostObservation]) -> v1::ScanEvent {
    let hosts = hosts.iter().map(|host| v1::HostObservation::from(host).encode_to_vec()).collect();
    event(Event::Hosts(v1::SatelliteHosts { satellite: satellite.into(), hosts }))
}

pub fn end(satellite: &str, hosts_up: u64, hosts_total: u64, probes_sent: u64) -> v1::SatelliteEnd {
    v1::SatelliteEnd {
        satellite: satellite.into(),
        complete: true,
        method: "connect".into(),
        method_reason: "no raw sockets".into(),
        hosts_up,
        hosts_total,
        probes_sent,
        ..Default::default()
    }
}

pub fn finished() -> v1::ScanEvent {
    event(Event::Finished(v1::ScanFinished { finished_at_ms: noon().as_millisecond() + 12_300 }))
}

pub fn result(asked: &str, satellites: &[&str], events: Vec<v1::ScanEvent>) -> ScanResult {
    let names: Vec<_> = satellites.iter().map(ToString::to_string).collect();
    let mut result = ScanResult::new(asked.parse().unwrap(), &names, noon());
    for event in events {
        result.apply(event).unwrap();
    }
    result.finish(false, noon());
    result
}

/// One vantage point: a shop with three open ports, a host without any, two that are down.
pub fn one_vantage() -> ScanResult {
    let shop = host(
        "shop.internal",
        "10.99.2.10",
        true,
        &[
            (PortState::Open, Reason::SynAck, "22,80,443"),
            (PortState::Closed, Reason::ConnRefused, "1-21,23-79,81-442,444-1023"),
            (PortState::Filtered, Reason::NoResponse, "1024"),
        ],
    );
    let idle =
        host("10.99.2.8/30", "10.99.2.11", true, &[(PortState::Closed, Reason::ConnRefused, "1-1024")]);
    result(
        "1-1024",
        &["office-1"],
        vec![
            started(&[("office-1", "office")]),
            hosts(
                "office-1",
                &[
                    down("10.99.2.8/30", "10.99.2.9", "1-1024"),
                    idle,
                    down("10.99.2.8/30", "10.99.2.8", "1-1024"),
                ],
            ),
            hosts("office-1", &[shop]),
            event(Event::End(end("office-1", 2, 4, 3_210))),
            finished(),
        ],
    )
}

/// Two vantage points: the database shows itself to one only, the web server looks alike to both.
pub fn two_vantages() -> ScanResult {
    let database = |state, reason| {
        host(
            "db.internal",
            "10.99.3.10",
            true,
            &[
                (PortState::Open, Reason::SynAck, "22"),
                (state, reason, "3306"),
                (PortState::Closed, Reason::ConnRefused, "1-21,23-1024"),
            ],
        )
    };
    let web = host(
        "10.99.2.10",
        "10.99.2.10",
        true,
        &[
            (PortState::Open, Reason::SynAck, "80"),
            (PortState::Closed, Reason::ConnRefused, "1-79,81-1024,3306"),
        ],
    );
    result(
        "1-1024,3306",
        &["office-1", "pci-1"],
        vec![
            started(&[("office-1", "office"), ("pci-1", "pci")]),
            hosts("pci-1", &[database(PortState::Open, Reason::SynAck), web.clone()]),
            hosts("office-1", &[web, database(PortState::Filtered, Reason::NoResponse)]),
            event(Event::End(end("office-1", 2, 2, 2_060))),
            event(Event::End(end("pci-1", 2, 2, 2_050))),
            finished(),
        ],
    )
}
