use super::*;
use jiff::Timestamp;
use portolan_common::observation::{Protocol, Reason, StateRun};
use proptest::prelude::*;
use std::collections::BTreeMap;

const EVERY: Duration = Duration::from_secs(600);
const STATES: [PortState; 4] =
    [PortState::Open, PortState::Closed, PortState::Filtered, PortState::OpenFiltered];

fn host(states: impl IntoIterator<Item = (u16, PortState)>) -> HostObservation {
    let mut runs: Vec<StateRun> = Vec::new();
    for (port, state) in states {
        let ports = portolan_common::ports::PortSet::single(port);
        match runs.iter_mut().find(|run| run.state == state) {
            Some(run) => run.ports = run.ports.union(&ports),
            None => {
                runs.push(StateRun { protocol: Protocol::Tcp, state, reason: Reason::NoResponse, ports });
            }
        }
    }
    HostObservation {
        target: String::new(),
        address: address(),
        up: true,
        observed_at: Timestamp::UNIX_EPOCH,
        runs,
        details: Vec::new(),
        unscanned: PortSpec::default(),
        suspect: None,
    }
}

fn address() -> IpAddr {
    "10.0.0.1".parse().unwrap()
}

fn expected() -> ExpectedPorts {
    ExpectedPorts {
        open: "1,2".parse().unwrap(),
        closed: "3".parse().unwrap(),
        blocked: "4".parse().unwrap(),
        watch: "5,6".parse().unwrap(),
    }
}

/// A port that was open, is seen shut once, and looks shut (or `heals`) from then on: when it is looked at, in ms.
fn looks(rules: Rules<'_>, every: Duration, heals_after: usize) -> Vec<u128> {
    let start = Instant::now();
    let mut memory = Memory::default();
    assert_eq!(memory.observe(rules, &host([(1, PortState::Open)]), every, start), Noted::default());
    let noted = memory.observe(rules, &host([(1, PortState::Closed)]), every, start);
    assert!(noted.urgent);
    let mut next = noted.look_at;
    let mut times = Vec::new();
    while let Some(at) = next {
        times.push((at - start).as_millis());
        assert_eq!(memory.begin(address(), at + FIRST), None, "a look that was not planned");
        assert_eq!(memory.begin(address(), at).unwrap().to_string(), "1");
        let state = if times.len() > heals_after { PortState::Open } else { PortState::Filtered };
        assert!(memory.observe(rules, &host([(1, state)]), every, at).urgent);
        next = memory.ended(address(), every, at);
        assert!(times.len() < 20);
    }
    times
}

#[test]
fn a_change_is_looked_at_until_it_is_believed_or_gone() {
    let ports = expected();
    let rules = |confirm| Rules { ports: &ports, confirm, recover: 1 };
    assert_eq!(looks(rules(1), EVERY, 99), [0u128; 0], "believed at once");
    assert_eq!(looks(rules(2), EVERY, 99), [1000]);
    assert_eq!(looks(rules(5), EVERY, 99), [1000, 3000, 7000, 15_000]);
    assert_eq!(looks(rules(5), EVERY, 1), [1000, 3000], "gone");
    // What would not come sooner than the next sweep is left to that.
    assert_eq!(looks(rules(5), Duration::from_secs(4), 99), [1000, 3000]);
    assert_eq!(looks(rules(5), Duration::from_secs(1), 99), [0u128; 0]);
}

