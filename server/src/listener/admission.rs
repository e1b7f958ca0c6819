//! The cap on connections that have not (yet) proved who they are, by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts unauthenticated connections by address, an IPv6 /64 counting as one, and in total.
#[derive(Debug)]
pub struct Admission {
    per_address: usize,
    total: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    by_address: HashMap<IpAddr, usize>,
    total: usize,
}

/// A place taken; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    key: IpAddr,
}

impl Admission {
    /// At most `per_address` and `total` at once.
    pub fn new(per_address: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { per_address, total, open: Mutex::default() })
    }

    /// Takes a place, or `None` when the address has its share.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Ticket> {
        let key = share_of(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.total {
            return None;
        }
        let count = open.by_address.entry(key).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        open.total += 1;
        Some(Ticket { admission: self.clone(), key })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.key);
            }
        }
    }
}

/// One host usually has a whole /64 to itself (RFC 6177), so that is what shares a cap.
fn share_of(address: IpAddr) -> IpAddr {
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
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
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
        let _one = admission.admit("fd00::1".parse().unwrap()).unwrap();
        assert!(admission.admit("fd00::2".parse().unwrap()).is_none());
        assert!(admission.admit("fd00:0:0:1::2".parse().unwrap()).is_some());
    }
}
