//! Alerts as operators get them.

use super::alert::{Alert, Comment};
use super::context::Context;
use super::words;
use crate::evaluate::{Expected, Sight, State, Transition};
use jiff::Timestamp;
use portolan_common::expectation::Expectation;
use portolan_proto::convert::address_to_wire;
use portolan_proto::v1;
use std::sync::Arc;

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It fires; perhaps held back from the beginning.
    Firing,
    /// It says something else.
    Changed,
    /// Somebody took it on.
    Acknowledged,
    /// Somebody said something.
    Commented,
    /// It is over.
    Resolved,
    /// Nobody is told any more.
    HeldBack,
    /// Nothing holds it back any more.
    Released,
}

impl ChangeKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Changed => "changed",
            Self::Acknowledged => "acknowledged",
            Self::Commented => "commented",
            Self::Resolved => "resolved",
            Self::HeldBack => "held-back",
            Self::Released => "released",
        }
    }
}

/// Something happened to an alert. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertChange {
    /// Counts from 1, in this process.
    pub number: u64,
    /// What.
    pub kind: ChangeKind,
    /// The alert after it.
    pub alert: Arc<v1::Alert>,
    /// When.
    pub at: Timestamp,
}

impl From<&AlertChange> for v1::AlertEvent {
    fn from(change: &AlertChange) -> Self {
        Self {
            kind: change.kind.as_str().to_owned(),
            alert: Some(v1::Alert::clone(&change.alert)),
            at_ms: change.at.as_millisecond(),
        }
    }
}

impl From<&Comment> for v1::AlertComment {
    fn from(comment: &Comment) -> Self {
        Self {
            at_ms: comment.at.as_millisecond(),
            author: comment.author.clone(),
            text: comment.text.clone(),
        }
    }
}

impl From<State> for v1::CheckState {
    fn from(state: State) -> Self {
        match state {
            State::Ok => Self::Ok,
            State::Pending => Self::Pending,
            State::Firing => Self::Firing,
            State::Unknown => Self::Unknown,
        }
    }
}

impl From<Expected> for v1::Expectation {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Port(Expectation::Open) => Self::Open,
            Expected::Port(Expectation::Closed) => Self::Closed,
            Expected::Port(Expectation::Blocked) => Self::Blocked,
            Expected::Baseline { .. } => Self::Baseline,
            Expected::Up => Self::Up,
        }
    }
}

/// What a vantage point last saw, with its name.
pub fn sight(sight: &Sight, context: &Context) -> v1::PortSight {
    v1::PortSight {
        satellite: context.name_of(sight.satellite),
        segment: context.satellite(sight.satellite).map(|s| s.segment.clone()).unwrap_or_default(),
        state: sight.state.map_or(0, |(state, _)| v1::PortState::from(state).into()),
        reason: sight.state.map_or(0, |(_, reason)| v1::Reason::from(reason).into()),
        seen_at_ms: sight.seen.as_millisecond(),
        since_at_ms: sight.since.as_millisecond(),
        stale: sight.stale,
        rtts_us: sight.rtts_us.clone(),
        usual_rtt_us: sight.usual_rtt_us,
        in_a_row: sight.in_a_row,
    }
}

/// A transition as it stands in timelines.
pub fn transition(transition: &Transition, context: &Context) -> v1::Transition {
    let key = &transition.key;
    v1::Transition {
        at_ms: transition.at.as_millisecond(),
        check: key.check.to_string(),
        address: address_to_wire(key.address),
        protocol: key.port.map_or(0, |(protocol, _)| v1::Protocol::from(protocol).into()),
        port: key.port.map_or(0, |(_, port)| port.into()),
        from: v1::CheckState::from(transition.from).into(),
        to: v1::CheckState::from(transition.to).into(),
        words: words::transition(transition, context),
        late: transition.late,
    }
}

impl Alert {
    /// What a list shows of it: without evidence, transitions, comments and advice.
    pub fn to_line(&self, context: &Context) -> v1::Alert {
        let key = self.subject.key();
        let port = key.and_then(|key| key.port);
        v1::Alert {
            id: self.id.to_string(),
            fingerprint: self.fingerprint.to_string(),
            labels: self.labels.clone().into_iter().collect(),
            status: self.status().into(),
            check: self.subject.check().map(ToString::to_string).unwrap_or_default(),
            target: self.labels.get("target").cloned().unwrap_or_default(),
            address: key.map(|key| address_to_wire(key.address)).unwrap_or_default(),
            protocol: port.map_or(0, |(protocol, _)| v1::Protocol::from(protocol).into()),
            port: port.map_or(0, |(_, port)| port.into()),
            expected: words::expected(self.name).to_owned(),
            observed: words::observed(self),
            severity: self.severity.as_str().to_owned(),
            satellites: self.faults.iter().map(|fault| context.name_of(fault.satellite)).collect(),
            since_at_ms: self.since.as_millisecond(),
            changed_at_ms: self.changed_at.as_millisecond(),
            resolved_at_ms: self.resolved.map_or(0, |(at, _)| at.as_millisecond()),
            acknowledged_by: self.acknowledged.as_ref().map(|ack| ack.by.clone()).unwrap_or_default(),
            acknowledged_at_ms: self.acknowledged.as_ref().map_or(0, |ack| ack.at.as_millisecond()),
            held_back_by: self.held_back_by.clone(),
            flapping: self.flapping,
            late: self.late,
            unknown: self.unknown,
            summary: words::summary(self, context),
            fired_at_ms: self.fired_at.as_millisecond(),
            ..v1::Alert::default()
        }
    }

    /// All of it. `others` are the other alerts of its host, in words.
    pub fn to_wire(&self, context: &Context, others: Vec<String>) -> v1::Alert {
        v1::Alert {
            comments: self.comments.iter().map(v1::AlertComment::from).collect(),
            transitions: self.transitions.iter().cloned().collect(),
            sights: self.sights.iter().map(|one| sight(one, context)).collect(),
            others,
            command: words::command(self, context),
            confidence: words::confidence(self),
            ..self.to_line(context)
        }
    }
}
