//! The spool's file: the only place that knows redb. Records, gaps, scans and the state lie in four tables; each
//! change is one transaction that is on the disk when it returns. Nothing here decides anything.

use super::medium::{Blocks, Medium};
use super::record::{Gap, Outgoing, State, outgoing, sealed, unsealed};
use super::retention::{Totals, cost};
use portolan_common::ids::ScanId;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable, StorageBackend, Table, TableDefinition,
    WriteTransaction,
};
use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use uuid::Uuid;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const GAPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("gaps");
const SCANS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("scans");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Pages that the engine remembers. A spool is written once and read once: there is little to gain.
const CACHE_BYTES: usize = 1 << 20;

/// What the file could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No room on the disk.
    #[error("the disk is full: {0}")]
    Full(String),
    /// The disk, or the system, failed.
    #[error("the spool's file cannot be used: {0}")]
    Io(String),
    /// What is in the file makes no sense.
    #[error("the spool's file is damaged: {0}")]
    Damaged(String),
    /// It is not open at the moment.
    #[error("the spool's file is not open")]
    Closed,
}

/// A scan that left records here, or has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEntry {
    /// When it began, by this machine's clock.
    pub begun_at_ms: i64,
    /// The key of its last record; 0: none yet.
    pub last: u64,
    /// Begun here, and its end is not spooled.
    pub open: bool,
}

/// What was found at opening.
#[derive(Debug)]
pub struct Found {
    /// The state.
    pub state: State,
    /// The scans.
    pub scans: HashMap<ScanId, ScanEntry>,
}

/// See the module.
#[derive(Debug)]
pub struct SpoolFile {
    medium: Arc<dyn Medium>,
    database: RwLock<Option<Database>>,
}

impl SpoolFile {
    /// Not open yet.
    pub fn new(medium: Arc<dyn Medium>) -> Self {
        Self { medium, database: RwLock::new(None) }
    }

    /// Opens the file, after a crash also repairs it; makes it when there is none, with what `fresh` says.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Damaged`] when another try would change nothing.
    pub fn open(&self, fresh: &dyn Fn() -> State) -> Result<Found, Fault> {
        self.close();
        let opened = guarded(|| {
            if let Some(blocks) = self.medium.open().map_err(system)? {
                let database = database(blocks)?;
                let (state, scans) = load(&database)?;
                return Ok((database, Found { state, scans }));
            }
            let state = fresh();
            let database = database(self.medium.create().map_err(system)?)?;
            change(&database, |tables| tables.put_state(&state))?;
            drop(database);
            // A file with the spool's name is a whole one, whenever the power goes.
            self.medium.install().map_err(system)?;
            let blocks = self.medium.open().map_err(system)?.ok_or(Fault::Closed)?;
            Ok((self::database(blocks)?, Found { state, scans: HashMap::new() }))
        });
        let (database, found) = opened?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(found)
    }

    /// Closes it, once nobody reads.
    pub fn close(&self) {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        // Closing a damaged database may find that out.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }

    /// Moves the file out of the way; says where to.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, unix_seconds: i64) -> Result<String, Fault> {
        self.close();
        self.medium.set_aside(unix_seconds).map_err(system)
    }

    /// Whether there is a file.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn exists(&self) -> Result<bool, Fault> {
        self.medium.open().map(|found| found.is_some()).map_err(system)
    }

    /// What the file takes up.
    pub fn bytes(&self) -> u64 {
        self.medium.bytes()
    }

    /// What is left beside it.
    pub fn free(&self) -> Option<u64> {
        self.medium.free()
    }

    /// One change, on the disk when this returns.
    ///
    /// # Errors
    /// [`Fault`]: the file must be opened again, and shows then whether it was done.
    pub fn write<R>(&self, act: impl FnOnce(&mut Tables<'_>) -> Result<R, Fault>) -> Result<R, Fault> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(Fault::Closed)?;
        guarded(|| change(database, act))
    }

    /// Reads one consistent state; does not wait for writers.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read<R>(&self, act: impl FnOnce(&View) -> Result<R, Fault>) -> Result<R, Fault> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(Fault::Closed)?;
        guarded(|| act(&View(database.begin_read().map_err(engine)?)))
    }

    /// Gives back to the file system what is not used; readers and writers wait.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn compact(&self) -> Result<(), Fault> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_mut().ok_or(Fault::Closed)?;
        guarded(|| database.compact().map(|_| ()).map_err(engine))
    }
}

fn database(blocks: Box<dyn Blocks>) -> Result<Database, Fault> {
    redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(Storage(blocks)).map_err(engine)
}

fn load(database: &Database) -> Result<(State, HashMap<ScanId, ScanEntry>), Fault> {
    let view = View(database.begin_read().map_err(engine)?);
    Ok((view.state()?, view.scans()?))
}

