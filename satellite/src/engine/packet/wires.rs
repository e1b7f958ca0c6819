//! The sockets of a sweep by packets. The thin layer: it decides nothing.

use super::discovery::Ping;
use super::hops::{Due, HopKey, Hops};
use super::host::{Answer, What};
use super::policy::Policy;
use super::scheduler::{Probe, Scheduler};
use crate::engine::connect::own_addresses;
use crate::engine::udp::{UdpAnswer, UdpProber, UdpSeen};
use crate::engine::verdict::{Offender, Verdict};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use portolan_common::observation::Protocol;
use portolan_packet::{
    Block, Families, Flow, Hop, Key, Probed, Receiver, Reply, Routes, Seen, Sender, Solicitor, SourcePorts,
    Via, ack, echo_request, read, syn,
};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Probes sent at once.
pub(super) const BATCH: usize = 64;

/// How often the kernel's neighbour table and the hops in use are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What is needed for packets of our own.
struct Raw {
    key: Key,
    block: Block,
    /// Holds the block.
    _ports: SourcePorts,
    sender: Sender,
    receiver: Receiver,
    routes: Routes,
    solicitor: Solicitor,
    hops: Hops,
    /// The way to each host, by its number.
    ways: Vec<Option<Way>>,
    /// How many hosts go by each hop.
    users: HashMap<HopKey, u32>,
    own: HashSet<IpAddr>,
    policy: Policy,
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    source: IpAddr,
    hop: Option<HopKey>,
    /// Whether the kernel, its firewall included, has let a probe pass: until then it is asked.
    passed: bool,
}

/// See the module.
pub(in crate::engine) struct Wires {
    raw: Option<Raw>,
    udp: Option<UdpProber>,
    /// All probes of a port from one source port: a firewall on the way then holds one flow for it.
    same_flow: bool,
    /// Probes in the raw queue.
    queued: Vec<Probe>,
    failed: Vec<(usize, Errno)>,
    answers: Vec<UdpAnswer>,
    /// How long one probe takes to leave, from what earlier ones took.
    spacing: Duration,
}

/// Why a probe did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// This host is short of something for all packets.
    Short {
        /// Which error said so.
        errno: Errno,
        /// Whether some packets left all the same.
        some_left: bool,
    },
}

impl Wires {
    /// Opens what the probes need: packets of our own, or UDP sockets, or both.
    pub(in crate::engine) fn open(raw: Option<Families>, udp: bool, same_flow: bool) -> io::Result<Self> {
        Ok(Self {
            raw: raw.map(Raw::open).transpose()?,
            udp: udp.then(UdpProber::open).transpose()?,
            same_flow,
            queued: Vec::with_capacity(BATCH),
            failed: Vec::new(),
            answers: Vec::new(),
            spacing: Duration::from_micros(5),
        })
    }

    /// How long one probe takes to leave.
    pub(super) fn spacing(&self) -> Duration {
        self.spacing
    }

    /// Finds the ways that the scheduler asks for, and keeps those in use fresh.
    pub(super) fn find_ways(&mut self, scheduler: &mut Scheduler, now: Instant) {
        while let Some(host) = scheduler.take_gone() {
            if let Some(raw) = &mut self.raw {
                raw.lose(host);
            }
        }
        while let Some((host, address)) = scheduler.take_unrouted() {
            match &mut self.raw {
                Some(raw) => raw.find_way(scheduler, host, address, now),
                None => scheduler.routed(host, false, now),
            }
        }
        if let Some(raw) = &mut self.raw {
            raw.keep_hops(scheduler, now);
        }
    }

