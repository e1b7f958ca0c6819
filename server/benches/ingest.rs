//! Sustained ingest of the store: what satellites send, from their bytes to the disk.
//!
//! `cargo bench -p portolan-server --bench ingest -- [sweeps|changes|churn] [--dir DIR]`; without a word, all three.
//! Rates are per second of wall time and per second of CPU time of the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run has no figure")]

use jiff::{SignedDuration, Timestamp};
use nix::sys::resource::{UsageWho, getrusage};
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSet;
use portolan_proto::{batch, v1};
use portolan_server::store::{IngestBatch, IngestItem, Store, SweepEnd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Satellites that send at the same time.
const SATELLITES: u128 = 16;
/// Records of one satellite in a commit, as the server takes them.
const AT_ONCE: u64 = 32;
/// Hosts of a segment, and ports scanned of each.
const HOSTS: u32 = 254;
const PORTS: u16 = 1000;
/// How long the two rates are measured.
const MEASURED: Duration = Duration::from_secs(10);
const NO_WATERMARK: u64 = 0;

fn main() {
    let mut directory = std::env::temp_dir();
    let mut chosen = Vec::new();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--dir" => directory = PathBuf::from(args.next().expect("--dir needs a directory")),
            "sweeps" | "changes" | "churn" => chosen.push(arg),
            other => panic!("unknown word: {other} (sweeps, changes, churn, --dir DIR)"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for name in ["sweeps", "changes", "churn"] {
        if chosen.is_empty() || chosen.iter().any(|word| word == name) {
            let place = tempfile::tempdir_in(&directory).unwrap();
            let path = place.path().join("store");
            Store::create(&path).unwrap();
            let store = Store::open(&path, NO_WATERMARK).unwrap();
            match name {
                "sweeps" => runtime.block_on(sweeps(&store)),
                "changes" => runtime.block_on(changes(&store)),
                _ => runtime.block_on(churn(&store, &path)),
            }
            store.close();
        }
    }
}

/// What one host looks like on the wire: a few open ports, the others closed, `flipped` the other way round.
fn host(satellite: u128, number: u32, at: Timestamp, flipped: Option<u16>) -> v1::HostObservation {
    let mut open: PortSet = [22, 80, 443].into_iter().collect();
    if let Some(port) = flipped {
        open = open.union(&PortSet::single(port));
    }
    let all: PortSet = (1..=PORTS).collect();
    let run = |state: v1::PortState, reason: v1::Reason, ports: &PortSet| v1::StateRun {
        protocol: v1::Protocol::Tcp.into(),
        state: state.into(),
        reason: reason.into(),
        ports: Some(ports.into()),
    };
    let address = [10, u8::try_from(satellite).unwrap(), u8::try_from(number >> 8).unwrap(), number as u8];
    v1::HostObservation {
        target: String::from("10.0.0.0/8"),
        address: address.to_vec(),
        up: true,
        observed_at_ms: at.as_millisecond(),
        runs: vec![
            run(v1::PortState::Open, v1::Reason::SynAck, &open),
            run(v1::PortState::Closed, v1::Reason::ConnRefused, &all.difference(&open)),
        ],
        ..v1::HostObservation::default()
    }
}

/// One port of a host that changed, as a standing check reports it.
fn change(satellite: u128, number: u32, at: Timestamp, is_open: bool) -> v1::HostObservation {
    let whole = host(satellite, number, at, None);
    let (state, reason) = match is_open {
        true => (v1::PortState::Open, v1::Reason::SynAck),
        false => (v1::PortState::Closed, v1::Reason::ConnRefused),
    };
    let ports = Some((&PortSet::single(8080)).into());
    let run = v1::StateRun {
        protocol: v1::Protocol::Tcp.into(),
        state: state.into(),
        reason: reason.into(),
        ports,
    };
    v1::HostObservation { runs: vec![run], ..whole }
}

fn item(sequence: u64, bytes: &[u8]) -> IngestItem {
    let hosts = batch::hosts(bytes).map(|host| HostObservation::try_from(&host.unwrap()).unwrap()).collect();
    IngestItem { sequence, first: sequence, dropped: None, late: false, hosts, end: None }
}

fn end(sequence: u64, satellite: u128, at: Timestamp) -> IngestItem {
    let end = v1::ScanEnd {
        outcome: v1::scan_end::Outcome::Complete.into(),
        coverage: vec![v1::Coverage {
            addresses: vec![format!("10.{satellite}.0.1-10.{satellite}.0.254")],
            ports: format!("1-{PORTS}"),
        }],
        finished_at_ms: at.as_millisecond(),
        ..v1::ScanEnd::default()
    };
    let end = Some(SweepEnd { scan: ScanId(Uuid::from_u128(sequence.into())), end });
    IngestItem { sequence, first: sequence, dropped: None, late: false, hosts: Vec::new(), end }
}

fn of(satellite: u128, at: Timestamp, items: Vec<IngestItem>) -> IngestBatch {
    IngestBatch {
        satellite: SatelliteId(Uuid::from_u128(satellite + 1)),
        tenant: "default".into(),
        epoch: Epoch(Uuid::from_u128(satellite + 1)),
        received_at: at,
        skew_ms: 0,
        backlog: false,
        items,
    }
}

/// A whole /24 over and over, one port of it different each time: what a sweep mostly is.
async fn sweeps(store: &Store) {
    let meter = Meter::start();
    let mut tasks = Vec::new();
    for satellite in 0..SATELLITES {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let began = Instant::now();
            let mut sequence = 0;
            let mut states = 0u64;
            let mut round = 0u16;
            while began.elapsed() < MEASURED {
                let now = Timestamp::now();
                let mut bytes = Vec::new();
                for number in 1..=HOSTS {
                    let flipped = (number == 7).then_some(500 + round % 100);
                    batch::push(&mut bytes, &host(satellite, number, now, flipped));
                }
                sequence += 2;
                let items = vec![item(sequence - 1, &bytes), end(sequence, satellite, now)];
                let outcome = store.ingest(of(satellite, now, items)).await.unwrap();
                assert_eq!(outcome.acked, sequence);
                states += u64::from(HOSTS) * u64::from(PORTS);
                round += 1;
            }
            states
        }));
    }
    let mut states = 0;
    for task in tasks {
        states += task.await.unwrap();
    }
    meter.say("sweeps", states, "port states", store);
}

