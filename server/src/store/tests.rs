//! The store against a real sled in a temporary directory.

use super::keys;
use super::*;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_proto::v1;
use std::net::IpAddr;
use std::ops::ControlFlow;
use uuid::Uuid;

const SATELLITE: SatelliteId = SatelliteId(Uuid::from_u128(1));
const EPOCH: Epoch = Epoch(Uuid::from_u128(2));

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn address() -> IpAddr {
    "10.0.0.1".parse().unwrap()
}

fn run(state: PortState, ports: PortSet) -> StateRun {
    let reason = if state == PortState::Open { Reason::SynAck } else { Reason::ConnRefused };
    StateRun { protocol: Protocol::Tcp, state, reason, ports }
}

fn host(second: i64, runs: Vec<StateRun>) -> HostObservation {
    HostObservation {
        target: "shop.internal".into(),
        address: address(),
        up: true,
        observed_at: at(second),
        runs,
        details: Vec::new(),
        unscanned: PortSpec::default(),
        suspect: None,
    }
}

fn item(sequence: u64, hosts: Vec<HostObservation>) -> IngestItem {
    IngestItem { sequence, first: sequence, dropped: None, late: false, hosts, end: None }
}

fn sweep_end(sequence: u64, second: i64, ports: &str) -> IngestItem {
    let end = v1::ScanEnd {
        outcome: v1::scan_end::Outcome::Complete.into(),
        coverage: vec![v1::Coverage { addresses: vec!["10.0.0.0-10.0.0.9".into()], ports: ports.into() }],
        finished_at_ms: at(second).as_millisecond(),
        ..v1::ScanEnd::default()
    };
    let end = SweepEnd { scan: ScanId(Uuid::from_u128(sequence.into())), end };
    IngestItem { end: Some(end), ..item(sequence, Vec::new()) }
}

fn batch(items: Vec<IngestItem>) -> IngestBatch {
    IngestBatch {
        satellite: SATELLITE,
        tenant: "default".to_owned(),
        epoch: EPOCH,
        received_at: at(1000),
        skew_ms: 0,
        backlog: false,
        items,
    }
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Store::create(&dir.path().join("store")).unwrap();
        let store = Store::open(&dir.path().join("store"), 0).unwrap();
        Self { dir, store }
    }

    async fn ingest(&self, items: Vec<IngestItem>) -> IngestOutcome {
        self.store.ingest(batch(items)).await.unwrap()
    }

    fn inventory(&self, all: bool, host: Option<IpNet>) -> Vec<InventoryRow> {
        let query = InventoryQuery { tenant: "default".into(), host, all };
        let mut rows = Vec::new();
        let push = |row| {
            rows.push(row);
            ControlFlow::Continue(())
        };
        self.store.inventory(&query, push).unwrap();
        rows
    }

    fn history(&self, port: Option<u16>) -> Vec<Change> {
        let query =
            HistoryQuery { tenant: "default".into(), address: address(), port, since: Timestamp::UNIX_EPOCH };
        let mut changes = Vec::new();
        let push = |change| {
            changes.push(change);
            ControlFlow::Continue(())
        };
        self.store.history(&query, push).unwrap();
        changes
    }

    /// Ends the writer and opens the same files again, as a restart does.
    fn reopen(self) -> Self {
        let Self { dir, store } = self;
        store.close();
        drop(store);
        let store = Store::open(&dir.path().join("store"), 0).unwrap();
        Self { dir, store }
    }

    fn state(&self) -> sled::Tree {
        self.store.trees().unwrap().state.clone()
    }
}

#[tokio::test]
async fn each_sequence_counts_once_even_across_a_restart() {
    let f = Fixture::new();
    let open = vec![host(1, vec![run(PortState::Open, PortSet::single(22))])];
    let closed = vec![host(2, vec![run(PortState::Closed, PortSet::single(22))])];
    let first = f.ingest(vec![item(1, open.clone()), item(2, closed.clone())]).await;
    assert_eq!((first.acked, first.counted, first.changes, first.missing), (2, vec![1, 2], 1, 0));
    let f = f.reopen();
    assert_eq!(f.store.cursor(SATELLITE, EPOCH).await.unwrap().acked, 2);
    let again = f.ingest(vec![item(1, open.clone()), item(2, closed), item(3, open)]).await;
    assert_eq!((again.acked, again.counted, again.changes), (3, vec![3], 1));
    assert_eq!(f.history(None).len(), 2);
}

