//! Probing by the kernel's own TCP connections. The thin layer of sockets: it decides nothing.
//!
//! Each probe is a non-blocking connect. The answer is looked for at once, since over a fast path it is there when the
//! call returns, and a second connect call on the same socket tells everything: refused, connected or still on the
//! way; after a refusal the socket is as good as new, without closing it and opening another. Only what is still on
//! the way is watched by epoll. Connections are closed with a reset (SO_LINGER 0), which leaves no TIME_WAIT on either
//! side.

use crate::engine::errors::{self, Failure, IcmpError};
use crate::engine::slots::Slots;
use crate::engine::verdict::{Answer, Hold, Offender, Verdict};
use nix::ifaddrs::getifaddrs;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use portolan_common::scope::PermittedTarget;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Idle sockets kept for the next probes.
const MAX_IDLE: usize = 32;

/// Events taken at once.
const EVENTS: usize = 256;

/// How old this host's addresses may be: it may get others while it probes.
const OWN_AGE: Duration = Duration::from_secs(10);

/// A round trip this long may be the answer to the kernel's own retransmission of the SYN, which it sends after one
/// second (RFC 6298 section 2.1): not measured (Karn's algorithm).
const AMBIGUOUS: Duration = Duration::from_millis(950);

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It left; the answer comes with [`ConnectProber::wait`].
    Pending,
    /// It left and was answered.
    Answered(Answer),
    /// It did not leave.
    Held {
        /// Why not.
        hold: Hold,
        /// Which error said so.
        errno: i32,
    },
}

/// Later than this after the probe, "host unreachable" by this host itself means that no neighbour was found: the kernel
/// looks for one for 3 s by default, and then tells all that still wait, of which there are some 100, the latest. A
/// rejection by this host's own firewall is there when the call returns.
const NEIGHBOUR_SOUGHT: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Connection {
    socket: Socket,
    peer: SockAddr,
    address: IpAddr,
    port: u16,
    sent: Instant,
    flight: Option<usize>,
    watched: bool,
}

/// TCP connections on their way.
#[derive(Debug)]
pub(in crate::engine) struct ConnectProber {
    epoll: Epoll,
    connections: Slots<Connection>,
    /// Connection by flight.
    by_flight: Vec<Option<usize>>,
    /// Sockets that can be used again: IPv4 and IPv6.
    idle: [Vec<usize>; 2],
    /// Ports that the kernel gives to outgoing connections.
    ephemeral: RangeInclusive<u16>,
    /// This host's addresses.
    own: HashSet<IpAddr>,
    /// When that was read.
    own_read: Instant,
    events: Vec<EpollEvent>,
}

