//! The stream that backups and exports are made of: a magic number, then frames, each with its length, kind and
//! CRC-32C, the last of them a trailer with a SHA-256 over everything before it. What lacks its trailer is no dump.

use super::DumpError;
use aws_lc_rs::digest;
use prost::Message;
use std::io::{ErrorKind, Read, Write};

const MAGIC: &[u8; 8] = b"ptldump1";
const END: &[u8; 8] = b"ptldend1";
/// The stream's version. A later one that only adds kinds of frames keeps it: a kind that is not known is refused.
pub(super) const FORMAT: u32 = 1;
/// What a frame carries at most.
pub(super) const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Length, kind; and after the payload the checksum.
const HEAD: usize = 5;
const CHECKSUM: usize = 4;

/// One frame, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// The first.
    Header(Header),
    /// A part of a file of the data directory.
    File(FilePart),
    /// Entries of one tree as they stood while the dump was made.
    Entries(Changes),
    /// What was written to one tree while the dump was made; in the order in which it was.
    Redo(Changes),
    /// A tree that was dropped meanwhile.
    Drop(String),
    /// In the place of the trailer: why there is none.
    Failed(String),
    /// The last.
    Trailer(Trailer),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub deployment: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub created_at_ms: i64,
    /// It holds the data directory's files too.
    #[prost(bool, tag = "4")]
    pub full: bool,
    /// The format of the store.
    #[prost(uint32, tag = "5")]
    pub schema: u32,
    /// Of the server that made it.
    #[prost(string, tag = "6")]
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FilePart {
    /// Below the data directory.
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub content: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Changes {
    #[prost(string, tag = "1")]
    pub tree: String,
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<Change>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Change {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// None: the key was removed.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub value: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Trailer {
    /// As the store keeps them.
    #[prost(bytes = "vec", tag = "1")]
    pub sums: Vec<u8>,
    /// Before it.
    #[prost(uint64, tag = "2")]
    pub frames: u64,
    /// Of everything before it.
    #[prost(bytes = "vec", tag = "3")]
    pub sha256: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Words {
    #[prost(string, tag = "1")]
    text: String,
}

impl Frame {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Header(header) => (1, header.encode_to_vec()),
            Self::File(part) => (2, part.encode_to_vec()),
            Self::Entries(changes) => (3, changes.encode_to_vec()),
            Self::Redo(changes) => (4, changes.encode_to_vec()),
            Self::Drop(tree) => (5, Words { text: tree.clone() }.encode_to_vec()),
            Self::Failed(why) => (6, Words { text: why.clone() }.encode_to_vec()),
            Self::Trailer(trailer) => (7, trailer.encode_to_vec()),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DumpError> {
        let frame = match kind {
            1 => Header::decode(payload).map(Self::Header),
            2 => FilePart::decode(payload).map(Self::File),
            3 => Changes::decode(payload).map(Self::Entries),
            4 => Changes::decode(payload).map(Self::Redo),
            5 => Words::decode(payload).map(|words| Self::Drop(words.text)),
            6 => Words::decode(payload).map(|words| Self::Failed(words.text)),
            7 => Trailer::decode(payload).map(Self::Trailer),
            _ => return Err(DumpError::Newer(format!("it has frames of kind {kind}"))),
        };
        frame.map_err(|_| DumpError::Damaged("a frame does not parse".into()))
    }
}

/// Writes frames, and nothing else: for what becomes part of a dump later.
pub(super) fn write_frame(out: &mut impl Write, frame: &Frame) -> std::io::Result<u64> {
    let bytes = bytes_of(frame)?;
    out.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

fn bytes_of(frame: &Frame) -> std::io::Result<Vec<u8>> {
    let (kind, payload) = frame.encode();
    if payload.len() > MAX_FRAME_BYTES {
        return Err(std::io::Error::other("a frame is too large"));
    }
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD + payload.len() + CHECKSUM);
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(payload);
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    Ok(bytes)
}

/// Writes a whole dump.
pub(super) struct FrameWriter<W> {
    out: W,
    digest: digest::Context,
    frames: u64,
    bytes: u64,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn start(mut out: W, header: Header) -> std::io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(MAGIC);
        let mut writer = Self { out, digest, frames: 0, bytes: MAGIC.len() as u64 };
        writer.write(&Frame::Header(header))?;
        Ok(writer)
    }

    pub(super) fn write(&mut self, frame: &Frame) -> std::io::Result<()> {
        let bytes = bytes_of(frame)?;
        self.out.write_all(&bytes)?;
        self.digest.update(&bytes);
        self.frames += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Ends the dump; returns its bytes.
    pub(super) fn finish(mut self, sums: Vec<u8>) -> std::io::Result<u64> {
        let sha256 = self.digest.clone().finish().as_ref().to_vec();
        let trailer = bytes_of(&Frame::Trailer(Trailer { sums, frames: self.frames, sha256 }))?;
        self.out.write_all(&trailer)?;
        self.out.write_all(&u32::try_from(trailer.len()).unwrap_or(u32::MAX).to_be_bytes())?;
        self.out.write_all(END)?;
        self.out.flush()?;
        Ok(self.bytes + trailer.len() as u64 + 4 + END.len() as u64)
    }

    /// Ends it with the reason why it is none.
    pub(super) fn fail(mut self, why: &str) -> std::io::Result<()> {
        self.write(&Frame::Failed(why.to_owned()))?;
        self.out.flush()
    }
}

/// Reads a dump from its beginning, checking everything on the way.
pub(super) struct FrameReader<R> {
    input: R,
    digest: digest::Context,
    frames: u64,
    position: u64,
    ended: bool,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn start(mut input: R) -> Result<(Self, Header), DumpError> {
        let mut magic = [0; 8];
        match input.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) => return Err(DumpError::Foreign),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(DumpError::Foreign),
            Err(error) => return Err(DumpError::Read(error)),
        }
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(&magic);
        let mut reader = Self { input, digest, frames: 0, position: magic.len() as u64, ended: false };
        match reader.next()? {
            Some(Frame::Header(header)) if header.format == FORMAT => Ok((reader, header)),
            Some(Frame::Header(header)) if header.format > FORMAT => {
                Err(DumpError::Newer(format!("its format is {}, this version reads {FORMAT}", header.format)))
            }
            _ => Err(DumpError::Damaged("it does not begin with a header".into())),
        }
    }

    /// Bytes read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next frame; `None` after the trailer, when nothing follows it.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, DumpError> {
        if self.ended {
            return Ok(None);
        }
        let bytes = read_frame(&mut self.input)?;
        let frame = parse(&bytes)?;
        match &frame {
            Frame::Trailer(trailer) => {
                let digest = self.digest.clone().finish();
                if trailer.frames != self.frames || trailer.sha256 != digest.as_ref() {
                    return Err(DumpError::Damaged("its SHA-256 is another".into()));
                }
                self.read_end(bytes.len())?;
                self.ended = true;
            }
            Frame::Failed(why) => return Err(DumpError::GivenUp(why.clone())),
            _ => {}
        }
        self.digest.update(&bytes);
        self.frames += 1;
        self.position += bytes.len() as u64;
        Ok(Some(frame))
    }

    fn read_end(&mut self, trailer: usize) -> Result<(), DumpError> {
        let mut end = [0; 12];
        read_whole(&mut self.input, &mut end)?;
        let length = u32::try_from(trailer).unwrap_or(u32::MAX).to_be_bytes();
        let mut more = [0];
        let after = self.input.read(&mut more).map_err(DumpError::Read)?;
        if end[..4] != length || end[4..] != *END || after != 0 {
            return Err(DumpError::Damaged("something else follows its end".into()));
        }
        self.position += end.len() as u64;
        Ok(())
    }
}

