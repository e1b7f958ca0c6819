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
    v4: Ring,
    v6: Ring,
}

impl Receiver {
    /// Starts to receive.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `ENOMEM` when the kernel has no 3 MiB for the rings.
    pub fn open(block: Block) -> io::Result<Self> {
        Ok(Self {
            v4: listen(libc::ETH_P_IP, &filter::ipv4(block), RING_V4)?,
            v6: listen(libc::ETH_P_IPV6, &filter::ipv6(block), RING_V6)?,
        })
    }

    /// Hands over every packet that is there, from the IP header on and cut off after 160 bytes, with the time at which
    /// the kernel received it. Never waits, and ends even if packets come faster than `f` takes them.
    ///
    /// A time stamp that the wall clock's being set has put into the future, or back by more than 10 s, is moved to the
    /// nearest of these.
    pub fn drain(&mut self, mut f: impl FnMut(&[u8], Instant)) {
        let mut clocks = Clocks::now();
        for ring in [&mut self.v4, &mut self.v6] {
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
        [&mut self.v4, &mut self.v6].into_iter().map(|ring| ring.dropped().unwrap_or_default()).sum()
    }

    /// What to poll for input: there is some when a packet is there to drain.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.v4.as_fd(), self.v6.as_fd()]
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
