//! Raw packets on Linux: how probes are made and sent, and how their answers are received and read.
//!
//! - [`SourcePorts`]: a block of TCP ports that is ours alone, so that no connection of the kernel's is disturbed.
//! - [`Key`], [`Flow`]: what a probe carries so that only its own answer verifies.
//! - [`syn`], [`ack`], [`echo_request`]: the probes, as bytes. [`read`]: what a packet says about them. Both pure.
//! - [`Sender`], [`Receiver`]: batches out by sendmmsg(2), answers in through a ring shared with the kernel.
//! - [`Routes`], [`Solicitor`]: which way a packet goes, and the link-layer address of the next hop.
//!
//! Nothing here retries, waits for answers or keeps state about a target: that is the scan engine's. All of it needs
//! `CAP_NET_RAW` and no more ([`why_not`] tells), and sees the network namespace of the thread that opens it.
//!
//! This is the one crate with `unsafe` code: the system calls that no safe binding covers (`sys`, `ring`).

mod build;
mod clock;
mod filter;
mod ip;
mod key;
mod links;
mod neighbour;
mod netlink;
mod ports;
mod read;
mod receive;
mod ring;
mod routes;
mod send;
mod solicit;
mod sys;

use std::io;

pub use build::{Packet, ack, echo_request, syn};
pub use key::{Flow, Key};
pub use nix::errno::Errno;
pub use ports::{Block, SourcePorts};
pub use read::{Probed, Reply, Seen, read};
pub use receive::{Families, Receiver};
pub use routes::{Hop, Route, Routes};
pub use send::{Sender, Via};
pub use solicit::Solicitor;

/// Whether this process may open packet sockets and raw sockets.
#[must_use]
pub fn capable() -> bool {
    why_not().is_none()
}

/// Why this process may not open packet sockets and raw sockets, and what to do; nothing if it may. It tries.
#[must_use]
pub fn why_not() -> Option<io::Error> {
    let error = Sender::open().err()?;
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "; they need CAP_NET_RAW",
        _ => "",
    };
    Some(io::Error::new(error.kind(), format!("raw sockets cannot be opened: {error}{advice}")))
}
