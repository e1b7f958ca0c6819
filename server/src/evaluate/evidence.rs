//! What one vantage point last saw of one host's ports, as far as a check asks for them: as few runs of ports as tell
//! apart what was seen and when. A port is in one run at most.

use super::plan::Judged;
use crate::store::Order;
use jiff::Timestamp;
use portolan_common::expectation::Judgement;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::{PortSet, PortSpec};

/// A host whose ports were seen at more different times than this loses some of the times: otherwise looks at port
/// after port could make every look slower than the last.
const MAX_RUNS: usize = 64;

/// Ports that were last seen alike, in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub protocol: Protocol,
    pub judgement: Judgement,
    pub state: PortState,
    pub reason: Reason,
    pub ports: PortSet,
    /// The look.
    pub order: Order,
    /// When that was.
    pub seen: Timestamp,
    /// Since when they have been in that state, as far as it was seen.
    pub since: Timestamp,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    runs: Vec<Run>,
}

impl Evidence {
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The run that has a port.
    pub(super) fn of(&self, protocol: Protocol, port: u16) -> Option<&Run> {
        self.runs.iter().find(|run| run.protocol == protocol && run.ports.contains(port))
    }

    /// Ports that were seen in this look already, or in a later one.
    pub(super) fn seen_by(&self, order: Order) -> PortSpec {
        let mut seen = PortSpec::default();
        for run in self.runs.iter().filter(|run| run.order >= order) {
            seen = seen.union(&PortSpec::only(run.protocol, run.ports.clone()));
        }
        seen
    }

    /// Takes a look, of which everything is news.
    pub(super) fn note(&mut self, look: &[Judged], order: Order, seen: Timestamp) {
        // Most looks take the place of one that was like them, and there are very many of them.
        let old = std::mem::replace(&mut self.runs, Vec::with_capacity(look.len()));
        for fresh in look {
            let mut rest = fresh.ports.clone();
            for known in
                old.iter().filter(|known| (known.protocol, known.state) == (fresh.protocol, fresh.state))
            {
                let same = known.ports.intersection(&fresh.ports);
                if !same.is_empty() {
                    rest = rest.difference(&same);
                    self.add(fresh, same, order, seen, known.since);
                }
            }
            if !rest.is_empty() {
                self.add(fresh, rest, order, seen, seen);
            }
        }
        for mut known in old {
            for fresh in look.iter().filter(|fresh| fresh.protocol == known.protocol) {
                known.ports = known.ports.difference(&fresh.ports);
            }
            if !known.ports.is_empty() {
                self.runs.push(known);
            }
        }
        self.bound();
    }

    /// Takes what was known before a restart.
    pub(super) fn restore(&mut self, run: Run) {
        self.forget(&PortSpec::only(run.protocol, run.ports.clone()));
        self.merge(run, |known, run| (known.seen, known.since) == (run.seen, run.since));
        self.bound();
    }

    fn bound(&mut self) {
        if self.runs.len() > MAX_RUNS {
            self.fold(|a, b| (a.order, a.seen) == (b.order, b.seen));
        }
        if self.runs.len() > MAX_RUNS {
            self.fold(|_, _| true);
        }
    }

    fn add(&mut self, fresh: &Judged, ports: PortSet, order: Order, seen: Timestamp, since: Timestamp) {
        let Judged { protocol, judgement, state, reason, .. } = *fresh;
        self.merge(Run { protocol, judgement, state, reason, ports, order, seen, since }, |known, run| {
            (known.order, known.since) == (run.order, run.since)
        });
    }

    /// Adds the ports of a run to those that were seen alike and are the same otherwise too.
    fn merge(&mut self, run: Run, same: impl Fn(&Run, &Run) -> bool) {
        let alike = |run: &Run| (run.protocol, run.judgement, run.state, run.reason);
        match self.runs.iter_mut().find(|known| alike(known) == alike(&run) && same(known, &run)) {
            Some(known) => {
                known.ports = known.ports.union(&run.ports);
                known.since = known.since.min(run.since);
                // Evidence may be taken for older than it is, and never for newer; and never counts twice.
                known.seen = known.seen.min(run.seen);
                known.order = known.order.max(run.order);
            }
            None => self.runs.push(run),
        }
    }

    fn fold(&mut self, same: impl Fn(&Run, &Run) -> bool) {
        for run in std::mem::take(&mut self.runs) {
            self.merge(run, &same);
        }
    }

    /// Forgets what was seen of some ports.
    pub(super) fn forget(&mut self, ports: &PortSpec) {
        for run in &mut self.runs {
            run.ports = run.ports.difference(ports.of(run.protocol));
        }
        self.runs.retain(|run| !run.ports.is_empty());
    }
}
