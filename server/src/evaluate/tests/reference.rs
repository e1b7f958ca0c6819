//! The reference: remembers every look at every key, and works out each state from all of them, without any of the
//! evaluator's economies. Only for few addresses and ports.

use crate::evaluate::*;
use crate::store::Order;
use jiff::{SignedDuration, Timestamp};
use portolan_common::expectation::{Expectation, Judgement};
use portolan_common::ids::SatelliteId;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::schedule::Schedule;
use portolan_policy::model::Quorum;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The only ports that any check may expect something of.
pub(super) const PORTS: [(Protocol, u16); 6] = [
    (Protocol::Tcp, 1),
    (Protocol::Tcp, 2),
    (Protocol::Tcp, 3),
    (Protocol::Tcp, 4),
    (Protocol::Udp, 1),
    (Protocol::Udp, 2),
];

type Port = Option<(Protocol, u16)>;

/// One look of one vantage point at one port, or at the host.
#[derive(Clone, Debug)]
struct Entry {
    satellite: SatelliteId,
    order: Order,
    at: Timestamp,
    judgement: Judgement,
    /// `None`: silence of the host.
    state: Option<(PortState, Reason)>,
    up: bool,
    confirm: u32,
    recover: u32,
    /// Silence of a port when the host was silent too: it ends no fault that was confirmed.
    moot: bool,
}

#[derive(Clone, Debug)]
struct Held {
    entries: Vec<Entry>,
    expected: Expected,
    state: State,
    fault: bool,
    since: Timestamp,
    changes: Vec<Timestamp>,
    flapping: bool,
    told: Vec<(SatelliteId, Option<PortState>)>,
}

/// What all looks of one vantage point come to.
struct Word {
    satellite: SatelliteId,
    last: Entry,
    since: Timestamp,
    in_a_row: u32,
    confirmed: bool,
    fault_since: Timestamp,
    counts: bool,
}

#[derive(Default)]
pub(super) struct Reference {
    specs: BTreeMap<Arc<str>, CheckSpec>,
    keys: BTreeMap<(Arc<str>, IpAddr, Port), Held>,
    /// Known addresses: the name, and the vantage points that ever saw something there.
    targets: BTreeMap<(Arc<str>, IpAddr), (String, BTreeSet<SatelliteId>)>,
    found: BTreeMap<(Arc<str>, SatelliteId, String), Timestamp>,
    offline: BTreeSet<SatelliteId>,
}

impl Reference {
    pub(super) fn state(&self, key: &Key) -> State {
        self.keys.get(&(key.check.clone(), key.address, key.port)).map_or(State::Unknown, shown)
    }

    pub(super) fn counts(&self, name: &str) -> Counts {
        let spec = &self.specs[name];
        let named = self.targets.keys().filter(|(check, _)| &**check == name).map(|(_, address)| *address);
        let addresses: BTreeSet<IpAddr> = spec.addresses.iter().chain(named).collect();
        let found =
            |wanted: &String| self.found.keys().any(|(check, _, name)| *check == spec.name && name == wanted);
        let unfound = spec.names.iter().filter(|name| !found(name)).count();
        let of_policy =
            PORTS.iter().filter(|(protocol, port)| spec.ports.of(*protocol, *port).is_some()).count();
        let mut counts = Counts { unknown: (unfound * of_policy) as u64, ..Counts::default() };
        for address in addresses {
            for (protocol, port) in PORTS {
                if spec
                    .satellites
                    .iter()
                    .any(|from| expectation(spec, *from, address, protocol, port).is_some())
                {
                    let key = Key { check: spec.name.clone(), address, port: Some((protocol, port)) };
                    *counts.of_mut(self.state(&key)) += 1;
                }
            }
        }
        counts
    }