/// The frames of a part of a dump, which the caller has checked as a whole or will.
pub(super) fn next_of_part(input: &mut impl Read) -> Result<Frame, DumpError> {
    parse(&read_frame(input)?)
}

/// The trailer of a dump that is taken to be whole, without a look at the rest.
pub(super) fn read_trailer<F: Read + std::io::Seek>(file: &mut F) -> Result<Trailer, DumpError> {
    use std::io::SeekFrom;
    let mut end = [0; 12];
    file.seek(SeekFrom::End(-12)).map_err(|_| DumpError::Incomplete)?;
    read_whole(file, &mut end)?;
    let length = end.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length));
    if end[4..] != *END {
        return Err(DumpError::Incomplete);
    }
    file.seek(SeekFrom::End(-12 - i64::from(length))).map_err(|_| DumpError::Incomplete)?;
    match next_of_part(file)? {
        Frame::Trailer(trailer) => Ok(trailer),
        _ => Err(DumpError::Damaged("its trailer is none".into())),
    }
}

fn read_frame(input: &mut impl Read) -> Result<Vec<u8>, DumpError> {
    let mut bytes = vec![0; HEAD];
    read_whole(input, &mut bytes)?;
    let length = bytes.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length)) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(DumpError::Damaged("a frame is longer than any".into()));
    }
    bytes.resize(HEAD + length + CHECKSUM, 0);
    read_whole(input, &mut bytes[HEAD..])?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Frame, DumpError> {
    let (content, checksum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM));
    if crc32c::crc32c(content).to_be_bytes() != checksum {
        return Err(DumpError::Damaged("the checksum of a frame is wrong".into()));
    }
    Frame::decode(content.get(4).copied().unwrap_or_default(), content.get(HEAD..).unwrap_or_default())
}

