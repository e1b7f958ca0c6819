//! Where vantage points agree about a host and where not: its ports, sorted by the states that each one saw.

use crate::scan_result::protocols;
use portolan_common::observation::{HostObservation, PortState, Protocol};
use portolan_common::ports::{PortSet, PortSpec};

/// Ports that look the same to each vantage point, whatever they look like to the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Class {
    pub protocol: Protocol,
    /// Never empty.
    pub ports: PortSet,
    /// By vantage point; `None` where it was not scanned.
    pub states: Vec<Option<PortState>>,
}

impl Class {
    /// Whether all see the same.
    pub fn agrees(&self) -> bool {
        self.states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Whether it is open to somebody.
    pub fn is_open_somewhere(&self) -> bool {
        self.states.contains(&Some(PortState::Open))
    }
}

/// Sorts the ports asked for.
pub fn classes(sightings: &[&HostObservation], asked: &PortSpec) -> Vec<Class> {
    protocols(asked).flat_map(|protocol| sort(sightings, protocol, asked.of(protocol))).collect()
}

/// Splits the set by what each vantage point saw, one after the other.
fn sort(sightings: &[&HostObservation], protocol: Protocol, ports: &PortSet) -> Vec<Class> {
    let mut classes = vec![Class { protocol, ports: ports.clone(), states: Vec::new() }];
    for seen in sightings {
        let by_state: Vec<_> =
            PortState::ALL.iter().map(|state| (*state, seen.ports_in(protocol, *state))).collect();
        let mut split = Vec::with_capacity(classes.len());
        for class in classes {
            let mut rest = class.ports;
            let with = |state| class.states.iter().copied().chain([state]).collect();
            for (state, ports) in &by_state {
                let here = rest.intersection(ports);
                if !here.is_empty() {
                    rest = rest.difference(&here);
                    split.push(Class { protocol, ports: here, states: with(Some(*state)) });
                }
            }
            if !rest.is_empty() {
                split.push(Class { protocol, ports: rest, states: with(None) });
            }
        }
        classes = split;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::{host, ports};
    use portolan_common::observation::Reason;

    #[test]
    fn ports_are_sorted_by_what_each_saw() {
        let a = host(
            "h",
            "10.0.0.1",
            true,
            &[(PortState::Open, Reason::SynAck, "1-2"), (PortState::Closed, Reason::Reset, "3-9")],
        );
        let b = host(
            "h",
            "10.0.0.1",
            true,
            &[(PortState::Open, Reason::SynAck, "1"), (PortState::Filtered, Reason::NoResponse, "2-8")],
        );
        let asked = "1-9".parse().unwrap();
        let (open, closed, filtered) =
            (Some(PortState::Open), Some(PortState::Closed), Some(PortState::Filtered));
        let class = |text, states| Class { protocol: Protocol::Tcp, ports: ports(text), states };
        assert_eq!(
            classes(&[&a, &b], &asked),
            [
                class("1", vec![open, open]),
                class("2", vec![open, filtered]),
                class("3-8", vec![closed, filtered]),
                class("9", vec![closed, None]),
            ]
        );
        assert!(classes(&[&a], &asked).iter().all(Class::agrees));
    }
}
