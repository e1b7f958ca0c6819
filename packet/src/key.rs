//! What makes an answer ours: numbers that only this key can derive from the addresses and ports of a probe.

use siphasher::sip::SipHasher13;
use std::fmt;
use std::net::IpAddr;

/// One direction of a TCP conversation, seen from the prober: its address and port, and the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The prober's address.
    pub source: IpAddr,
    /// The prober's port.
    pub source_port: u16,
    /// The target's address, of the same family.
    pub destination: IpAddr,
    /// The target's port.
    pub destination_port: u16,
}

/// A secret from which the number of every probe follows (`SipHash-1-3`, 128 bits).
///
/// Nothing needs to be remembered about a probe: whoever answers it echoes its number, and the answer's own addresses
/// and ports say which number that must be. Who has not seen the probe guesses right once in 2^32.
#[derive(Clone)]
pub struct Key(SipHasher13);

impl Key {
    /// A key from the system's random generator.
    #[must_use]
    pub fn random() -> Self {
        Self::from_bytes(rand::random())
    }

    /// This very key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(&bytes))
    }

    /// The number of a TCP flow: the sequence number of a SYN, the acknowledgment number of an ACK ping.
    #[must_use]
    pub fn token(&self, flow: &Flow) -> u32 {
        self.digest(flow) as u32
    }

    /// The identifier and the sequence number of an echo request.
    #[must_use]
    pub fn echo(&self, source: IpAddr, destination: IpAddr) -> (u16, u16) {
        let digest = self.hash(source, destination, &[]);
        ((digest >> 16) as u16, digest as u16)
    }

    /// All 64 bits of a flow: the low half is its token.
    pub(crate) fn digest(&self, flow: &Flow) -> u64 {
        let [a, b] = flow.source_port.to_be_bytes();
        let [c, d] = flow.destination_port.to_be_bytes();
        self.hash(flow.source, flow.destination, &[a, b, c, d])
    }

    /// Families and kinds of probe differ in length, so no two of them share an input.
    fn hash(&self, source: IpAddr, destination: IpAddr, ports: &[u8]) -> u64 {
        let mut input = [0; 16 + 16 + 4];
        let mut len = 0;
        let mut push = |bytes: &[u8]| {
            input[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        for address in [source, destination] {
            match address {
                IpAddr::V4(v4) => push(&v4.octets()),
                IpAddr::V6(v6) => push(&v6.octets()),
            }
        }
        push(ports);
        self.0.hash(&input[..len])
    }
}

/// Shows nothing of the secret.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Flow {
        let parse = |text: &str| text.parse().unwrap();
        Flow { source: parse(source), source_port, destination: parse(destination), destination_port }
    }

    #[test]
    fn every_part_of_a_flow_counts() {
        let key = Key::from_bytes([7; 16]);
        let flows = [
            flow("192.0.2.1", 40000, "192.0.2.9", 443),
            flow("192.0.2.2", 40000, "192.0.2.9", 443),
            flow("192.0.2.1", 40001, "192.0.2.9", 443),
            flow("192.0.2.1", 40000, "192.0.2.8", 443),
            flow("192.0.2.1", 40000, "192.0.2.9", 444),
            flow("192.0.2.9", 443, "192.0.2.1", 40000),
            flow("2001:db8::1", 40000, "2001:db8::9", 443),
        ];
        for (place, one) in flows.iter().enumerate() {
            for other in &flows[place + 1..] {
                assert_ne!(key.token(one), key.token(other), "{one:?} {other:?}");
            }
            assert_ne!(key.token(one), Key::from_bytes([8; 16]).token(one));
        }
    }

    #[test]
    fn two_random_keys_differ() {
        let flow = flow("192.0.2.1", 1, "192.0.2.2", 2);
        assert_ne!(Key::random().digest(&flow), Key::random().digest(&flow));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", Key::random()), "Key(..)");
    }
}
