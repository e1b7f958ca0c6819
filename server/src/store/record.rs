//! Records: protobuf messages (fields may be added, unknown ones are skipped) behind a version byte and a CRC-32C,
//! since sled does not notice every flipped bit.

use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

/// The largest value; larger ones make sled keep blob files that it never frees.
pub(super) const MAX_VALUE_BYTES: usize = 8 * 1024;

const VERSION: u8 = 1;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The checksum does not match.
    #[error(
        "a record of the store is damaged (its checksum does not match): stop the server and run `portolan-server doctor`"
    )]
    Checksum,
    /// A later version wrote it.
    #[error(
        "a record of the store has version {0}, which this version does not read: update portolan-server"
    )]
    Version(u8),
    /// It passes the checksum but is no such record.
    #[error("a record of the store cannot be understood ({0})")]
    Content(&'static str),
}

/// A record that is read, changed and written again: fields that a later version added must survive this one.
pub(super) trait Evolving: Message + Default {
    /// The highest field number that this version knows.
    const LAST_FIELD: u32;
}

/// Version, checksum over version and message, message.
pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    encode_with(message, &[])
}

/// The same in the place of an older record, whose fields that this version does not know are kept.
pub(super) fn encode_over<M: Evolving>(message: &M, old: Option<&[u8]>) -> Vec<u8> {
    encode_with(message, &old.map(unknown_fields::<M>).unwrap_or_default())
}

/// The same with fields that were taken from an older record.
pub(super) fn encode_with(message: &impl Message, unknown: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + message.encoded_len() + unknown.len());
    bytes.extend([VERSION, 0, 0, 0, 0]);
    bytes.extend(message.encode_to_vec());
    bytes.extend(unknown);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), &bytes[5..]);
    bytes[1..5].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Whether a record is as it was written, whatever it says.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    bytes.split_first_chunk::<5>().is_some_and(|(head, message)| {
        let [version, checksum @ ..] = *head;
        crc32c::crc32c_append(crc32c::crc32c(&[version]), message) == u32::from_be_bytes(checksum)
    })
}

pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordError> {
    let (head, message) = bytes.split_first_chunk::<5>().ok_or(RecordError::Checksum)?;
    let [version, ..] = *head;
    if !is_intact(bytes) {
        return Err(RecordError::Checksum);
    }
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    M::decode(message).map_err(|_| RecordError::Content("its fields do not parse"))
}

/// The fields of an encoded record that this version does not know, as they stand there.
pub(super) fn unknown_fields<M: Evolving>(record: &[u8]) -> Vec<u8> {
    let mut unknown = Vec::new();
    let mut rest = record.get(5..).unwrap_or_default();
    while !rest.is_empty() {
        let field = rest;
        let Ok((number, wire_type)) = decode_key(&mut rest) else { break };
        if skip_field(wire_type, number, &mut rest, DecodeContext::default()).is_err() {
            break;
        }
        if number > M::LAST_FIELD {
            unknown.extend(&field[..field.len() - rest.len()]);
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Old {
        #[prost(string, tag = "1")]
        name: String,
    }

    impl Evolving for Old {
        const LAST_FIELD: u32 = 1;
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct New {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(uint64, repeated, tag = "2")]
        more: Vec<u64>,
        #[prost(message, optional, tag = "3")]
        nested: Option<Old>,
    }

    #[test]
    fn what_a_later_version_added_survives() {
        let nested = Some(Old { name: "n".into() });
        let new = New { name: "a".into(), more: vec![7, 8], nested: nested.clone() };
        let stored = encode(&new);
        let mut old: Old = decode(&stored).unwrap();
        old.name = "b".into();
        let again: New = decode(&encode_over(&old, Some(&stored))).unwrap();
        assert_eq!(again, New { name: "b".into(), more: vec![7, 8], nested });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(&"what was seen".to_owned());
        assert_eq!(decode::<String>(&bytes).unwrap(), "what was seen");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<String>(&flipped).is_err(), "bit {bit}");
        }
        assert_eq!(decode::<String>(&bytes[..3]), Err(RecordError::Checksum));
    }
}
