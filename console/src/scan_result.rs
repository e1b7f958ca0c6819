//! A scan as the console has seen it so far: built event by event, rendered by [`crate::output`].
//!
//! Observations stay as compact as they came; only rendering expands them, port by port.

use jiff::{SignedDuration, Timestamp};
use portolan_common::observation::{HostObservation, PortDetail, PortState, Protocol, Reason};
use portolan_common::ports::PortSpec;
use portolan_proto::convert::{WireError, time_from_wire};
use portolan_proto::v1;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use v1::scan_event::Event;

/// Everything that is known of a scan.
#[derive(Clone, Debug)]
pub struct ScanResult {
    /// UUID in text; empty until the server said it.
    pub scan_id: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// The operator stopped it.
    pub interrupted: bool,
    /// The ports that were asked for.
    pub asked: PortSpec,
    /// Satellites were to find out first who is there, where they can, and to probe the ports of those alone.
    pub discovers: bool,
    /// In the order asked.
    pub satellites: Vec<SatelliteResult>,
    /// In the order of arrival, until [`ScanResult::finish`] sorts them.
    pub hosts: Vec<SeenHost>,
    ended: bool,
}

/// One satellite's part in it.
#[derive(Clone, Debug, Default)]
pub struct SatelliteResult {
    pub name: String,
    pub segment: String,
    pub complete: bool,
    /// Why it is not complete.
    pub error: Option<String>,
    pub refusals: Vec<v1::Refusal>,
    pub refusals_dropped: u64,
    /// `NAME: reason`.
    pub unresolved: Vec<String>,
    pub method: String,
    pub method_reason: String,
    pub hosts_up: u64,
    pub hosts_total: u64,
    pub probes_sent: u64,
    /// What else should be known, a sentence each.
    pub notes: Vec<String>,
    /// It can find out who is there.
    can_discover: bool,
    /// It was at work, whatever came of it.
    pub began: bool,
    ended: bool,
}

/// One host as one satellite saw it.
#[derive(Clone, Debug)]
pub struct SeenHost {
    /// Index into [`ScanResult::satellites`].
    pub satellite: usize,
    pub seen: HostObservation,
}

/// What an event brought that is worth showing at once.
#[derive(Debug)]
pub enum News {
    /// Nothing.
    None,
    /// How far a satellite is.
    Progress(v1::SatelliteProgress),
    /// Hosts, from this index of [`ScanResult::hosts`] on.
    Hosts(usize),
    /// A satellite is done: its index.
    End(usize),
}

impl ScanResult {
    /// Nothing yet.
    pub fn new(asked: PortSpec, satellites: &[String], now: Timestamp) -> Self {
        let satellites = satellites
            .iter()
            .map(|name| SatelliteResult { name: name.clone(), ..Default::default() })
            .collect();
        Self {
            scan_id: String::new(),
            started_at: now,
            finished_at: now,
            interrupted: false,
            asked,
            discovers: false,
            satellites,
            hosts: Vec::new(),
            ended: false,
        }
    }

    /// Takes in what the server sent.
    ///
    /// # Errors
    /// A message that breaks the wire contract.
    pub fn apply(&mut self, event: v1::ScanEvent) -> Result<News, WireError> {
        match event.event {
            None => Ok(News::None),
            Some(Event::Started(started)) => {
                self.scan_id = started.scan_id;
                self.started_at = time_from_wire(started.started_at_ms)?;
                for satellite in started.satellites {
                    let index = self.index_of(&satellite.name);
                    self.satellites[index].segment = satellite.segment;
                    self.satellites[index].can_discover =
                        satellite.capabilities.iter().any(|word| word == "discover");
                }
                Ok(News::None)
            }
            Some(Event::Progress(progress)) => {
                let index = self.index_of(&progress.satellite);
                let satellite = &mut self.satellites[index];
                satellite.began = true;
                satellite.hosts_total = progress.hosts_total;
                satellite.probes_sent = progress.probes_sent;
                Ok(News::Progress(progress))
            }
            Some(Event::Hosts(batch)) => {
                let satellite = self.index_of(&batch.satellite);
                let first = self.hosts.len();
                self.satellites[satellite].began = true;
                for host in &batch.hosts {
                    let host =
                        v1::HostObservation::decode(host.as_slice()).map_err(|_| WireError::Malformed)?;
                    let seen = HostObservation::try_from(&host)?;
                    self.satellites[satellite].hosts_up += u64::from(seen.up);
                    self.hosts.push(SeenHost { satellite, seen });
                }
                Ok(News::Hosts(first))
            }
            Some(Event::End(end)) => {
                let index = self.index_of(&end.satellite);
                let satellite = &mut self.satellites[index];
                // Of a part that was lost its end knows less than what came before.
                let began = satellite.began
                    || end.complete
                    || !end.method.is_empty()
                    || end.hosts_total > 0
                    || end.probes_sent > 0;
                let at_least = |said: u64, known: u64| if end.complete { said } else { said.max(known) };
                *satellite = SatelliteResult {
                    name: std::mem::take(&mut satellite.name),
                    segment: std::mem::take(&mut satellite.segment),
                    complete: end.complete,
                    error: (!end.error.is_empty()).then_some(end.error),
                    refusals: end.refusals,
                    refusals_dropped: end.refusals_dropped,
                    unresolved: end.unresolved,
                    method: end.method,
                    method_reason: end.method_reason,
                    hosts_up: at_least(end.hosts_up, satellite.hosts_up),
                    hosts_total: at_least(end.hosts_total, satellite.hosts_total),
                    probes_sent: at_least(end.probes_sent, satellite.probes_sent),
                    notes: end.notes,
                    can_discover: satellite.can_discover,
                    began,
                    ended: true,
                };
                Ok(News::End(index))
            }
            Some(Event::Finished(finished)) => {
                self.finished_at = time_from_wire(finished.finished_at_ms)?;
                self.ended = true;
                Ok(News::None)
            }
        }
    }

