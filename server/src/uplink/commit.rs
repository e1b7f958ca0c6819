//! The committing half of a session: what the reader hands over becomes durable, then reaches whoever waits for it,
//! and only then is acked. It runs to its end even when the stream breaks: a commit whose outcome nobody took would
//! be lost to the operator who waits for it.

use crate::evaluation::{Arrival, ArrivedRecord, Evaluation};
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::problems::{Event, Problems};
use crate::scans::Scans;
use crate::store::{Health, IngestBatch, IngestItem, Order, Store, StoreError, SweepEnd};
use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::HostObservation;
use portolan_proto::batch;
use portolan_proto::convert::WireError;
use portolan_proto::v1;
use prost::Message as _;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// Records that one commit takes at most.
const AT_ONCE: usize = 32;
/// What waited longer than this on the satellite is history, not news.
const LATE_MS: u64 = 30_000;

/// A record that was read, with the room that it takes up until it is committed.
pub(super) struct Received {
    pub record: v1::Record,
    /// Of the session's room, and of everybody's.
    pub room: [OwnedSemaphorePermit; 2],
}

pub(super) struct Committer {
    pub store: Store,
    pub scans: Arc<Scans>,
    pub evaluation: Arc<Evaluation>,
    pub policies: Arc<Policies>,
    pub metrics: Arc<Metrics>,
    pub satellite: SatelliteId,
    pub name: String,
    pub tenant: String,
    pub epoch: Epoch,
    pub problems: Arc<Problems>,
    /// How far the satellite's clock is ahead, milliseconds; the reader measures it.
    pub skew_ms: Arc<AtomicI64>,
    /// Up to here it was seen while the satellite was away.
    pub backlog_until: u64,
    /// Sequences up to which everything is durable.
    pub acks: mpsc::UnboundedSender<u64>,
}

/// What is forwarded once its record is durable.
enum Forward {
    /// Encoded, as they came: what this version does not know of them is passed on.
    Hosts(ScanId, Vec<Vec<u8>>),
    End(ScanId, Box<v1::ScanEnd>),
    Status(Box<v1::CheckStatus>),
    Nothing,
}

impl Committer {
    /// Commits until the reader's end is gone and everything it handed over is durable.
    ///
    /// # Errors
    /// When the store cannot be read, or is closing. A full disk or a failed engine only makes it wait.
    pub(super) async fn run(
        self,
        mut records: mpsc::Receiver<Box<Received>>,
        ended: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut waiting = Vec::new();
        while records.recv_many(&mut waiting, AT_ONCE).await > 0 {
            let (received_at, received) = (Timestamp::now(), Instant::now());
            let mut items = Vec::with_capacity(waiting.len());
            let mut forwards = Vec::with_capacity(waiting.len());
            let mut rooms = Vec::with_capacity(waiting.len());
            for received in std::mem::take(&mut waiting) {
                let Received { record, room } = *received;
                let (sequence, waited) = (record.sequence, Duration::from_millis(record.waited_ms));
                let (item, forward) = self.accept(record);
                items.push(item);
                forwards.push((sequence, waited, forward));
                rooms.push(room);
            }
            let (satellite, tenant, epoch) = (self.satellite, self.tenant.clone(), self.epoch);
            let backlog = items.first().is_some_and(|item| item.sequence <= self.backlog_until);
            let skew_ms = self.skew_ms.load(Ordering::Relaxed);
            let batch =
                Arc::new(IngestBatch { satellite, tenant, epoch, received_at, skew_ms, backlog, items });
            // On a full disk what is not yet in the store's hands goes with its session; it was not acked.
            let mut health = self.store.watch_health();
            tokio::select! {
                // What can be committed is, although the stream is gone.
                biased;
                _ = health.wait_for(|health| *health == Health::Good) => {}
                () = ended.cancelled() => return Ok(()),
            }
            let outcome = self.store.ingest(batch.clone()).await.inspect_err(|error| {
                if let StoreError::Record(error) = error {
                    self.problems.set_damage(received_at, error.to_string());
                }
            })?;
            if let Some(damage) = outcome.damaged {
                tracing::error!(satellite = %self.name, damage, "a host's record was begun anew");
                self.problems.set_damage(received_at, damage);
            }
            drop(rooms);
            self.metrics.records.inc_by(outcome.counted.len() as u64);
            self.metrics.records_repeated.inc_by(forwards.len().saturating_sub(outcome.counted.len()) as u64);
            self.metrics.port_changes.inc_by(outcome.changes as u64);
            if outcome.missing > 0 {
                self.metrics.records_missing.inc_by(outcome.missing);
                tracing::error!(
                    satellite = %self.name,
                    missing = outcome.missing,
                    "records never arrived, and the satellite does not account for them"
                );
                self.problems.note(Event::RecordsMissing, self.satellite, outcome.missing, received_at);
            }
            if outcome.dropped > 0 {
                self.metrics.hosts_dropped.inc_by(outcome.dropped);
                tracing::warn!(satellite = %self.name, dropped = outcome.dropped, "the satellite dropped observations");
                self.problems.note(Event::ObservationsDropped, self.satellite, outcome.dropped, received_at);
            }
            // A sequence that stands twice in a batch counted once.
            let mut counted: HashSet<u64> = outcome.counted.into_iter().collect();
            let mut records = Vec::new();
            let mut statuses = Vec::new();
            for (item, (sequence, waited, forward)) in batch.items.iter().zip(forwards) {
                if !counted.remove(&sequence) {
                    continue;
                }
                let order = Order { ordinal: outcome.ordinal, sequence };
                records.push(ArrivedRecord { order, waited, late: item.late, hosts: &item.hosts });
                match forward {
                    Forward::Hosts(scan, hosts) => {
                        self.metrics.hosts.inc_by(hosts.len() as u64);
                        self.scans.hosts(scan, self.satellite, hosts);
                    }
                    Forward::End(scan, end) => self.scans.ended(scan, self.satellite, *end),
                    Forward::Status(status) => statuses.push(*status),
                    Forward::Nothing => {}
                }
            }
            // Before anything that may fail: these records are counted, and never come again.
            self.evaluation.observed(&Arrival {
                tenant: &self.tenant,
                satellite: self.satellite,
                received,
                records,
            });
            if !statuses.is_empty() {
                let checks = statuses.iter().map(|status| status.check.clone()).collect();
                self.policies.note_statuses(self.satellite, statuses, received_at).await?;
                self.evaluation.fares(&checks);
            }
            // Nobody listens when the stream broke; the satellite then asks at its next Hello.
            let _ = self.acks.send(outcome.acked);
        }
        Ok(())
    }

