//! Who is connected right now, and the way to reach them.

use crate::store::SatelliteRecord;
use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId};
use portolan_proto::v1;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What a session can be told from outside.
#[derive(Debug)]
pub enum Command {
    /// Send this to the satellite.
    Send(Box<v1::uplink_down::Message>),
    /// Say goodbye and end.
    End(v1::goodbye::Reason),
}

/// A live session, as others see it.
#[derive(Clone, Debug)]
pub struct Live {
    /// Tells a session from the one that replaced it.
    pub session: u64,
    /// The satellite's numbering.
    pub epoch: Epoch,
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
    /// Records it keeps.
    pub spool_depth: u64,
    commands: mpsc::Sender<Command>,
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

    /// Registers a session; an older one of the same satellite is told that it was replaced. Returns its number.
    pub fn join(
        &self,
        satellite: SatelliteId,
        address: SocketAddr,
        hello: &v1::Hello,
        epoch: Epoch,
        commands: mpsc::Sender<Command>,
        now: Timestamp,
    ) -> u64 {
        let mut inner = self.inner();
        inner.next_session += 1;
        let session = inner.next_session;
        let live = Live {
            session,
            epoch,
            address,
            last_seen: now,
            version: hello.version.clone(),
            capabilities: hello.capabilities.clone(),
            assignment_revision: hello.assignment_revision,
            spool_depth: hello.spool_depth,
            commands,
        };
        if let Some(old) = inner.live.insert(satellite, live) {
            // A full queue means that the old session is stuck; its own time limits end it.
            let _ = old.commands.try_send(Command::End(v1::goodbye::Reason::Replaced));
        }
        session
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
            }
        }
    }

    /// The live session of a satellite.
    pub fn live(&self, satellite: SatelliteId) -> Option<Live> {
        self.inner().live.get(&satellite).cloned()
    }

    /// Sends a message to a satellite; `false` when it is not connected or does not read.
    pub fn send(&self, satellite: SatelliteId, message: v1::uplink_down::Message) -> bool {
        let commands = self.inner().live.get(&satellite).map(|live| live.commands.clone());
        commands.is_some_and(|commands| commands.try_send(Command::Send(Box::new(message))).is_ok())
    }

    /// Ends a satellite's live session; `false` when there is none.
    pub fn end(&self, satellite: SatelliteId, reason: v1::goodbye::Reason) -> bool {
        let commands = self.inner().live.get(&satellite).map(|live| live.commands.clone());
        commands.is_some_and(|commands| commands.try_send(Command::End(reason)).is_ok())
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