    /// No more will come. Satellites that did not end say why, and hosts take their final order: by satellite as
    /// asked, then by address.
    pub fn finish(&mut self, interrupted: bool, now: Timestamp) {
        self.interrupted = interrupted;
        if !self.ended {
            self.finished_at = now;
        }
        let why = if interrupted { "interrupted" } else { "the scan broke off before it was done" };
        for satellite in self.satellites.iter_mut().filter(|satellite| !satellite.complete) {
            // Whoever is not there is said to have ended as soon as the scan starts.
            satellite.began |= !satellite.ended && !self.scan_id.is_empty();
            if !satellite.ended || satellite.error.is_none() {
                satellite.error.get_or_insert_with(|| why.to_owned());
            }
        }
        self.hosts.sort_by(|a, b| {
            let key = |host: &SeenHost| (host.satellite, host.seen.address);
            key(a).cmp(&key(b)).then_with(|| a.seen.target.cmp(&b.seen.target))
        });
    }

    /// Whether the server said that this is all.
    pub fn is_whole(&self) -> bool {
        self.ended
    }

    /// Whether everything that was asked for was scanned.
    pub fn is_complete(&self) -> bool {
        self.satellites.iter().all(|s| {
            s.complete && s.refusals.is_empty() && s.refusals_dropped == 0 && s.unresolved.is_empty()
        }) && self.hosts.iter().all(|host| host.seen.unscanned.is_empty())
    }

    /// Whether this satellite finds out first who is there.
    pub fn discovers_from(&self, name: &str) -> bool {
        self.discovers && self.satellites.iter().any(|known| known.name == name && known.can_discover)
    }

    /// Whether a satellite began and did not come to its end.
    pub fn is_any_cut_off(&self) -> bool {
        self.satellites.iter().any(|satellite| satellite.began && !satellite.complete)
    }

    /// From start to finish.
    pub fn elapsed(&self) -> SignedDuration {
        self.finished_at.duration_since(self.started_at)
    }

    /// Addresses that answered at least one satellite, and all.
    pub fn hosts_up(&self) -> (usize, usize) {
        let all: BTreeSet<_> = self.hosts.iter().map(|host| host.seen.address).collect();
        let up: BTreeSet<_> =
            self.hosts.iter().filter(|host| host.seen.up).map(|host| host.seen.address).collect();
        (up.len(), all.len())
    }

    fn index_of(&mut self, name: &str) -> usize {
        self.satellites.iter().position(|satellite| satellite.name == name).unwrap_or_else(|| {
            self.satellites.push(SatelliteResult { name: name.to_owned(), ..Default::default() });
            self.satellites.len() - 1
        })
    }
}

/// One port of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLine {
    pub protocol: Protocol,
    pub port: u16,
    pub state: PortState,
    pub reason: Reason,
    pub rtt_us: Option<u32>,
}

/// How many `open|filtered` ports of a host are listed one by one, as nmap does it: more are counted.
const MAX_OPEN_FILTERED: usize = 25;

/// The states whose ports are listed one by one, for people and as nmap does it; those of the others are counted.
pub fn listed_states(seen: &HostObservation, all: bool) -> Vec<PortState> {
    let count = |state: PortState| -> usize {
        seen.runs.iter().filter(|run| run.state == state).map(|run| run.ports.len()).sum()
    };
    let is_listed = |state: &PortState| match state {
        PortState::Open => true,
        PortState::OpenFiltered => all || count(PortState::OpenFiltered) <= MAX_OPEN_FILTERED,
        PortState::Closed | PortState::Filtered => all,
    };
    PortState::ALL.iter().copied().filter(is_listed).collect()
}

/// The open ports of a host, or all, ascending by protocol and port.
pub fn port_lines(seen: &HostObservation, all: bool) -> Vec<PortLine> {
    port_lines_in(seen, if all { PortState::ALL } else { &[PortState::Open] })
}

/// The ports of a host in these states, ascending by protocol and port.
pub fn port_lines_in(seen: &HostObservation, states: &[PortState]) -> Vec<PortLine> {
    let details: BTreeMap<(Protocol, u16), &PortDetail> =
        seen.details.iter().map(|detail| ((detail.protocol, detail.port), detail)).collect();
    let mut lines: Vec<PortLine> = seen
        .runs
        .iter()
        .filter(|run| states.contains(&run.state))
        .flat_map(|run| {
            run.ports.iter().map(|port| PortLine {
                protocol: run.protocol,
                port,
                state: run.state,
                reason: run.reason,
                rtt_us: details.get(&(run.protocol, port)).map(|d| d.rtt_us).filter(|us| *us > 0),
            })
        })
        .collect();
    lines.sort_by_key(|line| (line.protocol, line.port));
    lines
}

/// The protocols that were asked for, in the order they are shown.
pub fn protocols(asked: &PortSpec) -> impl Iterator<Item = Protocol> + '_ {
    Protocol::ALL.iter().copied().filter(|protocol| !asked.of(*protocol).is_empty())
}

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;
