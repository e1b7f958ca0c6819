//! Whatever happens in whatever order, the evaluator and the reference say the same.

use super::fixture::{address, satellite, second};
use super::reference::{PORTS, Reference};
use crate::evaluate::*;
use crate::store::Order;
use portolan_common::addresses::AddressSet;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::Schedule;
use portolan_policy::model::{Quorum, Quorums};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const SATELLITES: u128 = 3;

fn place(number: usize) -> IpAddr {
    address(&format!("10.0.0.{}", number + 1))
}

#[derive(Clone, Debug)]
enum Event {
    Look {
        from: u128,
        at: usize,
        name: bool,
        up: bool,
        states: Vec<Option<PortState>>,
        back: u64,
        ago: i64,
        late: bool,
    },
    Wait(i64),
    Online(u128, bool),
    Set(Vec<CheckSpec>),
}

fn states() -> impl Strategy<Value = Vec<Option<PortState>>> {
    let some = prop_oneof![
        3 => Just(Some(PortState::Open)),
        2 => Just(Some(PortState::Closed)),
        3 => Just(Some(PortState::Filtered)),
        1 => Just(None),
    ];
    let udp = prop_oneof![
        Just(Some(PortState::Open)),
        Just(Some(PortState::Closed)),
        Just(Some(PortState::OpenFiltered)),
        Just(None),
    ];
    let each = (proptest::collection::vec(some, 4), proptest::collection::vec(udp, 2));
    prop_oneof![
        3 => each.prop_map(|(tcp, udp)| [tcp, udp].concat()),
        2 => Just(vec![Some(PortState::Filtered); 4]),
        2 => Just(vec![Some(PortState::Open); 4]),
        1 => Just(vec![None, Some(PortState::Filtered)]),
    ]
}

fn quorum() -> impl Strategy<Value = Quorum> {
    prop_oneof![
        Just(Quorum::Any),
        Just(Quorum::Majority),
        Just(Quorum::All),
        (1u32..4).prop_map(Quorum::AtLeast)
    ]
}

/// Each port's role: open, closed, blocked, watched, or none of the check's.
fn expected_ports() -> impl Strategy<Value = ExpectedPorts> {
    proptest::collection::vec(
        prop_oneof![4 => Just(0), 2 => Just(1), 2 => Just(2), 2 => Just(3), 1 => Just(4)],
        6,
    )
    .prop_map(|roles| {
        let of = |wanted: i32| {
            let of = |protocol: Protocol| -> PortSet {
                let ports = PORTS.iter().zip(&roles);
                ports
                    .filter(|((p, _), role)| *p == protocol && **role == wanted)
                    .map(|((_, port), _)| *port)
                    .collect()
            };
            PortSpec { tcp: of(Protocol::Tcp), udp: of(Protocol::Udp) }
        };
        ExpectedPorts { open: of(0), closed: of(1), blocked: of(2), watch: of(3) }
    })
}

fn addresses() -> impl Strategy<Value = AddressSet> {
    proptest::collection::vec(any::<bool>(), 3).prop_map(|which| {
        which.iter().enumerate().filter(|(_, there)| **there).map(|(number, _)| place(number)).collect()
    })
}

fn baseline() -> impl Strategy<Value = Option<Arc<BaselinePorts>>> {
    let open = proptest::collection::vec((0usize..3, 0..SATELLITES, any::<bool>(), 0u16..16), 0..6);
    let seen = proptest::collection::vec(addresses(), SATELLITES as usize);
    proptest::option::of((open, seen)).prop_map(|both| {
        let (open, seen) = both?;
        let mut baseline = BaselinePorts::default();
        for (at, from, udp, ports) in open {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let ports: PortSet = (1..=4).filter(|port| ports >> (port - 1) & 1 == 1).collect();
            baseline.open.entry((place(at), protocol)).or_default().insert(satellite(from), ports);
        }
        baseline.seen = (0..).map(satellite).zip(seen).collect();
        Some(Arc::new(baseline))
    })
}

