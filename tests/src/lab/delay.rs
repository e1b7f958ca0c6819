//! Delay without netem: the router sends what leaves a segment through a TUN device, where two threads of this process
//! keep each packet for a while and hand it back.
//!
//! Limits: only the outward direction is delayed (a round trip grows by the delay once); the packets keep their order;
//! about 50,000 packets a second pass and [`QUEUE`] are kept, beyond which packets are lost, as on a real link; packets
//! to the router itself and within the segment are not delayed. It needs a /dev/net/tun that the user may open.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, SyncDevice};

use super::process::run_ok;
use super::{Host, Segment};

/// How many packets are kept at most.
const QUEUE: usize = 65_536;
/// The largest packet that a device of MTU 1500 hands out.
const PACKET: usize = 2_048;
/// Policy routing tables count from here.
const FIRST_TABLE: usize = 100;

/// A delay on everything that leaves one segment. It lasts as long as the universe.
#[derive(Debug)]
pub(super) struct DelayBox {
    segment: String,
}

impl DelayBox {
    /// Puts a delay box behind a segment of `router`.
    pub(super) fn start(
        router: &Host,
        segment: &Segment,
        number: usize,
        delay: Duration,
    ) -> Result<Self, String> {
        if !Path::new("/dev/net/tun").exists() {
            return Err("this machine has no /dev/net/tun".into());
        }
        let name = format!("delay{number}");
        // The device belongs to the network of the thread that opens it.
        let device = router.inside(|| DeviceBuilder::new().name(&name).mtu(1500).build_sync());
        let device = Arc::new(device.map_err(|error| format!("open /dev/net/tun: {error}"))?);
        let (keep, kept) = sync_channel(QUEUE);
        let source = Arc::clone(&device);
        thread::spawn(move || take(&source, &keep, delay));
        thread::spawn(move || give_back(&device, &kept));

        let table = (FIRST_TABLE + number).to_string();
        run_ok(router.command("ip").args(["link", "set", &name, "txqueuelen", "10000", "up"]));
        router.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
        for family in ["-4", "-6"] {
            let ip = || router.command("ip").arg(family);
            run_ok(ip().args(["route", "add", "default", "dev", &name, "table", &table]));
            run_ok(ip().args(["rule", "add", "iif", &segment.name, "table", &table]));
        }
        Ok(Self { segment: segment.name.clone() })
    }

    /// Whose packets it delays.
    pub(super) fn segment(&self) -> &str {
        &self.segment
    }
}

fn take(device: &SyncDevice, keep: &SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut packet = [0; PACKET];
    // An error means that the device is gone, and with it the lab.
    while let Ok(length) = device.recv(&mut packet) {
        // A full queue loses the packet.
        let _ = keep.try_send((Instant::now() + delay, packet[..length].to_vec()));
    }
}

fn give_back(device: &SyncDevice, kept: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, packet)) = kept.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // The router refuses a packet that makes no sense to it, as it would from a wire.
        let _ = device.send(&packet);
    }
}
