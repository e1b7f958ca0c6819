//! The system calls that no safe binding covers, each in a small safe function.
#![allow(unsafe_code)]

use crate::send::Entry;
use nix::errno::Errno;
use socket2::{SockAddr, SockAddrStorage, Socket};
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::ptr;

/// How many packets one call of [`send_many`] takes at most.
pub(crate) const BATCH: usize = 256;

/// A kind of value that an option of packet sockets takes.
///
/// # Safety
/// Any bytes of the type's size must be a value of it, and it must have no padding.
pub(crate) unsafe trait PacketOption: Copy {}
// SAFETY: a plain integer.
unsafe impl PacketOption for libc::c_int {}
// SAFETY: four 32-bit integers.
unsafe impl PacketOption for libc::tpacket_req {}
// SAFETY: two 32-bit integers.
unsafe impl PacketOption for libc::tpacket_stats {}

/// Sets an option of a packet socket (packet(7)).
pub(crate) fn set_packet_option<T: PacketOption>(
    socket: &Socket,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a value that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Reads an option of a packet socket.
pub(crate) fn packet_option<T: PacketOption>(socket: &Socket, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            value.as_mut_ptr().cast(),
            ptr::from_mut(&mut len),
        )
    };
    Errno::result(result)?;
    // SAFETY: any bytes are a value, and those that the kernel has not written are zero.
    Ok(unsafe { value.assume_init() })
}

/// A link-layer socket address (packet(7)): all interfaces are interface 0, `protocol` is an EtherType in host order.
pub(crate) fn link_address(protocol: u16, interface: u32, address: Option<[u8; 6]>) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the platform's socket addresses.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = sockaddr_ll(protocol, interface, address);
    // SAFETY: the storage holds a sockaddr_ll of this length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

fn sockaddr_ll(protocol: u16, interface: u32, address: Option<[u8; 6]>) -> libc::sockaddr_ll {
    let mut octets = [0; 8];
    octets[..6].copy_from_slice(&address.unwrap_or_default());
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: interface as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: if address.is_some() { 6 } else { 0 },
        sll_addr: octets,
    }
}

/// Where a packet is sent to, as the kernel wants it.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    storage: Storage,
    len: u8,
}

/// The three kinds of address that are sent to, in the room of the longest.
#[derive(Clone, Copy)]
#[repr(C)]
union Storage {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    link: libc::sockaddr_ll,
}

impl Address {
    pub(crate) fn v4(address: SocketAddrV4) -> Self {
        let v4 = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        };
        Self { storage: Storage { v4 }, len: size_of::<libc::sockaddr_in>() as u8 }
    }

    pub(crate) fn v6(address: SocketAddrV6) -> Self {
        let v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
            sin6_scope_id: address.scope_id(),
        };
        Self { storage: Storage { v6 }, len: size_of::<libc::sockaddr_in6>() as u8 }
    }

    pub(crate) fn link(protocol: u16, interface: u32, address: [u8; 6]) -> Self {
        let link = sockaddr_ll(protocol, interface, Some(address));
        Self { storage: Storage { link }, len: size_of::<libc::sockaddr_ll>() as u8 }
    }
}

/// Sends the first [`BATCH`] entries, without waiting, up to the first that fails: how many were sent, or why the very
/// first was not (sendmmsg(2)).
pub(crate) fn send_many(socket: &Socket, entries: &[Entry]) -> Result<usize, Errno> {
    let count = entries.len().min(BATCH);
    // SAFETY: all of both structures may be zero.
    let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for ((entry, vector), message) in entries.iter().zip(&mut vectors).zip(&mut messages) {
        let bytes = entry.packet.as_bytes();
        // The kernel reads what these pointers lead to and never writes there.
        *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        message.msg_hdr.msg_name = ptr::from_ref(&entry.address.storage).cast_mut().cast();
        message.msg_hdr.msg_namelen = entry.address.len.into();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `count` messages point to addresses, vectors and packets of their stated lengths, all of which
    // outlive the call.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    Errno::result(sent).map(|sent| sent as usize)
}
