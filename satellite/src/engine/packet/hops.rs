//! The next hops that packets go to, and who of them is there. Pure.
//!
//! A sweep of an Ethernet segment would fill the kernel's neighbour table with hosts that do not exist, and the kernel
//! takes three seconds for each. So the hops of a sweep are looked for here, and kept fresh: a gateway whose address
//! moves to another machine must not swallow the rest of a sweep.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// When a hop is asked, after it was asked first; a host that does not answer the last is not there. The kernel gives
/// up after three requests, a second apart.
const ASKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(450), Duration::from_millis(1000)];

/// How long after the last request it is believed.
const PATIENCE: Duration = Duration::from_millis(600);

/// How often a hop that is in use is asked again, …
const REFRESH: Duration = Duration::from_secs(2);

/// … and how long it may be silent: a neighbour need not answer every request.
const SILENT: Duration = Duration::from_secs(8);

/// How long a hop that nobody uses is remembered.
const IDLE: Duration = Duration::from_secs(10);

/// Where a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HopKey {
    /// The interface's index.
    pub(super) interface: u32,
    /// The neighbour's address.
    pub(super) address: IpAddr,
}

/// What is known of a hop.
#[derive(Debug)]
struct Hop {
    /// Where requests come from.
    source: IpAddr,
    mac: Option<[u8; 6]>,
    /// When it was asked first since it was last heard of, and how often.
    asked_first: Instant,
    asked_last: Instant,
    asked: usize,
    heard: Instant,
    used: Instant,
    /// Who waits for it.
    waiting: Vec<(usize, IpAddr)>,
}

/// What to do about a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a request, from this address.
    Ask(HopKey, IpAddr),
    /// Nobody answers: those who wait, and those who use it, have no way.
    Lost(HopKey),
}

/// All hops of a sweep.
#[derive(Debug, Default)]
pub(super) struct Hops {
    hops: HashMap<HopKey, Hop>,
}

impl Hops {
    /// A host (its number and address) needs a hop: the link-layer address, if it is known. Otherwise the host waits.
    /// `known` is what the kernel knows.
    pub(super) fn want(
        &mut self,
        key: HopKey,
        source: IpAddr,
        host: (usize, IpAddr),
        known: impl FnOnce() -> Option<[u8; 6]>,
        now: Instant,
    ) -> Option<[u8; 6]> {
        let hop = self.hops.entry(key).or_insert_with(|| Hop {
            source,
            mac: known(),
            asked_first: now,
            asked_last: now,
            asked: 0,
            heard: now,
            used: now,
            waiting: Vec::new(),
        });
        hop.used = now;
        if hop.mac.is_none() {
            hop.waiting.push(host);
        }
        hop.mac
    }

    /// The link-layer address of a hop.
    pub(super) fn address(&self, key: HopKey) -> Option<[u8; 6]> {
        self.hops.get(&key)?.mac
    }

    /// A neighbour answered: who waited for it. What nobody asked for is not believed.
    pub(super) fn answered(&mut self, key: HopKey, mac: [u8; 6], now: Instant) -> Vec<(usize, IpAddr)> {
        let Some(hop) = self.hops.get_mut(&key) else { return Vec::new() };
        (hop.mac, hop.heard, hop.asked) = (Some(mac), now, 0);
        std::mem::take(&mut hop.waiting)
    }

    /// Forgets a hop, whose interface is gone: who waited for it.
    pub(super) fn forget(&mut self, key: HopKey) -> Vec<(usize, IpAddr)> {
        self.hops.remove(&key).map(|hop| hop.waiting).unwrap_or_default()
    }

