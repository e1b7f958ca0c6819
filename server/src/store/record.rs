//! Records: protobuf messages (fields may be added, unknown ones are skipped) behind a version byte and a CRC-32C,
//! since sled does not notice every flipped bit.

use prost::Message;

/// The largest value; larger ones make sled keep blob files that it never frees.
pub(super) const MAX_VALUE_BYTES: usize = 8 * 1024;

const VERSION: u8 = 1;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The checksum does not match.
    #[error("a record of the store is damaged (its checksum does not match): restore a backup")]
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

/// Version, checksum over version and message, message.
pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + message.encoded_len());
    bytes.extend([VERSION, 0, 0, 0, 0]);
    bytes.extend(message.encode_to_vec());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), &bytes[5..]);
    bytes[1..5].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordError> {
    let (head, message) = bytes.split_first_chunk::<5>().ok_or(RecordError::Checksum)?;
    let [version, checksum @ ..] = *head;
    if crc32c::crc32c_append(crc32c::crc32c(&[version]), message) != u32::from_be_bytes(checksum) {
        return Err(RecordError::Checksum);
    }
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    M::decode(message).map_err(|_| RecordError::Content("its fields do not parse"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
