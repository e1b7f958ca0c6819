//! A path without Ethernet: two TUN devices, one on the host and one on the router, and what enters the one leaves the
//! other. To the host it is what WireGuard, PPP or a VPN is: an interface of IP packets, without addresses below IP.
//!
//! Limits: about 50,000 packets a second; it needs a /dev/net/tun that the user may open.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use tun_rs::{DeviceBuilder, SyncDevice};

use super::Host;
use super::process::run_ok;

/// What a VPN leaves of an Ethernet frame, in bytes.
const MTU: u16 = 1_420;
/// The largest packet that may come.
const PACKET: usize = 2_048;

/// Leads all that the host sends and gets through the tunnel; its addresses stay as they are.
pub(super) fn start(router: &Host, host: &Host, number: usize) -> Result<(), String> {
    if !Path::new("/dev/net/tun").exists() {
        return Err("this machine has no /dev/net/tun".into());
    }
    let far = format!("tunnel{number}");
    let near_device = device(host, "tun0")?;
    let far_device = device(router, &far)?;
    for (from, to) in [(&near_device, &far_device), (&far_device, &near_device)] {
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        thread::spawn(move || carry(&from, &to));
    }
    for (family, address, bits) in [("-4", host.v4(), 32), ("-6", host.v6(), 128)] {
        let source = address.to_string();
        let ip =
            |host: &Host, words: &[&str]| run_ok(host.command("ip").arg(family).args(words.iter().copied()));
        ip(host, &["route", "replace", "default", "dev", "tun0", "src", &source]);
        ip(router, &["route", "add", &format!("{address}/{bits}"), "dev", &far]);
    }
    Ok(())
}

fn device(host: &Host, name: &str) -> Result<Arc<SyncDevice>, String> {
    // The device belongs to the network of the thread that opens it.
    let device = host.inside(|| DeviceBuilder::new().name(name).mtu(MTU).build_sync());
    let device = device.map_err(|error| format!("open /dev/net/tun: {error}"))?;
    run_ok(host.command("ip").args(["link", "set", name, "txqueuelen", "10000", "up"]));
    host.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
    Ok(Arc::new(device))
}

fn carry(from: &SyncDevice, to: &SyncDevice) {
    let mut packet = [0; PACKET];
    // An error means that the device is gone, and with it the lab.
    while let Ok(length) = from.recv(&mut packet) {
        // An interface that is down loses the packet.
        let _ = to.send(&packet[..length]);
    }
}
