//! How the writer opens the file: for the first time, again after a failure, or a new one for one that is damaged.

use super::file::{Fault, Found};
use super::op::{Op, Push};
use super::record::{Gap, State};
use super::writer::Writer;
use portolan_proto::v1::{self, dropped::Reason};
use std::sync::PoisonError;
use tokio::sync::oneshot;
use uuid::Uuid;

impl Writer {
    /// Opens the file, or a new one where it makes no sense.
    pub(super) fn open(&mut self) -> Result<(), Fault> {
        let epoch = self.fresh_epoch;
        let found = match self.file.open(&|| State::new(epoch)) {
            Ok(found) => found,
            Err(Fault::Damaged(why)) => self.replace(&why)?,
            Err(fault) => {
                // There is nothing that could contradict the epoch, so the server can be told of the trouble.
                if !self.known && self.file.exists() == Ok(false) {
                    self.epoch.send_replace(Some(epoch));
                }
                return Err(fault);
            }
        };
        let unsent = self.unsent.clone();
        let _unsent = unsent.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.known {
            self.adopt(&found);
        } else {
            self.reconcile(found)?;
        }
        self.shared.lock().bytes = self.file.bytes();
        self.open = true;
        self.ready.notify_one();
        Ok(())
    }

    /// Takes over what was not known before, and reports the scans that a restart cut off.
    pub(super) fn adopt(&mut self, found: &Found) {
        self.marks = found.state.marks.clone();
        self.walk = None;
        self.attempt = None;
        self.shared.adopt(found);
        let ended = found.scans.iter().filter(|(_, entry)| entry.open);
        let finished_at_ms = self.shared.wall_ms();
        let ends: Vec<Op> = ended
            .map(|(scan, entry)| {
                tracing::warn!(%scan, "the satellite restarted during this scan");
                let end = v1::ScanEnd {
                    outcome: v1::scan_end::Outcome::Failed.into(),
                    error: "the satellite restarted during the scan".into(),
                    started_at_ms: entry.begun_at_ms,
                    finished_at_ms,
                    ..v1::ScanEnd::default()
                };
                Op::Push(Box::new(Push::new(Some(*scan), v1::record::Body::End(end))))
            })
            .collect();
        if !self.known {
            self.waiting.splice(0..0, ends);
        }
        self.known = true;
        if found.state.unacked.records > 0 {
            let records = found.state.unacked.records;
            tracing::info!(records, "the spool holds what the server does not have yet");
        }
        self.epoch.send_replace(Some(found.state.epoch));
    }

    /// The file was open before: what it says and what is known are made one.
    fn reconcile(&mut self, found: Found) -> Result<(), Fault> {
        // Without records nobody can tell whether it was done; then it is done again.
        if let Some(attempt) = self.attempt.take()
            && (attempt.added.records > 0 || attempt.state.epoch != self.shared.lock().epoch)
            && attempt.state.epoch == found.state.epoch
            && attempt.state.last == found.state.last
            && attempt.state.base == found.state.base
        {
            // The commit whose outcome was unknown is there after all.
            self.done(attempt);
        }
        let state = found.state.clone();
        if self.shared.lock().epoch != state.epoch {
            tracing::error!("the spool's file is not the one that was open before");
            self.adopt(&found);
            return Ok(());
        }
        let (acked, last) = {
            let known = self.shared.lock();
            (known.acked(), known.last())
        };
        let moved = self.file.read(|view| {
            Ok((view.measure(state.acked + 1..=acked)?, view.measure(acked + 1..=state.acked)?))
        })?;
        {
            let mut known = self.shared.lock();
            (known.unacked, known.kept, known.dropped) = (state.unacked, state.kept, state.dropped);
            known.unacked.remove(moved.0);
            known.kept.plus(moved.0);
            known.kept.remove(moved.1);
            known.unacked.plus(moved.1);
        }
        if state.last < last {
            let lost = last - state.last;
            tracing::error!(lost, "the spool's file went back; the server is told what is lost");
            let gap = Gap { first: state.last + 1, reason: Reason::Damaged, hosts: 0, confirmations: 0 };
            let state = self.shared.state(&self.marks);
            self.file.write(|tables| {
                tables.put_gap(last, gap)?;
                tables.put_state(&state)
            })?;
        }
        Ok(())
    }

    /// The file makes no sense: a new one takes its place, and what it should have held is reported as lost.
    pub(super) fn replace(&mut self, why: &str) -> Result<Found, Fault> {
        let (lost, running) = if self.known {
            let known = self.shared.lock();
            let open = known.scans.iter().filter(|(_, entry)| entry.open).map(|(scan, _)| *scan);
            (known.unacked.records, open.collect())
        } else {
            (0, Vec::new())
        };
        let aside = self.file.set_aside(self.shared.wall_ms() / 1000)?;
        tracing::error!(
            "the spool was damaged ({why}) and begins anew; what was not acknowledged is lost, the damaged file is \
             kept as {aside}"
        );
        // The new file must know of them, too.
        let begun = running.into_iter().map(|scan| Op::Begin(scan, oneshot::channel().0));
        self.waiting.splice(0..0, begun);
        self.known = false;
        self.fresh_epoch = *Uuid::new_v4().as_bytes();
        // Sequences without records: the first that is sent accounts for them.
        let mut state = State::new(self.fresh_epoch);
        state.last = lost.max(1);
        self.file.open(&|| state.clone())
    }
}
