//! One alert: what it is about, how it stands, and what makes it this alert.

use super::context::Context;
use crate::evaluate::{Expected, Key, Sight};
use crate::pki::authority::sha256;
use jiff::Timestamp;
use portolan_common::expectation::Expectation;
use portolan_common::ids::SatelliteId;
use portolan_common::observation::PortState;
use portolan_policy::model::Severity;
use portolan_proto::v1;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Comments on one alert.
pub const MAX_COMMENTS: usize = 100;
/// Vantage points that an alert remembers to have seen it earlier, beside those that see it.
pub const MAX_EARLIER: usize = 100;
/// Transitions that an alert keeps; the check's timeline has them all.
pub const MAX_TRANSITIONS: usize = 10;

/// Transitions that are less than so many milliseconds apart happen at once to whoever reads of them.
const AT_ONCE_MS: u64 = 1000;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertName {
    /// Must be open, and is not.
    PortNotOpen,
    /// Must be closed, and is open.
    PortOpen,
    /// Must be blocked, and answers.
    PortReachable,
    /// Does not answer at all.
    HostDown,
    /// Is open, and was not in the baseline.
    BaselineNew,
    /// Was open in the baseline, and is not.
    BaselineVanished,
    /// A satellite that has checks to do is not connected.
    SatelliteOffline,
    /// A check has had no evidence for some of its ports for long, and no alert about a satellite says why.
    CheckUnknown,
}

impl AlertName {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::PortNotOpen,
        Self::PortOpen,
        Self::PortReachable,
        Self::HostDown,
        Self::BaselineNew,
        Self::BaselineVanished,
        Self::SatelliteOffline,
        Self::CheckUnknown,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PortNotOpen => "PortNotOpen",
            Self::PortOpen => "PortOpen",
            Self::PortReachable => "PortReachable",
            Self::HostDown => "HostDown",
            Self::BaselineNew => "BaselineNew",
            Self::BaselineVanished => "BaselineVanished",
            Self::SatelliteOffline => "SatelliteOffline",
            Self::CheckUnknown => "CheckUnknown",
        }
    }

    /// The alert of an expectation that is not met.
    pub const fn of(expected: Expected) -> Self {
        match expected {
            Expected::Port(Expectation::Open) => Self::PortNotOpen,
            Expected::Port(Expectation::Closed) => Self::PortOpen,
            Expected::Port(Expectation::Blocked) => Self::PortReachable,
            Expected::Baseline { open: false } => Self::BaselineNew,
            Expected::Baseline { open: true } => Self::BaselineVanished,
            Expected::Up => Self::HostDown,
        }
    }

    /// How bad it is.
    fn severity(self, context: &Context, subject: &Subject) -> Severity {
        let of_check = subject.check().and_then(|check| context.check(check)).map(|check| check.severity);
        let of_check = of_check.unwrap_or_default();
        match self {
            Self::PortNotOpen | Self::HostDown | Self::BaselineVanished => of_check.open,
            Self::PortOpen | Self::BaselineNew => of_check.closed,
            Self::PortReachable => of_check.blocked,
            Self::SatelliteOffline => Severity::Critical,
            Self::CheckUnknown => Severity::Warning,
        }
    }
}

impl fmt::Display for AlertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an alert is about. Of each there is one unresolved alert at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A port or a host, as a check sees it.
    Key(Key),
    /// A satellite.
    Satellite(SatelliteId),
    /// A check as a whole.
    Check(Arc<str>),
}

impl Subject {
    /// The check that it belongs to.
    pub fn check(&self) -> Option<&Arc<str>> {
        match self {
            Self::Key(key) => Some(&key.check),
            Self::Check(check) => Some(check),
            Self::Satellite(_) => None,
        }
    }

    /// The port or host.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Key(key) => Some(key),
            _ => None,
        }
    }

    /// Whether it is a host as a whole.
    pub fn is_host(&self) -> bool {
        self.key().is_some_and(|key| key.port.is_none())
    }
}

/// The first eight bytes of SHA-256 over the labels that make an alert this alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Labels that tell alerts apart. The others may change while an alert fires.
const IDENTITY: [&str; 7] = ["alertname", "tenant", "check", "address", "protocol", "port", "satellite"];