impl ConnectProber {
    pub(in crate::engine) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: Slots::new(),
            by_flight: Vec::new(),
            idle: [Vec::new(), Vec::new()],
            ephemeral: ephemeral_ports(),
            own: own_addresses()?,
            own_read: Instant::now(),
            events: vec![EpollEvent::empty(); EVENTS],
        })
    }

    /// Sends a probe and looks once whether it is answered already.
    pub(super) fn send(&mut self, flight: usize, target: &PermittedTarget, port: u16) -> Sent {
        let address = target.address();
        self.read_own(Instant::now());
        let key = match self.socket(address, port) {
            Ok(key) => key,
            Err(error) => {
                // Idle sockets of the other family hold descriptors too.
                self.drop_idle();
                let hold = match errors::sort(&error) {
                    // No such family.
                    Failure::NoWay(verdict) => Hold::NoWay(verdict),
                    _ => Hold::Everywhere,
                };
                return Sent::Held { hold, errno: error.raw_os_error().unwrap_or(0) };
            }
        };
        let Some(connection) = self.connections.get_mut(key) else { return Sent::Pending };
        connection.flight = Some(flight);
        connection.sent = Instant::now();
        let called = connection.socket.connect(&connection.peer);
        let returned = Instant::now();
        let outcome = match called {
            // The usual case is EINPROGRESS, and the answer may have come during the call all the same.
            Ok(()) => self.look(key, returned),
            Err(error) => match errors::sort(&error) {
                Failure::Pending => self.look(key, returned),
                // An error of the call itself: nothing left this host.
                failure @ (Failure::Short | Failure::ShortHere | Failure::NoWay(_)) => {
                    self.connections.remove(key);
                    let hold = match failure {
                        Failure::Short => Hold::Everywhere,
                        Failure::NoWay(verdict) => Hold::NoWay(verdict),
                        _ if !has_source(address) => Hold::NoWay(Verdict::NetUnreach),
                        _ => Hold::Here,
                    };
                    Sent::Held { hold, errno: error.raw_os_error().unwrap_or(0) }
                }
                failure => self.conclude(key, failure, returned),
            },
        };
        match outcome {
            Sent::Pending if self.is_of(key, flight) => match self.watch(key, flight) {
                Ok(()) => Sent::Pending,
                Err(error) => {
                    self.connections.remove(key);
                    Sent::Held { hold: Hold::Everywhere, errno: error.raw_os_error().unwrap_or(0) }
                }
            },
            done => done,
        }
    }

    /// Nobody waits for this probe any more.
    pub(super) fn forget(&mut self, flight: usize) {
        if let Some(key) = self.by_flight.get_mut(flight).and_then(Option::take) {
            self.connections.remove(key);
        }
    }

    /// From now on [`ConnectProber::wait`] ends when the bell rings, too.
    pub(in crate::engine) fn hear(&self, bell: &EventFd) -> io::Result<()> {
        // Edge-triggered: each ring is told once, and nothing needs to be read from it. No connection has this number.
        Ok(self.epoll.add(bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, u64::MAX))?)
    }

    /// Closes the sockets that are kept for the next probes.
    pub(super) fn drop_idle(&mut self) {
        for key in self.idle.iter_mut().flat_map(|idle| idle.drain(..)) {
            self.connections.remove(key);
        }
    }

    /// Waits for answers, no longer than the timeout (to the millisecond, and 24 days at most), and takes all that are
    /// there.
    pub(super) fn wait(&mut self, timeout: Duration, answers: &mut Vec<(usize, Answer)>) -> io::Result<()> {
        // Rounded up, so that the last fraction of a millisecond is not spent spinning.
        let millis = timeout.as_micros().div_ceil(1000);
        let mut timeout = EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX);
        loop {
            let mut events = std::mem::take(&mut self.events);
            let waited = self.epoll.wait(&mut events, timeout);
            let at = Instant::now();
            let count = match waited {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => {
                    self.events = events;
                    return Err(errno.into());
                }
            };
            for event in events.iter().take(count) {
                // Made from a usize when it was registered.
                let key = event.data() as usize;
                let Some(flight) = self.connections.get(key).and_then(|connection| connection.flight) else {
                    continue;
                };
                let looked = self.look(key, at);
                if !self.is_of(key, flight)
                    && let Some(entry) = self.by_flight.get_mut(flight)
                {
                    *entry = None;
                }
                if let Sent::Answered(answer) = looked {
                    answers.push((flight, answer));
                }
            }
            self.events = events;
            if count < EVENTS {
                return Ok(());
            }
            timeout = EpollTimeout::ZERO;
        }
    }

    // --- private ---

    /// Reads this host's addresses again if they were read too long ago.
    fn read_own(&mut self, now: Instant) {
        if now.saturating_duration_since(self.own_read) > OWN_AGE {
            self.own_read = now;
            // Where they cannot be read, those of before are likelier than none.
            if let Ok(own) = own_addresses() {
                self.own = own;
            }
        }
    }

    /// A socket for the destination, used before or new.
    fn socket(&mut self, address: IpAddr, port: u16) -> io::Result<usize> {
        let peer = SockAddr::from(SocketAddr::new(address, port));
        let idle = &mut self.idle[usize::from(address.is_ipv6())];
        while let Some(key) = idle.pop() {
            if let Some(connection) = self.connections.get_mut(key) {
                (connection.peer, connection.address, connection.port) = (peer, address, port);
                return Ok(key);
            }
        }
        let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.set_linger(Some(Duration::ZERO))?;
        errors::keep_icmp(&socket, address.is_ipv6())?;
        let sent = Instant::now();
        Ok(self.connections.insert(Connection {
            socket,
            peer,
            address,
            port,
            sent,
            flight: None,
            watched: false,
        }))
    }

    /// Whether a connection is still that of a flight.
    fn is_of(&self, key: usize, flight: usize) -> bool {
        self.connections.get(key).is_some_and(|connection| connection.flight == Some(flight))
    }

    /// Has epoll watch the connection, for as long as its socket lives.
    fn watch(&mut self, key: usize, flight: usize) -> io::Result<()> {
        if let Some(connection) = self.connections.get_mut(key).filter(|connection| !connection.watched) {
            let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            self.epoll.add(&connection.socket, EpollEvent::new(flags, key as u64))?;
            connection.watched = true;
        }
        if self.by_flight.len() <= flight {
            self.by_flight.resize(flight + 1, None);
        }
        if let Some(entry) = self.by_flight.get_mut(flight) {
            *entry = Some(key);
        }
        Ok(())
    }

    /// Looks whether the connection is answered, at a time when its answer may just have come.
    fn look(&mut self, key: usize, at: Instant) -> Sent {
        let Some(connection) = self.connections.get_mut(key) else { return Sent::Pending };
        match connection.socket.connect(&connection.peer) {
            Ok(()) => self.connected(key, at),
            Err(error) => self.conclude(key, errors::sort(&error), at),
        }
    }

    /// What a failed connect call comes to. A socket whose attempt is over is never asked again: that would be another
    /// attempt.
    fn conclude(&mut self, key: usize, failure: Failure, at: Instant) -> Sent {
        let Some(connection) = self.connections.get(key) else { return Sent::Pending };
        if failure == Failure::Reset {
            return self.connected(key, at);
        }
        let waited = at.saturating_duration_since(connection.sent);
        let answer = match (errors::take_icmp(&connection.socket), failure) {
            (Some(IcmpError { verdict: Some(verdict), from }), _) => {
                let offender = match from {
                    Some(from) if from == connection.address => Offender::Target,
                    Some(from) if self.own.contains(&from) => Offender::Own,
                    _ => Offender::Other,
                };
                // Without a neighbour that answers, the kernel tells itself: an ICMP error from this host.
                if verdict == Verdict::HostUnreach && offender == Offender::Own && waited >= NEIGHBOUR_SOUGHT
                {
                    Answer::NoNeighbour
                } else {
                    Answer::Icmp { verdict, offender }
                }
            }
            (None, Failure::Answer(Answer::Refused { .. })) => {
                let answer = Answer::Refused { rtt: measured(connection.sent, at) };
                self.retire(key);
                return Sent::Answered(answer);
            }
            (None, Failure::Answer(answer)) => answer,
            // Whoever said so, it is not known who.
            (None, Failure::NoWay(verdict)) => Answer::Icmp { verdict, offender: Offender::Other },
            (_, Failure::Pending) => return Sent::Pending,
            _ => {
                self.connections.remove(key);
                return Sent::Pending;
            }
        };
        self.connections.remove(key);
        Sent::Answered(answer)
    }

    /// The handshake was answered: closes with a reset.
    fn connected(&mut self, key: usize, at: Instant) -> Sent {
        let Some(connection) = self.connections.remove(key) else { return Sent::Pending };
        let own = connection.socket.local_addr().ok().and_then(|own| own.as_socket());
        let answer = match own.filter(|own| own.ip() == connection.address) {
            Some(own) if own.port() == connection.port => Answer::Itself,
            own => Answer::Open {
                rtt: measured(connection.sent, at),
                doubt: own.filter(|_| self.ephemeral.contains(&connection.port)).map(|own| own.port()),
            },
        };
        Sent::Answered(answer)
    }

    /// Keeps a socket for another probe.
    fn retire(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let idle = &mut self.idle[usize::from(connection.address.is_ipv6())];
        if idle.len() < MAX_IDLE {
            connection.flight = None;
            idle.push(key);
        } else {
            self.connections.remove(key);
        }
    }
}

fn measured(sent: Instant, at: Instant) -> Option<Duration> {
    Some(at.saturating_duration_since(sent)).filter(|rtt| *rtt < AMBIGUOUS)
}

/// This host's addresses, by its interfaces. (That an address can be bound proves nothing: ip_nonlocal_bind.)
pub(in crate::engine) fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    Ok(addresses.collect())
}

/// Whether this host has an address to reach another from. Nothing is sent.
fn has_source(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9))).is_ok()
}

/// The ports that the kernel gives to outgoing connections of both families (ip-sysctl); where it does not say, all
/// that it might.
fn ephemeral_ports() -> RangeInclusive<u16> {
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ports = text.split_whitespace().map(str::parse::<u16>);
        Some(ports.next()?.ok()?..=ports.next()?.ok()?)
    };
    read().unwrap_or(1024..=u16::MAX)
}
