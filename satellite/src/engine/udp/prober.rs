//! Probing by plain UDP sockets, without privileges. The thin layer of sockets: it decides nothing.
//!
//! A small pool of unconnected sockets sends to everybody, so descriptors do not grow with the scan. What comes back
//! names where it comes from; an ICMP error comes by the socket's error queue (ip(7), IP_RECVERR) and names where the
//! probe went. Times are the kernel's own stamps, not those of a thread that woke up.

use super::super::errors::{icmp_of, keep_icmp};
use super::super::verdict::{Offender, Verdict};
use super::payloads::{self, payload};
use crate::engine::connect::own_addresses;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use portolan_common::scope::PermittedTarget;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

/// Sockets for each family, so that as many source ports meet the paths of an ECMP bundle.
const POOL: usize = 8;

/// Sockets for each family and each port whose answers come from another port.
const ROAMING_POOL: usize = 2;

/// What one [`UdpProber::drain`] reads at most.
const DRAIN: usize = 1024;

/// How often a datagram is sent again when the call failed by an ICMP error about an earlier one.
const SEND_TRIES: usize = 8;

/// Room for answers that come in a burst, in bytes; the kernel grants what its rmem_max allows.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Older stamps are those of a clock that was set.
const OLDEST: Duration = Duration::from_secs(10);

/// Something that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct UdpAnswer {
    /// The address that was probed, or that sent a datagram unasked: whoever scans knows which.
    pub(in crate::engine) address: IpAddr,
    /// The port that was probed. A datagram from a port that was not probed comes with that one: whoever scans knows
    /// which were.
    pub(in crate::engine) port: u16,
    /// What came.
    pub(in crate::engine) what: UdpSeen,
    /// When the kernel received it.
    pub(in crate::engine) at: Instant,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum UdpSeen {
    /// A datagram: the port is open.
    Datagram,
    /// An ICMP error about a probe.
    Icmp {
        /// What it says.
        verdict: Verdict,
        /// Who sent it. [`Verdict::HostUnreach`] by [`Offender::Own`] is this host's word that it found no neighbour.
        offender: Offender,
    },
}

#[derive(Debug)]
struct Lane {
    socket: Socket,
    /// The port it is bound to.
    own_port: u16,
    /// The only port it probes, whichever port the answers come from.
    asks: Option<u16>,
}

/// A pool of UDP sockets.
#[derive(Debug)]
pub(in crate::engine) struct UdpProber {
    epoll: Epoll,
    lanes: Vec<Lane>,
    /// Where the lanes of IPv4 and of IPv6 begin; each family that this host has keeps them in the same order.
    families: [Option<usize>; 2],
    /// Keys what varies with the probe: its socket and its token.
    keys: RandomState,
    /// This host's addresses.
    own: HashSet<IpAddr>,
    /// The datagram being sent.
    datagram: Vec<u8>,
    /// Room for control messages.
    control: Vec<u8>,
    events: Vec<EpollEvent>,
    /// Which of the ready sockets is read first: each in turn.
    turn: usize,
}

