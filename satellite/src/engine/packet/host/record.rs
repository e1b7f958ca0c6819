//! What a host comes to in the end, and what a changed scope takes from it.

use super::{Host, Phase};
use crate::engine::packet::track::{Cell, Track};
use crate::engine::port_list::{PortList, ascending};
use crate::engine::verdict::{Probing, Verdict};
use jiff::Timestamp;
use portolan_common::observation::{HostObservation, PortDetail, PortState, Protocol, StateRun};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::scope::PermittedTarget;
use std::sync::Arc;

impl Host {
    /// The scope changed: what `target` does not permit any more and has no last word yet is refused. How many ports
    /// that are.
    pub(in crate::engine::packet) fn narrow(&mut self, target: PermittedTarget) -> u32 {
        let permitted = target.ports().clone();
        self.target = target;
        // Nobody asked for these: whether the scope still permits them is not worth asking.
        if let Some((_, track)) = &mut self.canaries {
            track.settle_rest(|_| Verdict::NoResponse);
        }
        self.withdraw(&permitted)
    }

    /// The scope permits only these of the ports that pings use.
    pub(in crate::engine::packet) fn narrow_pings(&mut self, permitted: &PortSpec) {
        if let Phase::Discovering(discovery) = &mut self.phase {
            discovery.narrow(permitted);
        }
    }

    /// The scope changed and permits nothing of this host any more. How many ports are refused by that.
    pub(in crate::engine::packet) fn forbid(&mut self) -> u32 {
        let lost = self.withdraw(&PortSpec::default());
        // Whatever it was at, nothing more is sent.
        self.canaries = None;
        self.phase = Phase::Done;
        lost
    }

    /// What was seen. `None` when nothing was settled before the scope refused the host.
    pub(in crate::engine::packet) fn observation(
        &self,
        target: &str,
        observed_at: Timestamp,
    ) -> Option<HostObservation> {
        if self.given_up {
            return None;
        }
        let mut runs = Vec::new();
        for (protocol, probing) in [(Protocol::Tcp, Probing::Syn), (Protocol::Udp, Probing::Udp)] {
            if let Some(verdict) = self.down.filter(|_| !self.list.spec.of(protocol).is_empty()) {
                // Nobody was there to leave a port open.
                let (state, (_, reason)) = (PortState::Filtered, verdict.words(probing));
                runs.push(StateRun { protocol, state, reason, ports: self.list.spec.of(protocol).clone() });
                continue;
            }
            for verdict in Verdict::ALL {
                let ports = self.ports_where(protocol, |cell| cell.settled() == Some(verdict));
                if !ports.is_empty() {
                    let (state, reason) = verdict.words(probing);
                    runs.push(StateRun { protocol, state, reason, ports });
                }
            }
        }
        if runs.is_empty() {
            return None;
        }
        let details = self.round_trips.iter();
        let details = details.map(|&(protocol, port, rtt_us)| PortDetail { protocol, port, rtt_us });
        let mut details: Vec<PortDetail> = details.collect();
        details.sort_unstable_by_key(|detail| (detail.protocol, detail.port));
        Some(HostObservation {
            target: target.to_owned(),
            address: self.target.address(),
            up: self.up,
            observed_at,
            runs,
            details,
            unscanned: self.refused.clone(),
            suspect: self.evidence.verdict(),
        })
    }

    /// The ports that have a verdict: all that were permitted, unless the scope changed meanwhile.
    pub(in crate::engine::packet) fn covered(&self) -> PortSpec {
        if self.down.is_some() {
            return self.list.spec.clone();
        }
        PortSpec {
            tcp: self.ports_where(Protocol::Tcp, |cell| cell.settled().is_some()),
            udp: self.ports_where(Protocol::Udp, |cell| cell.settled().is_some()),
        }
    }

    fn ports_where(&self, protocol: Protocol, wanted: impl Fn(&Cell) -> bool) -> PortSet {
        let (ports, track) = match protocol {
            Protocol::Tcp => (&self.list.tcp, self.tcp.as_ref()),
            Protocol::Udp => (&self.list.udp, self.udp.as_ref().map(|udp| &udp.track)),
        };
        let cells = track.into_iter().flat_map(|track| track.cells().iter().zip(ports.iter()));
        ascending(cells.filter(|(cell, _)| wanted(cell)).map(|(_, port)| *port))
    }

    fn withdraw(&mut self, permitted: &PortSpec) -> u32 {
        let refused = if matches!(self.phase, Phase::Sweeping) {
            let take = |track: Option<&mut Track>, ports: &[u16], permitted: &PortSet| {
                let Some(track) = track else { return PortSet::default() };
                let port = |cell: u32| ports.get(cell as usize).copied().unwrap_or_default();
                let lost = track.withdraw(|cell| !permitted.contains(port(cell)));
                ascending(lost.into_iter().map(port))
            };
            PortSpec {
                tcp: take(self.tcp.as_mut(), &self.list.tcp, &permitted.tcp),
                udp: take(self.udp.as_mut().map(|udp| &mut udp.track), &self.list.udp, &permitted.udp),
            }
        } else {
            // Nothing was probed: the rest becomes its list.
            let lost = self.list.spec.difference(permitted);
            if !lost.is_empty() {
                let left = self.list.spec.intersection(permitted);
                self.list = Arc::new(PortList::new(left));
            }
            lost
        };
        // At most 131,072 ports.
        let count = refused.len() as u32;
        self.refused = self.refused.union(&refused);
        count
    }
}