fn change<R>(database: &Database, act: impl FnOnce(&mut Tables<'_>) -> Result<R, Fault>) -> Result<R, Fault> {
    let transaction = database.begin_write().map_err(engine)?;
    let result = act(&mut Tables::open(&transaction)?)?;
    transaction.commit().map_err(engine)?;
    Ok(result)
}

/// The tables within one change.
pub struct Tables<'t> {
    records: Table<'t, u64, &'static [u8]>,
    gaps: Table<'t, u64, &'static [u8]>,
    scans: Table<'t, u128, &'static [u8]>,
    meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            records: transaction.open_table(RECORDS).map_err(engine)?,
            gaps: transaction.open_table(GAPS).map_err(engine)?,
            scans: transaction.open_table(SCANS).map_err(engine)?,
            meta: transaction.open_table(META).map_err(engine)?,
        })
    }

    /// Writes the state.
    pub fn put_state(&mut self, state: &State) -> Result<(), Fault> {
        self.meta.insert("state", state.encode().as_slice()).map_err(engine)?;
        Ok(())
    }

    /// Writes a record's value.
    pub fn put(&mut self, key: u64, value: &[u8]) -> Result<(), Fault> {
        self.records.insert(key, value).map_err(engine)?;
        Ok(())
    }

    /// Removes a record.
    pub fn remove(&mut self, key: u64) -> Result<(), Fault> {
        self.records.remove(key).map_err(engine)?;
        Ok(())
    }

    /// Removes the oldest records up to a key, `records` at most. What they took up, and the key of the last.
    pub fn pop_oldest(&mut self, up_to: u64, records: usize) -> Result<Option<(Totals, u64)>, Fault> {
        let (mut totals, mut last) = (Totals::default(), None);
        for _ in 0..records {
            match self.records.first().map_err(engine)? {
                Some((key, _)) if key.value() <= up_to => {}
                _ => break,
            }
            if let Some((key, value)) = self.records.pop_first().map_err(engine)? {
                totals.add(cost(value.value().len()));
                last = Some(key.value());
            }
        }
        Ok(last.map(|last| (totals, last)))
    }

    /// Notes a gap that ends with `key`, and takes into it what gaps there were within.
    pub fn put_gap(&mut self, key: u64, mut gap: Gap) -> Result<(), Fault> {
        for (end, inner) in gaps(&self.gaps, gap.first..=key)? {
            gap.first = gap.first.min(inner.first);
            gap.hosts += inner.hosts;
            gap.confirmations += inner.confirmations;
            self.gaps.remove(end).map_err(engine)?;
        }
        self.gaps.insert(key, gap.encode(key).as_slice()).map_err(engine)?;
        Ok(())
    }

    /// The gap that ends with `key`, taken out.
    pub fn take_gap(&mut self, key: u64) -> Result<Option<Gap>, Fault> {
        let found = self.gaps.remove(key).map_err(engine)?;
        Ok(found.and_then(|value| Gap::decode(key, value.value()).ok()))
    }

    /// Forgets the gaps that end up to `key`, some at a time.
    pub fn forget_gaps(&mut self, key: u64) -> Result<(), Fault> {
        for _ in 0..256 {
            match self.gaps.first().map_err(engine)? {
                Some((end, _)) if end.value() <= key => {}
                _ => break,
            }
            self.gaps.pop_first().map_err(engine)?;
        }
        Ok(())
    }

    /// Writes a scan.
    pub fn put_scan(&mut self, scan: ScanId, entry: ScanEntry) -> Result<(), Fault> {
        let mut value = Vec::with_capacity(17);
        value.extend(entry.begun_at_ms.to_le_bytes());
        value.extend(entry.last.to_le_bytes());
        value.push(entry.open.into());
        let value = sealed(scan.as_bytes(), value);
        self.scans.insert(scan.0.as_u128(), value.as_slice()).map_err(engine)?;
        Ok(())
    }

    /// Forgets a scan.
    pub fn remove_scan(&mut self, scan: ScanId) -> Result<(), Fault> {
        self.scans.remove(scan.0.as_u128()).map_err(engine)?;
        Ok(())
    }
}

/// How much is read at once.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Records.
    pub records: usize,
    /// Bytes; the first record comes whatever it has.
    pub bytes: usize,
}

/// The tables as one commit left them.
pub struct View(ReadTransaction);

impl View {
    /// The state.
    pub fn state(&self) -> Result<State, Fault> {
        let meta = self.0.open_table(META).map_err(engine)?;
        let value = meta.get("state").map_err(engine)?;
        let value = value.ok_or_else(|| Fault::Damaged("it has no state".into()))?;
        State::decode(value.value()).map_err(|error| Fault::Damaged(format!("its state is {error}")))
    }

