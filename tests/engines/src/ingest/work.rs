//! The two works of the ingest trial, as data: what a satellite's record asks of the store. Keys are laid out as the
//! server's are.

use crate::record::mix;

/// How many /24 networks, each with a satellite of its own.
pub const NETWORKS: u64 = 64;
/// Hosts in each.
pub const HOSTS: u64 = 254;
/// Ports that a sweep asks of each host.
pub const PORTS: u64 = 1000;
/// How many units one durable commit takes at most, as the server's writer does.
pub const GROUP: usize = 256;
/// One in so many hosts of a sweep differs from what is stored.
const CHANGED_ONE_IN: u64 = 1000;

const TENANT: &str = "customer-0042-plant-north-line-7";

/// What one unit does, atomically: each host's record is read and overwritten where it differs, one record goes to the
/// log, and the satellite's cursor moves.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Keys in the state, and the record as it was observed now.
    pub hosts: Vec<(Vec<u8>, Vec<u8>)>,
    /// What goes to the log.
    pub log: (Vec<u8>, Vec<u8>),
    /// The satellite's cursor.
    pub cursor: (Vec<u8>, Vec<u8>),
}

/// Which of the works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Whole sweeps of a /24 with 1,000 ports a host, nearly all unchanged.
    Sweeps,
    /// Separate changes, one host each.
    Changes,
}

impl Work {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sweeps => "sweeps",
            Self::Changes => "changes",
        }
    }

    /// The unit with this number. `known` is the population's memory of what it reported last.
    pub fn unit(self, number: u64, known: &mut Population) -> Unit {
        let network = match self {
            Self::Sweeps => number % NETWORKS,
            Self::Changes => mix(number ^ 0xc0) % NETWORKS,
        };
        let cursor = (cursor_key(network), [number.to_be_bytes(), mix(number).to_be_bytes()].concat());
        match self {
            Self::Sweeps => {
                let hosts = (0..HOSTS)
                    .map(|host| {
                        let changed = mix(number << 16 ^ host).is_multiple_of(CHANGED_ONE_IN);
                        known.observe(network, host, changed)
                    })
                    .collect();
                Unit { hosts, log: (log_key(b's', network, 0, number), value(number, 60)), cursor }
            }
            Self::Changes => {
                let host = mix(number ^ 0x40) % HOSTS;
                let hosts = vec![known.observe(network, host, true)];
                Unit { hosts, log: (log_key(b'c', network, host, number), value(number, 60)), cursor }
            }
        }
    }
}

/// How often each host has changed: its record follows from that.
pub struct Population(Vec<u32>);

impl Population {
    /// Nobody has changed yet.
    pub fn new() -> Self {
        Self(vec![0; (NETWORKS * HOSTS) as usize])
    }

    /// Every host's first record, for filling the state.
    pub fn first_records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        (0..NETWORKS).flat_map(|n| (0..HOSTS).map(move |h| (host_key(n, h), host_record(n, h, 0))))
    }

    fn observe(&mut self, network: u64, host: u64, changed: bool) -> (Vec<u8>, Vec<u8>) {
        let version = &mut self.0[(network * HOSTS + host) as usize];
        *version += u32::from(changed);
        (host_key(network, host), host_record(network, host, *version))
    }
}

/// 200 to 400 bytes: runs of ports with their state, times, a checksum, as the server keeps them.
fn host_record(network: u64, host: u64, version: u32) -> Vec<u8> {
    let seed = mix(network << 8 | host) ^ u64::from(version);
    value(seed, 200 + (mix(network << 8 | host) % 201) as usize)
}

fn value(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut state = seed;
    while bytes.len() < length {
        state = mix(state);
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn address(tag: u8, network: u64, host: u64) -> Vec<u8> {
    let mut key = vec![tag, TENANT.len() as u8];
    key.extend(TENANT.as_bytes());
    key.extend([4, 10, 42, network as u8, host as u8]);
    key
}

fn satellite(network: u64) -> [u8; 16] {
    (u128::from(mix(network)) << 64 | u128::from(mix(network + 1000))).to_be_bytes()
}

fn host_key(network: u64, host: u64) -> Vec<u8> {
    let mut key = address(b'H', network, host);
    key.extend(satellite(network));
    key.extend([6, 0]);
    key
}

fn cursor_key(network: u64) -> Vec<u8> {
    [b"C".as_slice(), &satellite(network), &satellite(network + 500)].concat()
}

fn log_key(tag: u8, network: u64, host: u64, number: u64) -> Vec<u8> {
    let mut key = address(tag, network, host);
    // Milliseconds, 20 units in each: what the target rate comes to.
    key.extend((1_790_000_000_000 + number / 20).to_be_bytes());
    key.extend(satellite(network));
    key.extend(number.to_be_bytes());
    key.extend(0u16.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_the_trial_promises() {
        let mut known = Population::new();
        for number in 0..500 {
            let unit = Work::Changes.unit(number, &mut known);
            assert!((200..=400).contains(&unit.hosts[0].1.len()));
            assert!((70..=85).contains(&unit.log.0.len()), "{}", unit.log.0.len());
            assert_eq!(unit.log.1.len(), 60);
        }
        assert_eq!(known.first_records().count(), (NETWORKS * HOSTS) as usize);
    }

    #[test]
    fn a_sweep_is_nearly_all_unchanged_and_a_change_is_one() {
        let mut known = Population::new();
        let mut stored: std::collections::HashMap<_, _> = known.first_records().collect();
        let mut differ = 0;
        for number in 0..NETWORKS {
            for (key, observed) in Work::Sweeps.unit(number, &mut known).hosts {
                differ += u64::from(stored.insert(key, observed.clone()) != Some(observed));
            }
        }
        assert!((4..40).contains(&differ), "{differ} of 16,256");
        let unit = Work::Changes.unit(7, &mut known);
        assert_ne!(stored.get(&unit.hosts[0].0), Some(&unit.hosts[0].1));
    }
}