    /// Takes a record apart. What breaks the wire contract is dropped and counted, here for both the store and the
    /// operator; the record is acked all the same, since it would not be better the next time.
    fn accept(&self, record: v1::Record) -> (IngestItem, Forward) {
        let late = record.waited_ms > LATE_MS;
        let scan = ScanId::from_slice(&record.scan_id);
        let mut item = IngestItem {
            sequence: record.sequence,
            first: if record.first_sequence == 0 { record.sequence } else { record.first_sequence },
            dropped: record.dropped,
            late,
            hosts: Vec::new(),
            end: None,
        };
        let forward = match (record.body, scan) {
            (Some(v1::record::Body::Observations(bytes)), scan) => {
                let accepted = self.accept_hosts(&bytes, &mut item.hosts);
                scan.map_or(Forward::Nothing, |scan| Forward::Hosts(scan, accepted))
            }
            (Some(v1::record::Body::End(end)), Some(scan)) => {
                if end.coverage_dropped > 0 {
                    let dropped = end.coverage_dropped;
                    tracing::warn!(satellite = %self.name, dropped, "a sweep's coverage was too scattered to report");
                }
                item.end = Some(SweepEnd { scan, end: end.clone() });
                Forward::End(scan, Box::new(end))
            }
            (Some(v1::record::Body::CheckStatus(status)), _) => Forward::Status(Box::new(status)),
            _ => Forward::Nothing,
        };
        (item, forward)
    }

    fn accept_hosts(&self, bytes: &[u8], hosts: &mut Vec<HostObservation>) -> Vec<Vec<u8>> {
        let mut accepted = Vec::new();
        let mut addresses = HashSet::new();
        let mut dropped = 0u64;
        let mut why = String::new();
        for (number, wire) in batch::encoded_hosts(bytes).enumerate() {
            if number == batch::MAX_HOSTS {
                dropped += 1;
                why = format!("more than {} hosts in one record; no more were looked at", batch::MAX_HOSTS);
                break;
            }
            let host = wire.and_then(|wire| {
                let host = v1::HostObservation::decode(wire).map_err(|_| WireError::Malformed)?;
                Ok((wire, HostObservation::try_from(&host)?))
            });
            match host {
                Ok((wire, host)) if addresses.insert(host.address) => {
                    accepted.push(wire.to_vec());
                    hosts.push(host);
                }
                Ok(_) => {
                    dropped += 1;
                    why = "an address twice in one record".to_owned();
                }
                Err(error) => {
                    dropped += 1;
                    why = error.to_string();
                }
            }
        }
        if dropped > 0 {
            self.metrics.hosts_malformed.inc_by(dropped);
            tracing::warn!(satellite = %self.name, dropped, why, "dropped malformed observations");
        }
        accepted
    }
}