    /// Sends probes. What this host is short of, if it is.
    pub(super) fn send(&mut self, scheduler: &mut Scheduler, probes: &[Probe]) -> Option<Trouble> {
        let mut short = None;
        let mut some_left = false;
        let began = Instant::now();
        for probe in probes.iter().copied() {
            let Some(target) = scheduler.target(probe.host) else { continue };
            let address = target.address();
            if let What::Port { track: super::host::TrackId::Udp, port, attempt, .. } = probe.what {
                let Some(udp) = &mut self.udp else { continue };
                if let Err(error) = udp.send(target, port, attempt, self.same_flow) {
                    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                    short = fail(scheduler, probe, errno, Instant::now()).or(short);
                } else {
                    some_left = true;
                    scheduler.left(probe, Instant::now());
                }
                continue;
            }
            let Some(raw) = &mut self.raw else { continue };
            if raw.queue(probe, address, self.same_flow) {
                self.queued.push(probe);
            } else {
                // Its way is gone: the scheduler asks for it again.
                scheduler.unsent(probe, began);
                scheduler.no_way(probe.host, Verdict::NetUnreach, began);
            }
        }
        if let Some(raw) = self.raw.as_mut().filter(|_| !self.queued.is_empty()) {
            self.failed.clear();
            let began = Instant::now();
            raw.sender.flush(&mut self.failed);
            let now = Instant::now();
            // One packet after the other, each taking as long.
            let each = now.saturating_duration_since(began) / self.queued.len() as u32;
            self.spacing = (self.spacing * 7 + each) / 8;
            // What comes back during the call answers what has left by then.
            for (i, probe) in self.queued.iter().enumerate() {
                if self.failed.iter().any(|(place, _)| *place == i) {
                    continue;
                }
                scheduler.left(*probe, began + each * i as u32);
                raw.pass(probe.host);
            }
            // The last ones first: a port's latest probe is the one that is taken back.
            self.failed.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
            some_left |= self.failed.len() < self.queued.len();
            for (place, errno) in self.failed.drain(..) {
                if place >= self.queued.len() {
                    continue;
                }
                let probe = self.queued.swap_remove(place);
                match errno {
                    Errno::EPERM => raw.leave_to_the_kernel(probe.host),
                    Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOMEM => {}
                    _ => raw.lose(probe.host),
                }
                short = fail(scheduler, probe, errno, now).or(short);
            }
            self.queued.clear();
        }
        short.map(|errno| Trouble::Short { errno, some_left })
    }

    /// Takes everything that has come; whether that was anything.
    pub(super) fn receive(&mut self, scheduler: &mut Scheduler) -> bool {
        let mut some = false;
        if let Some(raw) = &mut self.raw {
            raw.hear_neighbours(scheduler);
        }
        let Self { raw, udp, answers, same_flow, .. } = self;
        if let Some(Raw { key, block, receiver, own, .. }) = raw {
            receiver.drain(|bytes, at| {
                if let Some(reply) = read(bytes, key, *block) {
                    some = true;
                    take(scheduler, reply, own, *same_flow, at);
                }
            });
        }
        if let Some(udp) = udp {
            answers.clear();
            udp.drain(answers);
            some |= !answers.is_empty();
            for answer in answers.drain(..) {
                let what = match answer.what {
                    UdpSeen::Datagram => Answer::Datagram { port: answer.port },
                    UdpSeen::Icmp { verdict, offender } => {
                        Answer::Error { protocol: Protocol::Udp, port: answer.port, verdict, offender }
                    }
                };
                scheduler.answered(answer.address, what, 0, answer.at);
            }
        }
        some
    }

    /// Sleeps until something comes, no longer than this.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let raw = self.raw.iter().flat_map(|raw| raw.receiver.fds().chain(raw.solicitor.fds()));
        let fds: Vec<BorrowedFd<'_>> = raw.chain(self.udp.iter().map(AsFd::as_fd)).collect();
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut polled, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The sweep stood still for so long.
    pub(super) fn stood_still(&mut self, time: Duration) {
        if let Some(raw) = &mut self.raw {
            raw.hops.shift(time);
        }
    }

    /// Whether something is to be looked at soon although nothing comes.
    pub(super) fn is_looking(&self) -> bool {
        self.raw.as_ref().is_some_and(|raw| raw.hops.is_waiting())
    }

    /// Packets that were lost since the last call because this host was too slow to read them.
    pub(super) fn dropped(&mut self) -> u64 {
        self.raw.as_mut().map_or(0, |raw| raw.receiver.dropped())
    }
}

/// What a probe that did not leave means.
fn fail(scheduler: &mut Scheduler, probe: Probe, errno: Errno, now: Instant) -> Option<Errno> {
    match errno {
        // It counts as sent: it was this host's own firewall that swallowed it.
        Errno::EPERM => scheduler.forbidden(probe),
        // A broadcast address, or a route that prohibits: nothing ever leaves.
        Errno::EACCES => {
            scheduler.unsent(probe, now);
            scheduler.no_neighbour(probe.host, Verdict::AdminProhibited, now);
        }
        Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => {
            scheduler.unsent(probe, now);
            return Some(errno);
        }
        errno => {
            scheduler.unsent(probe, now);
            scheduler.no_way(probe.host, no_way(errno), now);
        }
    }
    None
}

