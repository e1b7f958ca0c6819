//! Whether a dump is whole, and adds up: what it holds, with what was written meanwhile laid over it, must have the sums
//! that its trailer says. However large it is, only so many keys are held in memory at once.

use super::DumpError;
use super::frames::{Changes, Frame, FrameReader, Header, next_of_part};
use crate::pki::authority::sha256;
use crate::store::sums::{Sum, Sums};
use jiff::Timestamp;
use portolan_common::ids::DeploymentId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Keys that were written meanwhile and are held in memory at once; for more of them the dump is read again.
const AT_ONCE: u64 = 250_000;
/// What a file of the data directory has at most: certificates, and one line for each revocation.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// What a dump holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whose it is.
    pub deployment: DeploymentId,
    /// When it was begun.
    pub created_at: Timestamp,
    /// The store's sums when it was finished.
    pub sums: Sums,
    /// The data directory's files that are in it, with their lengths; none in an export.
    pub files: BTreeMap<String, u64>,
    /// Of the store.
    pub entries: u64,
    /// All of it.
    pub bytes: u64,
}

/// Where things are in a dump.
struct Layout {
    contents: Contents,
    entries_at: u64,
    redo_at: u64,
    trailer_at: u64,
    redone: u64,
}

/// Reads all of a dump and says what is in it.
///
/// # Errors
/// [`DumpError`] when it is not whole or does not add up.
pub fn check<R: Read + Seek>(input: R) -> Result<Contents, DumpError> {
    check_with(input, AT_ONCE)
}

pub(super) fn check_with<R: Read + Seek>(input: R, at_once: u64) -> Result<Contents, DumpError> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let layout = read_layout(&mut input)?;
    let parts = layout.redone / at_once + 1;
    let mut found: BTreeMap<String, Sum> = BTreeMap::new();
    for part in 0..parts {
        add_part(&mut input, &layout, (part, parts), &mut found)?;
    }
    let expected = &layout.contents.sums.trees;
    for name in found.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        let of = |sums: &BTreeMap<String, Sum>| sums.get(name).copied().unwrap_or_default();
        let (found, expected) = (of(&found), of(expected));
        if found != expected {
            return Err(DumpError::Sums { tree: name.clone(), expected: expected.count, found: found.count });
        }
    }
    Ok(layout.contents)
}

/// Whether it is whole, frame by frame; what it adds up to is not looked at.
pub(super) fn check_frames(input: impl Read) -> Result<Contents, DumpError> {
    Ok(read_layout(&mut BufReader::with_capacity(256 * 1024, input))?.contents)
}

fn read_layout(input: &mut impl Read) -> Result<Layout, DumpError> {
    let (mut reader, header) = FrameReader::start(input)?;
    let start = reader.position();
    let mut layout =
        Layout { contents: contents_of(&header)?, entries_at: start, redo_at: 0, trailer_at: 0, redone: 0 };
    let out_of_order = || DumpError::Damaged("its frames are out of order".into());
    loop {
        let at = reader.position();
        let Some(frame) = reader.next()? else { break };
        if layout.trailer_at != 0 {
            return Err(out_of_order());
        }
        match frame {
            Frame::File(part) => {
                if layout.entries_at != at || layout.redo_at != 0 {
                    return Err(out_of_order());
                }
                layout.entries_at = reader.position();
                let length = layout.contents.files.entry(part.path).or_default();
                if part.offset != *length || part.content.len() as u64 + *length > MAX_FILE_BYTES {
                    return Err(DumpError::Damaged("a part of a file is missing".into()));
                }
                *length += part.content.len() as u64;
            }
            Frame::Entries(_) if layout.redo_at != 0 => return Err(out_of_order()),
            Frame::Entries(_) => {}
            Frame::Redo(changes) => {
                layout.redo_at = if layout.redo_at == 0 { at } else { layout.redo_at };
                layout.redone += changes.changes.len() as u64;
            }
            Frame::Drop(_) => layout.redo_at = if layout.redo_at == 0 { at } else { layout.redo_at },
            Frame::Trailer(trailer) => {
                layout.trailer_at = at;
                layout.redo_at = if layout.redo_at == 0 { at } else { layout.redo_at };
                layout.contents.sums = Sums::decode(&trailer.sums)
                    .map_err(|_| DumpError::Damaged("its trailer does not parse".into()))?;
            }
            Frame::Header(_) | Frame::Failed(_) => return Err(out_of_order()),
        }
    }
    layout.contents.bytes = reader.position();
    layout.contents.entries = layout.contents.sums.trees.values().map(|sum| sum.count).sum();
    Ok(layout)
}

