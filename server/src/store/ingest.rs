//! Observations in: deduplicated by (satellite, epoch, sequence), merged into the current state, changes logged, gaps
//! noted, the cursor moved — all in one commit, durable before anybody is told. [`plan`] decides; it does no I/O but
//! through the view that it is given.

use super::changes::Packer;
use super::gap::{Gap, GapRecord};
use super::inventory::{HostState, write_parts};
use super::keys;
use super::merge::merge;
use super::moment::{Moment, Order};
use super::record::{Evolving, decode, encode, encode_over};
use super::sweeps::SweepRecord;
use super::view::{View, Writes};
use super::writer::Class;
use super::{MAX_AHEAD, Store, StoreError};
use jiff::Timestamp;
use portolan_common::ids::{Epoch, SatelliteId, ScanId};
use portolan_common::observation::{HostObservation, Protocol};
use portolan_common::targets::{Target, TargetSpec};
use portolan_proto::batch;
use portolan_proto::convert;
use portolan_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// How many addresses a name leads to at most; the newest stay.
const ADDRESSES_PER_NAME: usize = 64;
/// Epochs whose cursors are kept: a spool that comes back from a copy is still recognised.
const EPOCHS: usize = 8;

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
    /// How far the satellite's clock is ahead of the server's, milliseconds.
    pub skew_ms: i64,
    /// It was seen while the satellite was away; what others see now goes first.
    pub backlog: bool,
    /// Ascending.
    pub items: Vec<IngestItem>,
}

/// One record.
pub struct IngestItem {
    /// Counts from 1 within the epoch.
    pub sequence: u64,
    /// The first sequence that it stands for: its own, unless others before it lost their content.
    pub first: u64,
    /// What it lost on the satellite.
    pub dropped: Option<v1::Dropped>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestOutcome {
    /// Everything up to here is durable.
    pub acked: u64,
    /// Counts the satellite's epochs: with a sequence, the place of a record in all that the satellite ever sent.
    pub ordinal: u32,
    /// The sequences that were counted now; the others had been before.
    pub counted: Vec<u64>,
    /// State changes of single ports.
    pub changes: usize,
    /// Sequences that are missing and that the satellite did not account for.
    pub missing: u64,
    /// Host observations that the satellite dropped and accounted for; at least so many.
    pub dropped: u64,
    /// A host's record that could not be read, and was begun anew.
    pub damaged: Option<String>,
}

/// What is known of a satellite's numbering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to here is durable.
    pub acked: u64,
    /// Over all epochs: sequences that are missing and were not accounted for.
    pub missing: u64,
    /// Over all epochs: host observations that were dropped and accounted for.
    pub dropped: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CursorRecord {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(int64, tag = "2")]
    pub moved_at_ms: i64,
    /// Counts the satellite's epochs from 1.
    #[prost(uint32, tag = "3")]
    ordinal: u32,
    /// Carried over from epoch to epoch.
    #[prost(uint64, tag = "4")]
    missing: u64,
    #[prost(uint64, tag = "5")]
    dropped: u64,
}

impl Evolving for CursorRecord {
    const LAST_FIELD: u32 = 5;
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
    /// Commits what is new of a batch. While the disk is full or the engine is being opened again, it waits.
    ///
    /// # Errors
    /// When the store cannot be read, or is closing; then nothing of the batch counts.
    pub async fn ingest(&self, batch: impl Into<Arc<IngestBatch>>) -> Result<IngestOutcome, StoreError> {
        let batch = batch.into();
        let class = if batch.backlog { Class::Backlog } else { Class::Live };
        let mut earlier: Option<IngestOutcome> = None;
        self.writer
            .write(class, move |view| {
                let (outcome, writes) = plan(view, &batch)?;
                // An earlier try reached the disk although its engine failed: what it counted was counted.
                if outcome.counted.is_empty()
                    && let Some(earlier) = &earlier
                {
                    return Ok((earlier.clone(), Writes::default()));
                }
                earlier = Some(outcome.clone());
                Ok((outcome, writes))
            })
            .await
    }

