//! Reads what is to be sent next, a little ahead, on a blocking thread: a backlog of any size is never in memory, and
//! reading does not wait for a commit.

use super::file::{Fault, Limit, SpoolFile};
use super::record::Outgoing;
use super::shared::Shared;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// Read at once.
const AHEAD: Limit = Limit { records: 32, bytes: 256 * 1024 };

/// What was read and not yet sent.
#[derive(Debug, Default)]
pub struct ReadAhead {
    generation: u64,
    ready: VecDeque<Outgoing>,
    /// A read under way. It is kept here, so that a caller who stops waiting does not undo it.
    pending: Option<JoinHandle<Result<Vec<Outgoing>, Fault>>>,
}

impl ReadAhead {
    /// The record that is sent when everything before `key` was. `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read at the moment.
    pub async fn get(
        &mut self,
        key: u64,
        generation: u64,
        source: &Source,
    ) -> Result<Option<Outgoing>, Fault> {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        loop {
            while self.ready.front().is_some_and(|first| first.first < key) {
                self.ready.pop_front();
            }
            if let Some(found) = self.ready.pop_front_if(|first| first.first == key) {
                return Ok(Some(found));
            }
            self.ready.clear();
            let source = source.clone();
            let pending =
                self.pending.get_or_insert_with(|| tokio::task::spawn_blocking(move || source.read(key)));
            let result = pending.await;
            self.pending = None;
            let read = result.unwrap_or_else(|error| Err(Fault::Io(format!("reading stopped: {error}"))))?;
            if read.is_empty() {
                return Ok(None);
            }
            self.ready = read.into();
        }
    }
}

/// Where it is read from.
#[derive(Clone, Debug)]
pub struct Source {
    pub file: Arc<SpoolFile>,
    pub shared: Arc<Shared>,
    /// Who holds this says which records are unsent: held while records are read for sending, and while records are
    /// thinned or dropped. What is on its way is left as it is, so that it is counted once.
    pub unsent: Arc<Mutex<()>>,
}

impl Source {
    /// Reads from `key` on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read(&self, key: u64) -> Result<Vec<Outgoing>, Fault> {
        let _unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match self.file.read(|view| view.outgoing(key, key, AHEAD)) {
            Err(Fault::Damaged(why)) => self.read_past_damage(key, why)?,
            read => read?,
        };
        if let Some(last) = read.last() {
            let mut known = self.shared.lock();
            known.read_up_to = known.read_up_to.max(last.key);
        }
        Ok(read)
    }

    /// Part of the file makes no sense: steps over it, further and further. What lies in between is accounted for as
    /// damage.
    fn read_past_damage(&self, key: u64, why: String) -> Result<Vec<Outgoing>, Fault> {
        let last = self.shared.lock().last();
        let steps = std::iter::successors(Some(1u64), |step| step.checked_mul(2));
        for readable in steps.map_while(|step| key.checked_add(step)).take_while(|readable| *readable <= last)
        {
            if let Ok(read) = self.file.read(|view| view.outgoing(key, readable, AHEAD)) {
                tracing::error!(why, "part of the spool cannot be read; the server is told what is lost");
                return Ok(read);
            }
        }
        Err(Fault::Damaged(why))
    }
}
