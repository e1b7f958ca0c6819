//! Observations in: deduplicated by (satellite, epoch, sequence), merged into the current state, changes logged, the
//! cursor moved — all in one transaction, durable before anybody is told.

use super::inventory::{HostState, write_parts};
use super::keys;
use super::merge::{KnownRun, merge};
use super::record::{MAX_VALUE_BYTES, decode, encode};
use super::sweeps::SweepRecord;
use super::{MAX_AHEAD, Store, StoreError, Trees};
use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::{HostObservation, Protocol};
use portolan_common::targets::{Target, TargetSpec};
use portolan_proto::convert;
use portolan_proto::v1;
use sled::Transactional as _;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many addresses a name leads to at most; the newest stay.
const ADDRESSES_PER_NAME: usize = 64;

/// Records of one satellite, in the order of their sequences.
pub struct IngestBatch {
    /// Who sent them.
    pub satellite: SatelliteId,
    /// Its tenant.
    pub tenant: String,
    /// The numbering they belong to.
    pub epoch: Epoch,
    /// The server's clock.
    pub received_at: Timestamp,
    /// Ascending.
    pub items: Vec<IngestItem>,
}

/// One record.
pub struct IngestItem {
    /// Counts from 1 within the epoch.
    pub sequence: u64,
    /// It reached the server long after it was seen.
    pub late: bool,
    /// Hosts seen; empty for the end of a sweep.
    pub hosts: Vec<HostObservation>,
    /// The end of a sweep.
    pub end: Option<SweepEnd>,
}

/// The end of a sweep: what proves its coverage.
pub struct SweepEnd {
    /// Which scan it was.
    pub scan: ScanId,
    /// As the satellite reported it.
    pub end: v1::ScanEnd,
}