    pub(super) fn set_checks(&mut self, checks: Vec<CheckSpec>, now: Timestamp) -> Vec<Transition> {
        let mut out = Vec::new();
        let new: BTreeMap<Arc<str>, CheckSpec> =
            checks.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        for key in self.keys.keys().cloned().collect::<Vec<_>>() {
            let (name, address, port) = &key;
            let old = &self.specs[name];
            let target = &self.targets[&(name.clone(), *address)].0;
            let stays = new.get(name).filter(|spec| spec.tenant == old.tenant).is_some_and(|spec| {
                covers(spec, *address, target) && self.expects_the_same(old, spec, *address, *port)
            });
            if !stays {
                self.end(&key, now, &mut out);
            }
        }
        let before = std::mem::replace(&mut self.specs, new);
        let specs = &self.specs;
        let kept = |name: &Arc<str>| specs.get(name).filter(|spec| before[name].tenant == spec.tenant);
        self.targets.retain(|(name, address), (target, seen_from)| {
            kept(name).is_some_and(|spec| {
                let stays = covers(spec, *address, target);
                if spec.addresses.contains(*address) {
                    target.clear();
                }
                seen_from.retain(|satellite| spec.satellites.contains(satellite));
                stays
            })
        });
        self.found.retain(|(name, satellite, target), _| {
            kept(name).is_some_and(|spec| spec.satellites.contains(satellite) && spec.names.contains(target))
        });
        for ((name, ..), held) in &mut self.keys {
            held.entries.retain(|entry| specs[name].satellites.contains(&entry.satellite));
        }
        self.evaluate_all(now, &mut out);
        out
    }

    fn expects_the_same(&self, old: &CheckSpec, new: &CheckSpec, address: IpAddr, port: Port) -> bool {
        let Some((protocol, port)) = port else { return new.ports.open.tcp.len() > 1 };
        let compared =
            |spec: &CheckSpec| spec.baseline.is_some() && spec.ports.watch.contains(protocol, port);
        let anywhere = |spec: &CheckSpec| {
            spec.satellites.iter().any(|from| expectation(spec, *from, address, protocol, port).is_some())
        };
        compared(old) == compared(new)
            && anywhere(old) == anywhere(new)
            && old.ports.of(protocol, port) == new.ports.of(protocol, port)
            && old.satellites.intersection(&new.satellites).all(|from| {
                expectation(old, *from, address, protocol, port)
                    == expectation(new, *from, address, protocol, port)
            })
    }

    pub(super) fn observe(&mut self, seen: &Sighting<'_>, now: Timestamp) -> Vec<Transition> {
        let at = seen.at.min(now);
        let (address, host) = (seen.host.address, seen.host);
        let mut out = Vec::new();
        for spec in self.specs.values().cloned().collect::<Vec<_>>() {
            let name = spec.name.clone();
            if spec.paused
                || &*spec.tenant != seen.tenant
                || !spec.satellites.contains(&seen.satellite)
                || !covers(&spec, address, &host.target)
            {
                continue;
            }
            let entry = Entry {
                satellite: seen.satellite,
                order: seen.order,
                at,
                judgement: Judgement::Match,
                state: None,
                up: host.up,
                confirm: spec.confirm,
                recover: spec.recover,
                moot: false,
            };
            let mut taken = Vec::new();
            for (protocol, port) in PORTS {
                let expectation = expectation(&spec, seen.satellite, address, protocol, port);
                let state = host.state_of(protocol, port);
                let (Some(expectation), Some(state)) = (expectation, state) else { continue };
                let key = (name.clone(), address, Some((protocol, port)));
                let judgement = expectation.judge(state.0);
                if self.push(key, Entry { judgement, state: Some(state), ..entry.clone() }, now) {
                    taken.push((protocol, port));
                }
            }
            if taken.is_empty() {
                continue;
            }
            let literal = spec.addresses.contains(address);
            let target = self.targets.entry((name.clone(), address)).or_default();
            target.0 = if literal { String::new() } else { host.target.clone() };
            target.1.insert(seen.satellite);
            if spec.names.contains(&host.target) {
                let found =
                    self.found.entry((name.clone(), seen.satellite, host.target.clone())).or_insert(at);
                *found = at.max(*found);
            }
            let open: Vec<u16> = spec.ports.open.tcp.iter().collect();
            let asked =
                taken.iter().any(|(protocol, port)| *protocol == Protocol::Tcp && open.contains(port));
            if open.len() > 1 && (host.up || asked) {
                let last = |port: u16| {
                    let held = self.keys.get(&(name.clone(), address, Some((Protocol::Tcp, port))))?;
                    held.entries.iter().rev().find(|entry| entry.satellite == seen.satellite)?.state
                };
                let silent = open
                    .iter()
                    .all(|port| last(*port).is_some_and(|(state, _)| state == PortState::Filtered));
                let judgement = match (host.up, silent) {
                    (true, _) => Judgement::Match,
                    (false, true) => Judgement::Mismatch,
                    (false, false) => Judgement::Inconclusive,
                };
                self.push((name.clone(), address, None), Entry { judgement, ..entry }, now);
            }
            if self.is_silent((name.clone(), address, None), seen.satellite) {
                for (protocol, port) in taken {
                    let held = self.keys.get_mut(&(name.clone(), address, Some((protocol, port)))).unwrap();
                    let entry = held.entries.last_mut().unwrap();
                    entry.moot = silence(entry);
                }
            }
            let clock = if seen.late || now.duration_since(at) > window(&spec) { at } else { now };
            self.evaluate(&spec, address, (clock, at, seen.late), &mut out);
        }
        out
    }

