//! Whether this host has a word of its own about packets to an address. A packet socket passes by its firewall and its
//! IPsec policies; where there are any, probes are left to the kernel, so that they hold.

use nix::net::if_::if_indextoname;
use nix::sys::socket::{getsockopt, sockopt};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// The largest packet of each interface, by its index.
    mtus: HashMap<u32, Option<i32>>,
}

impl Policy {
    /// Whether an IPsec policy blocks or encapsulates packets to an address that leave by this interface. A connected
    /// socket shows it: it cannot be connected, or has room for less than the interface (ip(7), `IP_MTU`). Nothing is
    /// sent. A path with a smaller MTU looks the same, and takes the longer way with it.
    pub(super) fn applies(&mut self, address: IpAddr, interface: u32) -> bool {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let Ok(socket) = UdpSocket::bind((any, 0)) else { return false };
        // The discard port, which is never sent to.
        if socket.connect((address, 9)).is_err() {
            return true;
        }
        let mtu = *self.mtus.entry(interface).or_insert_with(|| mtu_of(interface));
        address.is_ipv4()
            && mtu.zip(getsockopt(&socket, sockopt::IpMtu).ok()).is_some_and(|(whole, left)| left < whole)
    }
}

fn mtu_of(interface: u32) -> Option<i32> {
    let name = if_indextoname(interface).ok()?;
    let path = format!("/sys/class/net/{}/mtu", name.to_str().ok()?);
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