#[tokio::test]
async fn numbers_that_do_not_ascend_move_nothing_back() {
    let f = Fixture::new();
    let outcome = f.ingest(vec![item(5, vec![]), item(3, vec![]), item(5, vec![])]).await;
    assert_eq!((outcome.acked, outcome.counted), (5, vec![5]));
}

/// A later scan of one port is no confirmation of the others.
#[tokio::test]
async fn only_what_was_probed_was_seen_again() {
    let f = Fixture::new();
    let range: PortSet = (40000..=40010).collect();
    let closed = host(1, vec![run(PortState::Closed, range)]);
    f.ingest(vec![item(1, vec![closed]), sweep_end(2, 2, "40000-40010")]).await;
    let opened = vec![run(PortState::Open, PortSet::single(40005))];
    f.ingest(vec![item(3, vec![host(10, opened)]), sweep_end(4, 11, "40005")]).await;
    let rows = f.inventory(true, None);
    let seen = |state| rows.iter().find(|row| row.state == state).unwrap().last_seen;
    assert_eq!((seen(PortState::Open), seen(PortState::Closed)), (at(11), at(2)));
}

/// The commonest port list is long as text.
#[tokio::test]
async fn a_sweep_of_a_long_port_list_confirms() {
    let f = Fixture::new();
    let ports = portolan_common::services::top(1000);
    let seen = |second| vec![host(second, vec![run(PortState::Closed, ports.clone())])];
    let text = ports.to_string();
    f.ingest(vec![item(1, seen(1)), sweep_end(2, 2, &text), item(3, seen(8)), sweep_end(4, 9, &text)]).await;
    assert_eq!(f.inventory(true, None)[0].last_seen, at(9));
}

#[tokio::test]
async fn what_never_arrived_is_told_apart_from_what_was_dropped() {
    let f = Fixture::new();
    let dropped = v1::Dropped { hosts: 40, records: 4, confirmations: 39, ..v1::Dropped::default() };
    let merged = IngestItem { first: 4, dropped: Some(dropped), ..item(8, vec![]) };
    let outcome = f.ingest(vec![item(3, vec![]), merged, item(9, vec![])]).await;
    assert_eq!((outcome.acked, outcome.missing, outcome.dropped), (9, 2, 40));
    let f = f.reopen();
    let cursor = f.store.cursor(SATELLITE, EPOCH).await.unwrap();
    assert_eq!(cursor, Cursor { acked: 9, missing: 2, dropped: 40 });
    let gaps = f.store.gaps(SATELLITE, 10).unwrap();
    let told: Vec<_> =
        gaps.iter().map(|gap| (gap.first, gap.last, gap.hosts, gap.reason.is_some())).collect();
    assert_eq!(told, [(4, 8, 40, true), (1, 2, 0, false)], "newest first");
    assert_eq!(f.store.gaps(SATELLITE, 1).unwrap().len(), 1);
}

/// What a satellite claims of records that never came is believed only as far as it can be true.
#[tokio::test]
async fn claims_from_the_wire_are_bounded() {
    let f = Fixture::new();
    let silent = IngestItem { first: 1, ..item(10, vec![]) };
    let outcome = f.ingest(vec![silent]).await;
    assert_eq!((outcome.acked, outcome.missing, outcome.dropped), (10, 9, 0), "nobody said where they went");
    let most =
        v1::Dropped { hosts: u64::MAX, records: u64::MAX, confirmations: u64::MAX, ..v1::Dropped::default() };
    let greedy = |first, sequence| IngestItem { first, dropped: Some(most), ..item(sequence, vec![]) };
    let outcome = f.ingest(vec![greedy(11, 12), greedy(13, u64::MAX)]).await;
    assert_eq!((outcome.acked, outcome.missing), (u64::MAX, 0));
    let next = Epoch(Uuid::from_u128(3));
    let again =
        f.store.ingest(IngestBatch { epoch: next, ..batch(vec![greedy(1, u64::MAX)]) }).await.unwrap();
    assert_eq!(again.acked, u64::MAX);
    assert_eq!(f.store.losses(SATELLITE).unwrap().dropped, u64::MAX);
}

