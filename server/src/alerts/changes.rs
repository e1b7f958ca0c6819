//! Expected changes: what was announced may happen without paging, exactly that and nothing else.

use super::alert::Alert;
use super::context::Context;
use super::error::{AlertsError, shown};
use super::kept::{Document, Kept};
use crate::store::Kind;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use portolan_common::addresses::parse_network;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::{PortSet, PortSpec};
use portolan_proto::convert::{address_from_wire, time_from_wire};
use portolan_proto::v1;
use prost::Message as _;

/// Changes that are open at the same time.
pub const MAX_OPEN: usize = 1000;
/// Expectations of one change.
pub const MAX_EXPECTATIONS: usize = 100;
/// Changes that are kept, closed ones included.
const MAX_KEPT: usize = 10_000;
/// How long a closed one is kept.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(24 * 90);
const SHORTEST_MS: u64 = 60_000;
const LONGEST_MS: u64 = 30 * 86_400_000;

/// What is expected to be seen: `office->10.99.2.10:8443 open`.
#[derive(Clone, Debug, PartialEq)]
pub struct Anticipated {
    /// A segment, a satellite, or `*`.
    pub from: String,
    /// An address or network.
    pub target: IpNet,
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub ports: PortSet,
    /// What they will be.
    pub state: PortState,
    /// How they were when the change was opened.
    pub before: Vec<v1::PortRecord>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedChange {
    /// Its name; of the open ones each has another.
    pub name: String,
    /// What is expected; one at least.
    pub expectations: Vec<Anticipated>,
    /// Operator.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ends by itself.
    pub ends_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
}

impl Anticipated {
    /// Whether it speaks of what a vantage point sees.
    pub fn is_from(&self, satellite: SatelliteId, context: &Context) -> bool {
        self.from == "*"
            || context
                .satellite(satellite)
                .is_some_and(|place| self.from == place.segment || self.from == place.name)
    }

    fn read(wire: &v1::ChangeExpectation) -> Result<Self, AlertsError> {
        let place = format!("`{}->{}:{}`", shown(&wire.from), shown(&wire.target), shown(&wire.ports));
        let invalid = |why: String| AlertsError::Invalid(format!("{place}: {why}"));
        if wire.from.is_empty() {
            return Err(invalid("from where? A segment, a satellite, or *".into()));
        }
        let target = parse_network(&wire.target).map_err(|error| invalid(error.to_string()))?;
        let protocol = Protocol::try_from(wire.protocol()).map_err(|_| invalid("no such protocol".into()))?;
        let ports: PortSpec = wire.ports.parse().map_err(|error| invalid(format!("{error}")))?;
        if ports.tcp.is_empty() || !ports.udp.is_empty() {
            return Err(invalid("the ports are written without T: or U:, and are one at least".into()));
        }
        let state = PortState::try_from(wire.state()).ok().filter(|state| *state != PortState::OpenFiltered);
        let state = state.ok_or_else(|| invalid("the state is open, closed or filtered".into()))?;
        let before = wire.before.clone();
        Ok(Self { from: wire.from.clone(), target, protocol, ports: ports.tcp, state, before })
    }

    fn to_wire(&self) -> v1::ChangeExpectation {
        let single = self.target.prefix_len() == self.target.max_prefix_len();
        v1::ChangeExpectation {
            from: self.from.clone(),
            target: if single { self.target.addr().to_string() } else { self.target.to_string() },
            protocol: v1::Protocol::from(self.protocol).into(),
            ports: self.ports.to_string(),
            state: v1::PortState::from(self.state).into(),
            before: self.before.clone(),
            after: Vec::new(),
        }
    }
}

impl ExpectedChange {
    /// Reads what an operator asks for.
    ///
    /// # Errors
    /// [`AlertsError::Invalid`].
    pub fn read(request: &v1::OpenChangeRequest, author: &str, now: Timestamp) -> Result<Self, AlertsError> {
        let invalid = |why: &str| AlertsError::Invalid(why.to_owned());
        let name = &request.name;
        let printable = |c: char| !c.is_control() && !c.is_whitespace();
        if !(1..=63).contains(&name.chars().count()) || !name.chars().all(printable) || name.len() > 200 {
            return Err(invalid("a change's name has 1 to 63 printable characters without spaces"));
        }
        if !(1..=MAX_EXPECTATIONS).contains(&request.expectations.len()) {
            return Err(AlertsError::Invalid(format!("a change expects 1 to {MAX_EXPECTATIONS} things")));
        }
        if !(SHORTEST_MS..=LONGEST_MS).contains(&request.lasts_ms) {
            return Err(invalid("a change stays open for 1 minute to 30 days"));
        }
        if request.reason.chars().count() > super::silences::MAX_REASON {
            return Err(invalid("a reason has at most 1,000 characters"));
        }
        let lasts = SignedDuration::from_millis(i64::try_from(request.lasts_ms).unwrap_or(i64::MAX));
        let ends_at = now.checked_add(lasts).map_err(|_| invalid("it would end beyond all calendars"))?;
        let read = |wire| Ok(Anticipated { before: Vec::new(), ..Anticipated::read(wire)? });
        Ok(Self {
            name: name.clone(),
            expectations: request.expectations.iter().map(read).collect::<Result<_, AlertsError>>()?,
            author: author.to_owned(),
            reason: request.reason.trim().to_owned(),
            opened_at: now,
            ends_at,
            closed_at: None,
        })
    }

    /// Whether it still lets things happen.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.closed_at.is_none() && now < self.ends_at
    }

