//! Where to find alerts: by subject, by fingerprint, by check, by host.

use super::alert::{Alert, Fingerprint, Subject};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// The unresolved alerts of a check.
#[derive(Debug, Default)]
struct OfCheck {
    ids: BTreeSet<Uuid>,
    /// How many of them are about ports and hosts, rather than about the lack of evidence.
    faults: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The unresolved alert of each subject.
    open: HashMap<Subject, Uuid>,
    /// The newest alert of each fingerprint.
    latest: HashMap<Fingerprint, Uuid>,
    of_check: HashMap<Arc<str>, OfCheck>,
    /// Unresolved alerts by tenant and address.
    of_host: HashMap<(String, IpAddr), BTreeSet<Uuid>>,
    /// By when they were resolved.
    resolved: BTreeSet<(Timestamp, Uuid)>,
}

impl Index {
    /// Takes an alert in as it stands. Returns the unresolved one of the same subject that stood there before.
    pub(super) fn add(&mut self, alert: &Alert) -> Option<Uuid> {
        self.latest.insert(alert.fingerprint, alert.id);
        if let Some((at, _)) = alert.resolved {
            self.resolved.insert((at, alert.id));
            return None;
        }
        if let Some(check) = alert.subject.check() {
            let of_check = self.of_check.entry(check.clone()).or_default();
            if of_check.ids.insert(alert.id) {
                of_check.faults += usize::from(alert.subject.key().is_some());
            }
        }
        if let Some(host) = host(alert) {
            self.of_host.entry(host).or_default().insert(alert.id);
        }
        self.open.insert(alert.subject.clone(), alert.id).filter(|before| *before != alert.id)
    }

    /// Takes an alert out, as it stood.
    pub(super) fn remove(&mut self, alert: &Alert) {
        if self.latest.get(&alert.fingerprint) == Some(&alert.id) {
            self.latest.remove(&alert.fingerprint);
        }
        if let Some((at, _)) = alert.resolved {
            self.resolved.remove(&(at, alert.id));
            return;
        }
        if self.open.get(&alert.subject) == Some(&alert.id) {
            self.open.remove(&alert.subject);
        }
        if let Some(check) = alert.subject.check()
            && let Some(of_check) = self.of_check.get_mut(check)
            && of_check.ids.remove(&alert.id)
        {
            of_check.faults -= usize::from(alert.subject.key().is_some());
            if of_check.ids.is_empty() {
                self.of_check.remove(check);
            }
        }
        if let Some(host) = host(alert)
            && let Some(ids) = self.of_host.get_mut(&host)
        {
            ids.remove(&alert.id);
            if ids.is_empty() {
                self.of_host.remove(&host);
            }
        }
    }

    pub(super) fn open(&self, subject: &Subject) -> Option<Uuid> {
        self.open.get(subject).copied()
    }

    pub(super) fn latest(&self, fingerprint: Fingerprint) -> Option<Uuid> {
        self.latest.get(&fingerprint).copied()
    }

    /// Every unresolved alert, in no order.
    pub(super) fn unresolved(&self) -> impl ExactSizeIterator<Item = (&Subject, Uuid)> {
        self.open.iter().map(|(subject, id)| (subject, *id))
    }

    /// The unresolved alerts of a check, oldest first.
    pub(super) fn of_check(&self, check: &str) -> impl Iterator<Item = Uuid> + '_ {
        self.of_check.get(check).into_iter().flat_map(|of_check| of_check.ids.iter().copied())
    }

    /// How many of a check's ports and hosts have an unresolved alert.
    pub(super) fn faults(&self, check: &str) -> usize {
        self.of_check.get(check).map_or(0, |of_check| of_check.faults)
    }

    /// The unresolved alerts of the same host, oldest first, itself included.
    pub(super) fn of_host_of(&self, alert: &Alert) -> impl Iterator<Item = Uuid> + '_ {
        let ids = host(alert).and_then(|host| self.of_host.get(&host));
        ids.into_iter().flatten().copied()
    }

    /// The one that was resolved first, and when; how many there are.
    pub(super) fn oldest_resolved(&self) -> Option<(Timestamp, Uuid, usize)> {
        self.resolved.first().map(|(at, id)| (*at, *id, self.resolved.len()))
    }
}

fn host(alert: &Alert) -> Option<(String, IpAddr)> {
    let tenant = alert.labels.get("tenant").cloned().unwrap_or_default();
    alert.subject.key().map(|key| (tenant, key.address))
}
