//! What raises alerts and ends them: transitions of ports and hosts, satellites that come and go, and evidence that
//! does not come.

use super::alert::{Alert, AlertName, Ending, Fault, Fingerprint, Subject};
use super::record::moment;
use super::{
    Alerts, Blind, ChangeKind, CheckCounts, HOLD_OFF, MAX_RESOLVED, MAX_UNRESOLVED, RESOLVED_FOR, wire,
};
use crate::evaluate::{State, Transition};
use crate::store::TimelineWrite;
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_proto::v1;
use prost::Message as _;
use uuid::Uuid;

/// A check is told to be unknown after three intervals, but not sooner than this.
const UNKNOWN_AFTER: SignedDuration = SignedDuration::from_mins(1);

impl Alerts {
    /// Takes in what the evaluator tells, in its order.
    pub fn apply(&mut self, transitions: &[Transition], now: Timestamp) {
        let now = moment(now);
        for transition in transitions {
            let told = wire::transition(transition, &self.context);
            let subject = Subject::Key(transition.key.clone());
            let open = self.index.open(&subject);
            let says_so = |id| self.alerts.get(&id).is_some_and(|alert| alert.says(&told));
            if !open.is_some_and(says_so) {
                self.timeline.push(TimelineWrite {
                    check: transition.key.check.to_string(),
                    at: transition.at,
                    value: told.encode_to_vec(),
                });
            }
            // What happens twice in one batch is told twice, each time as it then was.
            if open.is_some_and(|open| self.happened.concerns(open)) {
                self.settle(now);
            }
            match (open, transition.to) {
                (None, _) if transition.gone => {}
                (Some(id), _) if transition.gone => self.end(id, Ending::NotExpected, told, now),
                (_, State::Firing) => self.fires(open, subject, transition, told, now),
                (Some(id), State::Ok) => {
                    self.see(id, transition);
                    let ended = if transition.late { moment(transition.at) } else { now };
                    self.end_at(id, Ending::AsExpected, told, ended, now);
                }
                (Some(id), State::Pending | State::Unknown) => {
                    self.see(id, transition);
                    if let Some(alert) = self.alerts.change(&id) {
                        alert.note(told);
                        let how = (transition.to == State::Unknown, transition.flapping);
                        if (alert.unknown, alert.flapping) != how {
                            (alert.unknown, alert.flapping) = how;
                            alert.changed_at = now;
                            self.happened.push(ChangeKind::Changed, id);
                        }
                    }
                }
                (None, _) => {}
            }
        }
        self.settle(now);
    }

    fn fires(
        &mut self,
        open: Option<Uuid>,
        subject: Subject,
        transition: &Transition,
        told: v1::Transition,
        now: Timestamp,
    ) {
        let name = AlertName::of(transition.expected);
        let open = open.filter(|id| {
            let same = self.alerts.get(id).is_some_and(|alert| alert.name == name);
            if !same {
                // The policy wants something else of the port now.
                self.resolve(*id, Ending::NotExpected, now);
            }
            same
        });
        let Some(id) = open else {
            let mut draft = Alert::new(name, subject, transition.since, now);
            draft.target.clone_from(&transition.target);
            draft.sights.clone_from(&transition.sights);
            draft.faults = faults(transition);
            (draft.flapping, draft.late) = (transition.flapping, transition.late);
            self.raise(draft, told, now);
            return;
        };
        self.see(id, transition);
        let faults = faults(transition);
        let Some(alert) = self.alerts.get(&id) else { return };
        let others_say_so = !faults.is_empty() && faults != alert.faults;
        if !others_say_so && transition.flapping == alert.flapping && !alert.unknown {
            return;
        }
        let Some(alert) = self.alerts.change(&id) else { return };
        if others_say_so {
            alert.seen_by(faults);
            // What is announced may not cover them.
            self.unsettled.insert(id);
        }
        (alert.flapping, alert.unknown) = (transition.flapping, false);
        alert.since = alert.since.min(transition.since);
        alert.changed_at = now;
        alert.note(told);
        self.happened.push(ChangeKind::Changed, id);
    }

    /// Takes in the newest evidence.
    fn see(&mut self, id: Uuid, transition: &Transition) {
        let new = |alert: &Alert| !transition.sights.is_empty() && transition.sights != alert.sights;
        if self.alerts.get(&id).is_some_and(new)
            && let Some(alert) = self.alerts.change(&id)
        {
            alert.sights.clone_from(&transition.sights);
        }
    }

