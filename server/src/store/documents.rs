//! Documents: what the server keeps whole under a name of its own, of any size. Policies, alerts, silences and the like;
//! what is in them is known to the module that owns the kind. Large ones stand in parts, since sled never frees the
//! files of large values.
//!
//! Beside them, in the log of the month, what happened to a check: its timeline.

use super::keys;
use super::record::{MAX_VALUE_BYTES, decode, encode};
use super::view::{View, Writes};
use super::writer::Class;
use super::{Store, StoreError};
use jiff::Timestamp;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Bytes of a document in one part.
const PART_BYTES: usize = MAX_VALUE_BYTES - 1024;
/// The largest document.
pub const MAX_DOCUMENT_BYTES: usize = 32 * 1024 * 1024;
/// The longest key.
pub const MAX_KEY_BYTES: usize = 255;

/// What a document is; the numbers stand in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A version of the policy: its head.
    PolicyVersion = 1,
    /// A version of the policy: its files.
    PolicyFiles = 2,
    /// A check that an operator paused.
    Paused = 3,
    /// How a check fares on a satellite.
    CheckStatus = 4,
    /// The last good answer of a source of targets.
    Source = 5,
    /// An alert.
    Alert = 6,
    /// A silence.
    Silence = 7,
    /// A change that was announced.
    ExpectedChange = 8,
    /// A baseline.
    Baseline = 9,
    /// Until when a satellite has looked at a check.
    Coverage = 10,
    /// What a satellite's local scope file allows, as it last said.
    Scope = 11,
}

/// A document to keep, or (`None`) to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentWrite {
    /// What it is.
    pub kind: Kind,
    /// Which; at most [`MAX_KEY_BYTES`].
    pub key: Vec<u8>,
    /// Its bytes, at most [`MAX_DOCUMENT_BYTES`].
    pub value: Option<Vec<u8>>,
}

/// Something that happened to a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineWrite {
    /// The check's name; at most 255 bytes.
    pub check: String,
    /// When.
    pub at: Timestamp,
    /// What, at most 7 KiB.
    pub value: Vec<u8>,
}

/// One part of a document.
#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    /// CRC-32C of the whole, so that parts of different times are told apart.
    #[prost(uint32, tag = "2")]
    checksum: u32,
    /// How many parts there are.
    #[prost(uint32, tag = "3")]
    parts: u32,
}

impl Store {
    /// Writes documents and timeline entries, all or nothing.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_documents(
        &self,
        documents: Vec<DocumentWrite>,
        timeline: Vec<TimelineWrite>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let log = keys::log_tree(now);
        let entries: Vec<(Vec<u8>, Vec<u8>)> = timeline
            .into_iter()
            .map(|entry| {
                // What happens in the same millisecond stays apart.
                let (unique, _) = Uuid::new_v4().as_u64_pair();
                (keys::timeline_entry(&entry.check, entry.at, unique), encode(&entry.value))
            })
            .collect();
        self.writer
            .write(Class::Urgent, move |view| {
                let mut writes = Writes::default();
                for document in &documents {
                    put(view, document, &mut writes)?;
                }
                for (key, value) in &entries {
                    writes.log(&log, key.clone(), value.clone());
                }
                Ok(((), writes))
            })
            .await
    }

    /// Every document of a kind, by key. One whose parts do not belong together is left out, and named in the log.
    /// Blocking.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn documents(&self, kind: Kind) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        self.documents_under(&keys::documents_of(kind as u8))
    }

    /// One document. Blocking.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn document(&self, kind: Kind, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.documents_under(&keys::document(kind as u8, key))?.into_values().next())
    }

    fn documents_under(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut found: BTreeMap<Vec<u8>, Vec<Part>> = BTreeMap::new();
        for entry in self.trees()?.state.scan_prefix(prefix) {
            let (key, value) = entry?;
            let Some(name) = keys::parse_document(&key) else { continue };
            let part = match decode::<Part>(&value) {
                Ok(part) => part,
                Err(error) => {
                    tracing::error!(%error, key = %super::dump::shown(&key), "a part of a document cannot be read");
                    continue;
                }
            };
            found.entry(name.to_vec()).or_default().push(part);
        }
        let whole = |(key, parts): (Vec<u8>, Vec<Part>)| {
            let value: Vec<u8> = parts.iter().flat_map(|part| &part.data).copied().collect();
            let checksum = crc32c::crc32c(&value);
            let number = parts.len();
            let fits = parts.iter().all(|part| part.checksum == checksum && part.parts as usize == number);
            if !fits {
                tracing::error!(key = %super::dump::shown(&key), "the parts of a document do not belong together");
            }
            fits.then_some((key, value))
        };
        Ok(found.into_iter().filter_map(whole).collect())
    }

    /// What happened to a check, newest first, at most so many. Blocking.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn timeline(&self, check: &str, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let trees = self.trees()?;
        let prefix = keys::timeline_of(check);
        let mut found = Vec::new();
        for tree in trees.logs_since(Timestamp::UNIX_EPOCH)?.iter().rev() {
            for entry in tree.scan_prefix(&prefix).rev() {
                if found.len() == limit {
                    return Ok(found);
                }
                found.push(decode::<Vec<u8>>(&entry?.1)?);
            }
        }
        Ok(found)
    }
}

