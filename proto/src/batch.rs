//! Observations in a record: each behind its length, so that they are decoded one at a time.

use crate::convert::WireError;
use crate::v1::HostObservation;
use prost::Message as _;

/// Hosts in one record at most.
pub const MAX_HOSTS: usize = 4096;

/// Adds one host to a batch.
pub fn push(batch: &mut Vec<u8>, host: &HostObservation) {
    batch.reserve(host.encoded_len() + 5);
    // The only error is a buffer that is too small, and a vector grows.
    let _ = host.encode_length_delimited(batch);
}

/// The hosts of a batch, still encoded; an error ends them, since what follows cannot be found. One more than
/// [`MAX_HOSTS`] at most, so that the receiver can tell that there were too many.
pub fn encoded_hosts(mut batch: &[u8]) -> impl Iterator<Item = Result<&[u8], WireError>> {
    std::iter::from_fn(move || {
        if batch.is_empty() {
            return None;
        }
        let length = prost::decode_length_delimiter(&mut batch).ok();
        let host = length.and_then(|length| batch.split_at_checked(length));
        batch = host.map_or(&[], |(_, rest)| rest);
        Some(host.map(|(host, _)| host).ok_or(WireError::Malformed))
    })
    .take(MAX_HOSTS + 1)
}

/// The hosts of a batch, as [`encoded_hosts`] finds them.
pub fn hosts(batch: &[u8]) -> impl Iterator<Item = Result<HostObservation, WireError>> {
    encoded_hosts(batch).map(|host| HostObservation::decode(host?).map_err(|_| WireError::Malformed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(target: &str) -> HostObservation {
        HostObservation { target: target.into(), ..HostObservation::default() }
    }

    #[test]
    fn hosts_read_back_one_by_one() {
        let mut batch = Vec::new();
        for target in ["a", "", "c"] {
            push(&mut batch, &host(target));
        }
        let targets: Vec<String> = hosts(&batch).map(|host| host.unwrap().target).collect();
        assert_eq!(targets, ["a", "", "c"]);
    }

    #[test]
    fn damage_ends_the_batch_and_a_flood_is_cut() {
        let mut batch = Vec::new();
        push(&mut batch, &host("a"));
        batch.extend([200, 1, 1]);
        let read: Vec<_> = hosts(&batch).collect();
        assert!(read.len() == 2 && read[0].is_ok() && read[1].is_err());
        assert_eq!(hosts(&vec![0; MAX_HOSTS * 3]).count(), MAX_HOSTS + 1);
    }
}
