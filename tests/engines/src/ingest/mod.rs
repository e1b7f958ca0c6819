//! The ingest trial: the same work on each engine, with the group commit of the server's writer: up to 256 units, then
//! made durable together. There is no network, no decoding and no second thread in it: it shows what the engine
//! allows at most.

mod stores;
mod work;

use crate::figures::{Spread, cpu_seconds, disk_mb, resident_mb, round};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
pub use stores::StoreError;
pub use work::Work;
use work::{GROUP, HOSTS, PORTS, Population, Unit};

/// What is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// sled 0.34: a transaction a unit, flush and fdatasync a group.
    Sled,
    /// sled 0.34: a transaction a group, flush and fdatasync.
    SledGrouped,
    /// redb 4: a transaction a group.
    Redb,
    /// fjall 3: a batch a group, `PersistMode::SyncAll`.
    Fjall,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::SledGrouped => "sled-grouped",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
        }
    }

    fn open(self, directory: &Path) -> Result<Box<dyn Store>, StoreError> {
        Ok(match self {
            Self::Sled => Box::new(stores::SledStore::open(directory, 1)?),
            Self::SledGrouped => Box::new(stores::SledStore::open(directory, GROUP)?),
            Self::Redb => Box::new(stores::RedbStore::open(directory)?),
            Self::Fjall => Box::new(stores::FjallStore::open(directory)?),
        })
    }
}

/// State, log and cursors.
trait Store {
    /// Puts records into the state, durably.
    fn fill(&mut self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError>;
    /// Applies units in order; durable once it returns. How many host records were overwritten.
    fn apply(&mut self, group: &[Unit]) -> Result<u64, StoreError>;
    /// How many records the log holds.
    fn logged(&self) -> Result<u64, StoreError>;
}

/// Runs one work on one engine; the figures as JSON. `per_second` bounds the pace; without it, as fast as it goes.
pub fn run(
    engine: Engine,
    work: Work,
    seconds: u64,
    per_second: Option<u64>,
    scratch: &Path,
) -> anyhow::Result<Value> {
    let directory = scratch.join(engine.name());
    std::fs::create_dir_all(&directory)?;
    let mut store = engine.open(&directory)?;
    let mut known = Population::new();
    store.fill(known.first_records().collect())?;

    let (begun, mut making) = (Instant::now(), Duration::ZERO);
    let (cpu, mut made_cpu) = (cpu_seconds(), 0.0);
    let (mut units, mut overwritten, mut commits) = (0u64, 0, Spread::default());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let due = per_second.map_or(GROUP as u64, |pace| {
            ((begun.elapsed().as_secs_f64() * pace as f64) as u64).saturating_sub(units)
        });
        if due == 0 {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        // What the trial itself takes to make the work up is not the engine's.
        let (start, start_cpu) = (Instant::now(), cpu_seconds());
        let group: Vec<Unit> =
            (units..units + due.min(GROUP as u64)).map(|n| work.unit(n, &mut known)).collect();
        making += start.elapsed();
        made_cpu += cpu_seconds() - start_cpu;

        let start = Instant::now();
        overwritten += store.apply(&group)?;
        commits.add(start.elapsed());
        units += group.len() as u64;
    }
    let all = begun.elapsed();
    let elapsed = if per_second.is_some() { all } else { all - making }.as_secs_f64();
    let cpu = cpu_seconds() - cpu - made_cpu;
    let logged = store.logged()?;
    anyhow::ensure!(logged == units, "{} holds {logged} log records, {units} were committed", engine.name());
    let port_states = match work {
        Work::Sweeps => units * HOSTS * PORTS,
        Work::Changes => units,
    };
    let (resident, highest) = resident_mb();
    Ok(json!({
        "trial": "ingest", "work": work.name(), "engine": engine.name(), "pace": per_second,
        "seconds": round(all.as_secs_f64()), "units": units, "commits": commits.len(), "overwritten": overwritten,
        "units_per_s": (units as f64 / elapsed).round(), "port_states_per_s": (port_states as f64 / elapsed).round(),
        "cpu_s_per_million_units": round(cpu / units as f64 * 1e6),
        "cpu_s_per_million_port_states": (cpu / port_states as f64 * 1e10).round() / 1e4,
        "commit_ms": commits.in_ms(), "resident_mb": resident, "highest_mb": highest, "disk_mb": disk_mb(&directory),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_does_the_same_work() {
        for work in [Work::Sweeps, Work::Changes] {
            let mut overwritten = Vec::new();
            for engine in Engine::value_variants() {
                let directory = tempfile::tempdir().unwrap();
                let mut store = engine.open(directory.path()).unwrap();
                let mut known = Population::new();
                store.fill(known.first_records().collect()).unwrap();
                let group: Vec<Unit> = (0..40).map(|n| work.unit(n, &mut known)).collect();
                let first = store.apply(&group).unwrap();
                // The same observations again differ nowhere, but for hosts that changed twice within the group.
                let again = store.apply(&group[39..]).unwrap();
                assert_eq!(store.logged().unwrap(), 40, "{}", engine.name());
                overwritten.push((first, again));
            }
            assert!(overwritten.iter().all(|o| *o == overwritten[0]), "{work:?}: {overwritten:?}");
            assert!(overwritten[0].0 > 0 && overwritten[0].1 == 0, "{work:?}: {overwritten:?}");
        }
    }
}