    /// What is due now. `in_use` says whether probes still go by a hop.
    pub(super) fn due(&mut self, in_use: impl Fn(HopKey) -> bool, now: Instant, due: &mut Vec<Due>) {
        self.hops.retain(|key, hop| {
            if hop.mac.is_some() {
                if in_use(*key) {
                    hop.used = now;
                } else if now.saturating_duration_since(hop.used) > IDLE {
                    return false;
                }
                let silent = now.saturating_duration_since(hop.heard);
                if silent > SILENT {
                    hop.mac = None;
                    (hop.asked, hop.asked_first) = (0, now);
                    due.push(Due::Lost(*key));
                } else if silent >= REFRESH * (hop.asked as u32 + 1) {
                    hop.asked += 1;
                    due.push(Due::Ask(*key, hop.source));
                }
                return true;
            }
            if hop.waiting.is_empty() {
                return false;
            }
            match ASKS.get(hop.asked) {
                Some(after) if hop.asked_first + *after <= now => {
                    hop.asked += 1;
                    hop.asked_last = now;
                    due.push(Due::Ask(*key, hop.source));
                }
                None if hop.asked_last + PATIENCE <= now => due.push(Due::Lost(*key)),
                _ => {}
            }
            true
        });
    }

    /// Nothing was sent for so long: whoever did not answer was not asked.
    pub(super) fn shift(&mut self, time: Duration) {
        for hop in self.hops.values_mut() {
            hop.asked_first += time;
            hop.asked_last += time;
            hop.heard += time;
        }
    }

    /// A request could not leave: it is due again.
    pub(super) fn put_off(&mut self, key: HopKey) {
        if let Some(hop) = self.hops.get_mut(&key) {
            hop.asked = hop.asked.saturating_sub(1);
        }
    }

    /// Whether hosts wait for a hop.
    pub(super) fn is_waiting(&self) -> bool {
        self.hops.values().any(|hop| !hop.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn key(last: u8) -> HopKey {
        HopKey { interface: 2, address: IpAddr::from([10, 0, 0, last]) }
    }

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn due(hops: &mut Hops, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        hops.due(|_| true, now, &mut due);
        due
    }

    #[test]
    fn a_hop_is_asked_four_times_and_then_given_up() {
        let start = Instant::now();
        let mut hops = Hops::default();
        assert_eq!(hops.want(key(7), SOURCE, (1, key(7).address), || None, start), None);
        let mut asks = Vec::new();
        let mut lost = None;
        for ms in 0..3000 {
            for due in due(&mut hops, start + MS * ms) {
                match due {
                    Due::Ask(..) => asks.push(ms),
                    Due::Lost(key) => {
                        lost = Some(ms);
                        assert_eq!(hops.forget(key).len(), 1);
                    }
                }
            }
        }
        assert_eq!((asks, lost), (vec![0, 150, 450, 1000], Some(1600)));
    }

    #[test]
    fn an_answer_is_for_all_who_wait_and_only_where_asked() {
        let start = Instant::now();
        let mut hops = Hops::default();
        assert!(hops.answered(key(9), [1; 6], start).is_empty());
        assert_eq!(hops.address(key(9)), None, "nobody asked for it");
        hops.want(key(1), SOURCE, (1, key(7).address), || None, start);
        hops.want(key(1), SOURCE, (2, key(8).address), || None, start);
        assert_eq!(hops.answered(key(1), [1; 6], start).len(), 2);
        assert_eq!(hops.want(key(1), SOURCE, (3, key(9).address), || None, start), Some([1; 6]));
    }

    #[test]
    fn a_hop_in_use_is_kept_fresh_and_may_move_or_go() {
        let start = Instant::now();
        let mut hops = Hops::default();
        hops.want(key(1), SOURCE, (1, key(1).address), || Some([1; 6]), start);
        assert!(due(&mut hops, start + MS * 1999).is_empty());
        assert_eq!(due(&mut hops, start + MS * 2000), [Due::Ask(key(1), SOURCE)]);
        hops.answered(key(1), [2; 6], start + MS * 2001);
        assert_eq!(hops.address(key(1)), Some([2; 6]), "it moved");
        let mut asked = 0;
        for ms in 2001..10_002 {
            asked += due(&mut hops, start + MS * ms).len();
        }
        assert_eq!(asked, 4);
        assert_eq!(due(&mut hops, start + MS * 10_002), [Due::Lost(key(1))]);
    }

    #[test]
    fn a_hop_nobody_uses_is_forgotten() {
        let start = Instant::now();
        let mut hops = Hops::default();
        hops.want(key(1), SOURCE, (1, key(1).address), || Some([1; 6]), start);
        hops.due(|_| false, start + IDLE + MS, &mut Vec::new());
        assert_eq!(hops.address(key(1)), None);
    }
}
