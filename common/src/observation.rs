//! What a satellite saw: port states, the reasons for them, and the observation of one host in one sweep.

use crate::ports::{PortSet, PortSpec};
use jiff::Timestamp;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that people and scripts read.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| UnknownWord(text.to_owned()))
            }
        }
    };
}

/// A word outside the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word `{0}`")]
pub struct UnknownWord(pub String);

words!(
    /// A transport protocol.
    Protocol {
        /// TCP, RFC 9293.
        Tcp = "tcp",
        /// UDP, RFC 768.
        Udp = "udp",
    }
);

words!(
    /// A port state, as nmap defines them.
    PortState {
        /// Something accepts connections or answered a payload.
        Open = "open",
        /// The target itself refused.
        Closed = "closed",
        /// Silence after every retransmission, or a device's rejection.
        Filtered = "filtered",
        /// UDP silence: open and filtered look alike.
        OpenFiltered = "open|filtered",
    }
);

words!(
    /// What was seen that made the state; nmap's reason names.
    Reason {
        /// The TCP handshake was answered.
        SynAck = "syn-ack",
        /// A connect call was refused: the target answered RST.
        ConnRefused = "conn-refused",
        /// A raw probe was answered with RST.
        Reset = "reset",
        /// Silence after every retransmission.
        NoResponse = "no-response",
        /// ICMP network unreachable, or no route from the satellite.
        NetUnreach = "net-unreach",
        /// ICMP host unreachable, or nobody answered ARP/NDP.
        HostUnreach = "host-unreach",
        /// ICMP protocol unreachable.
        ProtoUnreach = "proto-unreach",
        /// ICMP port unreachable.
        PortUnreach = "port-unreach",
        /// ICMP network administratively prohibited.
        NetProhibited = "net-prohibited",
        /// ICMP host administratively prohibited.
        HostProhibited = "host-prohibited",
        /// ICMP communication administratively prohibited.
        AdminProhibited = "admin-prohibited",
        /// ICMP time exceeded.
        TimeExceeded = "time-exceeded",
        /// A UDP payload was answered.
        UdpResponse = "udp-response",
        /// Silence over UDP of a host that limits how often it sends ICMP errors: nmap has no word for it.
        IcmpRateLimited = "icmp-rate-limited",
    }
);

words!(
    /// How a host's answers may be somebody else's.
    SuspectKind {
        /// A device completes handshakes in the name of ports that are not open.
        SynProxy = "syn-proxy",
        /// A device on the way resets connections in the host's name.
        RstInjection = "rst-injection",
        /// It accepts connections only to hold them.
        Tarpit = "tarpit",
        /// It answered the satellite before and then no more: the satellite was probably shut out.
        Shunned = "shunned",
    }
);

/// That answers which came in a host's name may not be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// What it looks like.
    pub kind: SuspectKind,
    /// How sure, percent: 1 to 100.
    pub confidence: u8,
    /// What was seen that says so, for people: at most [`Suspicion::MAX_EVIDENCE`] bytes.
    pub evidence: String,
}

impl Suspicion {
    /// Bytes of evidence at most.
    pub const MAX_EVIDENCE: usize = 200;
}

/// Ports of one host that share protocol, state and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRun {
    /// Their protocol.
    pub protocol: Protocol,
    /// Their state.
    pub state: PortState,
    /// Why.
    pub reason: Reason,
    /// The ports; never empty.
    pub ports: PortSet,
}

/// What is known of one port beyond its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDetail {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// Round-trip time of the probe that was answered, microseconds; 0 when it was not measured.
    pub rtt_us: u32,
}

/// Everything one satellite saw of one host in one sweep: the runs, with `unscanned`, account for every port asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostObservation {
    /// The target as the operator wrote it.
    pub target: String,
    /// The address that was probed.
    pub address: IpAddr,
    /// Whether anything at all answered.
    pub up: bool,
    /// When the last port was decided, by the satellite's clock.
    pub observed_at: Timestamp,
    /// At most one for each combination of protocol, state and reason; disjoint within a protocol.
    pub runs: Vec<StateRun>,
    /// One for each open port, ascending by (protocol, port).
    pub details: Vec<PortDetail>,
    /// Ports asked for that the satellite's scope forbids here; never probed.
    pub unscanned: PortSpec,
    /// That some of it may not have come from the host.
    pub suspect: Option<Suspicion>,
}

impl HostObservation {
    /// The ports of a protocol that are in a state, whatever the reason.
    pub fn ports_in(&self, protocol: Protocol, state: PortState) -> PortSet {
        self.runs
            .iter()
            .filter(|run| run.protocol == protocol && run.state == state)
            .fold(PortSet::default(), |all, run| all.union(&run.ports))
    }

    /// State and reason of one port; `None` when it was not asked for or not scanned.
    pub fn state_of(&self, protocol: Protocol, port: u16) -> Option<(PortState, Reason)> {
        self.runs
            .iter()
            .find(|run| run.protocol == protocol && run.ports.contains(port))
            .map(|run| (run.state, run.reason))
    }

    /// What is known of one port beyond its state.
    pub fn detail_of(&self, protocol: Protocol, port: u16) -> Option<&PortDetail> {
        self.details.iter().find(|detail| detail.protocol == protocol && detail.port == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>().unwrap(), *reason);
        }
        for kind in SuspectKind::ALL {
            assert_eq!(kind.as_str().parse::<SuspectKind>().unwrap(), *kind);
        }
        assert_eq!("open|filtered".parse::<PortState>().unwrap(), PortState::OpenFiltered);
        assert!("opened".parse::<PortState>().is_err());
    }
}
