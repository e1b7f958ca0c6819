//! Devices that lie: they answer for a whole network that has no host, from the router, as some firewalls, scrubbing
//! services and traps do.
//!
//! The router sends the network's packets to a TUN device, where a thread answers TCP and drops all else.

use std::path::Path;
use std::thread;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpSlice, TransportSlice};
use ipnet::IpNet;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::Host;
use super::process::run_ok;

/// The largest packet that a device of MTU 1500 hands out.
const PACKET: usize = 2_048;
/// Hops that an answer may make.
const TTL: u8 = 64;

/// What the device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middlebox {
    /// It answers every SYN with a SYN-ACK, window 0 and without options, and nothing else ever.
    SynAck,
    /// It lets everybody connect, with a window of a few bytes that closes at once, and never ends a connection.
    Tarpit,
}

/// Puts it behind the router, as all there is of a network.
pub(super) fn start(router: &Host, kind: Middlebox, network: IpNet, number: usize) -> Result<(), String> {
    if !Path::new("/dev/net/tun").exists() {
        return Err("this machine has no /dev/net/tun".into());
    }
    let name = format!("liar{number}");
    // The device belongs to the network of the thread that opens it.
    let device = router.inside(|| DeviceBuilder::new().name(&name).mtu(1500).build_sync());
    let device = device.map_err(|error| format!("open /dev/net/tun: {error}"))?;
    run_ok(router.command("ip").args(["link", "set", &name, "txqueuelen", "10000", "up"]));
    let family = if network.addr().is_ipv4() { "-4" } else { "-6" };
    run_ok(router.command("ip").args([family, "route", "add", &network.to_string(), "dev", &name]));
    router.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
    thread::spawn(move || serve(&device, kind));
    Ok(())
}

fn serve(device: &SyncDevice, kind: Middlebox) {
    let mut packet = [0; PACKET];
    // An error means that the device is gone, and with it the lab.
    while let Ok(length) = device.recv(&mut packet) {
        if let Some(answer) = answer(kind, &packet[..length]) {
            let _ = device.send(&answer);
        }
    }
}

/// The answer to a packet, if it gets one.
fn answer(kind: Middlebox, packet: &[u8]) -> Option<Vec<u8>> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return None };
    let back = match sliced.net? {
        NetSlice::Ipv4(ip) => PacketBuilder::ipv4(ip.header().destination(), ip.header().source(), TTL),
        NetSlice::Ipv6(ip) => PacketBuilder::ipv6(ip.header().destination(), ip.header().source(), TTL),
        NetSlice::Arp(_) => return None,
    };
    let handshake = tcp.syn() && !tcp.ack() && !tcp.rst();
    let after = after(&tcp);
    let back = match (kind, handshake) {
        (Middlebox::SynAck, true) => {
            back.tcp(tcp.destination_port(), tcp.source_port(), number_for(&tcp), 0).syn().ack(after)
        }
        (Middlebox::Tarpit, true) => {
            back.tcp(tcp.destination_port(), tcp.source_port(), number_for(&tcp), 5).syn().ack(after)
        }
        // Data and the wish to end meet the acknowledgement of what came before them, and a window that is shut.
        (Middlebox::Tarpit, false) if !tcp.rst() && (tcp.fin() || !tcp.payload().is_empty()) => {
            let sequence = tcp.acknowledgment_number();
            back.tcp(tcp.destination_port(), tcp.source_port(), sequence, 0).ack(tcp.sequence_number())
        }
        _ => return None,
    };
    let mut answer = Vec::with_capacity(64);
    back.write(&mut answer, &[]).ok()?;
    Some(answer)
}

/// The sequence number that acknowledges a SYN.
fn after(tcp: &TcpSlice<'_>) -> u32 {
    tcp.sequence_number().wrapping_add(1)
}

/// An own first sequence number: any will do, the same for a SYN that is sent again.
fn number_for(tcp: &TcpSlice<'_>) -> u32 {
    tcp.sequence_number().rotate_left(16) ^ u32::from(tcp.destination_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Vec<u8> {
        let mut packet = Vec::new();
        let syn =
            PacketBuilder::ipv4([10, 99, 1, 10], [10, 99, 9, 7], 63).tcp(40_000, 80, 1_000, 64_240).syn();
        syn.write(&mut packet, &[]).unwrap();
        packet
    }

    #[test]
    fn a_syn_is_acknowledged_in_the_targets_name() {
        for (kind, window) in [(Middlebox::SynAck, 0), (Middlebox::Tarpit, 5)] {
            let answer = answer(kind, &syn()).unwrap();
            let sliced = SlicedPacket::from_ip(&answer).unwrap();
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (sliced.net, sliced.transport)
            else {
                panic!("not IPv4 and TCP: {answer:?}");
            };
            assert_eq!((ip.header().source(), ip.header().destination()), ([10, 99, 9, 7], [10, 99, 1, 10]));
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
            assert!(tcp.syn() && tcp.ack() && !tcp.rst());
            assert_eq!((tcp.acknowledgment_number(), tcp.window_size()), (1_001, window));
            assert!(tcp.options().is_empty());
        }
    }

    #[test]
    fn what_is_no_tcp_gets_no_answer() {
        for length in 0..syn().len() {
            assert_eq!(answer(Middlebox::SynAck, &syn()[..length]), None);
        }
    }
}
