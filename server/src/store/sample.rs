//! A store with real content, for the tests of what can go wrong with its files.

use super::*;
use ipnet::IpNet;
use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_proto::v1;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use uuid::Uuid;

/// Everything that a store holds but its sums: by tree and key.
pub(crate) type Content = BTreeMap<(String, Vec<u8>), Vec<u8>>;

pub(crate) const EPOCH: Epoch = Epoch(Uuid::from_u128(2));
/// Satellites in it.
pub(crate) const SATELLITES: u128 = 6;

pub(crate) fn satellite(number: u128) -> SatelliteId {
    SatelliteId(Uuid::from_u128(0x5a7e_0000 + number))
}

/// The first of two months.
pub(crate) fn october(second: i64) -> Timestamp {
    "2026-10-12T08:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

fn november(second: i64) -> Timestamp {
    "2026-11-02T08:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

/// A batch of one record that no other has: `round` counts from 1.
pub(crate) fn batch(number: u128, round: u64, received_at: Timestamp) -> IngestBatch {
    let hosts = (0..4u8).map(|host| {
        let address = IpAddr::from(Ipv4Addr::new(10, number as u8, (round % 3) as u8, host));
        let open: PortSet = (0..(20 + round % 40) as u16).map(|n| 22 + n * (3 + round as u16 % 5)).collect();
        let closed: PortSet = (3000..3300 + (round % 70) as u16).collect();
        let run = |state, reason, ports| StateRun { protocol: Protocol::Tcp, state, reason, ports };
        HostObservation {
            target: format!("host-{number}-{host}.internal"),
            address,
            up: true,
            observed_at: received_at,
            runs: vec![
                run(PortState::Open, Reason::SynAck, open),
                run(PortState::Closed, Reason::ConnRefused, closed),
            ],
            details: Vec::new(),
            unscanned: PortSpec::default(),
            suspect: None,
        }
    });
    let end = v1::ScanEnd {
        outcome: v1::scan_end::Outcome::Complete.into(),
        coverage: vec![v1::Coverage {
            addresses: vec![format!("10.{number}.{}.0-10.{number}.{0}.3", round % 3)],
            ports: "22-3400".into(),
        }],
        finished_at_ms: received_at.as_millisecond(),
        ..v1::ScanEnd::default()
    };
    let end = SweepEnd { scan: ScanId(Uuid::from_u128(u128::from(round) << 8 | number)), end };
    let item = |sequence, hosts, end| IngestItem {
        sequence,
        first: sequence,
        dropped: None,
        late: false,
        hosts,
        end,
    };
    IngestBatch {
        satellite: satellite(number),
        tenant: "default".into(),
        epoch: EPOCH,
        received_at,
        skew_ms: 0,
        backlog: false,
        items: vec![item(round * 2 - 1, hosts.collect(), None), item(round * 2, Vec::new(), Some(end))],
    }
}

pub(crate) fn satellite_record(number: u128) -> SatelliteRecord {
    SatelliteRecord {
        id: satellite(number).as_bytes().to_vec(),
        name: format!("office-{number}"),
        segment: "office".into(),
        tenant: "default".into(),
        added_at_ms: october(0).as_millisecond(),
        enrolled_at_ms: october(1).as_millisecond(),
        token_hash: vec![number as u8; 32],
        ..SatelliteRecord::default()
    }
}

/// Registers the satellites and lets each send some of `rounds` batches.
pub(crate) async fn fill(store: &Store, rounds: u64, some: RangeInclusive<u64>) {
    for number in 0..SATELLITES {
        let token =
            TokenRecord { satellite: satellite(number).as_bytes().to_vec(), ..TokenRecord::default() };
        store.put_satellite(satellite_record(number), Some(([number as u8; 32], token))).await.unwrap();
    }
    let problem = ProblemRecord { kind: "records-missing".into(), count: 7, ..ProblemRecord::default() };
    store.put_problems(vec![problem]).await.unwrap();
    send(store, rounds, some).await;
}

/// Lets every satellite send some of `rounds` batches, the later half of them a month after the others.
pub(crate) async fn send(store: &Store, rounds: u64, some: RangeInclusive<u64>) {
    for round in some {
        for number in 0..SATELLITES {
            store.ingest(batch(number, round, time_of(round, rounds, number))).await.unwrap();
        }
    }
}

/// The same for all of them, every satellite for itself: fewer commits, and no order among satellites.
pub(crate) async fn send_all(store: &Store, rounds: u64) {
    send_at(store, rounds, move |round, number| time_of(round, rounds, number)).await;
}

/// The same within one month.
pub(crate) async fn send_all_in_october(store: &Store, rounds: u64) {
    send_at(store, rounds, |round, _| october(round as i64 * 60)).await;
}

async fn send_at(store: &Store, rounds: u64, time: impl Fn(u64, u128) -> Timestamp + Copy + Send + 'static) {
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..SATELLITES {
        let store = store.clone();
        sending.spawn(async move {
            for round in 1..=rounds {
                store.ingest(batch(number, round, time(round, number))).await.unwrap();
            }
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
}

fn time_of(round: u64, rounds: u64, number: u128) -> Timestamp {
    let second = round as i64 * 60 + number as i64;
    if round * 2 <= rounds { october(second) } else { november(second) }
}

pub(crate) fn content(store: &Store) -> Result<Content, StoreError> {
    let trees = store.trees()?;
    let mut content = Content::new();
    for name in trees.log_names().into_iter().chain(["state".to_owned()]) {
        trees.each(&name, |key, value| {
            content.insert((name.clone(), key.to_vec()), value.to_vec());
            Ok(())
        })?;
    }
    Ok(content)
}

/// Something that needs a decoded record: what the console would show.
pub(crate) fn inventory(store: &Store) -> usize {
    let query = InventoryQuery { tenant: "default".into(), host: None::<IpNet>, all: true };
    let mut rows = 0;
    let count = |_| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    };
    store.inventory(&query, count).unwrap();
    rows
}

/// Spoils a satellite's record behind the store's back.
pub(crate) fn flip_a_record(store: &Store) -> Vec<u8> {
    let state = store.trees().unwrap().state.clone();
    let key = keys::satellite(satellite(1));
    let mut value = state.get(&key).unwrap().unwrap().to_vec();
    value[9] ^= 1;
    state.insert(&key, value).unwrap();
    key
}