#[test]
fn a_fault_that_ends_is_looked_at_as_well() {
    let ports = expected();
    let rules = Rules { ports: &ports, confirm: 1, recover: 3 };
    let now = Instant::now();
    let mut memory = Memory::default();
    let noted = memory.observe(rules, &host([(3, PortState::Open)]), EVERY, now);
    assert_eq!(noted, Noted { urgent: true, look_at: None }, "the very first may be a fault");
    assert_eq!(memory.observe(rules, &host([(3, PortState::Open)]), EVERY, now), Noted::default());
    let noted = memory.observe(rules, &host([(3, PortState::Filtered)]), EVERY, now);
    assert_eq!(noted, Noted { urgent: true, look_at: Some(now + FIRST) });
    // A sweep in between counts too.
    memory.observe(rules, &host([(3, PortState::Closed)]), EVERY, now);
    assert!(memory.has_doubts());
    memory.observe(rules, &host([(3, PortState::Closed)]), EVERY, now);
    assert!(!memory.has_doubts());
    assert_eq!(memory.begin(address(), now + FIRST), None, "there is nothing to look at any more");
    assert!(memory.hosts.is_empty(), "all is well: nothing is kept");
}

#[test]
fn looks_that_fail_go_on_ever_more_slowly() {
    let ports = expected();
    let rules = Rules { ports: &ports, confirm: 2, recover: 2 };
    let start = Instant::now();
    let mut memory = Memory::default();
    let mut next = memory.observe(rules, &host([(2, PortState::Closed)]), EVERY, start).look_at;
    let mut times = Vec::new();
    while let Some(at) = next {
        times.push((at - start).as_secs());
        memory.begin(address(), at).unwrap();
        next = memory.ended(address(), EVERY, at);
    }
    assert_eq!(times, [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023], "then the interval brings it");
    memory.retain(|_| false);
    assert!(memory.hosts.is_empty());
}

/// What a single port would be told.
#[derive(Clone, Copy, Default)]
struct Model {
    seen: bool,
    off: bool,
    doubts: u32,
}

proptest! {
    /// Against each port on its own.
    #[test]
    fn ports_together_fare_as_each_alone(
        confirm in 1u32..5,
        recover in 1u32..5,
        looks in proptest::collection::vec(proptest::collection::btree_map(1u16..8, 0usize..4, 1..7), 1..60),
    ) {
        let ports = expected();
        let rules = Rules { ports: &ports, confirm, recover };
        let now = Instant::now();
        let mut memory = Memory::default();
        let mut model: BTreeMap<u16, Model> = BTreeMap::new();
        for look in looks {
            let noted = memory.observe(
                rules,
                &host(look.iter().map(|(port, state)| (*port, STATES[*state]))),
                EVERY,
                now,
            );
            let (mut urgent, mut arose) = (false, false);
            for (port, state) in look {
                let (state, watched) = (STATES[state], ports.watch.tcp.contains(port));
                let off = match ports.of(Protocol::Tcp, port).map(|expectation| expectation.judge(state)) {
                    Some(Judgement::Inconclusive) => continue,
                    Some(judgement) => judgement == Judgement::Mismatch,
                    None if watched && state != PortState::OpenFiltered => state == PortState::Open,
                    None => continue,
                };
                let port = model.entry(port).or_default();
                if watched && !std::mem::replace(&mut port.seen, true) {
                    port.off = off;
                    continue;
                }
                urgent |= port.doubts > 0 || off != port.off;
                if off == port.off {
                    port.doubts = 0;
                    continue;
                }
                port.doubts += 1;
                if port.doubts >= if off || watched { confirm } else { recover } {
                    (port.off, port.doubts) = (off, 0);
                } else {
                    arose |= port.doubts == 1;
                }
            }
            prop_assert_eq!(noted.urgent, urgent);
            prop_assert_eq!(noted.look_at.is_some(), arose);
            let nothing = Past::default();
            let past = memory.hosts.get(&address()).unwrap_or(&nothing);
            let with = |holds: fn(&Model) -> bool| -> portolan_common::ports::PortSet {
                model.iter().filter(|(_, model)| holds(model)).map(|(port, _)| *port).collect()
            };
            prop_assert_eq!(&past.off.tcp, &with(|model| model.off));
            prop_assert_eq!(past.doubted().tcp, with(|model| model.doubts > 0));
            prop_assert!(past.doubts.len() as u32 <= 2 * confirm.max(recover));
        }
    }
}
