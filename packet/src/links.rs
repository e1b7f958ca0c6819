//! What kind of link an interface is, remembered for a second.

use crate::netlink::{Netlink, unexpected};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkLayerType, LinkMessage};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// How long an answer is believed: a sweep asks once a target, an interface changes seldom.
const FRESH: Duration = Duration::from_secs(1);
/// How many interfaces are remembered; with more, all are forgotten and asked for again.
const REMEMBERED: usize = 1024;

/// The interfaces that were asked for.
#[derive(Default)]
pub(crate) struct Links(HashMap<u32, (Instant, Option<[u8; 6]>)>);

impl Links {
    /// The link-layer address of an interface that needs those of its neighbours: Ethernet, with ARP and NDP. Nothing
    /// for loopback, tunnels and the like.
    ///
    /// # Errors
    /// `ENODEV` when there is no such interface, and what else the kernel answers.
    pub(crate) fn ethernet(&mut self, netlink: &mut Netlink, interface: u32) -> io::Result<Option<[u8; 6]>> {
        let now = Instant::now();
        if let Some((at, known)) = self.0.get(&interface)
            && now.duration_since(*at) < FRESH
        {
            return Ok(*known);
        }
        let mut question = LinkMessage::default();
        question.header.index = interface;
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let address = match netlink.ask(RouteNetlinkMessage::GetLink(question))? {
            RouteNetlinkMessage::NewLink(link) => ethernet(&link),
            other => return Err(unexpected(&other)),
        };
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(interface, (now, address));
        Ok(address)
    }

    /// Forgets everything: something has gone wrong, so something may have changed.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

fn ethernet(link: &LinkMessage) -> Option<[u8; 6]> {
    let plain = LinkFlags::Loopback | LinkFlags::Pointopoint | LinkFlags::Noarp;
    if link.header.link_layer_type != LinkLayerType::Ether || link.header.flags.intersects(plain) {
        return None;
    }
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => address.as_slice().try_into().ok(),
        _ => None,
    })
}
