//! What the evaluation changed, on its way to the disk: written in order, in groups, and only then told to whoever
//! watches. Nothing of it is lost while the disk is full; it waits, and newer states take the place of older ones.

use crate::alerts::AlertChange;
use crate::store::{DocumentWrite, Kind, Store, StoreError, TimelineWrite};
use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};

/// Timeline entries that wait for the disk at most; the oldest go first.
const MAX_TIMELINE: usize = 100_000;
/// Changes of alerts that wait to be told at most.
const MAX_EVENTS: usize = 100_000;
/// Documents and timeline entries in one commit.
const AT_ONCE: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    documents: BTreeMap<(Kind, Vec<u8>), Option<Vec<u8>>>,
    timeline: VecDeque<TimelineWrite>,
    events: VecDeque<AlertChange>,
    /// Counts what was ever added, …
    added: u64,
    /// … and what was given up for want of room.
    pub(super) dropped: u64,
}

/// What one commit takes, and what is told after it.
#[derive(Debug, Default)]
pub(super) struct Group {
    documents: Vec<DocumentWrite>,
    timeline: Vec<TimelineWrite>,
    /// In their order.
    pub(super) events: Vec<AlertChange>,
    /// Everything up to here is durable once the group is.
    pub(super) up_to: u64,
}

impl Unwritten {
    /// Takes in what changed; a later state of a document takes the place of an earlier one.
    pub(super) fn add(
        &mut self,
        documents: Vec<DocumentWrite>,
        timeline: Vec<TimelineWrite>,
        events: Vec<AlertChange>,
    ) {
        for write in documents {
            self.documents.insert((write.kind, write.key), write.value);
        }
        self.timeline.extend(timeline);
        self.events.extend(events);
        self.added += 1;
        let surplus = self.timeline.len().saturating_sub(MAX_TIMELINE);
        self.timeline.drain(..surplus);
        let surplus_events = self.events.len().saturating_sub(MAX_EVENTS);
        self.events.drain(..surplus_events);
        self.dropped += (surplus + surplus_events) as u64;
    }

    /// What a caller waits for who wants all of it to be durable.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    /// Whether there is nothing to write or tell.
    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.timeline.is_empty() && self.events.is_empty()
    }

    /// Takes the next group out. Events wait for the last document.
    pub(super) fn take(&mut self) -> Group {
        let mut group = Group::default();
        while group.documents.len() < AT_ONCE
            && let Some(((kind, key), value)) = self.documents.pop_first()
        {
            group.documents.push(DocumentWrite { kind, key, value });
        }
        let entries = self.timeline.len().min(AT_ONCE);
        group.timeline.extend(self.timeline.drain(..entries));
        if self.documents.is_empty() && self.timeline.is_empty() {
            group.events.extend(self.events.drain(..));
            group.up_to = self.added;
        }
        group
    }

    /// Puts back what could not be written; what came meanwhile is newer.
    pub(super) fn put_back(&mut self, group: Group) {
        for write in group.documents {
            self.documents.entry((write.kind, write.key)).or_insert(write.value);
        }
        for entry in group.timeline.into_iter().rev() {
            self.timeline.push_front(entry);
        }
        for event in group.events.into_iter().rev() {
            self.events.push_front(event);
        }
    }
}

impl Group {
    /// Writes it.
    ///
    /// # Errors
    /// When the store takes no writes now.
    pub(super) async fn write(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        if self.documents.is_empty() && self.timeline.is_empty() {
            return Ok(());
        }
        store.put_documents(self.documents.clone(), self.timeline.clone(), now).await
    }
}