    /// What is durable of a satellite's epoch. It goes through the writer: what is applied and not yet flushed must not
    /// be called acked.
    ///
    /// # Errors
    /// When the record cannot be read, or the store takes no writes now.
    pub async fn cursor(&self, satellite: SatelliteId, epoch: Epoch) -> Result<Cursor, StoreError> {
        self.writer
            .write(Class::Urgent, move |view| {
                let numbering = Numbering::read(view, satellite, epoch)?;
                Ok((numbering.cursor(), Writes::default()))
            })
            .await
    }
}

impl Store {
    /// What never arrived from a satellite, over all its epochs; `acked` is that of the newest.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn losses(&self, satellite: SatelliteId) -> Result<Cursor, StoreError> {
        let mut newest = CursorRecord::default();
        for (_, value) in self.trees()?.scan_prefix(&keys::cursors_of(satellite))? {
            let record: CursorRecord = decode(&value)?;
            if record.ordinal >= newest.ordinal {
                newest = record;
            }
        }
        Ok(Cursor { acked: newest.sequence, missing: newest.missing, dropped: newest.dropped })
    }
}

/// The cursors of a satellite.
struct Numbering {
    key: Vec<u8>,
    /// The epoch's own as it is stored, if it is.
    stored: Option<Vec<u8>>,
    current: CursorRecord,
    /// The other epochs': ordinal and key.
    others: Vec<(u32, Vec<u8>)>,
}

impl Numbering {
    fn read(view: &dyn View, satellite: SatelliteId, epoch: Epoch) -> Result<Self, StoreError> {
        let key = keys::cursor(satellite, epoch);
        let mut newest = CursorRecord::default();
        let mut current = None;
        let mut stored = None;
        let mut others = Vec::new();
        for (other, value) in view.scan_prefix(&keys::cursors_of(satellite))? {
            let record: CursorRecord = decode(&value)?;
            if other == key {
                current = Some(record);
                stored = Some(value);
            } else {
                others.push((record.ordinal, other));
                if record.ordinal >= newest.ordinal {
                    newest = record;
                }
            }
        }
        let mut current = current.unwrap_or_default();
        if current.ordinal < newest.ordinal || current.ordinal == 0 {
            // An epoch that begins, or one that was thought to be over and goes on: it comes after all others.
            current.ordinal = newest.ordinal.saturating_add(1);
            current.missing = current.missing.max(newest.missing);
            current.dropped = current.dropped.max(newest.dropped);
        }
        Ok(Self { key, stored, current, others })
    }

    fn cursor(&self) -> Cursor {
        Cursor { acked: self.current.sequence, missing: self.current.missing, dropped: self.current.dropped }
    }
}