    /// Raises an alert, or the earlier one again within the hold-off.
    fn raise(&mut self, mut draft: Alert, told: v1::Transition, now: Timestamp) {
        draft.label(&self.context);
        draft.fingerprint = Fingerprint::of(&draft.labels);
        let earlier = self.index.latest(draft.fingerprint).and_then(|id| self.alerts.get(&id));
        let again = earlier.filter(|alert| {
            let resolved = alert.resolved.is_some_and(|(at, _)| now.duration_since(at) < HOLD_OFF);
            resolved && alert.subject == draft.subject
        });
        let again = again.cloned();
        if again.as_ref().is_some_and(|alert| self.happened.concerns(alert.id)) {
            self.settle(now);
        }
        let mut alert = match again {
            Some(mut earlier) => {
                self.index.remove(&earlier);
                earlier.renew(draft);
                earlier
            }
            None if self.index.unresolved().len() >= MAX_UNRESOLVED => {
                let (number, since) = self.not_raised.unwrap_or((0, now));
                self.not_raised = Some((number.saturating_add(1), since));
                return;
            }
            None => Alert { id: (self.ids)(now), ..draft },
        };
        alert.note(told);
        alert.changed_at = now;
        self.happened.push(ChangeKind::Firing, alert.id);
        self.alerts.insert(alert.clone());
        self.reindex(&alert, |index, alert| {
            index.add(alert);
        });
    }

    /// Ends an alert, with the transition that says why.
    fn end(&mut self, id: Uuid, ending: Ending, told: v1::Transition, now: Timestamp) {
        self.end_at(id, ending, told, now, now);
    }

    /// The same for what ended before it became known.
    fn end_at(&mut self, id: Uuid, ending: Ending, told: v1::Transition, ended: Timestamp, now: Timestamp) {
        if let Some(alert) = self.alerts.change(&id) {
            alert.note(told);
        }
        self.resolve_at(id, ending, ended, now);
    }

    pub(super) fn resolve(&mut self, id: Uuid, ending: Ending, now: Timestamp) {
        self.resolve_at(id, ending, now, now);
    }

    fn resolve_at(&mut self, id: Uuid, ending: Ending, ended: Timestamp, now: Timestamp) {
        let Some(before) = self.alerts.get(&id).filter(|alert| alert.is_unresolved()).cloned() else {
            return;
        };
        let mut after = before.clone();
        after.resolve(ended, ending);
        after.changed_at = now;
        self.happened.push(ChangeKind::Resolved, id);
        self.alerts.insert(after.clone());
        self.reindex(&before, |index, before| {
            index.remove(before);
            index.add(&after);
        });
    }

    /// Changes the index; what this alert holds back, or no more, is looked at again.
    fn reindex(&mut self, alert: &Alert, change: impl FnOnce(&mut super::Index, &Alert)) {
        let check = alert.subject.check().cloned();
        let faults = |index: &super::Index| check.as_ref().is_some_and(|check| index.faults(check) > 0);
        let before = faults(&self.index);
        change(&mut self.index, alert);
        self.unsettled.insert(alert.id);
        let context = self.context.clone();
        if let Some(check) = &check
            && faults(&self.index) != before
        {
            for name in context.downstream(check) {
                self.unsettled.extend(self.index.of_check(name));
            }
        }
        match &alert.subject {
            Subject::Key(key) if key.port.is_none() => self.unsettled.extend(self.index.of_host_of(alert)),
            Subject::Satellite(_) => {
                let checks =
                    self.index.unresolved().filter(|(subject, _)| matches!(subject, Subject::Check(_)));
                self.unsettled.extend(checks.map(|(_, id)| id));
            }
            _ => {}
        }
    }

    /// A satellite is offline since then, or online (`None`). Whoever asks has waited long enough to say so.
    pub fn satellite(&mut self, id: SatelliteId, offline_since: Option<Timestamp>, now: Timestamp) {
        let now = moment(now);
        let before = self.presence.insert(id, offline_since.map(moment));
        if offline_since.is_none() && before != Some(None) {
            self.await_evidence_of(id, now);
        }
        self.review_satellite(id, now);
        self.settle(now);
    }

    /// Who comes has time to look before its checks are told to be unknown.
    fn await_evidence_of(&mut self, id: SatelliteId, now: Timestamp) {
        let context = &self.context;
        for (check, blind) in &mut self.blind {
            if context
                .check(check)
                .is_some_and(|check| context.vantage_points(check).any(|other| other == id))
            {
                blind.awaited_since = now;
            }
        }
    }

