//! The versions of the policy: who applied what, when and why. Each keeps its files as they were sent, until it is too
//! old.

use crate::pki::authority::sha256;
use crate::store::{DocumentWrite, Kind, Store, StoreError};
use jiff::Timestamp;
use portolan_policy::PolicyFile;
use portolan_proto::v1;
use prost::Message as _;
use std::collections::VecDeque;

/// Versions that are kept, …
pub const MAX_VERSIONS: usize = 200;
/// … and the bytes of their files; the newest is always kept.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// What a version changed, in lines.
const MAX_CHANGES: usize = 50;
/// Characters of such a line.
const MAX_CHANGE: usize = 300;

/// The head of a version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Version {
    /// Counts from 1.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Milliseconds.
    #[prost(int64, tag = "2")]
    pub applied_at_ms: i64,
    /// The operator.
    #[prost(string, tag = "3")]
    pub author: String,
    /// Why.
    #[prost(string, tag = "4")]
    pub message: String,
    /// Not 0: it repeats that version.
    #[prost(uint64, tag = "5")]
    pub rollback_to: u64,
    /// What it changed, a line each.
    #[prost(string, repeated, tag = "6")]
    pub changes: Vec<String>,
    /// How many more there were.
    #[prost(uint64, tag = "7")]
    pub changes_dropped: u64,
    /// By which the same files are known again.
    #[prost(bytes = "vec", tag = "8")]
    pub digest: Vec<u8>,
    /// Of its files.
    #[prost(uint64, tag = "9")]
    pub bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Files {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    text: String,
}

impl Version {
    /// When it was applied.
    pub fn applied_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.applied_at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Notes what it changes; lines beyond the bound are counted.
    pub fn set_changes(&mut self, lines: impl ExactSizeIterator<Item = String>) {
        let all = lines.len();
        let cut = |line: String| line.chars().take(MAX_CHANGE).collect();
        self.changes = lines.take(MAX_CHANGES).map(cut).collect();
        self.changes_dropped = (all - self.changes.len()) as u64;
    }
}

impl From<&Version> for v1::PolicyVersion {
    fn from(version: &Version) -> Self {
        Self {
            version: version.number,
            applied_at_ms: version.applied_at_ms,
            author: version.author.clone(),
            message: version.message.clone(),
            rollback_to: version.rollback_to,
            changes: version.changes.clone(),
            changes_dropped: version.changes_dropped,
        }
    }
}

/// By which the same files are known again: names and texts, in their order.
pub fn digest(files: &[PolicyFile]) -> Vec<u8> {
    sha256(&encode(files)).to_vec()
}

fn encode(files: &[PolicyFile]) -> Vec<u8> {
    let file = |file: &PolicyFile| File { name: file.name.clone(), text: file.text.clone() };
    Files { files: files.iter().map(file).collect() }.encode_to_vec()
}

/// Every head that is kept, oldest first. Blocking.
///
/// # Errors
/// When the store cannot be read.
pub fn load(store: &Store) -> Result<VecDeque<Version>, StoreError> {
    let heads = store.documents(Kind::PolicyVersion)?;
    // Keys sort as the numbers do.
    Ok(heads.values().filter_map(|bytes| Version::decode(bytes.as_slice()).ok()).collect())
}

/// The files of a version; `None`: they are not kept. Blocking.
///
/// # Errors
/// When the store cannot be read.
pub fn files(store: &Store, number: u64) -> Result<Option<Vec<PolicyFile>>, StoreError> {
    let Some(bytes) = store.document(Kind::PolicyFiles, &number.to_be_bytes())? else { return Ok(None) };
    let Ok(files) = Files::decode(bytes.as_slice()) else { return Ok(None) };
    let file = |file: File| PolicyFile { name: file.name, text: file.text };
    Ok(Some(files.files.into_iter().map(file).collect()))
}

/// What is to be written for a new version, and how many of the oldest go for it.
pub fn add(known: &VecDeque<Version>, new: &Version, files: &[PolicyFile]) -> (Vec<DocumentWrite>, usize) {
    let write = |kind, number: u64, value| DocumentWrite { kind, key: number.to_be_bytes().to_vec(), value };
    let mut documents = vec![
        write(Kind::PolicyVersion, new.number, Some(new.encode_to_vec())),
        write(Kind::PolicyFiles, new.number, Some(encode(files))),
    ];
    let mut bytes = known.iter().map(|version| version.bytes).sum::<u64>().saturating_add(new.bytes);
    let mut dropped = 0;
    for old in known {
        if known.len() - dropped < MAX_VERSIONS && bytes <= MAX_BYTES {
            break;
        }
        bytes = bytes.saturating_sub(old.bytes);
        dropped += 1;
        documents.push(write(Kind::PolicyVersion, old.number, None));
        documents.push(write(Kind::PolicyFiles, old.number, None));
    }
    (documents, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, bytes: u64) -> Version {
        Version { number, bytes, ..Version::default() }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let many: VecDeque<_> = (1..=MAX_VERSIONS as u64).map(|number| version(number, 1)).collect();
        assert_eq!(add(&many, &version(201, 1), &[]).1, 1);
        assert_eq!(add(&many.iter().skip(1).cloned().collect(), &version(201, 1), &[]).1, 0);
        let large: VecDeque<_> = (1..=4).map(|number| version(number, MAX_BYTES / 4)).collect();
        let (documents, dropped) = add(&large, &version(5, MAX_BYTES / 2), &[]);
        assert_eq!(dropped, 2);
        let gone: Vec<_> = documents.iter().filter(|d| d.value.is_none()).map(|d| d.key[7]).collect();
        assert_eq!(gone, [1, 1, 2, 2]);
        assert_eq!(add(&large, &version(5, MAX_BYTES * 2), &[]).1, 4, "the newest is always kept");
    }

    #[test]
    fn lines_beyond_the_bound_are_counted() {
        let mut version = Version::default();
        version.set_changes(vec!["x".repeat(1000); 60].into_iter());
        assert_eq!((version.changes.len(), version.changes_dropped), (50, 10));
        assert_eq!(version.changes[0].len(), MAX_CHANGE);
    }

    #[test]
    fn the_same_files_have_the_same_digest() {
        let file = |name: &str, text: &str| PolicyFile { name: name.into(), text: text.into() };
        assert_eq!(digest(&[file("a", "b")]), digest(&[file("a", "b")]));
        assert_ne!(digest(&[file("a", "b")]), digest(&[file("a", "b ")]));
        assert_ne!(digest(&[file("a", "bc")]), digest(&[file("ab", "c")]));
    }
}
