//! Conversions between wire and domain types, once, at the edge. From the wire everything is checked: a peer's
//! message that breaks the contract becomes a [`WireError`], never a wrong observation.

use crate::v1;
use jiff::Timestamp;
use portolan_common::observation::{
    HostObservation, PortDetail, PortState, Protocol, Reason, StateRun, SuspectKind, Suspicion,
};
use portolan_common::ports::{PortSet, PortSpec};
use std::net::IpAddr;

/// A message that breaks the wire contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not 4 or 16 bytes.
    #[error("an address of {0} bytes")]
    Address(usize),
    /// Spans run past port 65,535 or come in an odd number.
    #[error("port spans that leave 0-65535")]
    Ports,
    /// An enum value that this version does not know.
    #[error("an unknown {0}")]
    Unknown(&'static str),
    /// Two runs claim the same port or the same state and reason, or a run is empty.
    #[error("state runs that overlap, repeat or are empty")]
    Runs,
    /// No protobuf message, or cut off.
    #[error("bytes that are no message")]
    Malformed,
    /// A time outside years -9999 to 9999.
    #[error("a time out of range")]
    Time,
    /// A text that is longer than the contract allows.
    #[error("a target of {0} bytes")]
    Target(usize),
    /// No percentage, or evidence that is longer than the contract allows.
    #[error("a suspicion out of range")]
    Suspicion,
}

/// Reads 4 or 16 bytes; an IPv4-mapped address becomes IPv4, so that an address has one spelling.
pub fn address_from_wire(bytes: &[u8]) -> Result<IpAddr, WireError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes)
        .map(|v6| IpAddr::from(v6).to_canonical())
        .map_err(|_| WireError::Address(bytes.len()))
}

/// 4 or 16 bytes in network order.
pub fn address_to_wire(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Milliseconds since the Unix epoch.
pub fn time_from_wire(ms: i64) -> Result<Timestamp, WireError> {
    Timestamp::from_millisecond(ms).map_err(|_| WireError::Time)
}

impl From<&PortSet> for v1::PortSpans {
    fn from(ports: &PortSet) -> Self {
        let mut spans = Vec::with_capacity(ports.ranges().len() * 2);
        let mut next = 0u32;
        for range in ports.ranges() {
            let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
            spans.extend([first - next, last - first]);
            next = last + 1;
        }
        Self { spans }
    }
}

impl TryFrom<&v1::PortSpans> for PortSet {
    type Error = WireError;

    fn try_from(wire: &v1::PortSpans) -> Result<Self, WireError> {
        let (pairs, rest) = wire.spans.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(WireError::Ports);
        }
        let mut next = 0u32;
        pairs
            .iter()
            .map(|[gap, more]| {
                let first = next.checked_add(*gap).ok_or(WireError::Ports)?;
                let last = first.checked_add(*more).ok_or(WireError::Ports)?;
                next = last.saturating_add(1);
                let port = |n: u32| u16::try_from(n).map_err(|_| WireError::Ports);
                Ok(port(first)?..=port(last)?)
            })
            .collect()
    }
}

fn spans_to_set(spans: Option<&v1::PortSpans>) -> Result<PortSet, WireError> {
    spans.map_or_else(|| Ok(PortSet::default()), PortSet::try_from)
}

macro_rules! enums {
    ($domain:ident, $($variant:ident),+) => {
        impl From<$domain> for v1::$domain {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant),+ }
            }
        }

        impl TryFrom<v1::$domain> for $domain {
            type Error = WireError;
            fn try_from(value: v1::$domain) -> Result<Self, WireError> {
                match value {
                    $(v1::$domain::$variant => Ok(Self::$variant),)+
                    v1::$domain::Unspecified => Err(WireError::Unknown(stringify!($domain))),
                }
            }
        }
    };
}

enums!(Protocol, Tcp, Udp);
enums!(PortState, Open, Closed, Filtered, OpenFiltered);
enums!(
    Reason,
    SynAck,
    ConnRefused,
    Reset,
    NoResponse,
    NetUnreach,
    HostUnreach,
    ProtoUnreach,
    PortUnreach,
    NetProhibited,
    HostProhibited,
    AdminProhibited,
    TimeExceeded,
    UdpResponse,
    IcmpRateLimited
);
enums!(SuspectKind, SynProxy, RstInjection, Tarpit, Shunned);