    /// The scans; those that cannot be read are left out.
    pub fn scans(&self) -> Result<HashMap<ScanId, ScanEntry>, Fault> {
        let table = self.0.open_table(SCANS).map_err(engine)?;
        let mut scans = HashMap::new();
        for item in table.iter().map_err(engine)? {
            let (key, value) = item.map_err(engine)?;
            let scan = ScanId(Uuid::from_u128(key.value()));
            if let Ok([a, b, c, d, e, f, g, h, last @ .., open]) = unsealed(scan.as_bytes(), value.value()) {
                let begun_at_ms = i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                let last = last.try_into().map_or(0, u64::from_le_bytes);
                scans.insert(scan, ScanEntry { begun_at_ms, last, open: *open != 0 });
            }
        }
        Ok(scans)
    }

    /// The values of a range, from its beginning.
    pub fn walk(&self, keys: RangeInclusive<u64>, limit: Limit) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        walk(&self.0.open_table(RECORDS).map_err(engine)?, keys, limit)
    }

    /// What records of a range take up.
    pub fn measure(&self, keys: RangeInclusive<u64>) -> Result<Totals, Fault> {
        let mut totals = Totals::default();
        if keys.is_empty() {
            return Ok(totals);
        }
        let mut before = None;
        for item in self.0.open_table(RECORDS).map_err(engine)?.range(keys).map_err(engine)? {
            let (key, value) = item.map_err(engine)?;
            if before.replace(key.value()).is_some_and(|before| before >= key.value()) {
                return Err(Fault::Damaged("its keys are out of order".into()));
            }
            totals.add(cost(value.value().len()));
        }
        Ok(totals)
    }

    /// What is to be sent from key `from` on, in order and with nothing unexplained in between. What lies before
    /// `readable` is not looked at and counts as missing.
    pub fn outgoing(&self, from: u64, readable: u64, limit: Limit) -> Result<Vec<Outgoing>, Fault> {
        let state = self.state()?;
        if from > state.last {
            return Ok(Vec::new());
        }
        let records = self.0.open_table(RECORDS).map_err(engine)?;
        let gap_table = self.0.open_table(GAPS).map_err(engine)?;
        let (mut out, mut expected) = (Vec::new(), from);
        let found = walk(&records, readable.max(from)..=state.last, limit)?;
        let complete = found.len() < limit.records && bytes(&found) < limit.bytes;
        for (key, value) in found {
            // Keys that do not rise are damage, and what they hide is found missing.
            if key >= expected && key <= state.last {
                let gaps = gaps(&gap_table, expected..=key)?;
                out.push(outgoing(expected, key, &gaps, Some(&value), state.ever));
                expected = key + 1;
            }
        }
        if complete && expected <= state.last {
            let gaps = gaps(&gap_table, expected..=state.last)?;
            out.push(outgoing(expected, state.last, &gaps, None, state.ever));
        }
        Ok(out)
    }
}

fn bytes(found: &[(u64, Vec<u8>)]) -> usize {
    found.iter().map(|(_, value)| value.len()).sum()
}

fn walk(
    table: &impl ReadableTable<u64, &'static [u8]>,
    keys: RangeInclusive<u64>,
    limit: Limit,
) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    if keys.is_empty() {
        return Ok(found);
    }
    for item in table.range(keys).map_err(engine)? {
        let (key, value) = item.map_err(engine)?;
        bytes += value.value().len();
        found.push((key.value(), value.value().to_vec()));
        if found.len() >= limit.records || bytes >= limit.bytes {
            break;
        }
    }
    Ok(found)
}

/// The gaps that end within a range; one that cannot be read leaves what is missing unexplained, which is damage.
fn gaps(
    table: &impl ReadableTable<u64, &'static [u8]>,
    keys: RangeInclusive<u64>,
) -> Result<Vec<(u64, Gap)>, Fault> {
    let mut found = Vec::new();
    for item in table.range(keys).map_err(engine)? {
        let (key, value) = item.map_err(engine)?;
        if let Ok(gap) = Gap::decode(key.value(), value.value()) {
            found.push((key.value(), gap));
        }
    }
    Ok(found)
}

/// The engine panics on some damage; that must end its use of the file, not the satellite.
fn guarded<R>(act: impl FnOnce() -> Result<R, Fault>) -> Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("it panicked");
        Err(Fault::Damaged(format!("the engine stopped: {text}")))
    })
}

fn system(error: io::Error) -> Fault {
    use io::ErrorKind::{InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
    match error.kind() {
        StorageFull | QuotaExceeded => Fault::Full(error.to_string()),
        InvalidData | UnexpectedEof => Fault::Damaged(error.to_string()),
        _ => Fault::Io(error.to_string()),
    }
}

fn engine(error: impl Into<redb::Error>) -> Fault {
    use redb::Error;
    match error.into() {
        Error::Io(error) => system(error),
        error @ (Error::PreviousIo | Error::LockPoisoned(_) | Error::DatabaseClosed) => {
            Fault::Io(error.to_string())
        }
        error => Fault::Damaged(error.to_string()),
    }
}

/// What the engine writes to.
#[derive(Debug)]
struct Storage(Box<dyn Blocks>);

impl StorageBackend for Storage {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