/// What to say of a host that packets do not leave to.
fn no_way(errno: Errno) -> Verdict {
    match errno {
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Verdict::HostUnreach,
        Errno::EACCES => Verdict::AdminProhibited,
        _ => Verdict::NetUnreach,
    }
}

impl Raw {
    fn open(families: Families) -> io::Result<Self> {
        let ports = SourcePorts::reserve()?;
        Ok(Self {
            key: Key::random(),
            block: ports.block(),
            receiver: Receiver::open(ports.block(), families)?,
            _ports: ports,
            sender: Sender::open()?,
            routes: Routes::open()?,
            solicitor: Solicitor::open()?,
            hops: Hops::default(),
            ways: Vec::new(),
            users: HashMap::new(),
            own: own_addresses()?,
            policy: Policy::default(),
            looked: None,
        })
    }

    fn find_way(&mut self, scheduler: &mut Scheduler, host: usize, address: IpAddr, now: Instant) {
        self.lose(host);
        let route = match self.routes.lookup(address) {
            Ok(route) => route,
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                return scheduler.no_way(host, no_way(errno), now);
            }
        };
        let hop = match route.hop {
            Hop::Kernel => None,
            Hop::Gateway(_) if self.policy.applies(address, route.interface) => None,
            Hop::Gateway(gateway) => Some(gateway),
            Hop::OnLink => Some(address),
        };
        let hop = hop.map(|address| HopKey { interface: route.interface, address });
        self.set_way(host, Way { source: route.source, hop, passed: route.hop == Hop::OnLink });
        let Some(key) = hop else { return scheduler.routed(host, false, now) };
        let Self { hops, routes, .. } = self;
        let on_link = route.hop == Hop::OnLink;
        // A host on the link must show itself now: that the kernel has heard of it may be long ago.
        let known =
            || if on_link { None } else { routes.neighbour(key.interface, key.address).ok().flatten() };
        if hops.want(key, route.source, (host, address), known, now).is_some() {
            scheduler.routed(host, on_link, now);
        } else {
            // It is asked at once.
            self.looked = None;
        }
    }

    fn set_way(&mut self, host: usize, way: Way) {
        if self.ways.len() <= host {
            self.ways.resize(host + 1, None);
        }
        if let Some(key) = way.hop {
            *self.users.entry(key).or_default() += 1;
        }
        if let Some(entry) = self.ways.get_mut(host) {
            *entry = Some(way);
        }
    }

    /// The kernel let a probe to a host pass.
    fn pass(&mut self, host: usize) {
        if let Some(Some(way)) = self.ways.get_mut(host) {
            way.passed = true;
        }
    }

    /// This host's own firewall has a word about a host: it is to have it port by port.
    fn leave_to_the_kernel(&mut self, host: usize) {
        if let Some(source) = self.ways.get(host).copied().flatten().map(|way| way.source) {
            self.lose(host);
            self.set_way(host, Way { source, hop: None, passed: true });
        }
    }

    /// A host's way is known no more.
    fn lose(&mut self, host: usize) {
        let Some(way) = self.ways.get_mut(host).and_then(Option::take) else { return };
        if let Some(key) = way.hop
            && let Some(users) = self.users.get_mut(&key)
        {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }

    fn hear_neighbours(&mut self, scheduler: &mut Scheduler) {
        let now = Instant::now();
        let Self { solicitor, hops, .. } = self;
        solicitor.drain(|interface, address, mac| {
            for (host, waiting) in hops.answered(HopKey { interface, address }, mac, now) {
                if scheduler.target(host).is_some_and(|target| target.address() == waiting) {
                    scheduler.routed(host, waiting == address, now);
                }
            }
        });
    }

    fn keep_hops(&mut self, scheduler: &mut Scheduler, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let mut due = Vec::new();
        let Self { hops, users, .. } = self;
        hops.due(|key| users.contains_key(&key), now, &mut due);
        for due in due {
            match due {
                Due::Ask(key, _) if !scheduler.may_ask(key.address, now) => self.hops.put_off(key),
                Due::Ask(key, source) => {
                    if let Err(error) = self.solicitor.ask(key.interface, source, key.address) {
                        self.give_up_asking(scheduler, key, &error, now);
                    }
                }
                Due::Lost(key) => {
                    for (host, waiting) in self.hops.forget(key) {
                        if scheduler.target(host).is_none_or(|target| target.address() != waiting) {
                            continue;
                        }
                        if waiting == key.address {
                            scheduler.no_neighbour(host, Verdict::HostUnreach, now);
                        } else {
                            // A gateway may come back.
                            scheduler.no_way(host, Verdict::HostUnreach, now);
                        }
                    }
                }
            }
        }
    }

    /// A hop cannot be asked for. Where it has an address of the other family, the kernel may know better.
    fn give_up_asking(&mut self, scheduler: &mut Scheduler, key: HopKey, error: &io::Error, now: Instant) {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        for (host, waiting) in self.hops.forget(key) {
            if scheduler.target(host).is_none_or(|target| target.address() != waiting) {
                continue;
            }
            if errno == Errno::EAFNOSUPPORT {
                if let Some(source) = self.ways.get(host).copied().flatten().map(|way| way.source) {
                    self.lose(host);
                    self.set_way(host, Way { source, hop: None, passed: true });
                }
                scheduler.routed(host, false, now);
            } else {
                scheduler.no_way(host, no_way(errno), now);
            }
        }
    }

    /// Makes a probe and queues it; `false` when its way is not known any more.
    fn queue(&mut self, probe: Probe, address: IpAddr, same_flow: bool) -> bool {
        let Some(way) = self.ways.get(probe.host).copied().flatten() else { return false };
        let via = match way.hop {
            None => Via::Kernel,
            Some(_) if !way.passed => Via::Kernel,
            Some(key) => match self.hops.address(key) {
                Some(mac) => Via::Link { interface: key.interface, address: mac },
                None => return false,
            },
        };
        let flow = |port: u16, attempt: u8| Flow {
            source: way.source,
            source_port: self.block.port(source_index(address, port, if same_flow { 0 } else { attempt })),
            destination: address,
            destination_port: port,
        };
        let packet = match probe.what {
            What::Port { port, attempt, .. } | What::Ping { ping: Ping::Syn(port), attempt } => {
                syn(&flow(port, attempt), &self.key)
            }
            What::Ping { ping: Ping::Ack(port), attempt } => ack(&flow(port, attempt), &self.key),
            What::Ping { ping: Ping::Echo, .. } => echo_request(way.source, address, &self.key),
        };
        self.sender.queue(via, address, &packet).is_some()
    }
}

