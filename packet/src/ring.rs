//! A receive ring that a packet socket and this process share (`PACKET_RX_RING`, `TPACKET_V2`).
//!
//! Version 2 and not 3: its packets are visible the moment they arrive, one by one; measured, 2 µs after the kernel's
//! stamp. Version 3 shows a block when it is full or its timeout (a millisecond at least) is over, which would delay every
//! answer of a slow sweep.
#![allow(unsafe_code)]

use crate::sys;
use socket2::Socket;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The room for one packet in bytes: the kernel's header and address (80) and what is kept of the packet.
const FRAME: usize = 256;
/// The piece in which the kernel allocates the ring, in bytes: a multiple of any page size in use.
const PIECE: usize = 64 * 1024;

/// The ring. Its memory is unmapped, and its socket closed, when it is dropped.
pub(crate) struct Ring {
    socket: Socket,
    memory: NonNull<u8>,
    frames: usize,
    /// The frame that the kernel fills next, as far as we know.
    next: usize,
}

// SAFETY: the memory belongs to this ring alone and is reached only through it.
unsafe impl Send for Ring {}

impl Ring {
    /// Gives the socket a ring of about `bytes` bytes, a multiple of 64 KiB. To be called before it is bound.
    pub(crate) fn new(socket: Socket, bytes: usize) -> io::Result<Self> {
        sys::set_packet_option(
            &socket,
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V2 as libc::c_int,
        )?;
        let pieces = bytes.div_ceil(PIECE).max(1);
        let frames = pieces * (PIECE / FRAME);
        let request = libc::tpacket_req {
            tp_block_size: PIECE as u32,
            tp_block_nr: pieces as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: frames as u32,
        };
        sys::set_packet_option(&socket, libc::PACKET_RX_RING, request)?;
        let length = NonZeroUsize::MIN.saturating_add(pieces * PIECE - 1);
        // SAFETY: a new mapping, of the ring's own length, at an address of the kernel's choice.
        let memory = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
                &socket,
                0,
            )
        }?;
        Ok(Self { socket, memory: memory.cast(), frames, next: 0 })
    }

    /// Hands every packet that is there, and its time stamp since the epoch, to `f`; one round of the ring at most.
    pub(crate) fn drain(&mut self, mut f: impl FnMut(&[u8], Duration)) {
        for _ in 0..self.frames {
            // SAFETY: `next` is below `frames`, so this is a frame of the ring.
            let frame = unsafe { self.memory.add(self.next * FRAME) };
            // SAFETY: a frame begins with its status word, aligned; both sides access it atomically.
            let status = unsafe { AtomicU32::from_ptr(frame.as_ptr().cast()) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return;
            }
            // SAFETY: the frame is ours until its status is given back; every bit pattern is a header.
            let header = unsafe { ptr::read(frame.as_ptr().cast::<libc::tpacket2_hdr>()) };
            let start = usize::from(header.tp_net).min(FRAME);
            let length = (header.tp_snaplen as usize).min(FRAME - start);
            // SAFETY: the bytes lie inside the frame, and the kernel does not write there while it is ours.
            let bytes = unsafe { slice::from_raw_parts(frame.as_ptr().add(start), length) };
            f(bytes, Duration::new(header.tp_sec.into(), header.tp_nsec.min(999_999_999)));
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % self.frames;
        }
    }

    /// How many packets found no room since this was asked last.
    pub(crate) fn dropped(&mut self) -> io::Result<u64> {
        let counts: libc::tpacket_stats = sys::packet_option(&self.socket, libc::PACKET_STATISTICS)?;
        Ok(counts.tp_drops.into())
    }

    /// The socket that has the ring.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's own, whole, and nothing borrowed from it outlives `drain`. It cannot fail.
        let _ = unsafe { munmap(self.memory.cast(), self.frames * FRAME) };
    }
}