    fn is_silent(&self, host: (Arc<str>, IpAddr, Port), satellite: SatelliteId) -> bool {
        let last =
            |held: &Held| held.entries.iter().rev().find(|entry| entry.satellite == satellite).cloned();
        self.keys.get(&host).and_then(last).is_some_and(|entry| entry.judgement == Judgement::Mismatch)
    }

    /// Whether it is news.
    fn push(&mut self, key: (Arc<str>, IpAddr, Port), entry: Entry, now: Timestamp) -> bool {
        let expected = Expected::Up;
        let held = self.keys.entry(key).or_insert(Held {
            entries: Vec::new(),
            expected,
            state: State::Unknown,
            fault: false,
            since: now,
            changes: Vec::new(),
            flapping: false,
            told: Vec::new(),
        });
        let news = held.entries.iter().all(|e| e.satellite != entry.satellite || e.order < entry.order);
        if news {
            held.entries.push(entry);
        }
        news
    }

    pub(super) fn set_online(
        &mut self,
        satellite: SatelliteId,
        online: bool,
        now: Timestamp,
    ) -> Vec<Transition> {
        let mut out = Vec::new();
        let changed = if online { self.offline.remove(&satellite) } else { self.offline.insert(satellite) };
        if changed {
            for spec in self.specs.values().cloned().collect::<Vec<_>>() {
                if spec.satellites.contains(&satellite) {
                    self.evaluate_check(&spec, now, &mut out);
                }
            }
        }
        out
    }

    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Transition> {
        let mut out = Vec::new();
        self.evaluate_all(now, &mut out);
        for ((name, address), (target, seen_from)) in self.targets.clone() {
            let spec = &self.specs[&name];
            let fresh = |satellite: &SatelliteId, at: Timestamp| {
                !self.offline.contains(satellite) && now.duration_since(at) <= window(spec)
            };
            let newest = |satellite: &SatelliteId, port_key: &Held| {
                port_key
                    .entries
                    .iter()
                    .rev()
                    .find(|entry| entry.satellite == *satellite)
                    .map(|entry| entry.at)
            };
            let looked = seen_from.iter().any(|satellite| {
                let keys = self
                    .keys
                    .iter()
                    .filter(|((check, at, port), _)| *check == name && *at == address && port.is_some());
                keys.filter_map(|(_, held)| newest(satellite, held)).any(|at| fresh(satellite, at))
            });
            let elsewhere = seen_from.iter().all(|satellite| {
                self.found
                    .get(&(name.clone(), *satellite, target.clone()))
                    .is_some_and(|at| fresh(satellite, *at))
            });
            if !target.is_empty() && !spec.paused && !looked && elsewhere {
                for key in self.keys.keys().cloned().collect::<Vec<_>>() {
                    if key.0 == name && key.1 == address {
                        self.end(&key, now, &mut out);
                    }
                }
                self.targets.remove(&(name, address));
            }
        }
        out
    }