/// A clock that is as wrong as can be said spoils no answer.
#[tokio::test]
async fn no_clock_makes_anything_unreadable() {
    let f = Fixture::new();
    for (sequence, skew_ms) in [(1, i64::MIN), (3, i64::MAX), (5, i64::MIN / 2), (7, 1)] {
        let state = if sequence % 4 == 1 { PortState::Open } else { PortState::Closed };
        let mut seen = host(1, vec![run(state, PortSet::single(22))]);
        seen.observed_at = if sequence == 7 { Timestamp::MIN } else { seen.observed_at };
        let items = vec![item(sequence, vec![seen]), sweep_end(sequence + 1, 2, "22")];
        f.store.ingest(IngestBatch { skew_ms, ..batch(items) }).await.unwrap();
    }
    // The third was seen before anything that is asked for, it says.
    assert_eq!(f.history(None).len(), 2);
    let rows = f.inventory(true, None);
    let shown = [rows[0].since, rows[0].last_seen].map(|at| Timestamp::from_millisecond(at.as_millisecond()));
    assert!(shown.iter().all(Result::is_ok), "{rows:?}");
    assert!(f.store.first_seen("default", address()).is_ok());
}

/// A hundred thousand port lists in one end of a scan: the writer must not parse them all.
#[tokio::test]
async fn what_a_sweep_claims_to_have_covered_is_bounded_before_it_is_read() {
    let f = Fixture::new();
    let coverage = v1::Coverage { addresses: vec!["10.0.0.1".into()], ports: "1-1000".into() };
    let end = v1::ScanEnd { coverage: vec![coverage; 75_000], ..v1::ScanEnd::default() };
    let end = Some(SweepEnd { scan: ScanId(Uuid::nil()), end });
    f.ingest(vec![IngestItem { end, ..item(1, Vec::new()) }]).await;
    let log = f.store.trees().unwrap().tree(&keys::log_tree(at(1000))).unwrap();
    assert_eq!(log.scan_prefix([keys::SWEEP]).count(), 64);
}

/// One record that rotted costs what it held, not everything that its satellite sends from then on.
#[tokio::test]
async fn a_host_that_cannot_be_read_is_begun_anew_and_said() {
    let f = Fixture::new();
    let seen = |second, state| vec![host(second, vec![run(state, PortSet::single(22))])];
    f.ingest(vec![item(1, seen(1, PortState::Open))]).await;
    let (key, value) = f
        .state()
        .scan_prefix(keys::host("default", address(), SATELLITE, Protocol::Tcp))
        .next()
        .unwrap()
        .unwrap();
    let mut rotten = value.to_vec();
    rotten[7] ^= 1;
    f.state().insert(&key, rotten).unwrap();
    let outcome = f.ingest(vec![item(2, seen(2, PortState::Closed))]).await;
    assert!(outcome.damaged.is_some_and(|damage| damage.contains("10.0.0.1")));
    assert_eq!(f.inventory(true, None)[0].state, PortState::Closed);
    let Fixture { dir, store } = f;
    store.close();
    drop(store);
    let error = Store::open(&dir.path().join("store"), 0).err().expect("the sums still know").to_string();
    assert!(error.contains("doctor"), "{error}");
}

/// A spool that was made anew counts from 1 again; what was lost before stays known.
#[tokio::test]
async fn a_new_epoch_comes_after_the_old_one() {
    let f = Fixture::new();
    let closed = || vec![host(5, vec![run(PortState::Closed, PortSet::single(22))])];
    let open = || vec![host(9, vec![run(PortState::Open, PortSet::single(22))])];
    f.ingest(vec![item(7, closed()), item(8, open())]).await;
    let next = Epoch(Uuid::from_u128(3));
    for (sequence, hosts) in [(1, closed()), (2, open())] {
        let items = vec![item(sequence, hosts)];
        let outcome = f.store.ingest(IngestBatch { epoch: next, ..batch(items) }).await.unwrap();
        assert_eq!((outcome.acked, outcome.changes), (sequence, 1));
    }
    assert_eq!(f.store.cursor(SATELLITE, next).await.unwrap(), Cursor { acked: 2, missing: 6, dropped: 0 });
    assert_eq!(f.store.cursor(SATELLITE, EPOCH).await.unwrap().acked, 8);
    let told: Vec<_> = f.history(None).iter().map(|change| change.to).collect();
    assert_eq!(told, [PortState::Open, PortState::Closed, PortState::Open]);
}

