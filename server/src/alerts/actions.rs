//! What operators do with alerts, silences and announced changes, and how they list them.

use super::alert::{Acknowledgement, Alert, Comment, MAX_COMMENTS};
use super::changes::ExpectedChange;
use super::error::{AlertsError, Thing, shown};
use super::record::moment;
use super::silences::Silence;
use super::{Alerts, ChangeKind};
use jiff::Timestamp;
use portolan_policy::Matcher;
use portolan_proto::v1;
use std::collections::HashMap;
use uuid::Uuid;

/// Characters of a comment.
const MAX_COMMENT: usize = 1000;
/// The shortest part of an id that is looked for.
const MIN_ID: usize = 4;

/// Which alerts are asked for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only what fires, is not acknowledged and not held back.
    pub firing: bool,
    /// Also what was resolved and changed since then.
    pub resolved_since: Option<Timestamp>,
    /// All must hold.
    pub matchers: Vec<Matcher>,
}

impl ListQuery {
    fn takes(&self, alert: &Alert) -> bool {
        let listed = match (self.firing, &alert.resolved) {
            (true, _) => alert.pages(),
            (false, Some(_)) => self.resolved_since.is_some_and(|since| alert.changed_at >= since),
            (false, None) => true,
        };
        listed && self.matchers.iter().all(|matcher| matcher.matches(&alert.labels))
    }
}

impl Alerts {
    /// Alerts without their evidence, newest first.
    pub fn list(&self, query: &ListQuery) -> Vec<v1::Alert> {
        let mut found: Vec<&Alert> = self.alerts.values().filter(|alert| query.takes(alert)).collect();
        found.sort_by_key(|alert| std::cmp::Reverse((alert.fired_at, alert.id)));
        found.into_iter().map(|alert| alert.to_line(&self.context)).collect()
    }

    /// The unresolved alerts that match, with everything, oldest first.
    pub fn current(&self, matchers: &[Matcher]) -> Vec<v1::Alert> {
        let matches = |alert: &&Alert| matchers.iter().all(|matcher| matcher.matches(&alert.labels));
        let unresolved = self.alerts.values().filter(|alert| alert.is_unresolved());
        unresolved.filter(matches).map(|alert| self.to_wire(alert)).collect()
    }

    /// One alert with everything, by its id or the beginning or end of it.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`], [`AlertsError::Ambiguous`], [`AlertsError::Invalid`].
    pub fn show(&self, id: &str) -> Result<v1::Alert, AlertsError> {
        let id = self.find(id)?;
        self.alerts.get(&id).map(|alert| self.to_wire(alert)).ok_or_else(|| unknown_alert(id))
    }

    /// The alert of an id or the beginning or end of it. Ids of the same minute begin alike and end differently.
    ///
    /// # Errors
    /// As [`Alerts::show`].
    pub fn find(&self, id: &str) -> Result<Uuid, AlertsError> {
        find(Thing::Alert, self.alerts.values().map(|alert| alert.id), id)
    }

    /// Takes an alert on; one that somebody took on already stays with them. The comment may be empty.
    ///
    /// # Errors
    /// As [`Alerts::show`]; [`AlertsError::Untimely`] when it is resolved; as [`Alerts::comment`].
    pub fn acknowledge(
        &mut self,
        id: &str,
        operator: &str,
        comment: &str,
        now: Timestamp,
    ) -> Result<v1::Alert, AlertsError> {
        let now = moment(now);
        let id = self.find(id)?;
        let alert = self.alerts.get(&id).ok_or_else(|| unknown_alert(id))?;
        if let Some((at, _)) = alert.resolved {
            return Err(AlertsError::Untimely(format!(
                "alert {id} was resolved at {at}: nothing is left to take on"
            )));
        }
        let comment = match comment.trim() {
            "" => None,
            text => Some(read_comment(alert, text, operator, now)?),
        };
        let new = alert.acknowledged.is_none();
        if let Some(alert) = self.alerts.change(&id) {
            alert.comments.extend(comment);
            alert.acknowledged.get_or_insert_with(|| Acknowledgement { by: operator.to_owned(), at: now });
            alert.changed_at = now;
        }
        self.happened.push(if new { ChangeKind::Acknowledged } else { ChangeKind::Commented }, id);
        self.settle(now);
        self.alerts.get(&id).map(|alert| self.to_wire(alert)).ok_or_else(|| unknown_alert(id))
    }

    /// Says something about an alert: 1 to 1,000 characters.
    ///
    /// # Errors
    /// As [`Alerts::show`]; [`AlertsError::Full`] when too much was said.
    pub fn comment(
        &mut self,
        id: &str,
        operator: &str,
        text: &str,
        now: Timestamp,
    ) -> Result<v1::Alert, AlertsError> {
        let now = moment(now);
        let id = self.find(id)?;
        let alert = self.alerts.get(&id).ok_or_else(|| unknown_alert(id))?;
        let comment = read_comment(alert, text.trim(), operator, now)?;
        if let Some(alert) = self.alerts.change(&id) {
            alert.comments.push(comment);
            alert.changed_at = now;
        }
        self.happened.push(ChangeKind::Commented, id);
        self.settle(now);
        self.alerts.get(&id).map(|alert| self.to_wire(alert)).ok_or_else(|| unknown_alert(id))
    }

    /// Makes a silence.
    ///
    /// # Errors
    /// As [`Silence::read`]; [`AlertsError::Full`].
    pub fn add_silence(
        &mut self,
        request: &v1::AddSilenceRequest,
        operator: &str,
        now: Timestamp,
    ) -> Result<v1::Silence, AlertsError> {
        let now = moment(now);
        let mut silence = Silence::read(request, operator, now)?;
        self.silences.make_room(now)?;
        silence.id = (self.ids)(now);
        let id = silence.id;
        self.silences.insert(silence.clone());
        self.refresh_outlook(now);
        self.settle(now);
        Ok(v1::Silence { alerts: self.silenced().get(&id).copied().unwrap_or(0), ..silence.to_wire() })
    }