/// Which port of the block a probe leaves from: another one for each of a port's probes, so that all paths of an ECMP
/// bundle are met and it is known which one is answered.
fn source_index(address: IpAddr, port: u16, attempt: u8) -> u8 {
    base(address, port).wrapping_add(attempt) & 15
}

fn base(address: IpAddr, port: u16) -> u8 {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    let [high, low] = port.to_be_bytes();
    last ^ low.wrapping_mul(29) ^ high.wrapping_mul(113)
}

/// Which of a port's probes was answered.
fn attempt_of(address: IpAddr, port: u16, index: u8, same_flow: bool) -> Option<u8> {
    (!same_flow).then(|| index.wrapping_sub(base(address, port)) & 15)
}

/// Hands a reply to the scheduler.
fn take(scheduler: &mut Scheduler, reply: Reply, own: &HashSet<IpAddr>, same_flow: bool, at: Instant) {
    let Reply { from, ttl, what } = reply;
    match what {
        Seen::SynAck { port, source_port_index, window, options } => {
            let attempt = attempt_of(from, port, source_port_index, same_flow);
            scheduler.answered(from, Answer::SynAck { port, attempt, window, options }, ttl, at);
        }
        Seen::Reset { port, source_port_index, .. } => {
            let attempt = attempt_of(from, port, source_port_index, same_flow);
            scheduler.answered(from, Answer::Reset { port, attempt }, ttl, at);
        }
        Seen::AckReset { .. } => scheduler.answered(from, Answer::Ping { echo: false }, ttl, at),
        Seen::EchoReply => scheduler.answered(from, Answer::Ping { echo: true }, ttl, at),
        Seen::Error { destination, probe, kind, code } => {
            let verdict = match destination {
                IpAddr::V4(_) => Verdict::of_icmp4(kind, code),
                IpAddr::V6(_) => Verdict::of_icmp6(kind, code),
            };
            let Some(verdict) = verdict else { return };
            let offender = match from {
                from if from == destination => Offender::Target,
                from if own.contains(&from) => Offender::Own,
                _ => Offender::Other,
            };
            let answer = match probe {
                Probed::Syn { port, .. } => {
                    Answer::Error { protocol: Protocol::Tcp, port, verdict, offender }
                }
                Probed::Ack { .. } | Probed::Echo => Answer::PingError { verdict, offender },
            };
            scheduler.answered(destination, answer, ttl, at);
        }
    }
}
