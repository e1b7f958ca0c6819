//! Evaluation: how fast looks are judged, and what many standing checks cost.
//!
//! `cargo bench -p portolan-server --bench evaluate -- [standing|stream] [VANTAGE-POINTS PORTS]`; without a word, both, in
//! several layouts. Rates are per second of CPU time of the one thread that there is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run has no figure")]

use jiff::{SignedDuration, Timestamp};
use nix::sys::resource::{UsageWho, getrusage};
use portolan_common::addresses::AddressSet;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{HostObservation, PortDetail, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::Schedule;
use portolan_policy::model::Quorums;
use portolan_server::evaluate::{CheckSpec, Evaluator, Sighting};
use portolan_server::store::Order;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

/// Keys that are known: check, address and port.
const KEYS: u32 = 100_000;
/// One look in so many sees a port otherwise than the one before.
const CHANGED: u32 = 100;
/// Seconds between two looks.
const INTERVAL: u32 = 60;
/// Simulated minutes of standing checks that are measured, after as many of getting to know them.
const MINUTES: u32 = 5;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [name, satellites, ports] = words.as_slice() {
        let layout = Layout::new(satellites.parse().unwrap(), ports.parse().unwrap());
        return if name == "standing" { standing(layout) } else { stream(layout) };
    }
    for name in ["standing", "stream"] {
        if !words.is_empty() && !words.iter().any(|word| word == name) {
            continue;
        }
        for (satellites, ports) in [("1", "10"), ("3", "10"), ("1", "1"), ("3", "1")] {
            // A process each: what one has freed is no memory that the next does not need.
            let mut command = Command::new(std::env::current_exe().unwrap());
            assert!(command.args([name, satellites, ports]).status().unwrap().success());
        }
    }
}

/// So many vantage points look at [`KEYS`] keys, ten addresses a check.
#[derive(Clone, Copy)]
struct Layout {
    satellites: u32,
    ports: u16,
    checks: u32,
}

impl Layout {
    const ADDRESSES: u32 = 10;

    fn new(satellites: u32, ports: u16) -> Self {
        Self { satellites, ports, checks: KEYS / Self::ADDRESSES / u32::from(ports) }
    }

    fn addresses(self) -> u32 {
        self.checks * Self::ADDRESSES
    }

    fn open(self) -> PortSet {
        [1..=self.ports].into_iter().collect()
    }

    /// Half of the ports must be open; the one that is alone, too.
    fn checks(self) -> Vec<CheckSpec> {
        let of = |number: u32| CheckSpec {
            name: format!("check-{number}").into(),
            tenant: "default".into(),
            satellites: (0..self.satellites).map(satellite).collect(),
            addresses: (0..Self::ADDRESSES)
                .map(|n| address(number * Self::ADDRESSES + n))
                .collect::<AddressSet>(),
            names: Default::default(),
            exclude: AddressSet::default(),
            ports: ExpectedPorts {
                open: PortSpec {
                    tcp: [1..=self.ports.div_ceil(2)].into_iter().collect(),
                    udp: PortSet::default(),
                },
                closed: PortSpec {
                    tcp: [self.ports.div_ceil(2) + 1..=self.ports].into_iter().collect(),
                    udp: PortSet::default(),
                },
                ..ExpectedPorts::default()
            },
            baseline: None,
            schedule: Schedule::Every(Duration::from_secs(INTERVAL.into())),
            pace: Duration::ZERO,
            confirm: 2,
            recover: 2,
            quorum: Quorums::default(),
            paused: false,
        };
        (0..self.checks).map(of).collect()
    }
}

