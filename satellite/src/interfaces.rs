//! The networks that this host is directly connected to: the scope of last resort.

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use std::net::IpAddr;

/// The networks of every interface that is up, loopback and link-local ones left out, ascending.
///
/// # Errors
/// When the kernel does not list its interfaces.
pub fn connected_networks() -> std::io::Result<Vec<IpNet>> {
    let mut networks: Vec<IpNet> = getifaddrs()?
        .filter(|interface| {
            interface.flags.contains(InterfaceFlags::IFF_UP)
                && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter_map(|interface| {
            let address = ip(interface.address.as_ref()?)?;
            let mask = ip(interface.netmask.as_ref()?)?;
            let link_local = match address {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            (!link_local).then(|| IpNet::with_netmask(address, mask).ok().map(|net| net.trunc()))?
        })
        .collect();
    networks.sort();
    networks.dedup();
    Ok(networks)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (_, Some(v6)) => Some(v6.ip().into()),
        _ => None,
    }
}
