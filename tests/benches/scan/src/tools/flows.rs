//! The second flow through a firewall: somebody else's connections while a scan runs. A firewall whose table the scan
//! has filled refuses them, or lets them in only with a later SYN.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

/// Longer than this, and a SYN was lost and sent again (after 1 s, RFC 6298).
const AT_ONCE: Duration = Duration::from_millis(900);

/// Where to connect to, and how often.
#[derive(Args, Debug)]
pub struct Flows {
    /// The address and port of a listener.
    #[arg(long)]
    to: SocketAddr,
    /// Milliseconds from one connection to the next.
    #[arg(long, default_value_t = 50)]
    every: u64,
}

/// Connects until its standard input ends; prints how many connections were opened and refused.
pub fn run(flows: &Flows) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        // The end, or an error, is all that is waited for.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Relaxed);
    });
    let (mut opened, mut refused, mut worst) = (0_u64, 0_u64, Duration::ZERO);
    while !stop.load(Relaxed) {
        let start = Instant::now();
        match TcpStream::connect_timeout(&flows.to, AT_ONCE) {
            Ok(_) => opened += 1,
            Err(_) => refused += 1,
        }
        worst = worst.max(start.elapsed());
        thread::sleep(Duration::from_millis(flows.every).saturating_sub(start.elapsed()));
    }
    println!(
        "{}",
        serde_json::json!({ "opened": opened, "refused": refused, "worst_ms": worst.as_secs_f64() * 1e3 })
    );
    Ok(())
}
