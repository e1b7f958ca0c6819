//! Who is connected right now, and the way to reach them.

use crate::store::SatelliteRecord;
use jiff::Timestamp;
use portolan_common::ids::{ProcessId, SatelliteId};
use portolan_proto::v1;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

/// Messages from outside that may wait for a session.
const COMMANDS: usize = 64;

/// A live session, as others see it.
#[derive(Clone, Debug)]
pub struct Live {
    /// Tells a session from the one that replaced it.
    pub session: u64,
    /// Which run of the satellite's program it is.
    pub process: ProcessId,
    /// Where it comes from.
    pub address: SocketAddr,
    /// The last message from it.
    pub last_seen: Timestamp,
    /// Its version.
    pub version: String,
    /// What its host lets it do.
    pub capabilities: Vec<String>,
    /// The assignment it runs.
    pub assignment_revision: u64,
    /// Records it keeps that are not acked.
    pub spool_depth: u64,
    /// Of its spool's file.
    pub spool_bytes: u64,
    /// Why its spool takes nothing; empty: it does.
    pub spool_error: String,
    /// How far its clock is ahead of the server's; `None`: not measured yet.
    pub clock_skew_ms: Option<i64>,
    /// It sends what it gathered while it was away.
    pub replaying: bool,
    messages: mpsc::Sender<Box<v1::uplink_down::Message>>,
    ending: watch::Sender<Option<v1::goodbye::Reason>>,
    assigned: watch::Sender<u64>,
}

impl Live {
    /// Whether it says that it can do this.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|offered| offered == capability)
    }
}

/// A session's own end of what [`Hub::join`] made.
#[derive(Debug)]
pub struct Joined {
    /// Its number.
    pub session: u64,
    /// What to send to the satellite.
    pub messages: mpsc::Receiver<Box<v1::uplink_down::Message>>,
    /// Set when it is to end. Apart from the messages, since a full queue must not keep a revocation out.
    pub ending: watch::Receiver<Option<v1::goodbye::Reason>>,
    /// The revision that the satellite should have; 0: it did not change since the session began. The message itself may
    /// be large, and is made when it can be sent.
    pub assigned: watch::Receiver<u64>,
}

/// How many satellites have which status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// Connected.
    pub online: usize,
    /// Enrolled but not connected.
    pub offline: usize,
    /// Never enrolled.
    pub pending: usize,
    /// Revoked.
    pub revoked: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next_session: u64,
    live: HashMap<SatelliteId, Live>,
}

impl Hub {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a session; an older one of the same satellite is told that it was replaced.
    pub fn join(
        &self,
        satellite: SatelliteId,
        address: SocketAddr,
        hello: &v1::Hello,
        process: ProcessId,
        now: Timestamp,
    ) -> Joined {
        let (messages, waiting) = mpsc::channel(COMMANDS);
        let (ending, ends) = watch::channel(None);
        let (assigned, assignments) = watch::channel(0);
        let mut inner = self.inner();
        inner.next_session += 1;
        let session = inner.next_session;
        let live = Live {
            session,
            process,
            address,
            last_seen: now,
            version: word(&hello.version),
            capabilities: hello.capabilities.iter().take(32).map(|text| word(text)).collect(),
            assignment_revision: hello.assignment_revision,
            spool_depth: hello.spool_depth,
            spool_bytes: 0,
            spool_error: String::new(),
            clock_skew_ms: None,
            replaying: false,
            messages,
            ending,
            assigned,
        };
        if let Some(old) = inner.live.insert(satellite, live) {
            old.ending.send_replace(Some(v1::goodbye::Reason::Replaced));
        }
        Joined { session, messages: waiting, ending: ends, assigned: assignments }
    }

    /// Takes a session off, unless a newer one stands in its place. Says whether it was taken off.
    pub fn leave(&self, satellite: SatelliteId, session: u64) -> bool {
        let mut inner = self.inner();
        let is_current = inner.live.get(&satellite).is_some_and(|live| live.session == session);
        if is_current {
            inner.live.remove(&satellite);
        }
        is_current
    }

    /// Notes a sign of life.
    pub fn seen(
        &self,
        satellite: SatelliteId,
        session: u64,
        now: Timestamp,
        heartbeat: Option<&v1::Heartbeat>,
    ) {
        if let Some(live) = self.inner().live.get_mut(&satellite).filter(|live| live.session == session) {
            live.last_seen = now;
            if let Some(heartbeat) = heartbeat {
                live.assignment_revision = heartbeat.assignment_revision;
                live.spool_depth = heartbeat.spool_depth;
                live.spool_bytes = heartbeat.spool_bytes;
                live.spool_error = sentence(&heartbeat.spool_error);
            }
        }
    }

