//! Receives what may be an answer: packet sockets with a filter and a ring, one for IPv4 and one for IPv6.

use crate::clock::Clocks;
use crate::filter;
use crate::ports::Block;
use crate::ring::Ring;
use crate::sys;
use socket2::{Domain, SockFilter, Socket, Type};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

/// Room for 8,192 packets: what arrives in 50 ms at the rate a core can send.
const RING_V4: usize = 2 << 20;
/// Room for 4,096 packets.
const RING_V6: usize = 1 << 20;

/// Receives, on all interfaces, the packets that may answer a probe from a block of ports, or an echo request.
///
/// The sockets are cooked ones: a packet is the same from Ethernet, a tunnel or loopback, and begins at its IP header.
pub struct Receiver {
    rings: Vec<Ring>,
}

/// Which families of addresses are received. A ring costs memory, and some milliseconds to open and to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const ALL: Self = Self { v4: true, v6: true };
}

impl Receiver {
    /// Starts to receive.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `ENOMEM` when the kernel has no 3 MiB for the rings.
    pub fn open(block: Block, families: Families) -> io::Result<Self> {
        let mut rings = Vec::new();
        if families.v4 {
            rings.push(listen(libc::ETH_P_IP, &filter::ipv4(block), RING_V4)?);
        }
        if families.v6 {
            rings.push(listen(libc::ETH_P_IPV6, &filter::ipv6(block), RING_V6)?);
        }
        Ok(Self { rings })
    }

    /// Hands over every packet that is there, from the IP header on and cut off after 160 bytes, with the time at which
    /// the kernel received it. Never waits, and ends even if packets come faster than `f` takes them.
    ///
    /// A time stamp that the wall clock's being set has put into the future, or back by more than 10 s, is moved to the
    /// nearest of these.
    pub fn drain(&mut self, mut f: impl FnMut(&[u8], Instant)) {
        let mut clocks = Clocks::now();
        for ring in &mut self.rings {
            ring.drain(|bytes, stamp| {
                // It may have arrived since the clocks were read.
                if clocks.precede(stamp) {
                    clocks = Clocks::now();
                }
                f(bytes, clocks.instant(stamp));
            });
        }
    }

    /// How many packets were lost since the last call because a ring was full.
    pub fn dropped(&mut self) -> u64 {
        // The kernel answers this of any packet socket.
        self.rings.iter_mut().map(|ring| ring.dropped().unwrap_or_default()).sum()
    }

    /// What to poll for input: there is some when a packet is there to drain.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(Ring::as_fd)
    }
}

/// A socket receives from the moment it is bound: by then its filter and its ring are there.
fn listen(protocol: libc::c_int, filter: &[SockFilter], bytes: usize) -> io::Result<Ring> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.attach_filter(filter)?;
    let ring = Ring::new(socket, bytes)?;
    ring.socket().bind(&sys::link_address(protocol as u16, 0, None))?;
    Ok(ring)
}
