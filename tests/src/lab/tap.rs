//! Who listens at the router: sees every SYN that passes, and may answer in the target's name without knowing more of the
//! probe than a stranger can guess or see. It sees IPv4 only.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::thread;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

use super::Host;

/// IPv4 in an Ethernet frame.
const ETH_P_IP: u16 = 0x0800;
/// A protocol of packets that bring their own IP header.
const IPPROTO_RAW: i32 = 255;
/// What may wait to be looked at, in bytes; the kernel may grant less.
const BUFFER: usize = 8 << 20;
/// SYNs remembered at most.
const REMEMBERED: usize = 200_000;

/// The addresses, ports and sequence number of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Who tries.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// What an answer must acknowledge.
    pub sequence: u32,
}

/// A listener at the router. It lasts as long as the universe.
#[derive(Debug)]
pub struct Tap {
    seen: Arc<Mutex<Vec<Syn>>>,
}

impl Tap {
    #[track_caller]
    pub(super) fn start(
        router: &Host,
        mut answer: impl FnMut(&Syn) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let (mut ear, mouth) = router.inside(|| {
            // By its protocol, it is given what comes in, once, and nothing of what goes out.
            let ear =
                Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETH_P_IP.to_be()))));
            let mouth = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)));
            (ear.expect("a packet socket"), mouth.expect("a raw socket"))
        });
        let _ = ear.set_recv_buffer_size(BUFFER);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&seen);
        thread::spawn(move || {
            let mut packet = [0; 2_048];
            while let Ok(length) = ear.read(&mut packet) {
                let Some(syn) = Syn::read(&packet[..length]) else { continue };
                for packet in answer(&syn) {
                    // What the router cannot send is lost, as on a wire.
                    let _ = mouth.send_to(&packet, &syn.from.into());
                }
                let mut seen = own.lock().expect("nobody panics with it");
                if seen.len() < REMEMBERED {
                    seen.push(syn);
                }
            }
        });
        Self { seen }
    }

    /// The SYNs that passed so far, in their order.
    pub fn seen(&self) -> Vec<Syn> {
        self.seen.lock().expect("nobody panics with it").clone()
    }
}

impl Syn {
    fn read(packet: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (sliced.net, sliced.transport)
        else {
            return None;
        };
        let header = ip.header();
        (tcp.syn() && !tcp.ack()).then(|| Self {
            from: SocketAddrV4::new(header.source_addr(), tcp.source_port()),
            to: SocketAddrV4::new(header.destination_addr(), tcp.destination_port()),
            sequence: tcp.sequence_number(),
        })
    }

    /// A SYN-ACK in the target's name.
    pub fn syn_ack(&self, acknowledged: u32) -> Vec<u8> {
        self.back(|tcp| tcp.syn().ack(acknowledged))
    }

    /// A RST in the target's name, with an acknowledgement as the kernel sends it.
    pub fn reset(&self, acknowledged: u32) -> Vec<u8> {
        self.back(|tcp| tcp.rst().ack(acknowledged))
    }

    /// An ICMP "administratively prohibited" from this address, about a SYN with this sequence number.
    pub fn prohibited(&self, by: Ipv4Addr, sequence: u32) -> Vec<u8> {
        let about = PacketBuilder::ipv4(self.from.ip().octets(), self.to.ip().octets(), 60)
            .tcp(self.from.port(), self.to.port(), sequence, 1_024)
            .syn();
        let mut quoted = Vec::new();
        about.write(&mut quoted, &[]).expect("a vector takes everything");
        let error = PacketBuilder::ipv4(by.octets(), self.from.ip().octets(), 64).icmpv4_raw(3, 13, [0; 4]);
        let mut packet = Vec::new();
        error.write(&mut packet, &quoted).expect("a vector takes everything");
        packet
    }

    fn back(
        &self,
        flags: impl FnOnce(
            etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
    ) -> Vec<u8> {
        let ip = PacketBuilder::ipv4(self.to.ip().octets(), self.from.ip().octets(), 63);
        let mut packet = Vec::new();
        let tcp = flags(ip.tcp(self.to.port(), self.from.port(), 1, 64_240));
        tcp.write(&mut packet, &[]).expect("a vector takes everything");
        packet
    }
}
