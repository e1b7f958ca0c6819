//! What a host comes to in the end, and what a changed scope takes from it.

use super::HostSweep;
use crate::engine::port_list::ascending;
use crate::engine::verdict::{Cell, Probing, Verdict};
use jiff::Timestamp;
use portolan_common::observation::{HostObservation, PortDetail, Protocol, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::scope::PermittedTarget;

impl HostSweep {
    /// The scope changed: what `target` does not permit any more and has no last word yet is refused. How many ports
    /// that are.
    pub(in crate::engine) fn narrow(&mut self, target: PermittedTarget) -> u32 {
        let lost = self.withdraw(|port| !target.ports().tcp.contains(port));
        self.target = target;
        lost
    }

    /// The scope changed and permits nothing of this host any more. How many ports are refused by that.
    pub(in crate::engine) fn close(&mut self) -> u32 {
        self.withdraw(|_| true)
    }

    /// Whether a port has its last word or was withdrawn.
    pub(in crate::engine) fn is_decided(&self, cell: u16) -> bool {
        !self.is_unsettled(cell)
    }

    /// What was seen. `None` when nothing was settled before the scope refused the host.
    pub(in crate::engine) fn observation(
        &self,
        target: &str,
        observed_at: Timestamp,
    ) -> Option<HostObservation> {
        let mut runs = Vec::new();
        for verdict in Verdict::ALL {
            let ports = self.ports_where(|cell| cell.settled() == Some(verdict));
            if !ports.is_empty() {
                let (state, reason) = verdict.words(Probing::Connect);
                runs.push(StateRun { protocol: Protocol::Tcp, state, reason, ports });
            }
        }
        if runs.is_empty() {
            return None;
        }
        let mut details: Vec<PortDetail> = self
            .round_trips
            .iter()
            .map(|(cell, rtt)| PortDetail {
                protocol: Protocol::Tcp,
                port: self.port(*cell),
                // 0 means not measured.
                rtt_us: rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1)),
            })
            .collect();
        details.sort_unstable_by_key(|detail| detail.port);
        Some(HostObservation {
            target: target.to_owned(),
            address: self.target.address(),
            up: self.up,
            observed_at,
            runs,
            details,
            unscanned: self.refused.clone(),
            suspect: None,
        })
    }

    /// The ports that have a verdict: all that were permitted, unless the scope changed meanwhile.
    pub(in crate::engine) fn covered(&self) -> PortSpec {
        PortSpec { tcp: self.ports_where(|cell| cell.settled().is_some()), ..PortSpec::default() }
    }

    fn withdraw(&mut self, forbidden: impl Fn(u16) -> bool) -> u32 {
        let mut lost = Vec::new();
        for (cell, port) in self.cells.iter_mut().zip(self.list.tcp.iter()) {
            if !cell.is_settled() && forbidden(*port) {
                cell.withdraw();
                lost.push(*port);
            }
        }
        // At most 65,536 ports.
        let count = lost.len() as u32;
        self.unsettled = self.unsettled.saturating_sub(count);
        self.refused.tcp = self.refused.tcp.union(&lost.into_iter().collect());
        count
    }

    fn ports_where(&self, wanted: impl Fn(&Cell) -> bool) -> PortSet {
        let cells = self.cells.iter().zip(self.list.tcp.iter());
        ascending(cells.filter(|(cell, _)| wanted(cell)).map(|(_, port)| *port))
    }
}
