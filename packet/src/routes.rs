//! Which way a packet goes: the kernel's own routing decision, and its neighbour table (rtnetlink(7)).

use crate::links::Links;
use crate::netlink::{Netlink, unexpected};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use std::io;
use std::net::IpAddr;

/// How a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The index of the interface that packets leave by.
    pub interface: u32,
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// Whose link-layer address the packets need.
    pub hop: Hop,
}

/// The next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Nobody's, or only the kernel knows: loopback, an address of this host, broadcast and multicast, an interface
    /// without link-layer addresses, an encapsulating route. Such packets are left to the kernel.
    Kernel,
    /// A router on an Ethernet link; it may have an IPv6 address on the way to an IPv4 destination (RFC 5549).
    Gateway(IpAddr),
    /// The destination itself, on an Ethernet link.
    OnLink,
}

/// Asks the kernel about routes and neighbours.
pub struct Routes {
    netlink: Netlink,
    links: Links,
}

impl Routes {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// `EMFILE`, or a kernel without rtnetlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, links: Links::default() })
    }

    /// The way to a destination. Of a route with several next hops it is the one that the kernel picks for it.
    ///
    /// # Errors
    /// `ENETUNREACH` without a route, `EHOSTUNREACH`, `EACCES` and `EINVAL` by an unreachable, prohibit or blackhole
    /// route, `EADDRNOTAVAIL` when there is no address to send from.
    pub fn lookup(&mut self, destination: IpAddr) -> io::Result<Route> {
        let answer = self.netlink.ask(RouteNetlinkMessage::GetRoute(question(destination)));
        let found = answer.and_then(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Found::new(destination, &route),
            other => Err(unexpected(&other)),
        });
        let route = found.and_then(|found| {
            let ethernet = match self.links.ethernet(&mut self.netlink, found.interface) {
                // A kernel may say things of an interface that are not understood; it knows the way all the same.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
                result => result?,
            };
            let hop = match found.gateway {
                _ if ethernet.is_none() || !found.plain => Hop::Kernel,
                Some(gateway) => Hop::Gateway(gateway),
                None => Hop::OnLink,
            };
            Ok(Route { interface: found.interface, source: found.source, hop })
        });
        if route.is_err() {
            self.links.forget();
        }
        route
    }

    /// The link-layer address of a neighbour, if the kernel knows one that it would use (reachable, stale, delayed,
    /// probed, permanent or noarp).
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface, and what else the kernel answers; not knowing is no error.
    pub fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        let mut question = NeighbourMessage::default();
        question.header.family = family(address);
        question.header.ifindex = interface;
        question.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        match self.netlink.ask(RouteNetlinkMessage::GetNeighbour(question)) {
            Ok(RouteNetlinkMessage::NewNeighbour(neighbour)) => Ok(usable(&neighbour)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What the kernel's answer says.
struct Found {
    interface: u32,
    source: IpAddr,
    gateway: Option<IpAddr>,
    /// A packet needs nothing but a link-layer header.
    plain: bool,
}

impl Found {
    fn new(destination: IpAddr, route: &RouteMessage) -> io::Result<Self> {
        // Some kernels answer with such a route, others with the error that it stands for.
        let refused = match route.header.kind {
            RouteType::Unreachable => Some(Errno::EHOSTUNREACH),
            RouteType::Prohibit => Some(Errno::EACCES),
            RouteType::BlackHole => Some(Errno::EINVAL),
            RouteType::Throw => Some(Errno::ENETUNREACH),
            _ => None,
        };
        if let Some(errno) = refused {
            return Err(errno.into());
        }
        let (mut interface, mut source, mut gateway) = (None, None, None);
        let mut plain = route.header.kind == RouteType::Unicast;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = Some(*index),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
                RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => plain = false,
                _ => {}
            }
        }
        let source = source.filter(|source| source.is_ipv4() == destination.is_ipv4());
        Ok(Self {
            interface: interface.ok_or(Errno::ENETUNREACH)?,
            source: source.ok_or(Errno::EADDRNOTAVAIL)?,
            gateway,
            plain,
        })
    }
}

fn question(destination: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    question.header.address_family = family(destination);
    let (address, bits) = match destination {
        IpAddr::V4(v4) => (RouteAddress::Inet(v4), 32),
        IpAddr::V6(v6) => (RouteAddress::Inet6(v6), 128),
    };
    question.header.destination_prefix_length = bits;
    question.attributes.push(RouteAttribute::Destination(address));
    question
}

fn usable(neighbour: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    if !matches!(neighbour.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp) {
        return None;
    }
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => address.as_slice().try_into().ok(),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