impl From<&Suspicion> for v1::Suspicion {
    fn from(suspicion: &Suspicion) -> Self {
        Self {
            kind: v1::SuspectKind::from(suspicion.kind).into(),
            confidence: suspicion.confidence.into(),
            evidence: suspicion.evidence.clone(),
        }
    }
}

/// A kind that a later version added is no reason to refuse what was seen: the host goes without it.
fn suspicion_from_wire(wire: &v1::Suspicion) -> Result<Option<Suspicion>, WireError> {
    let Ok(kind) = SuspectKind::try_from(wire.kind()) else { return Ok(None) };
    let confidence = u8::try_from(wire.confidence).ok().filter(|percent| (1..=100).contains(percent));
    match confidence {
        Some(confidence) if wire.evidence.len() <= Suspicion::MAX_EVIDENCE => {
            Ok(Some(Suspicion { kind, confidence, evidence: wire.evidence.clone() }))
        }
        _ => Err(WireError::Suspicion),
    }
}

impl From<&HostObservation> for v1::HostObservation {
    fn from(host: &HostObservation) -> Self {
        let unscanned = |ports: &PortSet| (!ports.is_empty()).then(|| v1::PortSpans::from(ports));
        Self {
            target: host.target.clone(),
            address: address_to_wire(host.address),
            up: host.up,
            observed_at_ms: host.observed_at.as_millisecond(),
            runs: host
                .runs
                .iter()
                .map(|run| v1::StateRun {
                    protocol: v1::Protocol::from(run.protocol).into(),
                    state: v1::PortState::from(run.state).into(),
                    reason: v1::Reason::from(run.reason).into(),
                    ports: Some((&run.ports).into()),
                })
                .collect(),
            details: host
                .details
                .iter()
                .map(|detail| v1::PortDetail {
                    protocol: v1::Protocol::from(detail.protocol).into(),
                    port: detail.port.into(),
                    rtt_us: detail.rtt_us,
                })
                .collect(),
            unscanned_tcp: unscanned(&host.unscanned.tcp),
            unscanned_udp: unscanned(&host.unscanned.udp),
            suspect: host.suspect.as_ref().map(v1::Suspicion::from),
        }
    }
}

impl TryFrom<&v1::HostObservation> for HostObservation {
    type Error = WireError;