/// What a batch does to the state: what counts, and what is to be written. Pure but for what it reads.
///
/// # Errors
/// When a record that it needs cannot be read.
pub fn plan(view: &dyn View, batch: &IngestBatch) -> Result<(IngestOutcome, Writes), StoreError> {
    let mut numbering = Numbering::read(view, batch.satellite, batch.epoch)?;
    let mut outcome = IngestOutcome {
        acked: numbering.current.sequence,
        ordinal: numbering.current.ordinal,
        ..IngestOutcome::default()
    };
    let mut pending = Pending {
        view,
        batch,
        ordinal: numbering.current.ordinal,
        log: keys::log_tree(batch.received_at),
        hosts: BTreeMap::new(),
        packer: Packer::new(batch.satellite, batch.received_at, batch.skew_ms),
        damaged: None,
        names: BTreeSet::new(),
        writes: Writes::default(),
        changes: 0,
    };
    for item in &batch.items {
        // Numbers that do not ascend are a satellite's mistake or worse; they count once all the same.
        if item.sequence <= outcome.acked {
            continue;
        }
        let expected = outcome.acked + 1;
        let first = item.first.clamp(expected, item.sequence);
        let dropped = item.dropped.unwrap_or_default();
        // What the record stands for beside itself, and does not say that it was dropped, is missing too.
        let stands_for = item.sequence - first;
        let unsaid = if item.first > expected { item.first.min(item.sequence) - expected } else { 0 };
        let unsaid = unsaid + stands_for.saturating_sub(dropped.records);
        if unsaid > 0 {
            outcome.missing = outcome.missing.saturating_add(unsaid);
            pending.gap(item, 1, Gap { last: item.sequence - 1, ..pending.no_gap(expected) });
        }
        if dropped.records > 0 || dropped.hosts > 0 {
            // No more than so many sequences can have held. Where it is not known how many, there was one in each.
            let records = dropped.records.min(stands_for + 1);
            let most = (stands_for + 1).saturating_mul(batch::MAX_HOSTS as u64);
            let hosts = if dropped.hosts == 0 { records } else { dropped.hosts.min(most) };
            outcome.dropped = outcome.dropped.saturating_add(hosts);
            let gap = Gap {
                last: item.sequence,
                hosts: dropped.hosts.min(most),
                confirmations: dropped.confirmations.min(most),
                reason: Some(dropped.reason()),
                ..pending.no_gap(first)
            };
            pending.gap(item, 0, gap);
        }
        outcome.acked = item.sequence;
        outcome.counted.push(item.sequence);
        for host in &item.hosts {
            pending.observe(item, host)?;
        }
        if let Some(end) = &item.end {
            pending.end_sweep(item, end);
        }
    }
    if outcome.counted.is_empty() {
        return Ok((outcome, Writes::default()));
    }
    outcome.changes = pending.changes;
    outcome.damaged = pending.damaged.take();
    let mut writes = pending.finish()?;
    numbering.current.sequence = outcome.acked;
    numbering.current.moved_at_ms = batch.received_at.as_millisecond();
    numbering.current.missing = numbering.current.missing.saturating_add(outcome.missing);
    numbering.current.dropped = numbering.current.dropped.saturating_add(outcome.dropped);
    let record = encode_over(&numbering.current, numbering.stored.as_deref());
    writes.put(numbering.key, record);
    numbering.others.sort();
    let surplus = (numbering.others.len() + 1).saturating_sub(EPOCHS);
    for (_, key) in numbering.others.into_iter().take(surplus) {
        writes.remove(key);
    }
    Ok((outcome, writes))
}

/// What a batch will write, gathered before anything is applied.
struct Pending<'a> {
    view: &'a dyn View,
    batch: &'a IngestBatch,
    ordinal: u32,
    /// The log tree of the month.
    log: String,
    hosts: BTreeMap<(IpAddr, Protocol), Host>,
    packer: Packer,
    /// What could not be read.
    damaged: Option<String>,
    /// Names by which hosts were seen, where that is news.
    names: BTreeSet<(String, IpAddr)>,
    writes: Writes,
    changes: usize,
}

struct Host {
    state: HostState,
    /// How many parts stand in the store now.
    parts: usize,
    changed: bool,
}