impl Fingerprint {
    /// Of these labels.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        let mut text = Vec::new();
        for (name, value) in labels.iter().filter(|(name, _)| IDENTITY.contains(&name.as_str())) {
            for part in [name, value] {
                // The length keeps what is in one part from looking like two.
                text.extend((part.len() as u64).to_be_bytes());
                text.extend(part.as_bytes());
            }
        }
        let [a, b, c, d, e, f, g, h, ..] = sha256(&text);
        Self([a, b, c, d, e, f, g, h])
    }
}

/// What a vantage point saw that was not as expected; `None`: a host that did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The vantage point.
    pub satellite: SatelliteId,
    /// What it saw.
    pub state: Option<PortState>,
}

/// Who has taken an alert on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Operator.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// What somebody had to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// When.
    pub at: Timestamp,
    /// Operator.
    pub author: String,
    /// 1 to 1,000 characters.
    pub text: String,
}

/// How an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is as expected again.
    AsExpected,
    /// Nothing is expected of it any more.
    NotExpected,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// UUIDv7; the same when it fires again soon.
    pub id: Uuid,
    /// The same whenever it fires.
    pub fingerprint: Fingerprint,
    /// What kind.
    pub name: AlertName,
    /// What it is about.
    pub subject: Subject,
    /// The target as the policy has it, where that is a name; else empty.
    pub target: String,
    /// How bad it is.
    pub severity: Severity,
    /// What matchers see.
    pub labels: BTreeMap<String, String>,
    /// Who took it on; of what is resolved, who had. When it fires again, nobody has.
    pub acknowledged: Option<Acknowledgement>,
    /// Oldest first, at most [`MAX_COMMENTS`].
    pub comments: Vec<Comment>,
    /// Why nobody is told, ascending.
    pub held_back_by: Vec<String>,
    /// It goes to and fro.
    pub flapping: bool,
    /// It was learned long after it was seen.
    pub late: bool,
    /// Its evidence is too old to say whether it still holds.
    pub unknown: bool,
    /// When the fault began, as it was seen.
    pub since: Timestamp,
    /// When it first fired under this id.
    pub fired_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
    /// When and how it ended.
    pub resolved: Option<(Timestamp, Ending)>,
    /// Who says so. Of what is resolved: everyone who said so since it fired.
    pub faults: Vec<Fault>,
    /// Who said so since it fired and does not any more, at most [`MAX_EARLIER`]; none of what is resolved.
    pub earlier: Vec<Fault>,
    /// The evidence of all vantage points.
    pub sights: Vec<Sight>,
    /// Newest first, at most [`MAX_TRANSITIONS`].
    pub transitions: VecDeque<v1::Transition>,
    /// Of an unknown check: how many of its ports are; of a satellite: how many checks it had to do.
    pub affected: u64,
}

impl Alert {
    /// One that fires now, without id, labels and evidence yet.
    pub(super) fn new(name: AlertName, subject: Subject, since: Timestamp, now: Timestamp) -> Self {
        Self {
            id: Uuid::nil(),
            fingerprint: Fingerprint::default(),
            name,
            subject,
            target: String::new(),
            severity: Severity::Info,
            labels: BTreeMap::new(),
            acknowledged: None,
            comments: Vec::new(),
            held_back_by: Vec::new(),
            flapping: false,
            late: false,
            unknown: false,
            since,
            fired_at: now,
            changed_at: now,
            resolved: None,
            faults: Vec::new(),
            earlier: Vec::new(),
            sights: Vec::new(),
            transitions: VecDeque::new(),
            affected: 0,
        }
    }

    /// Fires again, with what the draft says. Whoever had taken it on did so until it resolved.
    pub(super) fn renew(&mut self, draft: Self) {
        *self = Self {
            id: self.id,
            comments: std::mem::take(&mut self.comments),
            held_back_by: std::mem::take(&mut self.held_back_by),
            fired_at: self.fired_at,
            transitions: std::mem::take(&mut self.transitions),
            ..draft
        };
    }

    /// Whether it still lasts, acknowledged or not.
    pub fn is_unresolved(&self) -> bool {
        self.resolved.is_none()
    }

    /// Whether somebody should be told: it fires, nobody has taken it on, and nothing holds it back.
    pub fn pages(&self) -> bool {
        self.status() == v1::alert::Status::Firing && self.held_back_by.is_empty()
    }

    /// Where it stands.
    pub fn status(&self) -> v1::alert::Status {
        match (&self.resolved, &self.acknowledged) {
            (Some(_), _) => v1::alert::Status::Resolved,
            (None, Some(_)) => v1::alert::Status::Acknowledged,
            (None, None) => v1::alert::Status::Firing,
        }
    }