    fn evaluate_all(&mut self, now: Timestamp, out: &mut Vec<Transition>) {
        for spec in self.specs.values().cloned().collect::<Vec<_>>() {
            self.evaluate_check(&spec, now, out);
        }
    }

    fn evaluate_check(&mut self, spec: &CheckSpec, now: Timestamp, out: &mut Vec<Transition>) {
        for (name, address) in self.targets.keys().cloned().collect::<Vec<_>>() {
            if name == spec.name && !spec.paused {
                self.evaluate(spec, address, (now, now, false), out);
            }
        }
    }

    fn evaluate(
        &mut self,
        spec: &CheckSpec,
        address: IpAddr,
        (clock, at, late): (Timestamp, Timestamp, bool),
        out: &mut Vec<Transition>,
    ) {
        let target = self.targets[&(spec.name.clone(), address)].0.clone();
        let ports = PORTS.into_iter().map(Some).chain([None]);
        for port in ports {
            let seen_from = self.targets[&(spec.name.clone(), address)].1.clone();
            let silent: BTreeSet<SatelliteId> = seen_from
                .into_iter()
                .filter(|from| self.is_silent((spec.name.clone(), address, None), *from))
                .collect();
            let Some(held) = self.keys.get_mut(&(spec.name.clone(), address, port)) else { continue };
            let words = words(held, spec, &self.offline, &silent, clock);
            let before = (shown(held), held.fault || held.flapping, held.flapping);
            if !before.1 && before.0 != State::Pending {
                held.expected = expected(spec, &words, address, port);
            }
            step(held, spec, &words, clock, at);
            let sights: Vec<Sight> = words.iter().map(sight).collect();
            for (from, to) in tell(held, &words, before) {
                out.push(Transition {
                    key: Key { check: spec.name.clone(), address, port },
                    target: target.clone(),
                    expected: held.expected,
                    from,
                    to,
                    at,
                    since: if to == State::Ok && shown(held) != State::Ok { at } else { held.since },
                    flapping: held.flapping,
                    late,
                    sights: sights.clone(),
                    gone: false,
                });
            }
        }
    }

    /// The key ends. What it was seen as is told with it.
    fn end(&mut self, key: &(Arc<str>, IpAddr, Port), now: Timestamp, out: &mut Vec<Transition>) {
        let target = self.targets[&(key.0.clone(), key.1)].0.clone();
        let Some(held) = self.keys.remove(key) else { return };
        let spec = &self.specs[&key.0];
        if held.fault || held.flapping || held.state == State::Pending {
            out.push(Transition {
                key: Key { check: key.0.clone(), address: key.1, port: key.2 },
                target,
                expected: held.expected,
                from: shown(&held),
                to: State::Ok,
                at: now,
                since: if shown(&held) == State::Ok { held.since } else { now },
                flapping: false,
                late: false,
                sights: words(&held, spec, &self.offline, &BTreeSet::new(), now).iter().map(sight).collect(),
                gone: true,
            });
        }
    }
}

fn shown(held: &Held) -> State {
    if held.flapping { State::Firing } else { held.state }
}

fn covers(spec: &CheckSpec, address: IpAddr, target: &str) -> bool {
    spec.addresses.contains(address) || (spec.names.contains(target) && !spec.exclude.contains(address))
}

fn window(spec: &CheckSpec) -> SignedDuration {
    let Schedule::Every(every) = spec.schedule else { unreachable!("no check here runs by cron") };
    SignedDuration::try_from(every).unwrap() * 3
}

