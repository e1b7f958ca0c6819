//! Caps on connections: those that have not (yet) proved who they are by address, the others by who they are.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections by key and in total.
#[derive(Debug)]
pub struct Admission<K: Copy + Eq + Hash> {
    per_key: usize,
    total: usize,
    open: Mutex<Open<K>>,
}

#[derive(Debug)]
struct Open<K> {
    by_key: HashMap<K, usize>,
    total: usize,
}

/// A place taken; given back when dropped.
#[derive(Debug)]
pub struct Ticket<K: Copy + Eq + Hash> {
    admission: Arc<Admission<K>>,
    key: K,
}

impl<K: Copy + Eq + Hash> Admission<K> {
    /// At most `per_key` and `total` at once.
    pub fn new(per_key: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { per_key, total, open: Mutex::new(Open { by_key: HashMap::new(), total: 0 }) })
    }

    /// Takes a place, or `None` when the key has its share.
    pub fn admit(self: &Arc<Self>, key: K) -> Option<Ticket<K>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.total {
            return None;
        }
        let count = open.by_key.entry(key).or_default();
        if *count >= self.per_key {
            return None;
        }
        *count += 1;
        open.total += 1;
        Some(Ticket { admission: self.clone(), key })
    }
}

impl<K: Copy + Eq + Hash> Drop for Ticket<K> {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(count) = open.by_key.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.by_key.remove(&self.key);
            }
        }
    }
}

/// What shares a cap: an IPv4 address, or an IPv6 /64, since one host usually has that whole to itself (RFC 6177).
pub fn share_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let admission = Admission::new(2, 3);
        let ip = |text: &str| share_of(text.parse::<IpAddr>().unwrap());
        let first = admission.admit(ip("10.0.0.1")).unwrap();
        let _second = admission.admit(ip("::ffff:10.0.0.1")).unwrap();
        assert!(admission.admit(ip("10.0.0.1")).is_none());
        let _other = admission.admit(ip("10.0.0.2")).unwrap();
        assert!(admission.admit(ip("10.0.0.3")).is_none(), "the total holds too");
        drop(first);
        let _again = admission.admit(ip("10.0.0.1")).unwrap();
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let admission = Admission::new(1, 10);
        let ip = |text: &str| share_of(text.parse::<IpAddr>().unwrap());
        let _one = admission.admit(ip("fd00::1")).unwrap();
        assert!(admission.admit(ip("fd00::2")).is_none());
        assert!(admission.admit(ip("fd00:0:0:1::2")).is_some());
    }
}
