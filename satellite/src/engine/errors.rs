//! What the kernel says about a connection attempt: its ICMP errors in full (ip(7), IP_RECVERR), and which of its
//! other errors are about the target, which about this host.

use super::verdict::{Answer, Verdict};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::Socket;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

/// An ICMP error that one of our probes met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IcmpError {
    /// What it says about the port, if anything.
    pub(super) verdict: Option<Verdict>,
    /// Who sent it.
    pub(super) from: Option<IpAddr>,
}

/// What a failed connect call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The answer is not there yet.
    Pending,
    /// It is an answer.
    Answer(Answer),
    /// The kernel gave up waiting: no answer came, and none will on this socket.
    GivenUp,
    /// The connection was made and reset at once by the other side.
    Reset,
    /// This host is short of something for all connections.
    Short,
    /// This host is short of something for this destination.
    ShortHere,
    /// This host has no way to the destination.
    NoWay(Verdict),
}

/// Asks the kernel to keep ICMP errors for [`take_icmp`].
pub(super) fn keep_icmp(socket: &Socket, v6: bool) -> io::Result<()> {
    let set = if v6 {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)
    } else {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)
    };
    set.map_err(io::Error::from)
}

/// Takes the first ICMP error off the socket's queue.
pub(super) fn take_icmp(socket: &Socket) -> Option<IcmpError> {
    // The offending packet itself is not needed; the control message is a sock_extended_err and an address.
    let mut packet = [0u8; 1];
    let mut control = [0u8; 256];
    let mut iov = [IoSliceMut::new(&mut packet)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags).ok()?;
    message.cmsgs().ok()?.find_map(|control| icmp_of(&control))
}

/// The ICMP error that a control message of the error queue tells of, if it does.
pub(super) fn icmp_of(control: &ControlMessageOwned) -> Option<IcmpError> {
    match *control {
        ControlMessageOwned::Ipv4RecvErr(error, from) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP => {
            Some(IcmpError {
                verdict: Verdict::of_icmp4(error.ee_type, error.ee_code),
                from: from.map(|from| Ipv4Addr::from_bits(u32::from_be(from.sin_addr.s_addr)).into()),
            })
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 => {
            Some(IcmpError {
                verdict: Verdict::of_icmp6(error.ee_type, error.ee_code),
                from: from.map(|from| Ipv6Addr::from(from.sin6_addr.s6_addr).to_canonical()),
            })
        }
        _ => None,
    }
}

/// Sorts the errors of connect(2), ICMP errors having been taken before.
pub(super) fn sort(error: &io::Error) -> Failure {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else { return Failure::Short };
    match errno {
        Errno::EINPROGRESS | Errno::EALREADY | Errno::EINTR => Failure::Pending,
        Errno::ECONNREFUSED => Failure::Answer(Answer::Refused { rtt: None }),
        Errno::ECONNRESET | Errno::EPIPE => Failure::Reset,
        // EAGAIN: no free local port or routing cache entry. The others: descriptors, memory.
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN => Failure::Short,
        Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => Failure::ShortHere,
        Errno::EPERM | Errno::EACCES => Failure::Answer(Answer::Forbidden),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Failure::NoWay(Verdict::HostUnreach),
        Errno::ETIMEDOUT | Errno::ECONNABORTED => Failure::GivenUp,
        // No route (ENETUNREACH), an interface that is down, a blackhole route (EINVAL), no IPv6 (EAFNOSUPPORT), …
        _ => Failure::NoWay(Verdict::NetUnreach),
    }
}
