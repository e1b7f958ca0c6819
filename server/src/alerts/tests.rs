//! Tests of alerts: a small deployment, transitions as the evaluator tells them, and time that the tests make.

mod baselines;
mod changes;
mod holding;
mod lifecycle;
mod property;
mod satellites;

use super::*;
use crate::evaluate::{Expected, Sight, State, Transition};
use portolan_common::expectation::{Expectation, ExpectedPorts};
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSpec;
use portolan_common::schedule::{Cron, Schedule, Window};
use portolan_policy::compile::CompiledCheck;
use portolan_policy::model::{Maintenance, Quorums, Segment, Severities};
use portolan_proto::v1;
use std::net::IpAddr;
use std::time::Duration;

pub(super) const OFFICE: SatelliteId = SatelliteId(Uuid::from_u128(1));
pub(super) const DMZ: SatelliteId = SatelliteId(Uuid::from_u128(2));

/// 2026-11-20 12:00 UTC, a Friday, and so many seconds.
pub(super) fn at(second: i64) -> Timestamp {
    "2026-11-20T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

pub(super) fn ports(text: &str) -> PortSpec {
    if text.is_empty() { PortSpec::default() } else { text.parse().unwrap() }
}

pub(super) fn check(name: &str) -> CompiledCheck {
    CompiledCheck {
        name: name.into(),
        tenant: "default".into(),
        satellites: vec!["dmz-1".into(), "office-1".into()],
        targets: vec!["10.99.2.0/24".into(), "shop.internal".into()],
        exclude: Vec::new(),
        ports: ExpectedPorts {
            open: ports("80,443,U:53"),
            closed: ports("23"),
            blocked: ports("3306"),
            watch: ports("8000-8100"),
        },
        schedule: Schedule::Every(Duration::from_secs(30)),
        confirm: 2,
        recover: 2,
        quorum: Quorums::default(),
        severity: Severities::default(),
        labels: BTreeMap::from([("team".into(), "shop".into())]),
        depend_on: Vec::new(),
        method: "auto".into(),
        paused: false,
    }
}

/// Whatever depends on the one before it in the list.
pub(super) fn chain(names: &[&str]) -> Vec<CompiledCheck> {
    let before = [None].into_iter().chain(names.iter().map(|name| Some((*name).to_owned())));
    names
        .iter()
        .zip(before)
        .map(|(name, on)| CompiledCheck { depend_on: Vec::from_iter(on), ..check(name) })
        .collect()
}

pub(super) fn context(checks: Vec<CompiledCheck>) -> Context {
    let place = |name: &str, segment: &str| SatelliteName {
        name: name.into(),
        segment: segment.into(),
        tenant: "default".into(),
    };
    let satellites = BTreeMap::from([(OFFICE, place("office-1", "office")), (DMZ, place("dmz-1", "dmz"))]);
    let segment = |cidr: &str| Segment {
        tenant: "default".into(),
        cidrs: vec![cidr.parse().unwrap()],
        description: String::new(),
        labels: BTreeMap::new(),
        seen_as: BTreeMap::new(),
    };
    let segments = BTreeMap::from([
        ("office".to_owned(), segment("10.99.1.0/24")),
        ("dmz".to_owned(), segment("10.99.2.0/24")),
        ("dmz-inner".to_owned(), segment("10.99.2.128/25")),
    ]);
    // Sundays from two to four in Berlin.
    let window =
        Window { cron: Cron::new("0 2 * * SUN", "Europe/Berlin").unwrap(), lasts: Duration::from_secs(7200) };
    let matches = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
    let maintenance = BTreeMap::from([("patch night".to_owned(), Maintenance { matches, window })]);
    Context::new(checks, satellites, segments, maintenance)
}

/// Ids that count.
pub(super) fn counted_ids() -> Ids {
    let mut count = 0u16;
    Box::new(move |now| {
        count += 1;
        let [high, low] = count.to_be_bytes();
        let millis = now.as_millisecond() as u64;
        uuid::Builder::from_unix_timestamp_millis(millis, &[0, 0, 0, 0, 0, 0, 0, 0, high, low]).into_uuid()
    })
}

pub(super) fn alerts() -> Alerts {
    with_checks(vec![check("shop")])
}

pub(super) fn with_checks(checks: Vec<CompiledCheck>) -> Alerts {
    let mut alerts = Alerts::new(counted_ids());
    alerts.set_context(Arc::new(context(checks)), at(0));
    alerts
}

pub(super) fn sight(satellite: SatelliteId, state: Option<PortState>, mismatch: bool) -> Sight {
    let reason = match state {
        Some(PortState::Open) => Reason::SynAck,
        Some(PortState::Closed) => Reason::ConnRefused,
        _ => Reason::NoResponse,
    };
    Sight {
        satellite,
        state: state.map(|state| (state, reason)),
        seen: at(0),
        since: at(0),
        stale: false,
        mismatch,
        in_a_row: 2,
        rtts_us: vec![400, 0, 412],
        usual_rtt_us: 405,
    }
}

/// A step of `tcp/PORT` on 10.99.2.10 as check `shop` has it, seen from the office.
pub(super) fn step(expectation: Expectation, port: u16, to: State, state: PortState) -> Transition {
    let mismatch = to == State::Firing;
    Transition {
        key: key("shop", "10.99.2.10", Some(port)),
        target: String::new(),
        expected: Expected::Port(expectation),
        from: if mismatch { State::Pending } else { State::Firing },
        to,
        at: at(0),
        since: at(0),
        flapping: false,
        late: false,
        sights: vec![sight(OFFICE, Some(state), mismatch)],
        gone: false,
    }
}

pub(super) fn key(check: &str, address: &str, port: Option<u16>) -> Key {
    let address: IpAddr = address.parse().unwrap();
    Key { check: check.into(), address, port: port.map(|port| (Protocol::Tcp, port)) }
}

/// A port that must be open is silent.
pub(super) fn shut(port: u16) -> Transition {
    step(Expectation::Open, port, State::Firing, PortState::Filtered)
}

/// … and answers again.
pub(super) fn healed(port: u16) -> Transition {
    step(Expectation::Open, port, State::Ok, PortState::Open)
}

/// The same of another check.
pub(super) fn of(check: &str, transition: Transition) -> Transition {
    let key = Key { check: check.into(), ..transition.key };
    Transition { key, ..transition }
}

pub(super) fn host(to: State) -> Transition {
    Transition {
        key: key("shop", "10.99.2.10", None),
        expected: Expected::Up,
        sights: vec![sight(OFFICE, None, to == State::Firing)],
        ..step(Expectation::Open, 0, to, PortState::Filtered)
    }
}

/// The kinds of what happened since it was last asked, with the alerts' names and ports.
pub(super) fn told(alerts: &mut Alerts) -> Vec<String> {
    let told = alerts.take_events().into_iter().map(|change| {
        let port = if change.alert.port == 0 { String::new() } else { format!(" {}", change.alert.port) };
        format!("{} {}{port}", change.kind.as_str(), change.alert.labels["alertname"])
    });
    told.collect()
}

/// The only unresolved alert.
pub(super) fn only(alerts: &Alerts) -> v1::Alert {
    let current = alerts.current(&[]);
    assert_eq!(current.len(), 1, "{current:#?}");
    current.into_iter().next().unwrap()
}

pub(super) fn firing(alerts: &Alerts) -> usize {
    alerts.list(&ListQuery { firing: true, ..ListQuery::default() }).len()
}

/// A disk: applies writes, and gives back what stands there.
#[derive(Default)]
pub(super) struct Disk(BTreeMap<(Kind, Vec<u8>), Vec<u8>>);

impl Disk {
    pub(super) fn write(&mut self, alerts: &mut Alerts) {
        for write in alerts.take_writes() {
            match write.value {
                Some(value) => drop(self.0.insert((write.kind, write.key), value)),
                None => drop(self.0.remove(&(write.kind, write.key))),
            }
        }
    }

    pub(super) fn load(&self) -> Alerts {
        let documents = |kind| {
            let of_kind = self.0.iter().filter(|((known, _), _)| *known == kind);
            Ok::<_, Unreadable>(of_kind.map(|((_, key), value)| (key.clone(), value.clone())).collect())
        };
        Alerts::load(documents, counted_ids()).unwrap()
    }
}

/// What survives a restart, with the same checks.
pub(super) fn restarted(alerts: &mut Alerts, disk: &mut Disk, now: Timestamp) -> Alerts {
    disk.write(alerts);
    let mut again = disk.load();
    again.set_context(alerts.context().clone(), now);
    again
}
