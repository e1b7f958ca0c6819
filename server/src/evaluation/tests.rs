//! Evaluation at work: satellites that come and go, over a real store.

use super::*;
use crate::policies::Policies;
use crate::store::Store;
use portolan_common::ids::ProcessId;
use portolan_common::observation::{PortState, Protocol, Reason, StateRun};
use portolan_common::ports::PortSet;
use portolan_proto::v1;
use std::net::IpAddr;
use uuid::Uuid;

const POLICY: &str = r#"
version = 1
[[check]]
name = "web"
from = ["satellite:office-1"]
targets = ["10.0.0.1"]
open = "80"
every = "30s"
confirm = 1
recover = 1
"#;

struct Fixture {
    _directory: tempfile::TempDir,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    policies: Arc<Policies>,
    evaluation: Arc<Evaluation>,
}

fn wall() -> Timestamp {
    Timestamp::now()
}

async fn add(registry: &Registry, token: &[u8]) -> SatelliteId {
    let (key, hour) = (Store::token_key(token), SignedDuration::from_hours(1));
    registry.add("office-1", "office", "default", key, hour, wall()).await.unwrap();
    registry.find("office-1").unwrap().satellite_id().unwrap()
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    Store::create(directory.path()).unwrap();
    let store = Store::open(directory.path(), 0).unwrap();
    let registry = Arc::new(Registry::load(store.clone()).unwrap());
    let hub = Arc::new(Hub::default());
    add(&registry, b"first").await;
    let policies = Policies::load(store.clone(), registry.clone(), hub.clone(), None, wall()).await.unwrap();
    let file = portolan_policy::PolicyFile { name: "policy.toml".into(), text: POLICY.into() };
    let apply = crate::policies::Apply { files: vec![file], ..Default::default() };
    assert!(policies.apply(apply, wall()).await.unwrap().applied);
    let policies = Arc::new(policies);
    let evaluation = Evaluation::load(store, registry.clone(), hub.clone(), policies.clone()).unwrap();
    let evaluation = Arc::new(evaluation);
    Fixture { _directory: directory, registry, hub, policies, evaluation }
}

impl Fixture {
    fn satellite(&self) -> SatelliteId {
        self.registry.find("office-1").unwrap().satellite_id().unwrap()
    }

    fn connect(&self) -> crate::uplink::Joined {
        let address = "127.0.0.1:1".parse().unwrap();
        self.hub.join(self.satellite(), address, &v1::Hello::default(), ProcessId(Uuid::nil()), wall())
    }

    /// Port 80 as it was seen so long ago; the sequence is its place.
    fn sees(&self, sequence: u64, open: bool, waited: u64) {
        let (state, reason) = match open {
            true => (PortState::Open, Reason::SynAck),
            false => (PortState::Closed, Reason::ConnRefused),
        };
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let ports = PortSet::single(80);
        let host = HostObservation {
            target: address.to_string(),
            address,
            up: true,
            observed_at: wall(),
            runs: vec![StateRun { protocol: Protocol::Tcp, state, reason, ports }],
            details: Vec::new(),
            unscanned: Default::default(),
            suspect: None,
        };
        let record = ArrivedRecord {
            order: Order { ordinal: 1, sequence },
            waited: Duration::from_secs(waited),
            late: waited > 30,
            hosts: &[host],
        };
        let (satellite, received) = (self.satellite(), Instant::now());
        let arrival = Arrival { tenant: "default", satellite, received, records: vec![record] };
        self.evaluation.observed(&arrival);
    }

    /// The alerts that there ever were: whether each lasts, and whether it came late.
    fn alerts(&self) -> Vec<(String, bool, bool)> {
        let query =
            crate::alerts::ListQuery { resolved_since: Some(Timestamp::UNIX_EPOCH), ..Default::default() };
        let listed = self.evaluation.read(|alerts, _| alerts.list(&query));
        let mut alerts: Vec<_> = listed
            .into_iter()
            .map(|alert| (alert.labels["alertname"].clone(), alert.resolved_at_ms == 0, alert.late))
            .collect();
        alerts.sort();
        alerts
    }

    fn state(&self) -> State {
        self.evaluation.look(|evaluator, _| evaluator.counts("web").unwrap().worst())
    }
}

#[tokio::test]
async fn what_an_outage_held_back_counts_before_the_next_tick() {
    let f = fixture().await;
    let began = Instant::now();
    let joined = f.connect();
    f.evaluation.tick(began);
    f.sees(1, true, 0);
    assert_eq!(f.state(), State::Ok);
    f.hub.leave(f.satellite(), joined.session);
    f.evaluation.tick(began + TICK);
    f.evaluation.tick(began + TICK + OFFLINE_GRACE);
    assert_eq!((f.state(), f.alerts()), (State::Unknown, vec![("SatelliteOffline".into(), true, false)]));
    // It is back; no tick has seen it.
    let joined = f.connect();
    f.sees(2, false, 300);
    f.sees(3, true, 200);
    let late = ("PortNotOpen".to_owned(), false, true);
    assert_eq!(f.alerts(), [late, ("SatelliteOffline".into(), false, false)]);
    // What was committed after it had gone again does not make it stay.
    f.hub.leave(f.satellite(), joined.session);
    f.evaluation.tick(began + TICK + OFFLINE_GRACE * 2);
    f.evaluation.tick(began + TICK + OFFLINE_GRACE * 3);
    assert_eq!(f.alerts()[1], ("SatelliteOffline".into(), true, false));
}

#[tokio::test]
async fn another_satellite_of_the_same_name_takes_the_place_of_the_first() {
    let f = fixture().await;
    let stop = CancellationToken::new();
    let keeping = {
        let (evaluation, compiled, stop) = (f.evaluation.clone(), f.policies.watch(), stop.clone());
        tokio::spawn(async move { evaluation.keep_until(compiled, stop).await })
    };
    // Nothing is compiled anew in between, and nothing that is compiled differs.
    let first = f.satellite();
    f.registry.remove("office-1", wall()).await.unwrap();
    let second = add(&f.registry, b"second").await;
    assert_ne!(first, second);
    let known = |id| f.evaluation.read(|alerts, _| alerts.context().satellite(id).is_some());
    for _ in 0..500 {
        if known(second) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(known(second) && !known(first));
    f.sees(1, true, 0);
    assert_eq!(f.state(), State::Ok);
    stop.cancel();
    keeping.await.unwrap();
}