fn spec(name: &'static str) -> impl Strategy<Value = CheckSpec> {
    let who = proptest::collection::btree_set((0..SATELLITES).prop_map(satellite), 1..=3);
    let names = proptest::collection::btree_set(Just("shop".to_owned()), 0..=1);
    let exclude = prop_oneof![3 => Just(AddressSet::default()), 1 => addresses()];
    let quorums = (quorum(), quorum(), quorum());
    (
        (who, addresses(), names, exclude, expected_ports(), baseline()),
        (1u64..4, 1u32..4, 1u32..4, quorums),
        (proptest::bool::weighted(0.1), proptest::bool::weighted(0.1)),
    )
        .prop_map(
            move |(what, (minutes, confirm, recover, (open, closed, blocked)), (paused, other))| {
                let (satellites, addresses, names, exclude, ports, baseline) = what;
                CheckSpec {
                    name: name.into(),
                    tenant: if other { "acme".into() } else { "default".into() },
                    satellites,
                    addresses: addresses.difference(&exclude),
                    names,
                    exclude,
                    ports,
                    baseline,
                    schedule: Schedule::Every(Duration::from_secs(minutes * 60)),
                    pace: Duration::ZERO,
                    confirm,
                    recover,
                    quorum: Quorums { open, closed, blocked },
                    paused,
                }
            },
        )
}

fn specs() -> impl Strategy<Value = Vec<CheckSpec>> {
    (proptest::option::weighted(0.9, spec("a")), proptest::option::weighted(0.9, spec("b")))
        .prop_map(|(a, b)| a.into_iter().chain(b).collect())
}

fn event() -> impl Strategy<Value = Event> {
    let look = (
        (0..SATELLITES, 0usize..3, proptest::bool::weighted(0.4), any::<bool>(), states()),
        prop_oneof![6 => Just(0u64), 1 => 0u64..4],
        prop_oneof![4 => Just(0i64), 1 => -60i64..1200],
        proptest::bool::weighted(0.15),
    )
        .prop_map(|((from, at, name, up, states), back, ago, late)| Event::Look {
            from,
            at,
            name,
            up,
            states,
            back,
            ago,
            late,
        });
    prop_oneof![
        20 => look,
        6 => prop_oneof![4 => 1i64..120, 1 => Just(180), 1 => 200i64..2000].prop_map(Event::Wait),
        2 => (0..SATELLITES, any::<bool>()).prop_map(|(from, online)| Event::Online(from, online)),
        1 => specs().prop_map(Event::Set),
    ]
}

/// A history with little variety: one host, one satellite or two, to and fro.
fn narrow() -> impl Strategy<Value = Vec<Event>> {
    let states = prop_oneof![Just(vec![Some(PortState::Open); 4]), Just(vec![Some(PortState::Filtered); 4])];
    let event = prop_oneof![
        8 => (0..2u128, states, proptest::bool::weighted(0.1)).prop_map(|(from, states, late)| Event::Look {
            from, at: 0, name: false, up: states[0] == Some(PortState::Open), states, back: 0, ago: if late { 300 } else { 0 }, late,
        }),
        4 => (1i64..300).prop_map(Event::Wait),
        1 => Just(Event::Wait(900)),
    ];
    proptest::collection::vec(event, 1..120)
}

fn observation(at: usize, name: bool, up: bool, states: &[Option<PortState>]) -> HostObservation {
    let mut runs: BTreeMap<(Protocol, PortState), Vec<u16>> = BTreeMap::new();
    for ((protocol, port), state) in PORTS.iter().zip(states) {
        if let Some(state) = state {
            runs.entry((*protocol, *state)).or_default().push(*port);
        }
    }
    let reason = |state| match state {
        PortState::Open => Reason::SynAck,
        PortState::Closed => Reason::Reset,
        PortState::Filtered | PortState::OpenFiltered => Reason::NoResponse,
    };
    let runs = runs.into_iter().map(|((protocol, state), ports)| StateRun {
        protocol,
        state,
        reason: reason(state),
        ports: ports.into_iter().collect(),
    });
    HostObservation {
        target: if name { "shop".to_owned() } else { place(at).to_string() },
        address: place(at),
        up,
        observed_at: second(0),
        runs: runs.collect(),
        details: Vec::new(),
        unscanned: PortSpec::default(),
        suspect: None,
    }
}

