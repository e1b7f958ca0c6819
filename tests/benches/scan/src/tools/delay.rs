//! A long link: what comes in by one TUN device goes out by another one a while later. One thread takes, one gives, so
//! that the taker never waits for the network stack behind the giver.
//!
//! Limits: packets keep their order; about 100,000 a second pass where both threads have a core; [`QUEUE`] are held, and
//! what comes beyond that waits in the device's own queue, which loses what it has no room for and counts that.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use tun_rs::{DeviceBuilder, SyncDevice};

/// Packets held at a time: two seconds of 130,000 a second.
const QUEUE: usize = 1 << 18;
/// Never slept for less: a sleep takes some 50 microseconds, however short it is meant to be.
const SHORTEST_SLEEP: Duration = Duration::from_micros(60);
/// The largest packet that a device of MTU 1500 hands out, in bytes.
const PACKET: usize = 2_048;

/// Which devices to make, and how long the way between them is.
#[derive(Args, Debug)]
pub struct Delay {
    /// The device that takes packets.
    #[arg(long)]
    from: String,
    /// The device that they leave by.
    #[arg(long)]
    to: String,
    /// How long each is held, in milliseconds.
    #[arg(long)]
    millis: u64,
}

/// Runs it until the devices are gone.
pub fn run(delay: &Delay) -> Result<()> {
    let device = |name: &str| {
        DeviceBuilder::new()
            .name(name)
            .mtu(1500)
            .build_sync()
            .with_context(|| format!("make the TUN device {name} (needs /dev/net/tun)"))
    };
    let (from, to) = (device(&delay.from)?, device(&delay.to)?);
    let (keep, kept) = sync_channel(QUEUE);
    let held = Duration::from_millis(delay.millis);
    let giver = thread::spawn(move || give(&to, &kept));
    take(&from, &keep, held);
    drop(keep);
    giver.join().map_err(|_| anyhow::anyhow!("the giving thread panicked"))
}

fn take(device: &SyncDevice, keep: &SyncSender<(Instant, Box<[u8]>)>, held: Duration) {
    let mut packet = [0; PACKET];
    // An error means that the device is gone, and with it the lab.
    while let Ok(length) = device.recv(&mut packet) {
        if keep.send((Instant::now() + held, packet[..length].into())).is_err() {
            return;
        }
    }
}

fn give(device: &SyncDevice, kept: &Receiver<(Instant, Box<[u8]>)>) {
    while let Ok((due, packet)) = kept.recv() {
        let early = due.saturating_duration_since(Instant::now());
        if early > SHORTEST_SLEEP {
            thread::sleep(early);
        }
        // A router refuses a packet that makes no sense to it, as it would from a wire.
        let _ = device.send(&packet);
    }
}
