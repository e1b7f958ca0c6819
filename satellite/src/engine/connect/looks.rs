//! Single looks: each a host of its own, with ports of its own and somebody who waits for what is seen. Pure.
//!
//! Any number of looks may be asked for at the same path, which is probed gently; so that they do not take all places
//! while other paths are idle, only some of one lane are under way, and the others wait in its queue.

use super::host::HostSweep;
use super::intake::{Intake, Turn};
use crate::engine::Refusal;
use crate::engine::lanes::LaneKey;
use crate::engine::port_list::PortList;
use crate::engine::roster::Admitted;
use crate::engine::standing::{Look, Looked};
use crate::engine::wall::Wall;
use jiff::Timestamp;
use portolan_common::addresses::AddressRange;
use portolan_common::observation::Protocol;
use portolan_common::ports::PortSpec;
use portolan_common::scope::{Guard, Refused};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How many looks of one lane are under way at once: enough for all probes that may be in flight on a gentle path,
/// while the last words of silent ports are waited for.
const PER_LANE: usize = 32;

/// Ports of all looks under way, 3 bytes each.
const MAX_CELLS: usize = 1 << 20;

/// Who waits for a look.
#[derive(Debug)]
pub(in crate::engine) struct Caller {
    pub(in crate::engine) reply: oneshot::Sender<Looked>,
    /// The place that it takes among all that wait.
    pub(in crate::engine) place: OwnedSemaphorePermit,
}

impl Caller {
    fn has_gone(&self) -> bool {
        self.reply.is_closed()
    }

    fn tell(self, looked: Looked) {
        // Nobody listens when the look was given up meanwhile.
        let _ = self.reply.send(looked);
        drop(self.place);
    }
}

/// A look that was asked for.
#[derive(Debug)]
pub(in crate::engine) struct Order {
    target: String,
    address: IpAddr,
    asked: PortSpec,
    caller: Caller,
}

impl Order {
    pub(in crate::engine) fn new(look: Look, caller: Caller) -> Self {
        let Look { target, address, ports } = look;
        Self { target, address, asked: PortSpec::only(Protocol::Tcp, ports), caller }
    }

    fn refusals(&self, refused: &[Refused]) -> impl Iterator<Item = Refusal> {
        refused.iter().map(move |Refused { ports, rule }| Refusal {
            addresses: AddressRange::single(self.address),
            ports: ports.clone().filter(|ports| *ports != self.asked),
            rule: rule.clone(),
        })
    }
}

/// A look under way.
#[derive(Debug)]
pub(in crate::engine) struct UnderWay {
    order: Order,
    /// The lane in whose queue it had its turn.
    lane: LaneKey,
    cells: usize,
    /// What a changed scope took from it.
    refusals: Vec<Refusal>,
}

/// The looks of one lane.
#[derive(Debug, Default)]
struct Queue {
    under_way: usize,
    waiting: VecDeque<Order>,
}

/// All looks, in the order in which they were asked for, lane by lane.
#[derive(Debug, Default)]
pub(in crate::engine) struct Looks {
    /// Those that the guard is still to be asked about.
    next: VecDeque<Order>,
    lanes: HashMap<LaneKey, Queue>,
    /// Ports of the looks under way.
    cells: usize,
}

impl Looks {
    /// Takes looks in.
    pub(super) fn take(&mut self, orders: &mut VecDeque<Order>) {
        self.next.append(orders);
    }

    /// Whether no look waits or is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty() && self.lanes.is_empty()
    }

    /// Whether nothing of past looks is left.
    #[cfg(test)]
    pub(super) fn is_forgotten(&self) -> bool {
        self.is_empty() && self.cells == 0
    }

    /// Whether nobody waits any more for a look under way.
    pub(super) fn is_given_up(look: &UnderWay) -> bool {
        look.order.caller.has_gone()
    }

    /// Drops the looks that wait and that nobody waits for.
    pub(super) fn drop_given_up(&mut self) {
        self.next.retain(|order| !order.caller.has_gone());
        for queue in self.lanes.values_mut() {
            queue.waiting.retain(|order| !order.caller.has_gone());
        }
    }

    /// Gives a look up that was under way.
    pub(super) fn give_up(&mut self, look: UnderWay) {
        self.leave(&look);
    }

    /// A look is not under way any more: the next of its lane may be.
    fn leave(&mut self, look: &UnderWay) {
        self.cells = self.cells.saturating_sub(look.cells);
        let Some(queue) = self.lanes.get_mut(&look.lane) else { return };
        queue.under_way = queue.under_way.saturating_sub(1);
        if queue.under_way > 0 {
            self.next.extend(queue.waiting.pop_front());
        } else if let Some(queue) = self.lanes.remove(&look.lane) {
            // Under a changed scope they may belong elsewhere: nobody here would call them up.
            self.next.extend(queue.waiting);
        }
    }
}

impl Intake for Looks {
    type Tag = UnderWay;
    // Else a satellite whose network is down would call everything blocked.
    const NO_WAY_IS_A_RESULT: bool = false;

    fn next(&mut self, guard: &Guard, wall: &Wall, now: Instant) -> Turn<UnderWay> {
        if self.cells >= MAX_CELLS {
            return Turn::Later;
        }
        let Some(order) = self.next.pop_front() else { return Turn::Later };
        if order.caller.has_gone() {
            return Turn::Passed;
        }
        let permit = guard.permit(order.address, &order.asked, &wall.at(now));
        let Some(target) = permit.target else {
            let refusals = order.refusals(&permit.refused).collect();
            order.caller.tell(Looked::Refused(refusals));
            return Turn::Passed;
        };
        let lane = LaneKey::of(&target, true);
        let queue = self.lanes.entry(lane.clone()).or_default();
        if queue.under_way >= PER_LANE {
            queue.waiting.push_back(order);
            return Turn::Passed;
        }
        queue.under_way += 1;
        let refused = order.asked.difference(target.ports());
        let list = Arc::new(PortList::new(target.ports().clone()));
        let cells = list.len();
        self.cells += cells;
        Turn::Host(Admitted { target, list, refused }, UnderWay { order, lane, cells, refusals: Vec::new() })
    }

    fn asked<'a>(&'a self, look: &'a UnderWay) -> &'a PortSpec {
        &look.order.asked
    }

    fn narrowed(&mut self, look: &mut UnderWay, _: IpAddr, refused: &[Refused]) {
        look.refusals = look.order.refusals(refused).collect();
    }

    fn finished(&mut self, look: UnderWay, host: &HostSweep, observed_at: Timestamp) -> bool {
        self.leave(&look);
        let UnderWay { order, refusals, .. } = look;
        let observation = host.observation(&order.target, observed_at);
        let settled = observation.is_some();
        order.caller.tell(observation.map_or(Looked::Refused(refusals), Looked::Host));
        settled
    }

    fn unfinished(&mut self, look: UnderWay, address: IpAddr, errno: i32) {
        self.leave(&look);
        let error = std::io::Error::from_raw_os_error(errno);
        let why = format!("no connection to {address} could be opened from this host: {error}");
        look.order.caller.tell(Looked::Failed(why));
    }
}