/// In one order, and without what the reference does not know: how old a sight is, and rows of what matches.
fn comparable(mut told: Vec<Transition>) -> Vec<Transition> {
    told.sort_by_key(|told| told.key.clone());
    for told in &mut told {
        for sight in &mut told.sights {
            sight.stale = false;
            (sight.rtts_us, sight.usual_rtt_us) = (Vec::new(), 0);
            if !sight.mismatch {
                sight.in_a_row = 0;
            }
            if told.key.port.is_none() {
                // Of a host that answered, which answer is the best.
                sight.state = None;
            }
        }
    }
    told
}

fn run(first: Vec<CheckSpec>, events: Vec<Event>) -> Result<usize, TestCaseError> {
    let (mut evaluator, mut reference) = (Evaluator::new(), Reference::default());
    let mut now = 1_000_000;
    let mut sequences: BTreeMap<SatelliteId, u64> = BTreeMap::new();
    let mut told_in_all = 0;
    let mut specs = Vec::new();
    for event in [Event::Set(first)].into_iter().chain(events) {
        let mut told = Vec::new();
        let expected = match &event {
            Event::Look { from, at, name, up, states, back, ago, late } => {
                now += 1;
                let satellite = satellite(*from);
                let last = sequences.entry(satellite).or_insert(10);
                *last += u64::from(*back == 0);
                let order = Order { ordinal: 1, sequence: *last - *back };
                let host = observation(*at, *name, *up, states);
                let at = second(now - ago);
                let seen = Sighting { tenant: "default", satellite, order, at, late: *late, host: &host };
                evaluator.observe(&seen, second(now), &mut told);
                reference.observe(&seen, second(now))
            }
            Event::Wait(seconds) => {
                now += seconds;
                evaluator.tick(second(now), &mut told);
                reference.tick(second(now))
            }
            Event::Online(from, online) => {
                evaluator.set_online(satellite(*from), *online, second(now), &mut told);
                reference.set_online(satellite(*from), *online, second(now))
            }
            Event::Set(new) => {
                specs = new.clone();
                evaluator.set_checks(new.clone(), second(now), &mut told);
                reference.set_checks(new.clone(), second(now))
            }
        };
        told_in_all += told.len();
        prop_assert_eq!(comparable(told), comparable(expected), "{:?}", event);
        for spec in &specs {
            for number in 0..3 {
                for port in PORTS.into_iter().map(Some).chain([None]) {
                    let key = Key { check: spec.name.clone(), address: place(number), port };
                    prop_assert_eq!(
                        evaluator.state(&key),
                        reference.state(&key),
                        "{:?} after {:?}",
                        key,
                        event
                    );
                }
            }
            let counts = evaluator.counts(&spec.name).unwrap();
            prop_assert_eq!(counts, reference.counts(&spec.name), "{} after {:?}", &spec.name, event);
        }
    }
    Ok(told_in_all)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_the_reference_says(first in specs(), events in proptest::collection::vec(event(), 1..80)) {
        run(first, events)?;
    }

    #[test]
    fn it_says_what_the_reference_says_of_long_histories_of_one_host(spec in spec("a"), events in narrow()) {
        let addresses = AddressSet::single(place(0));
        let satellites = (0..2).map(satellite).collect();
        let spec = CheckSpec { addresses, satellites, tenant: "default".into(), paused: false, ..spec };
        run(vec![spec], events)?;
    }
}