/// The satellite's clock was set back an hour between two changes, and is ten minutes ahead of the server's.
#[tokio::test]
async fn sequence_orders_and_clocks_are_only_shown() {
    let f = Fixture::new();
    let seen = |second, state| vec![host(second, vec![run(state, PortSet::single(22))])];
    let items = vec![
        item(1, seen(5000, PortState::Closed)),
        item(2, seen(5010, PortState::Open)),
        item(3, seen(1410, PortState::Closed)),
        sweep_end(4, 1420, "22"),
    ];
    f.store.ingest(IngestBatch { skew_ms: 600_000, ..batch(items) }).await.unwrap();
    let told: Vec<_> = f.history(None).iter().map(|change| (change.to, change.at)).collect();
    assert_eq!(told, [(PortState::Open, at(4410)), (PortState::Closed, at(810))], "as seen, shown corrected");
    let row = &f.inventory(true, None)[0];
    assert_eq!((row.state, row.since, row.last_seen), (PortState::Closed, at(810), at(820)));
}

/// Plans of one group see what earlier ones of the group will write.
#[tokio::test]
async fn batches_that_are_committed_together_build_on_one_another() {
    let f = Fixture::new();
    let writes = (1..=300u64).map(|sequence| {
        let state = if sequence % 2 == 0 { PortState::Open } else { PortState::Closed };
        let second = i64::try_from(sequence).unwrap();
        let hosts = vec![host(second, vec![run(state, PortSet::single(22))])];
        f.store.ingest(batch(vec![item(sequence, hosts)]))
    });
    let outcomes = futures_join(writes.collect()).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().missing == 0));
    assert_eq!(f.history(None).len(), 299);
    f.reopen();
}

async fn futures_join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in pinned.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn inventory_and_history_tell_what_was_seen() {
    let f = Fixture::new();
    let ports: PortSet = [22, 80].into_iter().collect();
    f.ingest(vec![item(1, vec![host(1, vec![run(PortState::Open, ports)])]), sweep_end(2, 2, "1-1000")])
        .await;
    let split = vec![run(PortState::Open, PortSet::single(22)), run(PortState::Closed, PortSet::single(80))];
    f.ingest(vec![item(3, vec![host(10, split)]), sweep_end(4, 11, "1-1000"), sweep_end(5, 20, "22")]).await;

    let open = f.inventory(false, None);
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].since, open[0].last_seen), (at(1), at(20)), "the last sweep covered port 22");
    assert_eq!(open[0].target, "shop.internal");
    let all = f.inventory(true, Some("10.0.0.0/24".parse().unwrap()));
    assert_eq!(all.len(), 2);
    let closed = all.iter().find(|row| row.state == PortState::Closed).unwrap();
    assert_eq!((closed.since, closed.last_seen), (at(10), at(11)));
    assert!(f.inventory(true, Some("10.0.1.0/24".parse().unwrap())).is_empty());

    let changes = f.history(None);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].from, changes[0].to, changes[0].at), (PortState::Open, PortState::Closed, at(10)));
    assert!(f.history(Some(22)).is_empty());
    assert_eq!(f.history(Some(80)).len(), 1);
    assert_eq!(f.store.addresses_of("default", "SHOP.internal").unwrap(), [address()]);
    let first_seen = f.store.first_seen("default", address()).unwrap();
    assert_eq!(first_seen, [FirstSeen { satellite: SATELLITE, at: at(1) }]);
}

/// Checks write one address in several ways, each in its turn.
#[tokio::test]
async fn a_host_keeps_its_name() {
    let f = Fixture::new();
    let seen = |sequence: u64, target: &str, state: PortState| {
        let runs = vec![run(state, PortSet::single(22))];
        let host = HostObservation { target: target.into(), ..host(sequence as i64, runs) };
        item(sequence, vec![host])
    };
    let target = || f.inventory(true, None)[0].target.clone();
    f.ingest(vec![seen(1, "10.0.0.0/24", PortState::Open)]).await;
    f.ingest(vec![seen(2, "shop.internal", PortState::Open)]).await;
    assert_eq!(target(), "shop.internal", "it had none");
    f.ingest(vec![seen(3, "10.0.0.1", PortState::Open)]).await;
    f.ingest(vec![seen(4, "10.0.0.0/24", PortState::Closed)]).await;
    assert_eq!(target(), "shop.internal", "a network is no name");
    f.ingest(vec![seen(5, "www.internal", PortState::Closed)]).await;
    assert_eq!(target(), "shop.internal", "not worth a write of its own");
    for name in ["shop.internal", "www.internal"] {
        assert_eq!(f.store.addresses_of("default", name).unwrap(), [address()]);
    }
    f.ingest(vec![seen(6, "www.internal", PortState::Open)]).await;
    assert_eq!(target(), "www.internal");
}