fn expectation(
    spec: &CheckSpec,
    from: SatelliteId,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Expectation> {
    if let Some(expectation) = spec.ports.of(protocol, port) {
        return Some(expectation);
    }
    let baseline = spec.baseline.as_ref().filter(|_| spec.ports.watch.contains(protocol, port))?;
    baseline.seen.get(&from).filter(|seen| seen.contains(address))?;
    let open = baseline.open.get(&(address, protocol)).and_then(|open| open.get(&from));
    let open = open.is_some_and(|open| open.contains(port));
    Some(if open { Expectation::Open } else { Expectation::Closed })
}

fn expected(spec: &CheckSpec, words: &[Word], address: IpAddr, port: Port) -> Expected {
    let Some((protocol, port)) = port else { return Expected::Up };
    if let Some(expectation) = spec.ports.of(protocol, port) {
        return Expected::Port(expectation);
    }
    let against = words.iter().filter(|word| word.last.judgement == Judgement::Mismatch);
    let mut satellites = against.map(|word| word.satellite).chain(spec.satellites.iter().copied());
    let first = satellites.find_map(|from| expectation(spec, from, address, protocol, port));
    Expected::Baseline { open: first == Some(Expectation::Open) }
}

/// As it should be since nothing answered.
fn silence(entry: &Entry) -> bool {
    let filtered = entry.state.is_some_and(|(state, _)| state == PortState::Filtered);
    filtered && entry.judgement == Judgement::Match
}

/// From the first look of each vantage point to its last.
fn words(
    held: &Held,
    spec: &CheckSpec,
    offline: &BTreeSet<SatelliteId>,
    silent: &BTreeSet<SatelliteId>,
    clock: Timestamp,
) -> Vec<Word> {
    let word = |satellite: &SatelliteId| {
        let of: Vec<&Entry> = held.entries.iter().filter(|entry| entry.satellite == *satellite).collect();
        let last = (*of.last()?).clone();
        let same = |entry: &&&Entry| match last.state {
            Some((state, _)) => entry.state.is_some_and(|(before, _)| before == state),
            // Of a host.
            None => entry.up == last.up,
        };
        let since = of.iter().rev().take_while(same).last()?.at;
        let decided: Vec<&&Entry> =
            of.iter().filter(|entry| entry.judgement != Judgement::Inconclusive).collect();
        let (mut confirmed, mut in_a_row, mut fault_since) = (false, 0, since);
        let mut before = None;
        for entry in decided {
            if entry.moot && confirmed {
                continue;
            }
            in_a_row = if before == Some(entry.judgement) { in_a_row + 1 } else { 1 };
            before = Some(entry.judgement);
            if entry.judgement == Judgement::Mismatch {
                if in_a_row == 1 && !confirmed {
                    fault_since = entry.at;
                }
                confirmed |= in_a_row >= entry.confirm;
            } else if in_a_row >= entry.recover {
                confirmed = false;
            }
        }
        let fresh = !offline.contains(satellite) && clock.duration_since(last.at) <= window(spec);
        let proves_nothing = confirmed && silence(&last) && silent.contains(satellite);
        let counts = fresh && last.judgement != Judgement::Inconclusive && !proves_nothing;
        Some(Word { satellite: *satellite, last, since, in_a_row, confirmed, fault_since, counts })
    };
    let all: BTreeSet<SatelliteId> = held.entries.iter().map(|entry| entry.satellite).collect();
    all.iter().filter_map(word).collect()
}

/// Only what the evaluator promises: of what matches no row is counted.
fn sight(word: &Word) -> Sight {
    Sight {
        satellite: word.satellite,
        state: word.last.state,
        seen: word.last.at,
        since: word.since,
        stale: false,
        mismatch: word.last.judgement == Judgement::Mismatch,
        in_a_row: word.in_a_row,
        rtts_us: Vec::new(),
        usual_rtt_us: 0,
    }
}

fn need(quorum: Quorum, of: usize) -> usize {
    match quorum {
        Quorum::Any => 1,
        Quorum::Majority => of / 2 + 1,
        Quorum::All => of.max(1),
        Quorum::AtLeast(number) => number as usize,
    }
}

fn step(held: &mut Held, spec: &CheckSpec, words: &[Word], clock: Timestamp, at: Timestamp) {
    let quorum = match held.expected {
        Expected::Port(Expectation::Open) | Expected::Up => spec.quorum.open,
        Expected::Port(Expectation::Closed) => spec.quorum.closed,
        Expected::Port(Expectation::Blocked) => spec.quorum.blocked,
        Expected::Baseline { .. } => Quorum::Any,
    };
    let fresh: Vec<&Word> = words.iter().filter(|word| word.counts).collect();
    let sees = |word: &&&Word| word.confirmed || word.last.judgement == Judgement::Mismatch;
    let seeing: Vec<&&Word> = fresh.iter().filter(sees).collect();
    let confirmed = fresh.iter().filter(|word| word.confirmed).count();
    let fault = if held.fault {
        // All that ever confirmed it, against those that now see the contrary.
        let still = words.iter().filter(|word| word.confirmed).count();
        let contrary = fresh.len() - seeing.len();
        contrary == 0 || still >= need(quorum, still + contrary)
    } else {
        let mismatch = |word: &&Word| word.confirmed && word.last.judgement == Judgement::Mismatch;
        confirmed >= need(quorum, fresh.len()) && fresh.iter().copied().any(|word| mismatch(&word))
    };
    let state = if fault {
        if confirmed > 0 { State::Firing } else { State::Unknown }
    } else if fresh.is_empty() {
        State::Unknown
    } else if seeing.is_empty() {
        State::Ok
    } else if matches!(quorum, Quorum::AtLeast(number) if fresh.len() < number as usize) {
        State::Unknown
    } else {
        State::Pending
    };
    let seen_since = seeing.iter().map(|word| word.fault_since).min();
    if state == State::Pending || (state == State::Firing && !held.fault) {
        held.since = seen_since.unwrap();
    } else if !fault && (held.fault || state != held.state) {
        held.since = at;
    }
    if fault != held.fault {
        held.changes.push(clock);
        let recent = held.changes.len().checked_sub(6).map(|first| held.changes[first]);
        let half_an_hour = SignedDuration::from_mins(30);
        held.flapping |= recent.is_some_and(|first| clock.duration_since(first) <= half_an_hour);
    }
    (held.fault, held.state) = (fault, state);
    if let Some(last) = held.changes.last().copied() {
        let calm = clock.duration_since(last);
        held.flapping &= calm < SignedDuration::from_mins(15);
        if !held.flapping && calm > SignedDuration::from_mins(30) {
            held.changes.clear();
        }
    }
}

fn tell(held: &mut Held, words: &[Word], before: (State, bool, bool)) -> Vec<(State, State)> {
    let (was, was_fault, was_flapping) = before;
    let (is, fault) = (shown(held), held.fault || held.flapping);
    let seen_by: Vec<_> = words
        .iter()
        .filter(|word| word.counts && word.confirmed && fault)
        .filter_map(|word| match word.last.judgement {
            Judgement::Mismatch => Some((word.satellite, word.last.state.map(|(state, _)| state))),
            _ => held.told.iter().find(|(satellite, _)| *satellite == word.satellite).copied(),
        })
        .collect();
    let mut steps = Vec::new();
    if was_fault && !fault {
        steps.push((was, State::Ok));
        if is == State::Pending {
            steps.push((State::Ok, State::Pending));
        }
    } else if was != is || was_flapping != held.flapping {
        let quiet = [State::Ok, State::Unknown];
        if was_fault || fault || !quiet.contains(&was) || !quiet.contains(&is) {
            steps.push((was, is));
        }
    } else if is == State::Firing && !held.flapping && seen_by != held.told {
        steps.push((is, is));
    }
    if !steps.is_empty() {
        held.told = seen_by;
    }
    steps
}