/// What a commit did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IngestOutcome {
    /// Everything up to here is durable.
    pub acked: u64,
    /// The sequences that were counted now; the others had been before.
    pub counted: Vec<u64>,
    /// State changes of single ports.
    pub changes: usize,
    /// Sequences that are missing before the first item: lost on the satellite.
    pub gap: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CursorRecord {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(int64, tag = "2")]
    moved_at_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChangeRecord {
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<ChangeEntry>,
    #[prost(bool, tag = "2")]
    pub late: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChangeEntry {
    #[prost(enumeration = "v1::Protocol", tag = "1")]
    pub protocol: i32,
    #[prost(enumeration = "v1::PortState", tag = "2")]
    pub from: i32,
    #[prost(enumeration = "v1::PortState", tag = "3")]
    pub to: i32,
    #[prost(enumeration = "v1::Reason", tag = "4")]
    pub reason: i32,
    #[prost(message, optional, tag = "5")]
    pub ports: Option<v1::PortSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NameRecord {
    /// Newest last.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub addresses: Vec<Vec<u8>>,
}

impl IngestBatch {
    /// Times beyond this are cut: no clock runs so far ahead.
    fn latest(&self) -> Timestamp {
        self.received_at.saturating_add(MAX_AHEAD).unwrap_or(Timestamp::MAX)
    }
}

impl Store {
    /// Commits what is new of a batch.
    ///
    /// # Errors
    /// When the store cannot be read or written; then nothing of the batch counts.
    pub async fn ingest(&self, batch: IngestBatch) -> Result<IngestOutcome, StoreError> {
        self.writer.write(move |trees| commit(trees, &batch)).await
    }
}

pub(super) fn read_cursor(trees: &Trees, satellite: SatelliteId, epoch: Epoch) -> Result<u64, StoreError> {
    let Some(bytes) = trees.state.get(keys::cursor(satellite, epoch))? else { return Ok(0) };
    Ok(decode::<CursorRecord>(&bytes)?.sequence)
}

fn commit(trees: &Trees, batch: &IngestBatch) -> Result<IngestOutcome, StoreError> {
    let cursor = read_cursor(trees, batch.satellite, batch.epoch)?;
    let mut pending =
        Pending { trees, batch, hosts: BTreeMap::new(), log: sled::Batch::default(), changes: 0 };
    let mut outcome = IngestOutcome { acked: cursor, ..IngestOutcome::default() };
    for item in &batch.items {
        // Numbers that do not ascend are a satellite's mistake or worse; they count once all the same.
        if item.sequence <= outcome.acked {
            continue;
        }
        outcome.gap += item.sequence - outcome.acked - 1;
        outcome.acked = item.sequence;
        outcome.counted.push(item.sequence);
        for host in &item.hosts {
            let at = host.observed_at.min(batch.latest());
            pending.observe(item, host, at)?;
        }
        if let Some(end) = &item.end {
            pending.end_sweep(end)?;
        }
    }
    if outcome.counted.is_empty() {
        return Ok(outcome);
    }
    outcome.changes = pending.changes;
    let (mut state, log) = pending.finish()?;
    let cursor = CursorRecord { sequence: outcome.acked, moved_at_ms: batch.received_at.as_millisecond() };
    state.insert(keys::cursor(batch.satellite, batch.epoch), encode(&cursor));
    // Earlier epochs ended with the processes that numbered them.
    let current = keys::cursor(batch.satellite, batch.epoch);
    for key in trees.state.scan_prefix(keys::cursors_of(batch.satellite)).keys() {
        let key = key?;
        if key != current {
            state.remove(key);
        }
    }
    let log_tree = trees.log_of(batch.received_at)?;
    (&trees.state, &log_tree)
        .transaction(|(state_tree, log_tree)| {
            state_tree.apply_batch(&state)?;
            log_tree.apply_batch(&log)?;
            Ok::<_, sled::transaction::ConflictableTransactionError<()>>(())
        })
        .map_err(|error| match error {
            sled::transaction::TransactionError::Storage(error) => StoreError::Engine(error),
            // Nothing in the closure aborts.
            sled::transaction::TransactionError::Abort(()) => StoreError::Stopped,
        })?;
    Ok(outcome)
}

/// What a batch will write, gathered before anything is applied.
struct Pending<'a> {
    trees: &'a Trees,
    batch: &'a IngestBatch,
    hosts: BTreeMap<(IpAddr, Protocol), Host>,
    log: sled::Batch,
    changes: usize,
}

struct Host {
    state: HostState,
    /// How many parts stand in the store now.
    parts: usize,
    changed: bool,
}

impl Pending<'_> {
    fn observe(
        &mut self,
        item: &IngestItem,
        host: &HostObservation,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for protocol in Protocol::ALL.iter().copied() {
            let mut seen = host.runs.iter().filter(|run| run.protocol == protocol).peekable();
            if seen.peek().is_none() {
                continue;
            }
            let known = self.host(host.address, protocol)?;
            let (runs, changes) = merge(&known.state.runs, seen, at);
            let first = known.state.runs.is_empty();
            if first {
                known.state.first_seen = at;
            }
            if first || runs != known.state.runs || known.state.target != host.target {
                known.state.runs = runs;
                known.state.target.clone_from(&host.target);
                known.changed = true;
            }
            entries.extend(changes.into_iter().map(|change| (protocol, change)));
        }
        self.changes += entries.iter().map(|(_, change)| change.ports.len()).sum::<usize>();
        for (chunk, changes) in chunks(&entries).into_iter().enumerate() {
            let key = keys::change(
                &self.batch.tenant,
                host.address,
                at,
                self.batch.satellite,
                item.sequence,
                u16::try_from(chunk).unwrap_or(u16::MAX),
            );
            self.log.insert(key, encode(&ChangeRecord { changes, late: item.late }));
        }
        Ok(())
    }

    fn host(&mut self, address: IpAddr, protocol: Protocol) -> Result<&mut Host, StoreError> {
        use std::collections::btree_map::Entry;
        match self.hosts.entry((address, protocol)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let prefix = keys::host(&self.batch.tenant, address, self.batch.satellite, protocol);
                let (state, parts) = HostState::read(self.trees, &prefix)?;
                Ok(entry.insert(Host { state, parts, changed: false }))
            }
        }
    }

    fn end_sweep(&mut self, sweep: &SweepEnd) -> Result<(), StoreError> {
        let finished = convert::time_from_wire(sweep.end.finished_at_ms)
            .unwrap_or(self.batch.received_at)
            .min(self.batch.latest());
        let key = keys::sweep(&self.batch.tenant, self.batch.satellite, finished, sweep.scan);
        for (chunk, record) in SweepRecord::from_end(&sweep.end, finished).into_iter().enumerate() {
            let mut key = key.clone();
            key.extend(u16::try_from(chunk).unwrap_or(u16::MAX).to_be_bytes());
            self.log.insert(key, encode(&record));
        }
        Ok(())
    }

    fn finish(self) -> Result<(sled::Batch, sled::Batch), StoreError> {
        let mut state = sled::Batch::default();
        let mut names: BTreeMap<Vec<u8>, NameRecord> = BTreeMap::new();
        for ((address, protocol), host) in self.hosts.iter().filter(|(_, host)| host.changed) {
            let prefix = keys::host(&self.batch.tenant, *address, self.batch.satellite, *protocol);
            write_parts(&mut state, &prefix, &host.state, host.parts);
            if !is_name(&host.state.target) {
                continue;
            }
            let key = keys::name(&self.batch.tenant, &host.state.target);
            if !names.contains_key(&key) {
                let known = self.trees.state.get(&key)?.map(|bytes| decode(&bytes)).transpose()?;
                names.insert(key.clone(), known.unwrap_or_default());
            }
            if let Some(record) = names.get_mut(&key) {
                let address = convert::address_to_wire(*address);
                record.addresses.retain(|known| *known != address);
                record.addresses.push(address);
                let surplus = record.addresses.len().saturating_sub(ADDRESSES_PER_NAME);
                record.addresses.drain(..surplus);
            }
        }
        for (key, record) in names {
            state.insert(key, encode(&record));
        }
        Ok((state, self.log))
    }
}