    /// Takes labels and severity from the policy.
    pub(super) fn label(&mut self, context: &Context) {
        self.severity = self.name.severity(context, &self.subject);
        self.labels = labels(self, self.severity, context);
    }

    /// Whether its labels and severity are those of the policy.
    pub(super) fn is_labelled(&self, context: &Context) -> bool {
        let severity = self.name.severity(context, &self.subject);
        severity == self.severity && labels(self, severity, context) == self.labels
    }

    /// Others say so now; who said so before is remembered.
    pub(super) fn seen_by(&mut self, faults: Vec<Fault>) {
        let before = std::mem::replace(&mut self.faults, faults);
        let known = |list: &[Fault], satellite| list.iter().any(|fault| fault.satellite == satellite);
        self.earlier
            .retain(|fault| !known(&self.faults, fault.satellite) && !known(&before, fault.satellite));
        let gone = before.into_iter().filter(|fault| !known(&self.faults, fault.satellite));
        self.earlier.extend(gone);
        self.earlier.truncate(MAX_EARLIER);
    }

    /// It is over: what it says, it says of everyone who ever said so.
    pub(super) fn resolve(&mut self, at: Timestamp, ending: Ending) {
        self.resolved = Some((at, ending));
        (self.unknown, self.flapping) = (false, false);
        self.faults.append(&mut self.earlier);
        self.faults.sort_by_key(|fault| fault.satellite);
    }

    /// Whether its last transition, a moment before, says the same: that it goes on firing as it began to is no news.
    pub(super) fn says(&self, told: &v1::Transition) -> bool {
        told.from == told.to
            && self.transitions.front().is_some_and(|last| {
                let apart = told.at_ms.abs_diff(last.at_ms);
                (last.to, &last.words) == (told.to, &told.words) && apart < AT_ONCE_MS
            })
    }

    /// Notes a transition.
    pub(super) fn note(&mut self, transition: v1::Transition) {
        if self.says(&transition) {
            return;
        }
        self.transitions.push_front(transition);
        self.transitions.truncate(MAX_TRANSITIONS);
    }
}

/// The project's own labels over those of the check. What does not apply is left out.
fn labels(alert: &Alert, severity: Severity, context: &Context) -> BTreeMap<String, String> {
    let check = alert.subject.check().and_then(|name| context.check(name));
    let mut labels = check.map(|check| check.labels.clone()).unwrap_or_default();
    let mut set = |name: &str, value: String| drop(labels.insert(name.to_owned(), value));
    set("alertname", alert.name.to_string());
    set("severity", severity.as_str().to_owned());
    let tenant = match &alert.subject {
        Subject::Satellite(id) => context.satellite(*id).map(|satellite| satellite.tenant.clone()),
        _ => check.map(|check| check.tenant.clone()),
    };
    let tenant = tenant.unwrap_or_else(|| portolan_policy::model::DEFAULT_TENANT.to_owned());
    if let Some(segment) = segment(alert, &tenant, context) {
        set("segment", segment);
    }
    set("tenant", tenant);
    match &alert.subject {
        Subject::Key(key) => {
            set("check", key.check.to_string());
            set("address", key.address.to_string());
            let target = if alert.target.is_empty() { key.address.to_string() } else { alert.target.clone() };
            set("target", target);
            if let Some((protocol, port)) = key.port {
                set("protocol", protocol.to_string());
                set("port", port.to_string());
            }
        }
        Subject::Check(name) => set("check", name.to_string()),
        Subject::Satellite(id) => {
            let name = context.name_of(*id);
            set("target", name.clone());
            set("satellite", name);
        }
    }
    labels
}

/// The target's segment; where it has none, that of who sees it.
fn segment(alert: &Alert, tenant: &str, context: &Context) -> Option<String> {
    let of = |id| context.satellite(id).map(|satellite| satellite.segment.clone());
    match &alert.subject {
        Subject::Key(key) => {
            let of_target = context.segment_of(tenant, key.address).map(str::to_owned);
            of_target.or_else(|| alert.faults.iter().find_map(|fault| of(fault.satellite)))
        }
        Subject::Satellite(id) => of(*id),
        Subject::Check(name) => {
            let check = context.check(name)?;
            let mut segments = context.vantage_points(check).map(of);
            let first = segments.next()??;
            segments.all(|other| other.as_ref() == Some(&first)).then_some(first)
        }
    }
}