    /// The silences, newest first; with `expired` also those that are over.
    pub fn silences(&self, expired: bool, now: Timestamp) -> Vec<v1::Silence> {
        let silenced = self.silenced();
        let count = |id: &Uuid| silenced.get(id).copied().unwrap_or(0);
        let listed = self.silences.values().rev().filter(|silence| expired || now < silence.ends);
        listed.map(|silence| v1::Silence { alerts: count(&silence.id), ..silence.to_wire() }).collect()
    }

    /// Ends a silence now, found as alerts are.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`], [`AlertsError::Ambiguous`], [`AlertsError::Invalid`]; [`AlertsError::Untimely`] when it
    /// is over.
    pub fn expire_silence(&mut self, id: &str, now: Timestamp) -> Result<v1::Silence, AlertsError> {
        let now = moment(now);
        let id = find(Thing::Silence, self.silences.values().map(|silence| silence.id), id)?;
        let unknown = || AlertsError::Unknown(Thing::Silence, id.to_string());
        let ends = self.silences.get(&id).ok_or_else(unknown)?.ends;
        if ends <= now {
            return Err(AlertsError::Untimely(format!("silence {id} ended at {ends}")));
        }
        let silence = self.silences.change(&id).ok_or_else(unknown)?;
        (silence.starts, silence.ends) = (silence.starts.min(now), now);
        let silence = silence.to_wire();
        self.refresh_outlook(now);
        self.settle(now);
        Ok(silence)
    }

    /// How many alerts each silence holds back.
    fn silenced(&self) -> HashMap<Uuid, u64> {
        let mut silenced = HashMap::new();
        for alert in self.unresolved() {
            let ids = alert.held_back_by.iter().filter_map(|reason| reason.strip_prefix("silence "));
            for id in ids.filter_map(|id| id.parse().ok()) {
                *silenced.entry(id).or_default() += 1;
            }
        }
        silenced
    }

    /// Opens an announced change.
    ///
    /// # Errors
    /// [`AlertsError::Invalid`] when it names a place that is not there, [`AlertsError::Exists`], [`AlertsError::Full`].
    pub fn open_change(
        &mut self,
        change: ExpectedChange,
        now: Timestamp,
    ) -> Result<v1::ExpectedChange, AlertsError> {
        let now = moment(now);
        let wire = change.to_record();
        self.changes.open(change, &self.context, now)?;
        self.refresh_outlook(now);
        self.settle(now);
        Ok(wire)
    }

    /// The open change of a name.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`].
    pub fn change(&self, name: &str, now: Timestamp) -> Result<&ExpectedChange, AlertsError> {
        let open = self.changes.open_named(name, now);
        open.ok_or_else(|| AlertsError::Unknown(Thing::Change, shown(name)))
    }

    /// Closes a change: from now on, what it announced pages like everything else. The answer says how things were.
    ///
    /// # Errors
    /// [`AlertsError::Unknown`].
    pub fn close_change(&mut self, name: &str, now: Timestamp) -> Result<v1::ExpectedChange, AlertsError> {
        let now = moment(now);
        let key = super::kept::Document::key(self.change(name, now)?);
        let unknown = || AlertsError::Unknown(Thing::Change, shown(name));
        let change = self.changes.change(&key).ok_or_else(unknown)?;
        change.closed_at = Some(now);
        let wire = change.to_record();
        self.refresh_outlook(now);
        self.settle(now);
        Ok(wire)
    }

    /// The changes, newest first, without how things were; with `closed` also those that are closed.
    pub fn changes(&self, closed: bool, now: Timestamp) -> Vec<v1::ExpectedChange> {
        let listed = self.changes.values().rev().filter(|change| closed || change.is_open(now));
        listed.map(ExpectedChange::to_wire).collect()
    }
}

fn unknown_alert(id: Uuid) -> AlertsError {
    AlertsError::Unknown(Thing::Alert, id.to_string())
}

fn read_comment(alert: &Alert, text: &str, author: &str, now: Timestamp) -> Result<Comment, AlertsError> {
    if text.is_empty() || text.chars().count() > MAX_COMMENT {
        return Err(AlertsError::Invalid(format!("a comment has 1 to {MAX_COMMENT} characters")));
    }
    if alert.comments.len() >= MAX_COMMENTS {
        return Err(AlertsError::Full(format!(
            "alert {} has {MAX_COMMENTS} comments: no more are taken",
            alert.id
        )));
    }
    Ok(Comment { at: now, author: author.to_owned(), text: text.to_owned() })
}

/// The one id that begins or ends with a text.
fn find(thing: Thing, ids: impl Iterator<Item = Uuid>, text: &str) -> Result<Uuid, AlertsError> {
    let wanted = text.trim().to_ascii_lowercase();
    if wanted.len() < MIN_ID {
        return Err(AlertsError::Invalid(format!(
            "`{}` is too short: write {MIN_ID} characters of the {thing}'s id at least",
            shown(text)
        )));
    }
    let mut found = ids.filter(|id| {
        let mut buffer = Uuid::encode_buffer();
        let id = id.hyphenated().encode_lower(&mut buffer);
        id.starts_with(&wanted) || id.ends_with(&wanted)
    });
    let first = found.next().ok_or_else(|| AlertsError::Unknown(thing, shown(text)))?;
    match found.next() {
        None => Ok(first),
        Some(_) => Err(AlertsError::Ambiguous(thing, shown(text), first.to_string())),
    }
}
