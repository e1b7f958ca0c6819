//! Looks for neighbours itself: the kernel's neighbour table, which a sweep would fill (`gc_thresh3`), is left alone.

use crate::filter;
use crate::links::Links;
use crate::neighbour;
use crate::netlink::Netlink;
use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, SockFilter, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

/// How many answers one drain takes from each socket at most.
const ANSWERS: usize = 4096;
/// The longest answer that is read, in bytes: an advertisement has about 72.
const LONGEST: usize = 512;

/// Asks neighbours for their link-layer addresses: ARP for IPv4, neighbour discovery for IPv6.
///
/// It keeps no state: who was asked, how often, and whom to believe is the caller's to know.
pub struct Solicitor {
    arp: Socket,
    ndp: Socket,
    netlink: Netlink,
    links: Links,
}

impl Solicitor {
    /// Opens the sockets; answers are received from here on.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; `EMFILE`.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            arp: listen(libc::ETH_P_ARP, &filter::arp_reply())?,
            ndp: listen(libc::ETH_P_IPV6, &filter::neighbour_advertisement())?,
            netlink: Netlink::open()?,
            links: Links::default(),
        })
    }

    /// Asks who has `target` on the link of an interface: an ARP request to everybody, or a neighbour solicitation to
    /// the target's solicited-node multicast address. `source` is an address of this host there; the answer goes to it.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` on an interface that has no link-layer addresses, `EAFNOSUPPORT` for addresses of two families,
    /// `ENETDOWN`, `ENODEV`, and what else sending may meet.
    pub fn ask(&mut self, interface: u32, source: IpAddr, target: IpAddr) -> io::Result<()> {
        let asked = self.send(interface, source, target);
        if asked.is_err() {
            self.links.forget();
        }
        asked
    }

    fn send(&mut self, interface: u32, source: IpAddr, target: IpAddr) -> io::Result<()> {
        let mac = self.links.ethernet(&mut self.netlink, interface)?.ok_or(Errno::EADDRNOTAVAIL)?;
        match (source, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let to = sys::link_address(libc::ETH_P_ARP as u16, interface, Some(neighbour::BROADCAST));
                self.arp.send_to(&neighbour::arp_request(mac, source, target), &to)?;
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let (packet, group) = neighbour::solicitation(mac, source, target);
                let to = sys::link_address(libc::ETH_P_IPV6 as u16, interface, Some(group));
                self.ndp.send_to(&packet, &to)?;
            }
            _ => return Err(Errno::EAFNOSUPPORT.into()),
        }
        Ok(())
    }

    /// Hands over every answer that is there: the interface that it came by, who has which link-layer address. Never
    /// waits. Any host of a link can answer for any other: only who was asked for should be believed.
    pub fn drain(&mut self, mut f: impl FnMut(u32, IpAddr, [u8; 6])) {
        type Parse = fn(&[u8]) -> Option<(IpAddr, [u8; 6])>;
        let kinds: [(&Socket, Parse); 2] =
            [(&self.arp, neighbour::arp_reply), (&self.ndp, neighbour::advertisement)];
        let mut bytes = [0; LONGEST];
        for (socket, parse) in kinds {
            for _ in 0..ANSWERS {
                match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut bytes) {
                    Ok((length, Some(from))) => {
                        if let Some((address, mac)) = bytes.get(..length).and_then(parse) {
                            f(from.ifindex() as u32, address, mac);
                        }
                    }
                    // An interface went down (ENETDOWN), or a signal came: the next call goes on.
                    Ok((_, None)) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
                    Err(_) => break,
                }
            }
        }
    }

    /// What to poll for input: there is some when an answer is there to drain.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.arp.as_fd(), self.ndp.as_fd()]
    }
}

/// A socket receives from the moment it is bound: by then its filter is there.
fn listen(protocol: libc::c_int, filter: &[SockFilter]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), None)?;
    socket.attach_filter(filter)?;
    socket.bind(&sys::link_address(protocol as u16, 0, None))?;
    Ok(socket)
}