/// The worst host there is: every second port open. Its record is split, and shrinks again.
#[tokio::test]
async fn no_value_is_larger_than_sled_bears() {
    let f = Fixture::new();
    let odd: PortSet = (0..=u16::MAX).filter(|port| port % 2 == 1).collect();
    let even: PortSet = (0..=u16::MAX).filter(|port| port % 2 == 0).collect();
    let (open, closed) = (run(PortState::Open, odd.clone()), run(PortState::Closed, even.clone()));
    f.ingest(vec![item(1, vec![host(1, vec![open, closed])])]).await;
    let swapped = vec![run(PortState::Open, even.clone()), run(PortState::Closed, odd)];
    let outcome = f.ingest(vec![item(2, vec![host(2, swapped)])]).await;
    assert_eq!(outcome.changes, 65_536);
    let mut parts = 0;
    let log = f.store.trees().unwrap().tree(&keys::log_tree(at(1000))).unwrap();
    for tree in [f.state(), log] {
        for entry in tree.iter() {
            let (key, value) = entry.unwrap();
            assert!(value.len() <= record::MAX_VALUE_BYTES, "{} bytes", value.len());
            parts += usize::from(keys::parse_host(&key).is_some());
        }
    }
    assert!(parts > 10, "{parts} parts");
    let open = f.inventory(false, None);
    assert_eq!(open.len(), even.len());
    let changed: usize = f.history(None).iter().map(|change| change.ports.len()).sum();
    assert_eq!(changed, 65_536);

    f.ingest(vec![item(3, vec![host(3, vec![run(PortState::Closed, PortSet::all())])])]).await;
    let prefix = keys::host("default", address(), SATELLITE, Protocol::Tcp);
    assert!(f.state().scan_prefix(prefix).count() <= parts);
    assert!(f.inventory(false, None).is_empty());
}

#[tokio::test]
async fn an_unchanged_sweep_writes_no_state() {
    let f = Fixture::new();
    let seen = |second| vec![host(second, vec![run(PortState::Open, PortSet::single(22))])];
    f.ingest(vec![item(1, seen(1))]).await;
    let key = keys::host("default", address(), SATELLITE, Protocol::Tcp);
    let before = f.state().scan_prefix(&key).next().unwrap().unwrap().1;
    f.ingest(vec![item(2, seen(50))]).await;
    assert_eq!(f.state().scan_prefix(&key).next().unwrap().unwrap().1, before);
}

#[tokio::test]
async fn retention_drops_whole_months() {
    let f = Fixture::new();
    f.ingest(vec![sweep_end(1, 1, "22")]).await;
    let month = keys::log_tree(at(1000));
    let day = SignedDuration::from_hours(24);
    let kept = f.store.drop_older_than(day * 31, at(1000) + day * 40).await.unwrap();
    assert_eq!(kept, None);
    let dropped = f.store.drop_older_than(day * 31, at(1000) + day * 90).await.unwrap();
    assert_eq!(dropped, Some(month));
    let f = f.reopen();
    assert!(f.store.trees().unwrap().log_names().is_empty());
}

#[test]
fn what_is_not_a_store_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(Store::open(&path, 0), Err(StoreError::Missing(_))));
    Store::create(&path).unwrap();
    assert!(matches!(Store::create(&path), Err(StoreError::Exists(_))));
    std::fs::write(path.join("snap.0000.generating"), b"half").unwrap();
    drop(Store::open(&path, 0).unwrap());
}

/// Whatever sled makes of a damaged file, the answer is a message that says what to do, and the file stays.
#[test]
fn a_damaged_file_is_reported_and_left() {
    type Spoil = fn(&mut Vec<u8>);
    let spoils: [(&str, Spoil); 4] = [
        ("emptied", |bytes| bytes.clear()),
        ("overwritten", |bytes| bytes.fill(0xa5)),
        ("zeroed", |bytes| bytes.fill(0)),
        ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
    ];
    for (how, spoil) in spoils {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        Store::create(&path).unwrap();
        let mut bytes = std::fs::read(path.join("db")).unwrap();
        spoil(&mut bytes);
        std::fs::write(path.join("db"), &bytes).unwrap();
        match Store::open(&path, 0) {
            Ok(_) => assert_eq!(how, "cut in half", "the records stand in the first half"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("damaged") && error.contains("doctor"), "{how}: {error}");
                assert!(std::fs::read(path.join("db")).unwrap() == bytes, "{how}: the file was changed");
            }
        }
    }
}