    fn try_from(wire: &v1::HostObservation) -> Result<Self, WireError> {
        if wire.target.len() > 255 {
            return Err(WireError::Target(wire.target.len()));
        }
        let mut seen = PortSpec::default();
        let mut runs: Vec<StateRun> = Vec::new();
        for run in &wire.runs {
            let protocol = run.protocol().try_into()?;
            let (state, reason) = (run.state().try_into()?, run.reason().try_into()?);
            // One run for each combination: that bounds how many there are, and with it the work below.
            if runs.iter().any(|r| (r.protocol, r.state, r.reason) == (protocol, state, reason)) {
                return Err(WireError::Runs);
            }
            let ports = spans_to_set(run.ports.as_ref())?;
            let known = match protocol {
                Protocol::Tcp => &mut seen.tcp,
                Protocol::Udp => &mut seen.udp,
            };
            if ports.is_empty() || !known.intersection(&ports).is_empty() {
                return Err(WireError::Runs);
            }
            *known = known.union(&ports);
            runs.push(StateRun { protocol, state, reason, ports });
        }
        let details = wire
            .details
            .iter()
            .map(|detail| {
                Ok(PortDetail {
                    protocol: detail.protocol().try_into()?,
                    port: u16::try_from(detail.port).map_err(|_| WireError::Ports)?,
                    rtt_us: detail.rtt_us,
                })
            })
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            target: wire.target.clone(),
            address: address_from_wire(&wire.address)?,
            up: wire.up,
            observed_at: time_from_wire(wire.observed_at_ms)?,
            runs,
            details,
            unscanned: PortSpec {
                tcp: spans_to_set(wire.unscanned_tcp.as_ref())?,
                udp: spans_to_set(wire.unscanned_udp.as_ref())?,
            },
            suspect: wire.suspect.as_ref().map(suspicion_from_wire).transpose()?.flatten(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn quiet_host() -> HostObservation {
        HostObservation {
            target: "10.99.2.10".into(),
            address: "10.99.2.10".parse().unwrap(),
            up: true,
            observed_at: Timestamp::from_millisecond(1_790_000_000_000).unwrap(),
            runs: vec![
                StateRun {
                    protocol: Protocol::Tcp,
                    state: PortState::Open,
                    reason: Reason::SynAck,
                    ports: [22, 80, 443, 3306, 5432, 6379, 8080, 9200].into_iter().collect(),
                },
                StateRun {
                    protocol: Protocol::Tcp,
                    state: PortState::Closed,
                    reason: Reason::ConnRefused,
                    ports: PortSet::all()
                        .difference(&[0, 22, 80, 443, 3306, 5432, 6379, 8080, 9200].into_iter().collect()),
                },
            ],
            details: [22, 80, 443, 3306, 5432, 6379, 8080, 9200]
                .map(|port| PortDetail { protocol: Protocol::Tcp, port, rtt_us: 412 })
                .into(),
            unscanned: PortSpec::default(),
            suspect: None,
        }
    }

    #[test]
    fn a_full_sweep_of_a_quiet_host_fits_in_200_bytes() {
        let wire = v1::HostObservation::from(&quiet_host());
        assert!(wire.encoded_len() <= 200, "{} bytes", wire.encoded_len());
        assert_eq!(HostObservation::try_from(&wire).unwrap(), quiet_host());
    }

    #[test]
    fn broken_messages_are_refused() {
        let good = v1::HostObservation::from(&quiet_host());
        let spoil = |change: fn(&mut v1::HostObservation)| {
            let mut bad = good.clone();
            change(&mut bad);
            HostObservation::try_from(&bad).unwrap_err()
        };
        assert_eq!(spoil(|h| h.address = vec![1; 5]), WireError::Address(5));
        assert_eq!(spoil(|h| h.runs[1].ports = h.runs[0].ports.clone()), WireError::Runs);
        assert_eq!(spoil(|h| h.runs[0].ports = None), WireError::Runs);
        assert_eq!(spoil(|h| h.runs[0].state = 99), WireError::Unknown("PortState"));
        assert_eq!(spoil(|h| h.observed_at_ms = i64::MAX), WireError::Time);
        assert_eq!(spoil(|h| h.target = "x".repeat(256)), WireError::Target(256));
        for spans in
            [vec![1], vec![65_536, 0], vec![0, 65_536], vec![u32::MAX, u32::MAX], vec![65_535, 0, 0, 0]]
        {
            assert_eq!(PortSet::try_from(&v1::PortSpans { spans }), Err(WireError::Ports));
        }
    }

    #[test]
    fn a_suspicion_of_a_later_kind_is_left_out() {
        let suspect = Suspicion {
            kind: SuspectKind::SynProxy,
            confidence: 95,
            evidence: "3 of 3 random high ports answered".into(),
        };
        let host = HostObservation { suspect: Some(suspect), ..quiet_host() };
        let wire = v1::HostObservation::from(&host);
        assert_eq!(HostObservation::try_from(&wire).unwrap(), host);
        let with = |change: fn(&mut v1::Suspicion)| {
            let mut changed = wire.clone();
            change(changed.suspect.as_mut().unwrap());
            HostObservation::try_from(&changed)
        };
        assert_eq!(with(|s| s.kind = 99), Ok(quiet_host()));
        for bad in [
            with(|s| s.confidence = 0),
            with(|s| s.confidence = 101),
            with(|s| s.evidence = "x".repeat(Suspicion::MAX_EVIDENCE + 1)),
        ] {
            assert_eq!(bad, Err(WireError::Suspicion));
        }
    }

    proptest! {
        #[test]
        fn port_sets_survive_the_wire(ports in proptest::collection::vec(any::<u16>(), 0..300)) {
            let set: PortSet = ports.into_iter().collect();
            prop_assert_eq!(PortSet::try_from(&v1::PortSpans::from(&set)).unwrap(), set);
        }

        #[test]
        fn hostile_spans_never_panic(spans in proptest::collection::vec(any::<u32>(), 0..20)) {
            let _ = PortSet::try_from(&v1::PortSpans { spans });
        }
    }
}