fn satellite(number: u32) -> SatelliteId {
    SatelliteId(Uuid::from_u128(u128::from(number) + 1))
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// A host as it should be, but for one port in case.
fn host(layout: Layout, number: u32, changed: Option<u16>) -> HostObservation {
    let flip = changed.map(PortSet::single).unwrap_or_default();
    let must: PortSet = [1..=layout.ports.div_ceil(2)].into_iter().collect();
    let open = must.difference(&flip).union(&flip.difference(&must));
    let closed = layout.open().difference(&open);
    let runs = [(PortState::Open, Reason::SynAck, &open), (PortState::Closed, Reason::ConnRefused, &closed)];
    HostObservation {
        target: address(number).to_string(),
        address: address(number),
        up: true,
        observed_at: Timestamp::UNIX_EPOCH,
        runs: runs
            .into_iter()
            .filter(|(_, _, ports)| !ports.is_empty())
            .map(|(state, reason, ports)| StateRun {
                protocol: Protocol::Tcp,
                state,
                reason,
                ports: ports.clone(),
            })
            .collect(),
        details: open.iter().map(|port| PortDetail { protocol: Protocol::Tcp, port, rtt_us: 400 }).collect(),
        unscanned: PortSpec::default(),
        suspect: None,
    }
}

/// An evaluator and the time.
struct Stage {
    layout: Layout,
    evaluator: Evaluator,
    now: Timestamp,
    sequence: u64,
    told: usize,
}

impl Stage {
    fn new(layout: Layout) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut stage = Self { layout, evaluator: Evaluator::new(), now, sequence: 0, told: 0 };
        stage.evaluator.set_checks(layout.checks(), now, &mut Vec::new());
        stage
    }

    fn look(&mut self, from: u32, host: &HostObservation) {
        self.sequence += 1;
        let seen = Sighting {
            tenant: "default",
            satellite: satellite(from),
            order: Order { ordinal: 1, sequence: self.sequence },
            at: self.now,
            late: false,
            host,
        };
        let mut told = Vec::new();
        self.evaluator.observe(&seen, self.now, &mut told);
        self.told += told.len();
    }

    /// A minute: every vantage point looks at every address, spread over it; 1 % of the ports change sides.
    fn minute(&mut self, minute: u32) {
        let addresses = self.layout.addresses();
        for second in 0..INTERVAL {
            for number in (second..addresses).step_by(INTERVAL as usize) {
                let host = host(self.layout, number, self.deviates(minute, number));
                for from in 0..self.layout.satellites {
                    self.look(from, &host);
                }
            }
            self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
            let mut told = Vec::new();
            self.evaluator.tick(self.now, &mut told);
            self.told += told.len();
        }
    }

    /// The port that is not as it should be in this minute. It was not so before and will not be so after: two changes.
    fn deviates(&self, minute: u32, number: u32) -> Option<u16> {
        let keys_in = CHANGED * 2 / u32::from(self.layout.ports);
        let turn = number.wrapping_mul(2_654_435_761).wrapping_add(minute.wrapping_mul(40_503)) >> 8;
        let port = 1 + (minute % u32::from(self.layout.ports)) as u16;
        turn.is_multiple_of(keys_in).then_some(port)
    }
}

/// What standing checks cost: memory, and a part of a core.
fn standing(layout: Layout) {
    let mut stage = Stage::new(layout);
    for minute in 0..MINUTES {
        stage.minute(minute);
    }
    let (cpu, told) = (cpu_seconds(), stage.told);
    for minute in MINUTES..2 * MINUTES {
        stage.minute(minute);
    }
    let share = (cpu_seconds() - cpu) / f64::from(MINUTES * 60);
    println!(
        "standing {KEYS} keys of {} checks, {} ports an address, {} vantage points, 1 % changing a minute: {:.1} % of a \
         core, {:.0} MB resident, {} transitions a minute",
        layout.checks,
        layout.ports,
        layout.satellites,
        share * 100.0,
        resident_bytes() as f64 / 1e6,
        (stage.told - told) / MINUTES as usize
    );
}

/// How many looks a second: what is unchanged, and what changes every time.
fn stream(layout: Layout) {
    let mut stage = Stage::new(layout);
    let addresses = layout.addresses();
    for (name, one_in) in
        [("unchanged", u32::MAX), ("1 % changing", CHANGED / u32::from(layout.ports)), ("all changing", 1)]
    {
        let as_it_should: Vec<_> = (0..addresses).map(|number| host(layout, number, None)).collect();
        let deviating: Vec<_> = (0..addresses).map(|number| host(layout, number, Some(1))).collect();
        let cpu = cpu_seconds();
        let mut ports = 0u64;
        let mut round = 0;
        while cpu_seconds() - cpu < 3.0 {
            let picks = as_it_should.iter().zip(&deviating).zip(0u32..);
            for ((well, deviates), number) in picks {
                let changed = (number + round).is_multiple_of(one_in) && round % 2 == 0;
                for from in 0..layout.satellites {
                    stage.look(from, if changed { deviates } else { well });
                    ports += u64::from(layout.ports);
                }
            }
            round += 1;
        }
        println!(
            "stream   {name}, {} ports a look, {} vantage points: {:.0} port observations a second",
            layout.ports,
            layout.satellites,
            ports as f64 / (cpu_seconds() - cpu)
        );
    }
}

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