fn put(view: &dyn View, document: &DocumentWrite, writes: &mut Writes) -> Result<(), StoreError> {
    let prefix = keys::document(document.kind as u8, &document.key);
    let mut number = 0u16;
    if let Some(value) = &document.value {
        let checksum = crc32c::crc32c(value);
        // An empty document has one empty part.
        let chunks: Vec<&[u8]> =
            if value.is_empty() { vec![&[]] } else { value.chunks(PART_BYTES).collect() };
        let parts = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        for data in chunks {
            let part = Part { data: data.to_vec(), checksum, parts };
            writes.put([prefix.as_slice(), &number.to_be_bytes()].concat(), encode(&part));
            number = number.saturating_add(1);
        }
    }
    let standing = view.scan_prefix(&prefix)?;
    for (key, _) in standing {
        if !writes.state.get(&key).is_some_and(Option::is_some) {
            writes.remove(key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::MIN_FREE;
    use super::*;

    fn write(kind: Kind, key: &[u8], value: Option<Vec<u8>>) -> DocumentWrite {
        DocumentWrite { kind, key: key.to_vec(), value }
    }

    #[tokio::test]
    async fn documents_of_any_size_come_back_and_shrink_and_go() {
        let directory = tempfile::tempdir().unwrap();
        Store::create(directory.path()).unwrap();
        let store = Store::open(directory.path(), MIN_FREE.min(1)).unwrap();
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let large: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        for value in [Some(large.clone()), Some(b"small".to_vec()), Some(Vec::new()), None] {
            let documents = vec![
                write(Kind::Alert, b"a", value.clone()),
                write(Kind::Alert, b"ab", Some(b"other".to_vec())),
                write(Kind::Silence, b"a", Some(b"another kind".to_vec())),
            ];
            store.put_documents(documents, Vec::new(), now).await.unwrap();
            assert_eq!(store.document(Kind::Alert, b"a").unwrap(), value);
            let all = store.documents(Kind::Alert).unwrap();
            assert_eq!(all.get(b"a".as_slice()), value.as_ref());
            assert_eq!(all[b"ab".as_slice()], b"other");
            assert_eq!(all.len(), 1 + usize::from(value.is_some()));
        }
        store.close();
    }

    #[tokio::test]
    async fn a_timeline_is_newest_first_and_of_one_check() {
        let directory = tempfile::tempdir().unwrap();
        Store::create(directory.path()).unwrap();
        let store = Store::open(directory.path(), 1).unwrap();
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let entry = |check: &str, second, value: &[u8]| TimelineWrite {
            check: check.into(),
            at: at(second),
            value: value.to_vec(),
        };
        let timeline = vec![entry("shop", 1, b"1"), entry("shop", 2, b"2"), entry("shop-front", 3, b"3")];
        store.put_documents(Vec::new(), timeline, at(5)).await.unwrap();
        // The same moment twice.
        let timeline = vec![entry("shop", 7, b"7"), entry("shop", 7, b"7")];
        store.put_documents(Vec::new(), timeline, at(60 * 86_400)).await.unwrap();
        let values: Vec<&[u8]> = vec![b"7", b"7", b"2", b"1"];
        assert_eq!(store.timeline("shop", 10).unwrap(), values);
        assert_eq!(store.timeline("shop", 3).unwrap(), values[..3]);
        store.close();
    }
}
