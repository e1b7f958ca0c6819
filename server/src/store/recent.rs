//! Every state change since a time, of all hosts, oldest first: the chunks of each satellite are followed from where they
//! may reach that time, and put together by their corrected times.

use super::changes::{ChunkRecord, Read};
use super::history::Change;
use super::record::decode;
use super::{MAX_AHEAD, Store, StoreError, keys};
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_proto::convert::address_from_wire;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::{Bound, ControlFlow};

/// How much out of their order a satellite's times may be: a clock that was corrected.
const DISORDER: SignedDuration = SignedDuration::from_hours(1);

impl Store {
    /// Hands every change since then to `each`, oldest first, until it breaks. What one satellite saw comes in the order
    /// in which it saw it; what several saw is put together by their corrected times. Blocking.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn changes_since(
        &self,
        since: Timestamp,
        mut each: impl FnMut(Change) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let satellites = self.satellites()?;
        let trees = self.trees()?;
        // What was committed before cannot have been seen after it, but by a clock that ran ahead.
        let oldest = since.saturating_sub(MAX_AHEAD * 2).unwrap_or(Timestamp::UNIX_EPOCH);
        let logs = trees.logs_since(oldest)?;
        let mut walks = Vec::new();
        let mut heads = BinaryHeap::new();
        for satellite in satellites {
            let mut walk = Walk::new(&logs, satellite.satellite_id()?, since)?;
            if let Some(at) = walk.head()? {
                heads.push(Reverse((at, walks.len())));
                walks.push(walk);
            }
        }
        while let Some(Reverse((_, number))) = heads.pop() {
            let Some(walk) = walks.get_mut(number) else { continue };
            if let Some(change) = walk.take()?
                && change.at >= since
                && each(change).is_break()
            {
                return Ok(());
            }
            if let Some(at) = walk.head()? {
                heads.push(Reverse((at, number)));
            }
        }
        Ok(())
    }
}

/// One satellite's changes in their order.
struct Walk<'a> {
    satellite: SatelliteId,
    prefix: Vec<u8>,
    /// Logs that are still to be read, oldest first, and where to begin in the first of them.
    logs: std::slice::Iter<'a, sled::Tree>,
    from: Vec<u8>,
    entries: Option<sled::Iter>,
    waiting: VecDeque<Read>,
    /// The latest time so far: a clock that was set back must not put what follows before what went.
    at: Timestamp,
}