/// Whether a target as it was typed is a host name.
pub fn is_name(target: &str) -> bool {
    matches!(target.parse::<TargetSpec>(), Ok(TargetSpec { target: Target::Name(_), .. }))
}

/// Packs changes into values of bounded size; a change whose ports alone are larger is split by ranges.
fn chunks(entries: &[(Protocol, super::merge::RunChange)]) -> Vec<Vec<ChangeEntry>> {
    use prost::Message as _;
    let mut chunks: Vec<Vec<ChangeEntry>> = Vec::new();
    let mut room = 0;
    for (protocol, change) in entries {
        for ports in super::inventory::split(&change.ports) {
            let entry = ChangeEntry {
                protocol: v1::Protocol::from(*protocol).into(),
                from: v1::PortState::from(change.from).into(),
                to: v1::PortState::from(change.to).into(),
                reason: v1::Reason::from(change.reason).into(),
                ports: Some((&ports).into()),
            };
            let size = entry.encoded_len() + 4;
            match chunks.last_mut() {
                Some(chunk) if size <= room => chunk.push(entry),
                _ => {
                    room = MAX_VALUE_BYTES - 64;
                    chunks.push(vec![entry]);
                }
            }
            room = room.saturating_sub(size);
        }
    }
    chunks
}

impl From<&KnownRun> for super::inventory::RunRecord {
    fn from(run: &KnownRun) -> Self {
        Self {
            state: v1::PortState::from(run.state).into(),
            reason: v1::Reason::from(run.reason).into(),
            since_ms: run.since.as_millisecond(),
            ports: Some((&run.ports).into()),
        }
    }
}
