//! Observations that can be checked: a pure function from sequence to record, and the history that must follow from it.
//!
//! Sequences come in rounds. Each round has addresses of its own, so that what is to be compared stays small however
//! long a test runs. Within a round the records take turns over a few hosts. A host's first turn finds all its ports
//! closed; every later turn finds one more port open, the next higher one, and the port [`FLAPPING`] changed again. So a
//! host's history tells exactly which of its turns were counted, and how often. Other hosts stay as they are; now and
//! then a larger record or the end of a sweep comes along.

use std::net::Ipv6Addr;

use portolan_proto::v1::{self, PortState};

use super::messages::{end, host, observations, run};

/// The port that changes with every turn.
pub const FLAPPING: u16 = 60_000;
/// Ports that open one after the other; a round must not have more turns.
const PORTS: u32 = 2_000;
/// How far times may be off: what is slow on its way looks like a clock that is wrong, and is corrected for.
const SLOW_MS: u64 = 60_000;

/// Hosts that take turns.
const HOSTS: u64 = 6;
/// Every so often the end of a sweep takes the place of an observation.
const SWEEP: u64 = 32;
/// Every so often an observation brings company.
const CROWD: u64 = 20;
/// How many come along.
const CROWD_HOSTS: u64 = 60;

/// What one satellite says.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Which of a test's satellites.
    pub satellite: u16,
    /// When sequence 0 was; each is a millisecond after the one before.
    pub base_ms: i64,
    /// Sequences in a round.
    pub round: u64,
}

/// A port's change that history must tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at_ms: i64,
    /// Which port.
    pub port: u16,
    /// To open, and from closed; otherwise the other way.
    pub opened: bool,
}

impl Pattern {
    /// The record of a sequence.
    pub fn record(&self, sequence: u64) -> v1::Record {
        let (round, place) = self.place(sequence);
        let scan = scan_id(self.satellite, round);
        let Some(turn) = turn(place) else {
            return end(sequence, &scan);
        };
        let at = self.at(sequence);
        let seen = |last: u64, runs| v1::HostObservation {
            observed_at_ms: at,
            ..host(self.address(round, last), runs)
        };
        let visit = u32::try_from(turn / HOSTS).unwrap_or(PORTS);
        let flapping = u32::from(FLAPPING);
        let runs = match visit {
            0 => vec![run(PortState::Closed, 1, PORTS), run(PortState::Filtered, flapping, flapping)],
            _ if flapped(visit) == PortState::Open => vec![two_open(visit, flapping)],
            _ => vec![run(PortState::Open, visit, visit), run(PortState::Closed, flapping, flapping)],
        };
        let mut hosts = vec![seen(turn % HOSTS, runs)];
        if turn.is_multiple_of(CROWD) {
            let company =
                |last| seen(last, vec![run(PortState::Open, 22, 22), run(PortState::Closed, 23, 90)]);
            hosts.extend((100..100 + CROWD_HOSTS).map(company));
        }
        observations(sequence, &scan, &hosts)
    }

    /// The round of a sequence.
    pub fn round_of(&self, sequence: u64) -> u64 {
        self.place(sequence).0
    }

    /// The numbers of the hosts that take turns.
    pub fn hosts() -> std::ops::Range<u64> {
        0..HOSTS
    }

    /// The network of a round.
    pub fn network(&self, round: u64) -> String {
        format!("{}/96", self.address(round, 0))
    }

    /// The address of a host in a round.
    pub fn address(&self, round: u64, host: u64) -> Ipv6Addr {
        let [_, _, high, low] = halves(round);
        let [_, _, _, last] = halves(host);
        Ipv6Addr::new(0x2001, 0xdb8, 0, self.satellite, high, low, 0, last)
    }

    /// What history must say of a host once everything up to `counted` is counted: oldest first, and of what was seen
    /// together the higher port last. Empty also when the host was seen once; nothing when it was not seen yet.
    pub fn history(&self, round: u64, host: u64, counted: u64) -> Option<Vec<Change>> {
        let visits = self.visits(round, host, counted);
        let (_first, later) = visits.split_first()?;
        let changes = later.iter().zip(1..).flat_map(|(&at_ms, visit)| {
            let port = u16::try_from(visit).unwrap_or_default();
            let flapped = flapped(visit) == PortState::Open;
            [Change { at_ms, port, opened: true }, Change { at_ms, port: FLAPPING, opened: flapped }]
        });
        Some(changes.collect())
    }

    /// How many ports of a host the inventory must show as open; nothing when the host was not seen yet.
    pub fn open_ports(&self, round: u64, host: u64, counted: u64) -> Option<u32> {
        let visits = u32::try_from(self.visits(round, host, counted).len()).ok()?.checked_sub(1)?;
        Some(visits + u32::from(visits > 0 && flapped(visits) == PortState::Open))
    }

