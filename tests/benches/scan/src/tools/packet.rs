//! Packet sockets of one interface: frames out in batches, frames in through a memory-mapped ring (packet(7),
//! TPACKET_V3). All of this program's unsafe code is here.

#![allow(unsafe_code, reason = "packet sockets and their rings have no safe interface in nix or socket2")]

use std::io::{self, Error};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libc::{c_int, c_void};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Frames handed to the kernel in one call.
pub const BATCH: usize = 256;
/// Size of one block of the receive ring, in bytes: a multiple of the page size.
const BLOCK: usize = 1 << 18;
/// Blocks of the receive ring: 16 MiB hold 180,000 answers.
const BLOCKS: usize = 64;
/// The kernel hands over a block that is not full after this many milliseconds.
const RETIRE_MILLIS: u32 = 5;

/// Sends frames as they are, past the queueing discipline.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Opens it on an interface. Needs CAP_NET_RAW.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = packet_socket()?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &(8_i32 << 20))?;
        // Protocol 0: it receives nothing.
        bind(&socket, interface, 0)?;
        Ok(Self { socket })
    }

    /// Sends at most [`BATCH`] frames; waits while the kernel has no room.
    pub fn send<const N: usize>(&self, frames: &[[u8; N]]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: N })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: an all-zero mmsghdr is a valid one without address, data and control part.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut done = 0;
        while done < messages.len() {
            let rest = &mut messages[done..];
            // SAFETY: every message points to one iovec, and that to one frame; all outlive the call, which only reads
            // the frames. The length is that of the slice, at most BATCH.
            let sent = unsafe {
                libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0)
            };
            match usize::try_from(sent) {
                Ok(sent) => done += sent,
                Err(_) => match Error::last_os_error() {
                    error
                        if matches!(
                            error.raw_os_error(),
                            Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)
                        ) =>
                    {
                        std::thread::yield_now();
                    }
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// Receives what an interface sees, as far as a classic BPF program lets it pass.
#[derive(Debug)]
pub struct Ring {
    socket: OwnedFd,
    memory: *mut u8,
    block: usize,
}

// SAFETY: the memory is this ring's alone, and every method that touches it needs `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens it on an interface. Needs CAP_NET_RAW.
    pub fn open(interface: &str, filter: &[libc::sock_filter]) -> io::Result<Self> {
        let socket = packet_socket()?;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as c_int))?;
        let frame = 256;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: frame,
            tp_frame_nr: (BLOCK * BLOCKS) as u32 / frame,
            tp_retire_blk_tov: RETIRE_MILLIS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping of the ring that was just made, of exactly its size; the kernel picks the place.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BLOCK * BLOCKS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let ring = Self { socket, memory: memory.cast(), block: 0 };
        bind(&ring.socket, interface, libc::ETH_P_ALL as u16)?;
        Ok(ring)
    }

    /// Waits until a block is full or [`RETIRE_MILLIS`] old, at most `millis` milliseconds.
    pub fn wait(&self, millis: u16) -> io::Result<()> {
        let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::from(millis)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands every frame of the next block to `each`, with the kernel's clock (since 1970) when it came; false when the
    /// kernel still fills that block.
    pub fn read(&mut self, mut each: impl FnMut(Duration, &[u8])) -> bool {
        // SAFETY: block `self.block` lies inside the mapping, which lives as long as `self`; the kernel writes a block
        // description at the start of every block.
        let block = unsafe { self.memory.add(self.block * BLOCK) };
        let header = block.cast::<libc::tpacket_block_desc>();
        // SAFETY: as above; the status word is shared with the kernel, so it is only touched as an atomic.
        let status = unsafe { AtomicU32::from_ptr(&raw mut (*header).hdr.bh1.block_status) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: the status says that the block is ours until it is given back, and its description is written.
        let (count, mut offset) =
            unsafe { ((*header).hdr.bh1.num_pkts, (*header).hdr.bh1.offset_to_first_pkt as usize) };
        for _ in 0..count {
            // SAFETY: the kernel chains `count` packets inside this block: header, then data at `tp_mac`.
            let (packet, data) = unsafe {
                let packet = block.add(offset);
                let found = &*packet.cast::<libc::tpacket3_hdr>();
                let data = packet.add(usize::from(found.tp_mac));
                (found, std::slice::from_raw_parts(data, found.tp_snaplen as usize))
            };
            each(Duration::new(packet.tp_sec.into(), packet.tp_nsec), data);
            offset += packet.tp_next_offset as usize;
        }
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % BLOCKS;
        true
    }

    /// Frames that found the ring full since the last call.
    pub fn dropped(&self) -> io::Result<u32> {
        // SAFETY: all-zero counters are valid ones.
        let mut counters: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of the counters.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counters).cast::<c_void>(),
                &raw mut length,
            )
        };
        if outcome == 0 { Ok(counters.tp_drops) } else { Err(Error::last_os_error()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made, of that size; nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.cast(), BLOCK * BLOCKS) };
    }
}

/// One instruction of a classic BPF program (the kernel's networking/filter documentation).
pub const fn bpf(code: u16, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: jump_true, jf: jump_false, k }
}

fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let socket: BorrowedFd<'_> = socket.as_fd();
    let value = std::ptr::from_ref(value).cast::<c_void>();
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a value of that type.
    let outcome = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of::<T>() as libc::socklen_t)
    };
    if outcome == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn bind(socket: &OwnedFd, interface: &str, protocol: u16) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)? as c_int;
    // SAFETY: an all-zero address is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    // SAFETY: the kernel reads an address of the family that it says it is, of its size.
    let outcome = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