fn read_whole(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), DumpError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => DumpError::Incomplete,
        _ => DumpError::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn dump(changes: &[Change]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = Header { format: FORMAT, ..Header::default() };
        let mut writer = FrameWriter::start(&mut bytes, header).unwrap();
        for change in changes {
            let changes = Changes { tree: "state".into(), changes: vec![change.clone()] };
            writer.write(&Frame::Entries(changes)).unwrap();
        }
        let length = writer.finish(b"sums".to_vec()).unwrap();
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Frame>, DumpError> {
        let (mut reader, _) = FrameReader::start(bytes)?;
        let mut frames = Vec::new();
        while let Some(frame) = reader.next()? {
            frames.push(frame);
        }
        assert_eq!(reader.position(), bytes.len() as u64);
        Ok(frames)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_flip_or_a_cut_is_noticed(
            keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let changes: Vec<_> = keys.into_iter().map(|key| Change { value: Some(key.clone()), key }).collect();
            let bytes = dump(&changes);
            let frames = read(&bytes).unwrap();
            prop_assert_eq!(frames.len(), changes.len() + 1);
            prop_assert_eq!(read_trailer(&mut Cursor::new(&bytes)).unwrap().sums, b"sums".to_vec());
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(read(&flipped).is_err());
            let cut = read(&bytes[..at.index(bytes.len())]);
            prop_assert!(matches!(cut, Err(DumpError::Incomplete | DumpError::Foreign)));
            let mut longer = bytes;
            longer.push(0);
            prop_assert!(read(&longer).is_err());
        }
    }

    #[test]
    fn what_a_later_version_writes_is_refused_with_the_word_update() {
        let bytes = dump(&[]);
        let mut frame = bytes_of(&Frame::Drop("x".into())).unwrap();
        frame[4] = 99;
        let end = frame.len() - CHECKSUM;
        let checksum = crc32c::crc32c(&frame[..end]).to_be_bytes();
        frame[end..].copy_from_slice(&checksum);
        let header = bytes_of(&Frame::Header(Header { format: FORMAT, ..Header::default() })).unwrap();
        let mut later = bytes[..8].to_vec();
        later.extend(header);
        later.extend(frame);
        let error = read(&later).unwrap_err().to_string();
        assert!(error.contains("update portolan-server"), "{error}");
        let mut newer = bytes[..8].to_vec();
        newer.extend(bytes_of(&Frame::Header(Header { format: FORMAT + 1, ..Header::default() })).unwrap());
        assert!(matches!(read(&newer), Err(DumpError::Newer(_))));
    }

    #[test]
    fn a_dump_that_was_given_up_says_why() {
        let mut bytes = Vec::new();
        let writer = FrameWriter::start(&mut bytes, Header { format: FORMAT, ..Header::default() }).unwrap();
        writer.fail("the disk is full").unwrap();
        assert!(read(&bytes).unwrap_err().to_string().contains("the disk is full"));
    }
}
