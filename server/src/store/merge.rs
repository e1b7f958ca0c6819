//! What an observation does to what is known: a pure function from the current runs and the new ones to the next
//! current runs and the changes. A state that stays keeps its `since`.

use super::moment::Moment;
use portolan_common::observation::{PortState, Reason, StateRun};
use portolan_common::ports::PortSet;

/// A host whose ports took their states at more different times than this loses the times, not the states: otherwise
/// a satellite that reports port after port could make every merge slower than the last.
const MAX_RUNS: usize = 64;

/// Ports of one (host, satellite, protocol) that took the same state for the same reason at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownRun {
    pub state: PortState,
    pub reason: Reason,
    pub since: Moment,
    pub ports: PortSet,
}

/// Ports that changed from one state to another together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunChange {
    pub from: PortState,
    pub to: PortState,
    pub reason: Reason,
    pub ports: PortSet,
}

/// The runs of one protocol, seen at `at`, over what was known. Ports that were not asked for stay as they are; a
/// port seen for the first time is no change.
pub(super) fn merge<'a>(
    known: &[KnownRun],
    seen: impl IntoIterator<Item = &'a StateRun>,
    at: Moment,
) -> (Vec<KnownRun>, Vec<RunChange>) {
    let mut next: Vec<KnownRun> = Vec::new();
    let mut changes: Vec<RunChange> = Vec::new();
    let mut observed = PortSet::default();
    for run in seen {
        let mut fresh = run.ports.clone();
        for old in known {
            let both = old.ports.intersection(&run.ports);
            if both.is_empty() {
                continue;
            }
            fresh = fresh.difference(&both);
            let since = if old.state == run.state { old.since } else { at };
            if old.state != run.state {
                add_change(
                    &mut changes,
                    RunChange { from: old.state, to: run.state, reason: run.reason, ports: both.clone() },
                );
            }
            add(&mut next, KnownRun { state: run.state, reason: run.reason, since, ports: both });
        }
        if !fresh.is_empty() {
            add(&mut next, KnownRun { state: run.state, reason: run.reason, since: at, ports: fresh });
        }
        observed = observed.union(&run.ports);
    }
    for old in known {
        let kept = old.ports.difference(&observed);
        if !kept.is_empty() {
            add(&mut next, KnownRun { ports: kept, ..old.clone() });
        }
    }
    if next.len() > MAX_RUNS {
        next = fold(next);
    }
    next.sort_by_key(|run| run.ports.ranges().next().map(|range| *range.start()));
    (next, changes)
}

/// Forgets when each port took its state, but for the earliest time of all ports in that state.
fn fold(runs: Vec<KnownRun>) -> Vec<KnownRun> {
    let mut folded: Vec<KnownRun> = Vec::new();
    for run in runs {
        match folded.iter_mut().find(|r| (r.state, r.reason) == (run.state, run.reason)) {
            Some(same) => {
                same.since = same.since.min(run.since);
                same.ports = same.ports.union(&run.ports);
            }
            None => folded.push(run),
        }
    }
    folded
}

fn add(runs: &mut Vec<KnownRun>, run: KnownRun) {
    match runs.iter_mut().find(|r| (r.state, r.reason, r.since) == (run.state, run.reason, run.since)) {
        Some(same) => same.ports = same.ports.union(&run.ports),
        None => runs.push(run),
    }
}

fn add_change(changes: &mut Vec<RunChange>, change: RunChange) {
    match changes.iter_mut().find(|c| (c.from, c.to, c.reason) == (change.from, change.to, change.reason)) {
        Some(same) => same.ports = same.ports.union(&change.ports),
        None => changes.push(change),
    }
}

#[cfg(test)]
mod tests {
    use super::super::moment::Order;
    use super::*;
    use jiff::Timestamp;
    use portolan_common::observation::Protocol;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(second: i64) -> Moment {
        let order = Order { ordinal: 1, sequence: second.unsigned_abs() };
        Moment { order, at: Timestamp::from_second(second).unwrap(), skew_ms: 0 }
    }

    fn run(state: PortState, ports: impl IntoIterator<Item = u16>) -> StateRun {
        let reason = match state {
            PortState::Open => Reason::SynAck,
            PortState::Closed => Reason::ConnRefused,
            _ => Reason::NoResponse,
        };
        StateRun { protocol: Protocol::Tcp, state, reason, ports: ports.into_iter().collect() }
    }

    #[test]
    fn an_unchanged_sweep_changes_nothing() {
        let seen = [run(PortState::Open, [22]), run(PortState::Closed, 23..100)];
        let (known, changes) = merge(&[], &seen, at(1));
        assert!(changes.is_empty(), "the first sight is no change");
        let (again, changes) = merge(&known, &seen, at(2));
        assert_eq!(again, known);
        assert!(changes.is_empty());
    }

    #[test]
    fn a_port_that_closes_is_one_change_and_keeps_its_neighbours() {
        let (known, _) = merge(&[], &[run(PortState::Open, [22, 80])], at(1));
        let (next, changes) =
            merge(&known, &[run(PortState::Open, [22]), run(PortState::Closed, [80])], at(2));
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].from, changes[0].to), (PortState::Open, PortState::Closed));
        assert_eq!(changes[0].ports, PortSet::single(80));
        assert_eq!(next[0].since, at(1));
        assert_eq!(next[1].since, at(2));
    }

    #[test]
    fn a_host_reported_port_by_port_stays_small() {
        let mut known = Vec::new();
        for port in 0..2000 {
            (known, _) = merge(&known, &[run(PortState::Closed, [port])], at(i64::from(port)));
            assert!(known.len() <= MAX_RUNS);
        }
        assert_eq!(known.iter().map(|run| run.ports.len()).sum::<usize>(), 2000);
    }

    proptest! {
        /// Against a map from port to (state, since).
        #[test]
        fn it_does_what_a_map_of_single_ports_would(
            sweeps in proptest::collection::vec(
                proptest::collection::btree_map(0u16..40, 0usize..3, 0..40), 1..8)
        ) {
            const STATES: [PortState; 3] = [PortState::Open, PortState::Closed, PortState::Filtered];
            let mut model: BTreeMap<u16, (PortState, Moment)> = BTreeMap::new();
            let mut known = Vec::new();
            for (i, sweep) in sweeps.iter().enumerate() {
                let now = at(i as i64 + 1);
                let seen: Vec<StateRun> = STATES
                    .iter()
                    .enumerate()
                    .map(|(s, state)| run(*state, sweep.iter().filter(|(_, v)| **v == s).map(|(p, _)| *p)))
                    .filter(|run| !run.ports.is_empty())
                    .collect();
                let (next, changes) = merge(&known, &seen, now);
                known = next;
                let mut expected_changes = 0;
                for (port, state) in sweep {
                    let state = STATES[*state];
                    match model.get(port) {
                        Some((old, _)) if *old == state => {}
                        Some(_) => { expected_changes += 1; model.insert(*port, (state, now)); }
                        None => { model.insert(*port, (state, now)); }
                    }
                }
                prop_assert_eq!(changes.iter().map(|c| c.ports.len()).sum::<usize>(), expected_changes);
                let flat: BTreeMap<u16, (PortState, Moment)> = known
                    .iter()
                    .flat_map(|r| r.ports.iter().map(|p| (p, (r.state, r.since))).collect::<Vec<_>>())
                    .collect();
                prop_assert_eq!(&flat, &model);
                prop_assert_eq!(known.iter().map(|r| r.ports.len()).sum::<usize>(), flat.len());
            }
        }
    }
}
