//! Sends probes in batches: by the kernel's routes, or straight to a next hop whose link-layer address is known.

use crate::build::Packet;
use crate::sys::{self, Address, BATCH};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

/// How long a full socket buffer is waited for, in milliseconds.
const ROOM_WAIT: u8 = 10;
/// How long a full device queue is given to empty.
const QUEUE_WAIT: Duration = Duration::from_millis(1);
/// What the sockets may have under way, in bytes of the kernel's counting: as much as the system allows.
const SEND_BUFFER: usize = 1 << 20;

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// By a raw IP socket: the kernel finds the way, and its own firewall sees the packet.
    Kernel,
    /// By a packet socket, straight to a neighbour: no route, no neighbour entry, no connection tracking.
    Link {
        /// The interface's index.
        interface: u32,
        /// The neighbour's link-layer address.
        address: [u8; 6],
    },
}

/// A packet, where it goes and which one it was.
pub(crate) struct Entry {
    place: u16,
    pub(crate) address: Address,
    pub(crate) packet: Packet,
}

/// A socket and what waits for it.
struct Lane {
    /// There may be none for a family that the kernel has not got.
    socket: Option<Socket>,
    entries: Vec<Entry>,
}

impl Lane {
    fn new(socket: Option<Socket>) -> Self {
        Self { socket, entries: Vec::with_capacity(BATCH) }
    }

    /// Sends all entries in as few calls as there are failures and one.
    fn flush(&mut self, failed: &mut Vec<(usize, Errno)>) {
        let Self { socket, entries } = self;
        if let Some(socket) = socket {
            flush(entries, |entries| sys::send_many(socket, entries), |errno| wait(socket, errno), failed);
        } else {
            failed.extend(entries.iter().map(|entry| (entry.place.into(), Errno::EAFNOSUPPORT)));
        }
        entries.clear();
    }
}

/// Queues probes and sends them in batches. It receives nothing.
pub struct Sender {
    v4: Lane,
    v6: Lane,
    link: Lane,
}

impl Sender {
    /// How many packets can be queued.
    pub const CAPACITY: usize = BATCH;

    /// Opens the sockets. Where the kernel has no IPv6, IPv6 packets fail with `EAFNOSUPPORT`.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; `EMFILE`.
    pub fn open() -> io::Result<Self> {
        // IPPROTO_RAW: the packets have their IP header, and no packet of anyone's is received.
        let raw = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_send_buffer_size(SEND_BUFFER)?;
            // Without it the kernel keeps to itself that a device's queue was full.
            if domain == Domain::IPV4 {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            } else {
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            }
            Ok(socket)
        };
        let v6 = match raw(Domain::IPV6) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => None,
            Err(error) => return Err(error),
        };
        // Without a protocol it is sent nothing. Its packets pass the device's queue: going round it
        // (PACKET_QDISC_BYPASS) measured no faster, and the queue is what tells that the device is full.
        let link = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        link.set_send_buffer_size(SEND_BUFFER)?;
        Ok(Self { v4: Lane::new(Some(raw(Domain::IPV4)?)), v6: Lane::new(v6), link: Lane::new(Some(link)) })
    }

    /// Queues a packet for [`flush`](Self::flush): its place in the queue, or nothing when the queue is full and the
    /// packet was not queued.
    pub fn queue(&mut self, via: Via, destination: IpAddr, packet: &Packet) -> Option<usize> {
        let place = self.len();
        if place == Self::CAPACITY {
            return None;
        }
        let (lane, address) = match (via, destination) {
            (Via::Kernel, IpAddr::V4(v4)) => (&mut self.v4, Address::v4(SocketAddrV4::new(v4, 0))),
            (Via::Kernel, IpAddr::V6(v6)) => (&mut self.v6, Address::v6(SocketAddrV6::new(v6, 0, 0, 0))),
            (Via::Link { interface, address }, destination) => {
                let protocol = if destination.is_ipv4() { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
                (&mut self.link, Address::link(protocol as u16, interface, address))
            }
        };
        lane.entries.push(Entry { place: place as u16, address, packet: packet.clone() });
        Some(place)
    }

    /// How many packets are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        [&self.v4, &self.v6, &self.link].iter().map(|lane| lane.entries.len()).sum()
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the queue is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= Self::CAPACITY
    }

    /// Sends all that is queued and empties the queue. What could not be sent is added to `failed`: the packet's place
    /// in the queue, and why.
    ///
    /// A packet without a way (`EHOSTUNREACH`, `ENETUNREACH`), one that the host's own firewall forbids (`EPERM`), one
    /// whose interface is down or gone (`ENETDOWN`, `ENXIO`) and the like is passed over, and the rest goes on. When the
    /// host is short of room (`ENOBUFS`, `EAGAIN`, `ENOMEM`), it waits up to 10 ms, once, and tries again; if that does
    /// not help, all that are left of that kind (by route of either family, by link) are reported.
    pub fn flush(&mut self, failed: &mut Vec<(usize, Errno)>) {
        for lane in [&mut self.v4, &mut self.v6, &mut self.link] {
            if !lane.entries.is_empty() {
                lane.flush(failed);
            }
        }
    }
}

