//! Messages as bytes: read, changed and written without knowing their types, as a later version's would look.

use prost::bytes::{Buf as _, BufMut as _};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A field number that no message of this version has.
const UNKNOWN: u32 = 15_000;

/// gRPC messages left as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// Messages one after the other, each behind its length.
pub fn join(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        encode_varint(message.len() as u64, &mut bytes);
        bytes.extend(message);
    }
    bytes
}

/// What [`join`] joined.
#[track_caller]
pub fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = decode_varint(&mut bytes).expect("a length");
        let (message, rest) = bytes.split_at(usize::try_from(length).expect("a length"));
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}

/// A message with fields that nobody knows yet: a number, a text, and a message.
#[must_use]
pub fn with_unknown_fields(message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    encode_key(UNKNOWN, WireType::Varint, &mut bytes);
    encode_varint(u64::MAX, &mut bytes);
    for (tag, content) in [(UNKNOWN + 1, &b"from a later version"[..]), (UNKNOWN + 2, &[8, 1][..])] {
        put_bytes(tag, content, &mut bytes);
    }
    bytes
}

/// A message of which only an unknown field is set: an arm of a oneof that nobody knows yet.
#[must_use]
pub fn unknown_arm() -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes(UNKNOWN, &[8, 1], &mut bytes);
    bytes
}

/// A message in which every field `tag` that holds bytes is replaced by what `change` makes of it.
#[must_use]
#[track_caller]
pub fn change_field(message: &[u8], tag: u32, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut rest = message;
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let whole = rest;
        let (found, kind) = decode_key(&mut rest).expect("a message");
        if found == tag && kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut rest).expect("a length")).expect("a length");
            let (content, after) = rest.split_at(length);
            put_bytes(tag, &change(content), &mut bytes);
            rest = after;
        } else {
            skip_field(kind, found, &mut rest, prost::encoding::DecodeContext::default()).expect("a field");
            bytes.extend(&whole[..whole.len() - rest.len()]);
        }
    }
    bytes
}

/// The contents of all fields `tag` that hold bytes.
#[track_caller]
pub fn fields(message: &[u8], tag: u32) -> Vec<Vec<u8>> {
    let found = std::cell::RefCell::new(Vec::new());
    let _same = change_field(message, tag, |content| {
        found.borrow_mut().push(content.to_vec());
        content.to_vec()
    });
    found.into_inner()
}

/// The content of the first of them.
#[track_caller]
pub fn field(message: &[u8], tag: u32) -> Option<Vec<u8>> {
    fields(message, tag).into_iter().next()
}

/// Adds a field of bytes.
pub fn put_bytes(tag: u32, content: &[u8], to: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(content.len() as u64, to);
    to.extend(content);
}

#[cfg(test)]
mod tests {
    use portolan_proto::v1;
    use prost::Message as _;

    use super::*;

    #[test]
    fn messages_are_told_apart_again() {
        let messages = vec![vec![1, 2], vec![], vec![7; 300]];
        assert_eq!(split(&join(&messages)), messages);
    }

    #[test]
    fn what_is_not_known_is_skipped_and_what_is_known_stays() {
        let record = v1::Record { sequence: 7, scan_id: vec![1; 16], waited_ms: 3, ..v1::Record::default() };
        let later = with_unknown_fields(&record.encode_to_vec());
        assert_eq!(v1::Record::decode(&*later).unwrap(), record);
        let up = v1::UplinkUp { message: Some(v1::uplink_up::Message::Record(record.clone())) };
        let changed = change_field(&up.encode_to_vec(), 2, with_unknown_fields);
        assert_eq!(field(&changed, 2), Some(later));
        assert_eq!(v1::UplinkUp::decode(&*changed).unwrap(), up);
        assert_eq!(v1::UplinkUp::decode(&*unknown_arm()).unwrap().message, None);
    }
}