/// One port of one host in each record, changing every time.
async fn changes(store: &Store) {
    let meter = Meter::start();
    let mut tasks = Vec::new();
    for satellite in 0..SATELLITES {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let began = Instant::now();
            let mut sequence = 0;
            let mut events = 0;
            while began.elapsed() < MEASURED {
                let now = Timestamp::now();
                let mut items = Vec::new();
                for _ in 0..AT_ONCE {
                    let (number, round) = (
                        u32::try_from(sequence % u64::from(HOSTS)).unwrap() + 1,
                        sequence / u64::from(HOSTS),
                    );
                    sequence += 1;
                    let mut bytes = Vec::new();
                    batch::push(&mut bytes, &change(satellite, number, now, round % 2 == 0));
                    items.push(item(sequence, &bytes));
                }
                let outcome = store.ingest(of(satellite, now, items)).await.unwrap();
                assert_eq!(outcome.acked, sequence);
                events += AT_ONCE;
            }
            events
        }));
    }
    let mut events = 0;
    for task in tasks {
        events += task.await.unwrap();
    }
    meter.say("changes", events, "change events", store);
}

/// A day at 100 changes a second goes by in each of fourteen simulated months, two of which are kept.
async fn churn(store: &Store, path: &Path) {
    const A_MONTH: u64 = 600_000;
    const MONTHS: i64 = 14;
    let day = SignedDuration::from_hours(24);
    let began: Timestamp = "2026-01-05T00:00:00Z".parse().unwrap();
    let mut sequence = 0;
    let mut resident = Vec::new();
    for month in 0..MONTHS {
        let now = began + day * i32::try_from(month * 31).unwrap();
        let mut left = A_MONTH;
        while left > 0 {
            let mut writes = Vec::new();
            for satellite in 0..SATELLITES {
                let mut items = Vec::new();
                for step in 0..AT_ONCE {
                    let number = u32::try_from((sequence + step) % u64::from(HOSTS)).unwrap() + 1;
                    let round = (sequence + step) / u64::from(HOSTS);
                    let mut bytes = Vec::new();
                    batch::push(&mut bytes, &change(satellite, number, now, round % 2 == 0));
                    items.push(item(sequence + step + 1, &bytes));
                }
                let store = store.clone();
                writes.push(tokio::spawn(async move { store.ingest(of(satellite, now, items)).await }));
            }
            for write in writes {
                write.await.unwrap().unwrap();
            }
            sequence += AT_ONCE;
            left = left.saturating_sub(AT_ONCE * u64::try_from(SATELLITES).unwrap());
        }
        store.drop_older_than(day * 62, now).await.unwrap();
        let disk = disk_bytes(path);
        let live = store.live_bytes().unwrap();
        resident.push(resident_bytes());
        println!(
            "churn    month {month:2}: {:6.1} MB live, {:6.1} MB on disk ({:.2} x), {:5.1} MB resident",
            live as f64 / 1e6,
            disk as f64 / 1e6,
            disk as f64 / live as f64,
            resident_bytes() as f64 / 1e6
        );
    }
    let half = &resident[resident.len() / 2..];
    let (low, high) = (half.iter().min().unwrap(), half.iter().max().unwrap());
    println!(
        "churn    memory over the second half: {:.1} to {:.1} MB ({:.1} % apart)",
        *low as f64 / 1e6,
        *high as f64 / 1e6,
        (*high as f64 / *low as f64 - 1.0) * 100.0
    );
}

fn disk_bytes(path: &Path) -> u64 {
    std::fs::read_dir(path)
        .unwrap()
        .filter_map(|entry| entry.unwrap().metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|facts| facts.len())
        .sum()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Wall and CPU time from a start.
struct Meter {
    began: Instant,
    cpu: f64,
}

fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

impl Meter {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu_seconds() }
    }

    fn say(&self, name: &str, count: u64, what: &str, store: &Store) {
        let (wall, cpu) = (self.began.elapsed().as_secs_f64(), cpu_seconds() - self.cpu);
        println!(
            "{name:<8} {count} {what} in {wall:.1} s: {:.0}/s, {:.0} per CPU second ({cpu:.1} s); {:.1} MB on disk, \
             {:.1} MB resident",
            count as f64 / wall,
            count as f64 / cpu,
            store.size_on_disk() as f64 / 1e6,
            resident_bytes() as f64 / 1e6
        );
    }
}
