//! Empties the connection table of a network, so that one run never pays for the flows of the run before: ctnetlink's
//! delete without a filter (linux/netfilter/nfnetlink_conntrack.h), what `conntrack -F` sends.

use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_DELETE.
const DELETE: u16 = 1 << 8 | 2;
/// NLM_F_REQUEST and NLM_F_ACK.
const FLAGS: u16 = 1 | 4;

/// Empties the table of this network.
pub fn run() -> Result<()> {
    let netlink =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)));
    let mut netlink = netlink.context("open a netlink socket")?;
    // nlmsghdr: length, type, flags, sequence, port; nfgenmsg: any family, version 0, resource 0.
    let mut request = Vec::from(20_u32.to_ne_bytes());
    request.extend(DELETE.to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    request.extend([0; 12]);
    netlink.send(&request).context("ask for an empty connection table (needs CAP_NET_ADMIN)")?;
    let mut answer = [0; 128];
    let length = netlink.read(&mut answer).context("read netlink's answer")?;
    ensure!(length >= 20, "netlink's answer has {length} bytes");
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(code == 0, "empty the connection table: {}", Errno::from_raw(-code));
    Ok(())
}