    /// Raises and ends the alert about a satellite, as it stands.
    pub(super) fn review_satellite(&mut self, id: SatelliteId, now: Timestamp) {
        let subject = Subject::Satellite(id);
        let open = self.index.open(&subject);
        let duties = self.context.duties(id);
        let presence = self.presence.get(&id).copied();
        let told = |online: bool| v1::Transition {
            at_ms: now.as_millisecond(),
            from: if online { v1::CheckState::Firing } else { v1::CheckState::Ok }.into(),
            to: if online { v1::CheckState::Ok } else { v1::CheckState::Firing }.into(),
            words: if online { "online" } else { "offline" }.to_owned(),
            ..v1::Transition::default()
        };
        match (open, presence) {
            (Some(id), Some(None)) => self.end(id, Ending::AsExpected, told(true), now),
            (None, Some(Some(since))) if duties > 0 => {
                let mut draft = Alert::new(AlertName::SatelliteOffline, subject, since, now);
                draft.affected = duties;
                self.raise(draft, told(false), now);
            }
            _ => {}
        }
    }

    /// Time passes. Wants to know of every check, about once a second.
    pub fn tick<'a>(&mut self, checks: impl IntoIterator<Item = CheckCounts<'a>>, now: Timestamp) {
        let now = moment(now);
        for counts in checks {
            self.review_check(counts, now);
        }
        self.forget(now);
        self.silences.prune(now);
        self.changes.end(now);
        self.settle(now);
    }

    /// Raises and ends the alert about a check's lack of evidence.
    fn review_check(&mut self, CheckCounts { check, unknown }: CheckCounts<'_>, now: Timestamp) {
        let context = self.context.clone();
        let Some(compiled) = context.check(check) else { return };
        let subject = Subject::Check(check.into());
        let open = self.index.open(&subject);
        if unknown == 0 || compiled.paused {
            self.blind.remove(check);
            if let Some(id) = open {
                self.end(id, Ending::AsExpected, told_of_check(check, true, now), now);
            }
            return;
        }
        if let Some(id) = open {
            // How many exactly is told to whoever looks, and no event.
            if let Some(alert) = self.alerts.touch(&id) {
                alert.affected = unknown;
            }
            return;
        }
        if !self.blind.contains_key(check) {
            self.blind.insert(check.to_owned(), Blind { since: now, awaited_since: now, patience: None });
        }
        let Some(Blind { since, awaited_since, patience }) = self.blind.get_mut(check) else { return };
        let patience = *patience.get_or_insert_with(|| {
            compiled.schedule.after_runs(now, 3).duration_since(now).max(UNKNOWN_AFTER)
        });
        let since = *since;
        // The alert about a satellite says why, and there is nobody to wait for where there are no satellites.
        let is_missed = |id| self.index.open(&Subject::Satellite(id)).is_some();
        if now.duration_since(*awaited_since) > patience && !context.vantage_points(compiled).any(is_missed) {
            let mut draft = Alert::new(AlertName::CheckUnknown, subject, since, now);
            draft.affected = unknown;
            self.raise(draft, told_of_check(check, false, now), now);
        }
    }

    /// Forgets what was resolved long ago.
    fn forget(&mut self, now: Timestamp) {
        while let Some((at, id, number)) = self.index.oldest_resolved()
            && (number > MAX_RESOLVED || now.duration_since(at) >= RESOLVED_FOR)
        {
            match self.alerts.remove(&id) {
                Some(alert) => self.index.remove(&alert),
                None => break,
            }
        }
    }
}

fn told_of_check(check: &str, known: bool, now: Timestamp) -> v1::Transition {
    let states = (v1::CheckState::Ok.into(), v1::CheckState::Unknown.into());
    let (from, to) = if known { (states.1, states.0) } else { states };
    let words = if known { "evidence is back" } else { "no recent evidence" };
    v1::Transition {
        at_ms: now.as_millisecond(),
        check: check.to_owned(),
        from,
        to,
        words: words.to_owned(),
        ..v1::Transition::default()
    }
}

/// What is not as expected, from whom.
fn faults(transition: &Transition) -> Vec<Fault> {
    let wrong = transition.sights.iter().filter(|sight| sight.mismatch);
    wrong
        .map(|sight| Fault { satellite: sight.satellite, state: sight.state.map(|(state, _)| state) })
        .collect()
}