impl<'a> Walk<'a> {
    fn new(logs: &'a [sled::Tree], satellite: SatelliteId, since: Timestamp) -> Result<Self, StoreError> {
        let prefix = keys::chunks_of(satellite);
        let enough = since.saturating_sub(DISORDER).unwrap_or(Timestamp::MIN);
        let (mut first, mut from) = (logs.len(), prefix.clone());
        'logs: for (number, log) in logs.iter().enumerate().rev() {
            for entry in log.scan_prefix(&prefix).rev() {
                let (key, value) = entry?;
                let chunk: ChunkRecord = decode(&value)?;
                let skew_ms = chunk.skew_ms;
                let mut newest = Timestamp::MIN;
                for entry in chunk.changes {
                    newest = newest.max(Read { entry, skew_ms }.shown()?);
                }
                if newest < enough {
                    break 'logs;
                }
                (first, from) = (number, key.to_vec());
            }
        }
        let logs = logs.get(first..).unwrap_or_default().iter();
        let (entries, waiting) = (None, VecDeque::new());
        Ok(Self { satellite, prefix, logs, from, entries, waiting, at: Timestamp::MIN })
    }

    /// When the next change was seen.
    fn head(&mut self) -> Result<Option<Timestamp>, StoreError> {
        while self.waiting.is_empty() {
            let Some(entries) = &mut self.entries else {
                let Some(log) = self.logs.next() else { return Ok(None) };
                let from = std::mem::replace(&mut self.from, self.prefix.clone());
                self.entries = Some(log.range::<Vec<u8>, _>((Bound::Included(from), Bound::Unbounded)));
                continue;
            };
            match entries.next().transpose()? {
                Some((key, value)) if key.starts_with(&self.prefix) => {
                    let chunk: ChunkRecord = decode(&value)?;
                    let skew_ms = chunk.skew_ms;
                    self.waiting.extend(chunk.changes.into_iter().map(|entry| Read { entry, skew_ms }));
                }
                _ => self.entries = None,
            }
        }
        if let Some(read) = self.waiting.front() {
            self.at = self.at.max(read.shown()?);
        }
        Ok(Some(self.at))
    }

    fn take(&mut self) -> Result<Option<Change>, StoreError> {
        let Some(read) = self.waiting.pop_front() else { return Ok(None) };
        Ok(Some(Change {
            at: read.shown()?,
            satellite: self.satellite,
            address: address_from_wire(&read.entry.address)?,
            protocol: read.entry.protocol().try_into()?,
            ports: read.ports()?,
            from: read.entry.from().try_into()?,
            to: read.entry.to().try_into()?,
            reason: read.entry.reason().try_into()?,
            late: read.entry.late,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::SatelliteRecord;
    use super::super::sample::{batch, october, satellite};
    use super::*;
    use portolan_common::observation::PortState;
    use std::collections::BTreeMap;

    async fn store(path: &std::path::Path) -> Store {
        Store::create(path).unwrap();
        let store = Store::open(path, 1).unwrap();
        let records = (1..=3).map(|number| SatelliteRecord {
            id: satellite(number).as_bytes().to_vec(),
            name: format!("office-{number}"),
            ..SatelliteRecord::default()
        });
        store.put_satellites(records.collect()).await.unwrap();
        // Two months, three satellites by turns.
        for round in 1..=40u64 {
            for number in 1..=3u128 {
                let at = october(round as i64 * 86_400 + number as i64 * 3600);
                let mut batch = batch(number, round, at);
                let hosts = batch.items.iter_mut().flat_map(|item| &mut item.hosts);
                for (parity, run) in hosts.flat_map(|host| host.runs.iter_mut().enumerate()) {
                    // Odd ports are in one state and even ones in the other, and every three rounds they change places.
                    let turned = (parity as u64 + round / 3) % 2;
                    run.ports = (20..1020).filter(|port| port % 2 == parity as u16).collect();
                    run.state = [PortState::Open, PortState::Closed][turned as usize];
                }
                store.ingest(batch).await.unwrap();
            }
        }
        store
    }

    fn all(store: &Store, since: Timestamp) -> Vec<Change> {
        let mut found = Vec::new();
        store
            .changes_since(since, |change| {
                found.push(change);
                ControlFlow::Continue(())
            })
            .unwrap();
        found
    }

    #[tokio::test]
    async fn every_host_in_order_from_a_time_on() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path()).await;
        let every = all(&store, Timestamp::UNIX_EPOCH);
        assert!(every.is_sorted_by_key(|change| change.at), "{every:#?}");
        assert!(every.len() > 100, "{}", every.len());
        // The same as host by host.
        let mut by_host: BTreeMap<_, usize> = BTreeMap::new();
        for change in &every {
            *by_host.entry(change.address).or_default() += 1;
        }
        for (address, number) in by_host {
            let query = super::super::HistoryQuery {
                tenant: "default".into(),
                address,
                port: None,
                since: Timestamp::UNIX_EPOCH,
            };
            let mut history = 0;
            store
                .history(&query, |_| {
                    history += 1;
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(history, number, "{address}");
        }
        for since in [october(0), october(20 * 86_400), october(40 * 86_400 + 7200), october(90 * 86_400)] {
            let wanted: Vec<Change> = every.iter().filter(|change| change.at >= since).cloned().collect();
            assert_eq!(all(&store, since), wanted, "{since}");
        }
        let mut few = 0;
        let enough = |_| {
            few += 1;
            if few == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.changes_since(Timestamp::UNIX_EPOCH, enough).unwrap();
        assert_eq!(few, 3);
        store.close();
    }
}
