//! One vantage point before one target: what it last saw there, of the ports and of the host as a whole.

use super::evidence::{Evidence, Run};
use super::plan::{Judged, Plan};
use crate::store::Order;
use jiff::Timestamp;
use portolan_common::expectation::Judgement;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason};
use portolan_common::ports::PortSet;

/// A look at an address, taken from an observation.
pub(super) struct Look<'a> {
    pub satellite: SatelliteId,
    pub order: Order,
    /// By the server's clock.
    pub at: Timestamp,
    pub host: &'a HostObservation,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Vantage {
    pub satellite: SatelliteId,
    pub evidence: Evidence,
    /// Boxed: most checks do not judge hosts.
    host: Option<Box<HostLook>>,
}

/// The last look at the host as a whole.
#[derive(Clone, Copy, Debug)]
struct HostLook {
    order: Order,
    seen: Timestamp,
    since: Timestamp,
    up: bool,
    judgement: Judgement,
}

/// What was last seen of a port, or of the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glimpse {
    pub seen: Timestamp,
    pub since: Timestamp,
    pub judgement: Judgement,
    /// `None`: the host did not answer.
    pub state: Option<(PortState, Reason)>,
}

impl Vantage {
    pub(super) fn new(satellite: SatelliteId) -> Self {
        Self { satellite, evidence: Evidence::default(), host: None }
    }

    /// When it last looked.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.evidence.runs().iter().map(|run| run.seen).max()
    }

    /// What it last saw of a port, or, without one, of the host.
    pub(super) fn glimpse(&self, port: Option<(Protocol, u16)>) -> Option<Glimpse> {
        if let Some((protocol, port)) = port {
            let run = self.evidence.of(protocol, port)?;
            let state = Some((run.state, run.reason));
            return Some(Glimpse { seen: run.seen, since: run.since, judgement: run.judgement, state });
        }
        let HostLook { seen, since, up, judgement, .. } = **self.host.as_ref()?;
        Some(Glimpse { seen, since, judgement, state: self.answer().filter(|_| up) })
    }

    /// The best answer that the host last gave.
    fn answer(&self) -> Option<(PortState, Reason)> {
        let runs = self.evidence.runs().iter();
        runs.max_by_key(|run| (run.state != PortState::Filtered, run.order))
            .map(|run| (run.state, run.reason))
    }

    /// Takes what a look says of the host, after what it says of the ports is there; what that is, if it is news.
    ///
    /// An answer is an answer. Silence says that the host is down when the look was at a TCP port that must be open,
    /// and all of these are silent; when others were open a moment ago it says nothing yet.
    pub(super) fn note_host(&mut self, plan: &Plan, look: &Look<'_>, judged: &[Judged]) -> Option<Judgement> {
        let open = &plan.spec.ports.open.tcp;
        let asked = judged
            .iter()
            .any(|judged| judged.protocol == Protocol::Tcp && !judged.ports.intersection(open).is_empty());
        let up = look.host.up;
        if !plan.judges_hosts()
            || !(up || asked)
            || self.host.as_ref().is_some_and(|host| host.order >= look.order)
        {
            return None;
        }
        let silent = || {
            let runs = self.evidence.runs().iter();
            let silent = runs.filter(|run| run.protocol == Protocol::Tcp && run.state == PortState::Filtered);
            silent.map(|run| run.ports.intersection(open).len()).sum::<usize>() == open.len()
        };
        let judgement = match up {
            true => Judgement::Match,
            false if silent() => Judgement::Mismatch,
            false => Judgement::Inconclusive,
        };
        let before = self.host.as_ref().filter(|host| host.up == up);
        let since = before.map_or(look.at, |host| host.since);
        self.host = Some(Box::new(HostLook { order: look.order, seen: look.at, since, up, judgement }));
        Some(judgement)
    }

    /// Whether the host was silent to it when it last looked: silence of one of its ports proves nothing then.
    pub(super) fn is_silent(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.judgement == Judgement::Mismatch)
    }

    /// The host itself is not looked at any more.
    pub(super) fn forget_host(&mut self) {
        self.host = None;
    }

    /// Takes what was known before a restart; anything that comes later is news.
    pub(super) fn restore(&mut self, port: Option<(Protocol, u16)>, glimpse: Glimpse) {
        let Glimpse { seen, since, judgement, state } = glimpse;
        let order = Order::default();
        match (port, state) {
            (Some((protocol, port)), Some((state, reason))) => {
                let ports = PortSet::single(port);
                self.evidence.restore(Run { protocol, judgement, state, reason, ports, order, seen, since });
            }
            (None, state) => {
                self.host = Some(Box::new(HostLook { order, seen, since, up: state.is_some(), judgement }))
            }
            (Some(_), None) => {}
        }
    }
}