impl Pending<'_> {
    fn order(&self, item: &IngestItem) -> Order {
        Order { ordinal: self.ordinal, sequence: item.sequence }
    }

    fn no_gap(&self, first: u64) -> Gap {
        Gap { at: self.batch.received_at, first, last: first, hosts: 0, confirmations: 0, reason: None }
    }

    fn gap(&mut self, item: &IngestItem, chunk: u16, gap: Gap) {
        let key = keys::gap(self.batch.satellite, self.order(item), chunk);
        self.writes.log(&self.log, key, encode(&GapRecord::from(&gap)));
    }

    fn observe(&mut self, item: &IngestItem, host: &HostObservation) -> Result<(), StoreError> {
        let order = self.order(item);
        let at = host.observed_at.min(self.batch.latest());
        let moment = Moment { order, at, skew_ms: self.batch.skew_ms };
        for protocol in Protocol::ALL.iter().copied() {
            let mut seen = host.runs.iter().filter(|run| run.protocol == protocol).peekable();
            if seen.peek().is_none() {
                continue;
            }
            self.load(host.address, protocol)?;
            let Some(known) = self.hosts.get_mut(&(host.address, protocol)) else { continue };
            let (runs, changes) = merge(&known.state.runs, seen, moment);
            let first = known.state.runs.is_empty();
            if first {
                known.state.first_seen = moment;
            }
            let other_name = known.state.target != host.target && is_name(&host.target);
            if other_name {
                self.names.insert((host.target.clone(), host.address));
            }
            // Several checks may write one address in several ways, each in its turn: that alone is not worth a write,
            // unless it tells the name of a host that had none. A name is not given up for an address or a network.
            let has_name = is_name(&known.state.target);
            if first || runs != known.state.runs || (other_name && !has_name) {
                known.state.runs = runs;
                if other_name || !has_name {
                    known.state.target.clone_from(&host.target);
                }
                known.changed = true;
            }
            for change in &changes {
                self.changes += change.ports.len();
                let last = known.state.last_change;
                let place = (host.address, protocol);
                known.state.last_change = self.packer.push(moment, item.late, place, change, last);
            }
        }
        Ok(())
    }

    fn load(&mut self, address: IpAddr, protocol: Protocol) -> Result<(), StoreError> {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.hosts.entry((address, protocol)) {
            let prefix = keys::host(&self.batch.tenant, address, self.batch.satellite, protocol);
            let host = match HostState::read(self.view, &prefix) {
                Ok((state, parts)) => Host { state, parts, changed: false },
                // One host whose record is damaged must not keep everything else of its satellite out. It is said, and
                // the sums keep it from being forgotten.
                Err(StoreError::Record(error)) => {
                    self.damaged = Some(format!("{error} (host {address})"));
                    let parts = self.view.scan_prefix(&prefix)?.len();
                    Host { state: HostState::unknown(), parts, changed: false }
                }
                Err(error) => return Err(error),
            };
            entry.insert(host);
        }
        Ok(())
    }

    fn end_sweep(&mut self, item: &IngestItem, sweep: &SweepEnd) {
        let order = self.order(item);
        let finished = convert::time_from_wire(sweep.end.finished_at_ms)
            .unwrap_or(self.batch.received_at)
            .min(self.batch.latest());
        let records = SweepRecord::from_end(&sweep.end, finished, self.batch.skew_ms);
        for (chunk, record) in records.into_iter().enumerate() {
            let chunk = u16::try_from(chunk).unwrap_or(u16::MAX);
            let key = keys::sweep(&self.batch.tenant, self.batch.satellite, order, chunk);
            self.writes.log(&self.log, key, encode(&record));
        }
    }

    fn finish(self) -> Result<Writes, StoreError> {
        let Self { view, batch, hosts, names: seen, mut writes, packer, .. } = self;
        packer.finish(&mut writes);
        // With whether they say anything new.
        let mut names: BTreeMap<Vec<u8>, (NameRecord, bool)> = BTreeMap::new();
        for ((address, protocol), host) in hosts.iter().filter(|(_, host)| host.changed) {
            let prefix = keys::host(&batch.tenant, *address, batch.satellite, *protocol);
            write_parts(&mut writes, &prefix, &host.state, host.parts);
        }
        for (name, address) in seen {
            let key = keys::name(&batch.tenant, &name);
            if !names.contains_key(&key) {
                let known = view.get(&key)?.map(|bytes| decode(&bytes)).transpose()?;
                names.insert(key.clone(), (known.unwrap_or_default(), false));
            }
            let address = convert::address_to_wire(address);
            if let Some((record, is_new)) = names.get_mut(&key)
                && !record.addresses.contains(&address)
            {
                *is_new = true;
                record.addresses.push(address);
                let surplus = record.addresses.len().saturating_sub(ADDRESSES_PER_NAME);
                record.addresses.drain(..surplus);
            }
        }
        for (key, (record, _)) in names.into_iter().filter(|(_, (_, is_new))| *is_new) {
            writes.put(key, encode(&record));
        }
        Ok(writes)
    }
}

/// Whether a target as it was typed is a host name.
pub fn is_name(target: &str) -> bool {
    matches!(target.parse::<TargetSpec>(), Ok(TargetSpec { target: Target::Name(_), .. }))
}