impl UdpProber {
    /// Opens the pool. A family that this host lacks is left out. Errors: as socket(2), bind(2) and epoll_create(2)
    /// have them, and EAFNOSUPPORT when there is neither family.
    pub(in crate::engine) fn open() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut lanes = Vec::new();
        let mut families = [None, None];
        for (family, first) in families.iter_mut().enumerate() {
            match open_family(family == 1) {
                Ok(opened) => {
                    *first = Some(lanes.len());
                    lanes.extend(opened);
                }
                Err(error) if lacks_family(&error) => (),
                Err(error) => return Err(error),
            }
        }
        if lanes.is_empty() {
            return Err(Errno::EAFNOSUPPORT.into());
        }
        for (key, lane) in lanes.iter().enumerate() {
            epoll.add(&lane.socket, EpollEvent::new(EpollFlags::EPOLLIN, key as u64))?;
        }
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); lanes.len()],
            lanes,
            families,
            keys: RandomState::new(),
            own: own_addresses()?,
            datagram: Vec::new(),
            control: cmsg_space!(TimeSpec, libc::sock_extended_err, libc::sockaddr_in6),
            turn: 0,
        })
    }

    /// Sends the probe of this attempt (from 1) to a port. Its socket varies with the address, the port and the
    /// attempt; with `same_flow` not with the attempt, so that a firewall on the way holds one flow for the port.
    ///
    /// Errors say that nothing left, and why: EPERM is this host's own firewall, EACCES a broadcast address, ENOBUFS
    /// and EAGAIN that the kernel is short of room, EAFNOSUPPORT that this host lacks the family, others that there is
    /// no way at the moment.
    pub(in crate::engine) fn send(
        &mut self,
        target: &PermittedTarget,
        port: u16,
        attempt: u8,
        same_flow: bool,
    ) -> io::Result<()> {
        let address = target.address();
        let first = self.families[usize::from(address.is_ipv6())].ok_or(Errno::EAFNOSUPPORT)?;
        let key = first + self.place(address, port, attempt, same_flow);
        let lane = self.lanes.get(key).ok_or(Errno::EBADF)?;
        let token = self.keys.hash_one((address, port, attempt));
        payload(port, attempt, token, target.payloads(), &mut self.datagram);
        let to = SockAddr::from(SocketAddr::new(address, port));
        let mut tries = 1;
        loop {
            let Err(error) = lane.socket.send_to(&self.datagram, &to) else { return Ok(()) };
            let errno = error.raw_os_error().map(Errno::from_raw);
            // With IP_RECVERR the kernel tells of an earlier probe's ICMP error by failing the next call, once; the
            // error itself waits in the queue. What fails again and again is about this datagram.
            if !errno.is_some_and(may_be_earlier) {
                return Err(error);
            }
            if tries == SEND_TRIES {
                return Err(if errno.is_some_and(is_earlier) { Errno::EAGAIN.into() } else { error });
            }
            tries += 1;
        }
    }

    /// Takes what has come, at most 1,024 messages a call: [`AsFd`] stays readable while there is more.
    pub(in crate::engine) fn drain(&mut self, answers: &mut Vec<UdpAnswer>) {
        let Ok(count) = self.epoll.wait(&mut self.events, EpollTimeout::ZERO) else { return };
        if count == 0 {
            return;
        }
        self.turn = (self.turn + 1) % count;
        let clock = Clock::read();
        let mut left = DRAIN;
        for ready in 0..count {
            let Some(event) = self.events.get((self.turn + ready) % count) else { continue };
            // Made from a usize when it was registered.
            let key = event.data() as usize;
            for flags in [MsgFlags::MSG_ERRQUEUE, MsgFlags::empty()] {
                while left > 0 {
                    left -= 1;
                    match self.receive(key, flags, clock) {
                        Ok(answer) => answers.extend(answer),
                        Err(Errno::EAGAIN) => break,
                        // The word of an ICMP error again, or a signal.
                        Err(_) => (),
                    }
                }
            }
        }
    }

    // --- private ---

    /// Which of a family's lanes takes the probe.
    fn place(&self, address: IpAddr, port: u16, attempt: u8, same_flow: bool) -> usize {
        let (start, lanes) = match payloads::ROAMING.iter().position(|roaming| *roaming == port) {
            Some(roaming) => (POOL + roaming * ROAMING_POOL, ROAMING_POOL),
            None => (0, POOL),
        };
        // Attempts take the sockets in turn, so that as many attempts as there are sockets use them all.
        let step = if same_flow { 0 } else { u64::from(attempt) };
        let place = self.keys.hash_one((address, port)).wrapping_add(step) % lanes as u64;
        start + place as usize
    }

    /// Reads one message; `None` when it says nothing about a port.
    fn receive(&mut self, key: usize, flags: MsgFlags, clock: Clock) -> Result<Option<UdpAnswer>, Errno> {
        let lane = self.lanes.get(key).ok_or(Errno::EAGAIN)?;
        // What it says does not matter, only that it came.
        let mut content = [0u8; 1];
        let mut iov = [IoSliceMut::new(&mut content)];
        let message = recvmsg::<SockaddrStorage>(
            lane.socket.as_raw_fd(),
            &mut iov,
            Some(&mut self.control),
            flags | MsgFlags::MSG_DONTWAIT,
        )?;
        // Of a datagram the sender, of an error where the probe went.
        let Some(peer) = message.address.as_ref().and_then(peer_of) else { return Ok(None) };
        let address = peer.ip().to_canonical();
        let (mut icmp, mut at) = (None, clock.instant);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(stamp) => at = clock.instant_of(stamp),
                control => icmp = icmp_of(&control).or(icmp),
            }
        }
        if flags.contains(MsgFlags::MSG_ERRQUEUE) {
            let Some(error) = icmp else { return Ok(None) };
            let Some(verdict) = error.verdict else { return Ok(None) };
            let offender = match error.from {
                Some(from) if from == address => Offender::Target,
                Some(from) if self.own.contains(&from) => Offender::Own,
                _ => Offender::Other,
            };
            let what = UdpSeen::Icmp { verdict, offender };
            return Ok(Some(UdpAnswer { address, port: peer.port(), what, at }));
        }
        // This host scans itself, and a probe met one of these sockets.
        if self.lanes.iter().any(|lane| lane.own_port == peer.port()) && self.own.contains(&address) {
            return Ok(None);
        }
        let port = lane.asks.unwrap_or(peer.port());
        Ok(Some(UdpAnswer { address, port, what: UdpSeen::Datagram, at }))
    }
}