    /// Whether what every vantage point of the alert sees was announced. Of a host that is down: that none of the ports
    /// that must be open on it answer.
    pub fn covers(&self, alert: &Alert, context: &Context) -> bool {
        let Some(key) = alert.subject.key() else { return false };
        let of = |satellite| {
            let there = self.expectations.iter().filter(move |e| e.target.contains(&key.address));
            there.filter(move |e| e.is_from(satellite, context))
        };
        let silent = |satellite: SatelliteId| {
            let Some(check) = context.check(&key.check) else { return false };
            Protocol::ALL.iter().all(|protocol| {
                let announced =
                    of(satellite).filter(|e| e.protocol == *protocol && e.state == PortState::Filtered);
                let announced = announced.fold(PortSet::default(), |all, e| all.union(&e.ports));
                check.ports.open.of(*protocol).difference(&announced).is_empty()
            })
        };
        let announced = |fault: &super::alert::Fault| match (key.port, fault.state) {
            (Some((protocol, port)), Some(state)) => of(fault.satellite)
                .any(|e| e.protocol == protocol && e.ports.contains(port) && e.state == state),
            (None, _) => silent(fault.satellite),
            (Some(_), None) => false,
        };
        !alert.faults.is_empty() && alert.faults.iter().all(announced)
    }

    /// As operators see it, without how things were.
    pub fn to_wire(&self) -> v1::ExpectedChange {
        let mut wire = self.to_record();
        wire.expectations.iter_mut().for_each(|expectation| expectation.before.clear());
        wire
    }

    /// As operators see it, with how things were.
    pub fn to_record(&self) -> v1::ExpectedChange {
        v1::ExpectedChange {
            name: self.name.clone(),
            expectations: self.expectations.iter().map(Anticipated::to_wire).collect(),
            author: self.author.clone(),
            opened_at_ms: self.opened_at.as_millisecond(),
            ends_at_ms: self.ends_at.as_millisecond(),
            closed_at_ms: self.closed_at.map_or(0, Timestamp::as_millisecond),
            reason: self.reason.clone(),
        }
    }
}

/// The message that operators see is also what is kept.
impl Document for ExpectedChange {
    /// When it was opened, and its name.
    type Key = (i64, String);
    const KIND: Kind = Kind::ExpectedChange;

    fn key(&self) -> Self::Key {
        (self.opened_at.as_millisecond(), self.name.clone())
    }

    fn name((opened_at_ms, name): &Self::Key) -> Vec<u8> {
        [&opened_at_ms.to_be_bytes(), name.as_bytes()].concat()
    }

    fn encode(&self) -> Vec<u8> {
        self.to_record().encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record = v1::ExpectedChange::decode(bytes).map_err(|error| error.to_string())?;
        let time = |ms| time_from_wire(ms).map_err(|error| error.to_string());
        let expectations = record.expectations.iter().map(Anticipated::read).collect::<Result<_, _>>();
        Ok(Self {
            expectations: expectations.map_err(|error| error.to_string())?,
            opened_at: time(record.opened_at_ms)?,
            ends_at: time(record.ends_at_ms)?,
            closed_at: if record.closed_at_ms == 0 { None } else { Some(time(record.closed_at_ms)?) },
            name: record.name,
            author: record.author,
            reason: record.reason,
        })
    }
}

impl Kept<ExpectedChange> {
    /// The open one of a name.
    pub(super) fn open_named(&self, name: &str, now: Timestamp) -> Option<&ExpectedChange> {
        self.values().find(|change| change.name == name && change.is_open(now))
    }

    /// Takes a new one in.
    pub(super) fn open(
        &mut self,
        change: ExpectedChange,
        context: &Context,
        now: Timestamp,
    ) -> Result<(), AlertsError> {
        for expectation in &change.expectations {
            if expectation.from != "*" && !context.is_place(&expectation.from) {
                return Err(AlertsError::Invalid(format!(
                    "no segment and no satellite is called `{}`: `portolan satellite list` has them",
                    shown(&expectation.from)
                )));
            }
        }
        if let Some(open) = self.open_named(&change.name, now) {
            return Err(AlertsError::Exists(format!(
                "`{}` is open already, by {} since {}: close it first, or take another name",
                open.name, open.author, open.opened_at
            )));
        }
        if self.values().filter(|change| change.is_open(now)).count() >= MAX_OPEN {
            return Err(AlertsError::Full(format!("{MAX_OPEN} changes are open: close some")));
        }
        self.insert(change);
        Ok(())
    }

    /// Closes those whose time is over, and forgets what was closed long ago.
    pub(super) fn end(&mut self, now: Timestamp) {
        let over = self.values().filter(|change| change.closed_at.is_none() && !change.is_open(now));
        for key in over.map(Document::key).collect::<Vec<_>>() {
            if let Some(change) = self.change(&key) {
                change.closed_at = Some(change.ends_at);
            }
        }
        self.retain(|change| change.closed_at.is_none_or(|at| now.duration_since(at) < KEPT_FOR));
        let surplus = self.len().saturating_sub(MAX_KEPT);
        let closed = self.values().filter(|change| change.closed_at.is_some());
        for key in closed.take(surplus).map(Document::key).collect::<Vec<_>>() {
            self.remove(&key);
        }
    }
}

/// Whether a record of the inventory is one that an expectation speaks of.
pub fn speaks_of(expectation: &Anticipated, record: &v1::PortRecord) -> Option<PortSet> {
    let address = address_from_wire(&record.address).ok()?;
    let place = expectation.from == "*" || [&record.segment, &record.satellite].contains(&&expectation.from);
    let protocol = Protocol::try_from(record.protocol()).ok()?;
    let here = place && protocol == expectation.protocol && expectation.target.contains(&address);
    let ports = PortSet::try_from(record.ports.as_ref()?).ok()?.intersection(&expectation.ports);
    (here && !ports.is_empty()).then_some(ports)
}