fn contents_of(header: &Header) -> Result<Contents, DumpError> {
    if header.schema > crate::store::SCHEMA {
        return Err(DumpError::Newer(format!("the store in it has format {}", header.schema)));
    }
    let damaged = || DumpError::Damaged("its header does not parse".into());
    let deployment = uuid::Uuid::from_slice(&header.deployment).map_err(|_| damaged())?;
    Ok(Contents {
        deployment: DeploymentId(deployment),
        created_at: Timestamp::from_millisecond(header.created_at_ms).map_err(|_| damaged())?,
        sums: Sums::default(),
        files: BTreeMap::new(),
        entries: 0,
        bytes: 0,
    })
}

/// Adds up the keys whose hash falls into one part of all.
fn add_part<R: Read + Seek>(
    input: &mut BufReader<R>,
    layout: &Layout,
    (part, parts): (u64, u64),
    found: &mut BTreeMap<String, Sum>,
) -> Result<(), DumpError> {
    let is_mine = |id: u128| (id % u128::from(parts)) == u128::from(part);
    // What was written last to each key that was written at all: the tree, and what it counts for.
    let mut last: HashMap<u128, (String, Option<Sum>)> = HashMap::new();
    let mut dropped = BTreeSet::new();
    each_frame(input, layout.redo_at, layout.trailer_at, |frame| {
        match frame {
            Frame::Redo(changes) => {
                for change in changes.changes {
                    let id = id_of(&changes.tree, &change.key);
                    if is_mine(id) {
                        let sum = change.value.map(|value| sum_of(&change.key, &value));
                        last.insert(id, (changes.tree.clone(), sum));
                    }
                }
            }
            Frame::Drop(tree) => {
                last.retain(|_, (of, _)| *of != tree);
                dropped.insert(tree);
            }
            _ => {}
        }
        Ok(())
    })?;
    each_frame(input, layout.entries_at, layout.redo_at, |frame| {
        let Frame::Entries(Changes { tree, changes }) = frame else { return Ok(()) };
        if dropped.contains(&tree) {
            return Ok(());
        }
        let sum = found.entry(tree.clone()).or_default();
        for change in changes {
            let id = id_of(&tree, &change.key);
            if is_mine(id) && !last.contains_key(&id) {
                *sum = plus(*sum, sum_of(&change.key, &change.value.unwrap_or_default()));
            }
        }
        Ok(())
    })?;
    for (tree, more) in last.into_values() {
        let sum = found.entry(tree).or_default();
        *sum = plus(*sum, more.unwrap_or_default());
    }
    Ok(())
}

/// The frames between two places of a dump that was read once.
fn each_frame<R: Read + Seek>(
    input: &mut BufReader<R>,
    from: u64,
    to: u64,
    mut each: impl FnMut(Frame) -> Result<(), DumpError>,
) -> Result<(), DumpError> {
    input.seek(SeekFrom::Start(from)).map_err(DumpError::Read)?;
    let mut at = from;
    while at < to {
        each(next_of_part(input)?)?;
        at = input.stream_position().map_err(DumpError::Read)?;
    }
    Ok(())
}

fn id_of(tree: &str, key: &[u8]) -> u128 {
    let digest = sha256(&[tree.as_bytes(), b"\0", key].concat());
    digest.first_chunk::<16>().map_or(0, |half| u128::from_be_bytes(*half))
}

fn sum_of(key: &[u8], value: &[u8]) -> Sum {
    let mut sum = Sum::default();
    sum.add(key, value);
    sum
}

fn plus(a: Sum, b: Sum) -> Sum {
    Sum { count: a.count.wrapping_add(b.count), hash: a.hash.wrapping_add(b.hash) }
}
