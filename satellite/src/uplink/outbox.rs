//! What was seen and is not yet acked: numbered, bounded, sent again on every new connection until the server has it.
//!
//! It lives in memory, so it ends with the process, as does the epoch that numbers it.

use portolan_common::ids::{Epoch, ScanId};
use portolan_proto::v1;
use prost::Message as _;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Bytes that may wait; whoever wants to add more waits, so a scan stands still while the server is away too long.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Records on their way that are not acked yet.
const WINDOW: u64 = 64;

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    epoch: Epoch,
    state: Mutex<State>,
    /// Something was added, or acked so that more may be sent.
    ready: Notify,
    /// Something was acked.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Ascending sequences, without gaps.
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// The last sequence that was given out.
    last: u64,
    /// The last sequence that was sent on this connection.
    sent: u64,
    /// The last sequence that the server has.
    acked: u64,
}

#[derive(Debug)]
struct Waiting {
    record: v1::Record,
    bytes: usize,
    since: Instant,
}

impl Outbox {
    /// Empty, counting from 1.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, state: Mutex::default(), ready: Notify::new(), room: Notify::new() }
    }

    /// What numbers it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that are not acked.
    pub fn depth(&self) -> u64 {
        self.state().waiting.len() as u64
    }

    /// Scans with records that are not acked, each once.
    pub fn scans(&self) -> Vec<ScanId> {
        let mut scans: Vec<ScanId> =
            self.state().waiting.iter().filter_map(|w| ScanId::from_slice(&w.record.scan_id)).collect();
        scans.sort();
        scans.dedup();
        scans
    }

    /// Adds a record, once there is room.
    pub async fn push(&self, scan: ScanId, body: v1::record::Body, now: Instant) {
        loop {
            let room = self.room.notified();
            if self.state().bytes < MAX_BYTES {
                break;
            }
            room.await;
        }
        let mut state = self.state();
        state.last += 1;
        let record = v1::Record {
            sequence: state.last,
            scan_id: scan.as_bytes().to_vec(),
            body: Some(body),
            ..v1::Record::default()
        };
        let bytes = record.encoded_len();
        state.bytes += bytes;
        state.waiting.push_back(Waiting { record, bytes, since: now });
        drop(state);
        self.ready.notify_one();
    }

    /// A new connection: everything that the server does not have is to be sent again.
    pub fn rewind(&self, acked: u64) {
        self.ack(acked);
        let mut state = self.state();
        state.sent = state.acked;
        drop(state);
        self.ready.notify_one();
    }

    /// The server has everything up to `sequence`. What was never given out cannot be acked.
    pub fn ack(&self, sequence: u64) {
        let mut state = self.state();
        let sequence = sequence.min(state.last);
        while state.waiting.front().is_some_and(|waiting| waiting.record.sequence <= sequence) {
            if let Some(acked) = state.waiting.pop_front() {
                state.bytes -= acked.bytes;
            }
        }
        state.acked = state.acked.max(sequence);
        state.sent = state.sent.max(state.acked);
        drop(state);
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// The next record to send, once there is one and the window has room.
    pub async fn next(&self) -> v1::Record {
        loop {
            if let Some(record) = self.try_next(Instant::now()) {
                return record;
            }
            self.ready.notified().await;
        }
    }

    fn try_next(&self, now: Instant) -> Option<v1::Record> {
        let mut state = self.state();
        if state.sent - state.acked >= WINDOW {
            return None;
        }
        let index = usize::try_from(state.sent - state.acked).ok()?;
        let waiting = state.waiting.get(index)?;
        let waited = now.saturating_duration_since(waiting.since);
        let mut record = waiting.record.clone();
        record.waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        state.sent = record.sequence;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    const SCAN: ScanId = ScanId(Uuid::from_u128(3));

    fn body() -> v1::record::Body {
        v1::record::Body::End(v1::ScanEnd::default())
    }

    #[tokio::test]
    async fn what_is_not_acked_is_sent_again_after_a_rewind() {
        let outbox = Outbox::new(Epoch(Uuid::nil()));
        for _ in 0..3 {
            outbox.push(SCAN, body(), Instant::now()).await;
        }
        assert_eq!((outbox.next().await.sequence, outbox.next().await.sequence), (1, 2));
        outbox.ack(1);
        outbox.rewind(1);
        assert_eq!((outbox.next().await.sequence, outbox.next().await.sequence), (2, 3));
        assert!(outbox.try_next(Instant::now()).is_none());
        assert_eq!(outbox.scans(), [SCAN]);
        outbox.ack(99);
        assert_eq!(outbox.depth(), 0);
    }

    proptest! {
        /// A server that commits everything in order, over connections that break at any point.
        #[test]
        fn every_record_arrives_and_none_out_of_order(steps in proptest::collection::vec(0u8..5, 1..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let outbox = Outbox::new(Epoch(Uuid::nil()));
            let (mut pushed, mut server, mut connection) = (0u64, 0u64, Vec::new());
            for step in steps {
                match step {
                    0 | 1 => {
                        runtime.block_on(outbox.push(SCAN, body(), Instant::now()));
                        pushed += 1;
                    }
                    2 => connection.extend(outbox.try_next(Instant::now()).map(|record| record.sequence)),
                    3 => {
                        for sequence in connection.drain(..) {
                            prop_assert!(sequence <= server + 1, "a gap before {sequence}");
                            server = server.max(sequence);
                        }
                        outbox.ack(server);
                    }
                    _ => {
                        connection.clear();
                        outbox.rewind(server);
                    }
                }
            }
            outbox.rewind(server);
            while let Some(record) = outbox.try_next(Instant::now()) {
                prop_assert_eq!(record.sequence, server + 1);
                server = record.sequence;
                outbox.ack(server);
            }
            prop_assert_eq!(server, pushed);
        }
    }
}