/// Sends `entries` by `send`, which sends some and then fails or not, with `wait` before the one new try.
fn flush(
    mut entries: &[Entry],
    mut send: impl FnMut(&[Entry]) -> Result<usize, Errno>,
    wait: impl Fn(Errno),
    failed: &mut Vec<(usize, Errno)>,
) {
    let mut waited = false;
    while let Some((first, rest)) = entries.split_first() {
        match send(entries) {
            Ok(sent) => entries = entries.get(sent.max(1)..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno @ (Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOMEM)) => {
                if waited {
                    failed.extend(entries.iter().map(|entry| (entry.place.into(), errno)));
                    return;
                }
                waited = true;
                wait(errno);
            }
            Err(errno) => {
                failed.push((first.place.into(), errno));
                entries = rest;
            }
        }
    }
}

/// Waits for room: in the socket's buffer, or in the device's queue, of which nobody tells.
fn wait(socket: &Socket, errno: Errno) {
    if errno == Errno::EAGAIN {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        // Whatever comes of it, the next try will tell.
        let _ = poll(&mut fds, PollTimeout::from(ROOM_WAIT));
    } else {
        thread::sleep(QUEUE_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::echo_request;
    use crate::key::Key;
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    /// Flushes `count` packets by a kernel that gives these results in turn, and then sends all it gets: which packets
    /// it was offered first, how often it was waited for, and what failed.
    fn flushed(count: u16, results: &[Result<usize, Errno>]) -> (Vec<u16>, u32, Vec<(usize, Errno)>) {
        let packet =
            echo_request(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), &Key::from_bytes([0; 16]));
        let address = Address::v4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        let entries: Vec<Entry> =
            (0..count).map(|place| Entry { place, address, packet: packet.clone() }).collect();
        let (mut offered, waits, mut failed) = (Vec::new(), Cell::new(0), Vec::new());
        let mut results = results.iter();
        let send = |entries: &[Entry]| {
            offered.push(entries[0].place);
            results.next().copied().unwrap_or(Ok(entries.len()))
        };
        flush(&entries, send, |_| waits.set(waits.get() + 1), &mut failed);
        (offered, waits.get(), failed)
    }

    #[test]
    fn all_is_sent_in_one_call_or_as_many_as_it_takes() {
        assert_eq!(flushed(5, &[]), (vec![0], 0, vec![]));
        assert_eq!(flushed(5, &[Ok(2), Err(Errno::EINTR), Ok(1)]), (vec![0, 2, 2, 3], 0, vec![]));
        assert_eq!(flushed(0, &[]), (vec![], 0, vec![]));
    }

    #[test]
    fn a_packet_without_a_way_is_passed_over() {
        let (offered, waits, failed) =
            flushed(4, &[Ok(1), Err(Errno::EHOSTUNREACH), Err(Errno::EPERM), Ok(1)]);
        assert_eq!((offered, waits), (vec![0, 1, 2, 3], 0));
        assert_eq!(failed, [(1, Errno::EHOSTUNREACH), (2, Errno::EPERM)]);
    }

    #[test]
    fn shortage_is_waited_for_once() {
        assert_eq!(flushed(3, &[Ok(1), Err(Errno::ENOBUFS)]), (vec![0, 1, 1], 1, vec![]));
        let (offered, waits, failed) = flushed(4, &[Err(Errno::EAGAIN), Ok(1), Err(Errno::ENOBUFS)]);
        assert_eq!((offered, waits), (vec![0, 0, 1], 1));
        assert_eq!(failed, [(1, Errno::ENOBUFS), (2, Errno::ENOBUFS), (3, Errno::ENOBUFS)]);
    }
}