    /// Notes how far a satellite's clock is ahead.
    pub fn skewed(&self, satellite: SatelliteId, session: u64, skew_ms: i64) {
        if let Some(live) = self.inner().live.get_mut(&satellite).filter(|live| live.session == session) {
            live.clock_skew_ms = Some(skew_ms);
        }
    }

    /// Notes whether a satellite catches up.
    pub fn replays(&self, satellite: SatelliteId, session: u64, replaying: bool) {
        if let Some(live) = self.inner().live.get_mut(&satellite).filter(|live| live.session == session) {
            live.replaying = replaying;
        }
    }

    /// Every live session.
    pub fn all(&self) -> Vec<(SatelliteId, Live)> {
        self.inner().live.iter().map(|(id, live)| (*id, live.clone())).collect()
    }

    /// How many are connected, and how many of these catch up.
    pub fn connected(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.live.len(), inner.live.values().filter(|live| live.replaying).count())
    }

    /// The live session of a satellite.
    pub fn live(&self, satellite: SatelliteId) -> Option<Live> {
        self.inner().live.get(&satellite).cloned()
    }

    /// Sends a message to a satellite; `false` when it is not connected or does not read.
    pub fn send(&self, satellite: SatelliteId, message: v1::uplink_down::Message) -> bool {
        self.inner()
            .live
            .get(&satellite)
            .is_some_and(|live| live.messages.try_send(Box::new(message)).is_ok())
    }

    /// Says that a satellite's desired state has another revision; `false` when it is not connected.
    pub fn assign(&self, satellite: SatelliteId, revision: u64) -> bool {
        let inner = self.inner();
        inner.live.get(&satellite).map(|live| live.assigned.send_replace(revision)).is_some()
    }

    /// Ends a satellite's live session; `false` when there is none.
    pub fn end(&self, satellite: SatelliteId, reason: v1::goodbye::Reason) -> bool {
        let inner = self.inner();
        let live = inner.live.get(&satellite);
        live.map(|live| live.ending.send_replace(Some(reason))).is_some()
    }

    /// The status of a satellite.
    pub fn status(&self, record: &SatelliteRecord) -> v1::satellite::Status {
        let online =
            || SatelliteId::from_slice(&record.id).is_some_and(|id| self.inner().live.contains_key(&id));
        if record.revoked_at_ms != 0 {
            v1::satellite::Status::Revoked
        } else if record.enrolled_at_ms == 0 {
            v1::satellite::Status::Pending
        } else if online() {
            v1::satellite::Status::Online
        } else {
            v1::satellite::Status::Offline
        }
    }

    /// How many have which status.
    pub fn count(&self, records: &[SatelliteRecord]) -> StatusCounts {
        let mut counts = StatusCounts::default();
        for record in records {
            match self.status(record) {
                v1::satellite::Status::Online => counts.online += 1,
                v1::satellite::Status::Pending => counts.pending += 1,
                v1::satellite::Status::Revoked => counts.revoked += 1,
                v1::satellite::Status::Offline | v1::satellite::Status::Unspecified => counts.offline += 1,
            }
        }
        counts
    }
}

/// What a satellite says of itself is kept and shown, so it is cut and cleaned.
fn word(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(32).collect()
}

fn sentence(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn join(hub: &Hub, version: &str) -> Joined {
        let hello = v1::Hello { version: version.into(), ..v1::Hello::default() };
        let address = "127.0.0.1:1".parse().unwrap();
        hub.join(SatelliteId(Uuid::nil()), address, &hello, ProcessId(Uuid::nil()), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_newer_session_replaces_the_older_even_when_its_queue_is_full() {
        let hub = Hub::default();
        let id = SatelliteId(Uuid::nil());
        let old = join(&hub, "1");
        let ack = v1::uplink_down::Message::Ack(v1::Ack { sequence: 1 });
        while hub.send(id, ack.clone()) {}
        let new = join(&hub, "2");
        assert_eq!(*old.ending.borrow(), Some(v1::goodbye::Reason::Replaced));
        assert!(!hub.leave(id, old.session), "the newer one stays");
        assert!(hub.end(id, v1::goodbye::Reason::Revoked));
        assert_eq!(*new.ending.borrow(), Some(v1::goodbye::Reason::Revoked));
        assert!(hub.leave(id, new.session) && !hub.end(id, v1::goodbye::Reason::Revoked));
    }

    #[test]
    fn what_a_satellite_says_of_itself_is_cut() {
        let hub = Hub::default();
        let _joined = join(&hub, &format!("1\u{1b}[31m{}", "x".repeat(100_000)));
        let live = hub.live(SatelliteId(Uuid::nil())).unwrap();
        assert!(live.version.len() <= 32 && !live.version.contains('\u{1b}'));
    }
}
