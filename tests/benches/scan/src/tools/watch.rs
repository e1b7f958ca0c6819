//! A look at the wire beside a UDP scan: how long after the scanner's first packet each service was first heard. It
//! holds for every scanner alike, whatever that tells of its own times.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::packet::{Ring, bpf};
use crate::ports;

/// What to look at.
#[derive(Args, Debug)]
pub struct Watch {
    /// The interface between scanner and target.
    #[arg(long)]
    interface: String,
    /// The address of the target.
    #[arg(long)]
    target: Ipv4Addr,
    /// The ports of the services.
    #[arg(long)]
    ports: String,
}

/// Looks until its standard input ends; prints the milliseconds by port.
pub fn run(watch: &Watch) -> Result<()> {
    let ports = ports::parse(&watch.ports)?;
    // IPv4 and UDP.
    let filter = [
        bpf(0x28, 0, 0, 12),
        bpf(0x15, 0, 3, 0x0800),
        bpf(0x30, 0, 0, 23),
        bpf(0x15, 0, 1, 17),
        bpf(0x06, 0, 0, 96),
        bpf(0x06, 0, 0, 0),
    ];
    let mut ring =
        Ring::open(&watch.interface, &filter).context("open a packet socket (needs CAP_NET_RAW)")?;
    println!("listening");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Relaxed);
    });
    let target = watch.target.octets();
    let mut first: Option<Duration> = None;
    let mut heard: BTreeMap<u16, Duration> = BTreeMap::new();
    while !stop.load(Relaxed) {
        let more = ring.read(|at, frame| {
            let Some(frame) = frame.first_chunk::<38>() else { return };
            if frame[30..34] == target {
                first.get_or_insert(at);
            }
            let port = u16::from_be_bytes([frame[34], frame[35]]);
            if frame[26..30] == target && ports.contains(&port) {
                heard.entry(port).or_insert(at);
            }
        });
        if !more {
            ring.wait(20)?;
        }
    }
    let since = |at: &Duration| at.saturating_sub(first.unwrap_or(*at)).as_secs_f64() * 1e3;
    let millis: BTreeMap<String, f64> =
        heard.iter().map(|(port, at)| (port.to_string(), since(at))).collect();
    println!("{}", serde_json::json!({ "millis": millis }));
    Ok(())
}
