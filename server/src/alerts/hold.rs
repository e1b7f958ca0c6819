//! What holds alerts back at a time: silences, maintenance windows and announced changes, and until when that is so.

use super::alert::Alert;
use super::changes::ExpectedChange;
use super::context::Context;
use super::kept::Kept;
use super::silences::Silence;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// See the module. Made anew when its time is over; what an alert costs does not grow with the number of silences, as
/// long as each has a matcher that asks for one value.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    silences: Vec<Silence>,
    /// Places in `silences` by one of the label values that each asks for.
    by_value: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Places of those that ask for no one value.
    others: Vec<usize>,
    maintenance: BTreeMap<String, BTreeMap<String, String>>,
    changes: Vec<ExpectedChange>,
    /// When it was made, …
    from: Timestamp,
    /// … and when something of it begins or ends; `None`: never.
    until: Option<Timestamp>,
}

impl Outlook {
    /// What holds back now.
    pub(super) fn new(
        silences: &Kept<Silence>,
        changes: &Kept<ExpectedChange>,
        context: &Context,
        now: Timestamp,
    ) -> Self {
        let mut outlook = Self { from: now, ..Self::default() };
        let mut boundaries: Vec<Timestamp> = Vec::new();
        for silence in silences.values() {
            boundaries.extend([silence.starts, silence.ends]);
            if silence.is_active(now) {
                outlook.add(silence.clone());
            }
        }
        for change in changes.values().filter(|change| change.is_open(now)) {
            boundaries.push(change.ends_at);
            outlook.changes.push(change.clone());
        }
        for (name, maintenance) in context.maintenance() {
            match maintenance.window.end(now) {
                Some(end) => {
                    boundaries.push(end);
                    outlook.maintenance.insert(name.clone(), maintenance.matches.clone());
                }
                None => boundaries.extend(maintenance.window.next_start(now)),
            }
        }
        outlook.until = boundaries.into_iter().filter(|at| *at > now).min();
        outlook
    }

    fn add(&mut self, silence: Silence) {
        let place = self.silences.len();
        match silence.matchers.iter().find_map(|matcher| matcher.equality()) {
            Some((name, value)) => {
                let values = self.by_value.entry(name.to_owned()).or_default();
                values.entry(value.to_owned()).or_default().push(place);
            }
            None => self.others.push(place),
        }
        self.silences.push(silence);
    }

    /// Whether it is what holds back then. A clock may have been set back.
    pub(super) fn holds_at(&self, now: Timestamp) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }

    /// Whether an alert may be held back by other reasons than another outlook has for it.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> Difference<'a> {
        let beside = self.maintenance != other.maintenance
            || !self.changes.iter().map(key).eq(other.changes.iter().map(key));
        if beside {
            return Difference::Everything;
        }
        let ids = |outlook: &Self| outlook.silences.iter().map(|silence| silence.id).collect::<BTreeSet<_>>();
        let (ours, theirs) = (ids(self), ids(other));
        let new = self.silences.iter().filter(|silence| !theirs.contains(&silence.id));
        let gone = other.silences.iter().filter(|silence| !ours.contains(&silence.id));
        Difference::Silences(new.chain(gone).collect())
    }

    /// The silences that match.
    fn silences_of<'a>(&'a self, alert: &'a Alert) -> impl Iterator<Item = &'a Silence> {
        let indexed = alert.labels.iter().filter_map(|(name, value)| self.by_value.get(name)?.get(value));
        let places = indexed.flatten().chain(&self.others);
        places.filter_map(|place| self.silences.get(*place)).filter(|silence| silence.matches(alert))
    }

    /// What of it holds the alert back.
    pub(super) fn reasons(&self, alert: &Alert, context: &Context, reasons: &mut Vec<String>) {
        reasons.extend(self.silences_of(alert).map(|silence| format!("silence {}", silence.id)));
        let windows = self.maintenance.iter().filter(|(_, labels)| {
            labels.iter().all(|(name, value)| alert.labels.get(name).map_or("", String::as_str) == value)
        });
        reasons.extend(windows.map(|(name, _)| format!("maintenance {name}")));
        let changes = self.changes.iter().filter(|change| change.covers(alert, context));
        reasons.extend(changes.map(|change| format!("change {}", change.name)));
    }
}

/// How two outlooks differ.
pub(super) enum Difference<'a> {
    /// In these silences alone.
    Silences(Vec<&'a Silence>),
    /// In what cannot be told for one alert alone.
    Everything,
}

impl Difference<'_> {
    /// Whether it may make a difference for an alert.
    pub(super) fn concerns(&self, alert: &Alert) -> bool {
        match self {
            Self::Silences(silences) => silences.iter().any(|silence| silence.matches(alert)),
            Self::Everything => true,
        }
    }
}

fn key(change: &ExpectedChange) -> (&str, Timestamp) {
    (&change.name, change.opened_at)
}