    /// Fails unless history says what follows from the records.
    #[track_caller]
    pub fn compare(&self, round: u64, host: u64, counted: u64, told: &[Change]) {
        let expected = self.history(round, host, counted).unwrap_or_default();
        let address = self.address(round, host);
        let bare = |changes: &[Change]| changes.iter().map(|c| (c.port, c.opened)).collect::<Vec<_>>();
        // Of what was seen together either may be told first.
        let mut told = told.to_vec();
        for pair in told.chunks_mut(2) {
            pair.sort_by_key(|change| change.port);
        }
        if bare(&told) != bare(&expected) {
            let pairs = told.iter().zip(&expected);
            let same = pairs.take_while(|(a, b)| (a.port, a.opened) == (b.port, b.opened)).count();
            panic!(
                "history of {address}, {} of {} changes, differs from change {same} on: {:?} instead of {:?}",
                told.len(),
                expected.len(),
                told.get(same),
                expected.get(same)
            );
        }
        for (told, expected) in told.iter().zip(&expected) {
            let off = told.at_ms.abs_diff(expected.at_ms);
            assert!(off <= SLOW_MS, "history of {address}: {told:?} instead of {expected:?}");
        }
    }

    /// When a host was seen.
    fn visits(&self, round: u64, host: u64, counted: u64) -> Vec<i64> {
        let first = round * self.round + 1;
        let last = counted.min(first + self.round - 1);
        let seen = |sequence: &u64| turn(sequence - first).is_some_and(|turn| turn % HOSTS == host);
        (first..=last).filter(seen).map(|sequence| self.at(sequence)).collect()
    }

    fn place(&self, sequence: u64) -> (u64, u64) {
        ((sequence - 1) / self.round, (sequence - 1) % self.round)
    }

    fn at(&self, sequence: u64) -> i64 {
        self.base_ms + i64::try_from(sequence).unwrap_or(i64::MAX - self.base_ms)
    }
}

/// Which observation of its round stands at a place; nothing where a sweep ends.
fn turn(place: u64) -> Option<u64> {
    (place % SWEEP != SWEEP - 1).then(|| place - place / SWEEP)
}

/// What the flapping port is at a host's later turns; at the first it is filtered.
fn flapped(visit: u32) -> PortState {
    if visit.is_multiple_of(2) { PortState::Closed } else { PortState::Open }
}

/// Two ports that are open: one run, as the wire asks for.
fn two_open(low: u32, high: u32) -> v1::StateRun {
    let ports = Some(v1::PortSpans { spans: vec![low, 0, high - low - 1, 0] });
    v1::StateRun { ports, ..run(PortState::Open, low, low) }
}

fn scan_id(satellite: u16, round: u64) -> Vec<u8> {
    let number = u128::from(round) << 16 | u128::from(satellite);
    (number | 1 << 127).to_be_bytes().to_vec()
}

fn halves(number: u64) -> [u16; 4] {
    [48, 32, 16, 0].map(|shift| u16::try_from(number >> shift & 0xffff).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_proto::batch;

    use super::*;

    const PATTERN: Pattern = Pattern { satellite: 3, base_ms: 1_700_000_000_000, round: 200 };

    fn ports(spans: &[u32]) -> Vec<u32> {
        let mut next = 0;
        let span = |pair: &[u32]| {
            let first = next + pair[0];
            next = first + pair[1] + 1;
            first..next
        };
        spans.chunks(2).flat_map(span).collect()
    }

    /// Counts as a server would, port by port, from the records alone.
    #[test]
    fn the_history_is_what_follows_from_the_records() {
        let mut known: BTreeMap<(Vec<u8>, u32), PortState> = BTreeMap::new();
        let mut told: BTreeMap<Vec<u8>, Vec<Change>> = BTreeMap::new();
        for sequence in 1..=450 {
            let record = PATTERN.record(sequence);
            let Some(v1::record::Body::Observations(bytes)) = &record.body else { continue };
            for seen in batch::hosts(bytes).map(Result::unwrap) {
                for run in &seen.runs {
                    for port in ports(&run.ports.as_ref().unwrap().spans) {
                        let before = known.insert((seen.address.clone(), port), run.state());
                        if before.is_some_and(|before| before != run.state()) {
                            let opened = run.state() == PortState::Open;
                            let port = u16::try_from(port).unwrap();
                            let change = Change { at_ms: seen.observed_at_ms, port, opened };
                            told.entry(seen.address.clone()).or_default().push(change);
                        }
                    }
                }
            }
            if sequence % 37 != 0 {
                continue;
            }
            for round in 0..=PATTERN.round_of(sequence) {
                for host in Pattern::hosts() {
                    let address = PATTERN.address(round, host).octets().to_vec();
                    let changes = told.get(&address).cloned().unwrap_or_default();
                    PATTERN.compare(round, host, sequence, &changes);
                    let states = known.iter().filter(|((known, _), _)| *known == address);
                    let open = states.clone().filter(|(_, state)| **state == PortState::Open).count();
                    let open = (states.count() > 0).then(|| u32::try_from(open).unwrap());
                    assert_eq!(PATTERN.open_ports(round, host, sequence), open, "{sequence} {round} {host}");
                }
            }
        }
        assert!(told.values().any(|changes| changes.len() > 40));
    }

    #[test]
    fn what_is_lost_or_counted_twice_is_found() {
        let changes = PATTERN.history(0, 2, 150).unwrap();
        PATTERN.compare(0, 2, 150, &changes);
        let lost = [&changes[..6], &changes[8..]].concat();
        let twice = [&changes[..8], &changes[6..]].concat();
        for wrong in [lost, twice, changes[..changes.len() - 2].to_vec()] {
            let compared = std::panic::catch_unwind(|| PATTERN.compare(0, 2, 150, &wrong));
            assert!(compared.is_err());
        }
    }
}