/// Readable when [`UdpProber::drain`] has something to take.
impl AsFd for UdpProber {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Both clocks, read at once.
#[derive(Clone, Copy, Debug)]
struct Clock {
    instant: Instant,
    system: SystemTime,
}

impl Clock {
    fn read() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }

    /// The kernel's stamp, which is of CLOCK_REALTIME. One in the future is taken as now, one older than 10 s as that
    /// old.
    fn instant_of(self, stamp: TimeSpec) -> Instant {
        let since = u64::try_from(stamp.tv_sec()).ok().zip(u32::try_from(stamp.tv_nsec()).ok());
        let stamp = since.and_then(|(seconds, nanos)| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999)))
        });
        let age = stamp.and_then(|stamp| self.system.duration_since(stamp).ok()).unwrap_or_default();
        self.instant.checked_sub(age.min(OLDEST)).unwrap_or(self.instant)
    }
}

/// All sockets of one family: [`POOL`] for everything, then [`ROAMING_POOL`] for each of [`payloads::ROAMING`].
fn open_family(v6: bool) -> io::Result<Vec<Lane>> {
    let roaming = payloads::ROAMING.iter().flat_map(|port| [Some(*port); ROAMING_POOL]);
    [None; POOL].into_iter().chain(roaming).map(|asks| open_lane(v6, asks)).collect()
}

fn open_lane(v6: bool, asks: Option<u16>) -> io::Result<Lane> {
    let (domain, any) = if v6 {
        (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    } else {
        (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    keep_icmp(&socket, v6)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // More room is better, and what there is by default will do.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
    let own = socket.local_addr()?.as_socket();
    Ok(Lane { socket, own_port: own.map_or(0, |own| own.port()), asks })
}

/// Whether the error says that this host does without the family.
fn lacks_family(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT | Errno::EADDRNOTAVAIL))
}

/// Whether a send may fail with it because of an ICMP error about an earlier datagram (Linux icmp_err_convert and
/// its like for ICMPv6).
fn may_be_earlier(errno: Errno) -> bool {
    use Errno::{EACCES, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETUNREACH};
    is_earlier(errno) || matches!(errno, EHOSTUNREACH | ENETUNREACH | EHOSTDOWN | EACCES | EMSGSIZE)
}

/// Whether a send fails with it for no other reason.
fn is_earlier(errno: Errno) -> bool {
    use Errno::{ECONNREFUSED, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPROTO};
    matches!(errno, ECONNREFUSED | ENONET | ENOPROTOOPT | EOPNOTSUPP | EPROTO)
}

fn peer_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

#[cfg(test)]
mod tests;
