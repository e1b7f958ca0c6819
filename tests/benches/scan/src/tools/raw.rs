//! The bare raw SYN sender: the limit that scanners are measured by. It sends one SYN to every port, as fast as the
//! kernel takes them, notes what comes back, and does so again for what stayed silent, as often as it is told. It has no
//! congestion control, no order but the loop's, and no use but this. IPv4 over Ethernet, to a known router.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, TcpHeader, TcpOptionElement};

use super::packet::{BATCH, Ring, Sender, bpf};
use crate::ports;

/// Ethernet, IPv4 and TCP with the one option of 4 bytes that every stack sends: MSS.
const FRAME: usize = 14 + 20 + 24;
/// Where the answers come to. Below the kernel's own ports, so that no connection of the machine's meets it.
const SOURCE_PORT: u16 = 31_415;
/// SYNs sent at once when there is a pace to keep.
const PACED_BATCH: usize = 16;
/// How long the last answers are waited for.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// What to send to whom.
#[derive(Args, Debug)]
pub struct Raw {
    /// The interface to send by.
    #[arg(long)]
    interface: String,
    /// The source address.
    #[arg(long)]
    source: Ipv4Addr,
    /// The router's hardware address.
    #[arg(long)]
    router: String,
    /// The first address.
    #[arg(long)]
    first: Ipv4Addr,
    /// The last address.
    #[arg(long)]
    last: Ipv4Addr,
    /// The ports.
    #[arg(long)]
    ports: String,
    /// How often at most each port is asked.
    #[arg(long)]
    passes: u32,
    /// SYNs a second; as fast as the kernel takes them when 0.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Milliseconds between two passes.
    #[arg(long, default_value_t = 60)]
    gap: u64,
    /// Where the states go, a line for each.
    #[arg(long)]
    out: PathBuf,
}

/// What is known of every (address, port), and how to find the place of one.
struct Answers {
    first: u32,
    hosts: usize,
    ports: Vec<u16>,
    places: Vec<u32>,
    states: Vec<AtomicU8>,
    key: RandomState,
}

const SILENT: u8 = 0;
const OPEN: u8 = 1;
const CLOSED: u8 = 2;

/// Runs it; prints how many seconds it took and what was lost on the way in.
pub fn run(raw: &Raw) -> Result<()> {
    let answers = Arc::new(Answers::new(raw)?);
    // TCP to the source port; IPv4 without options.
    let filter = [
        bpf(0x28, 0, 0, 12),
        bpf(0x15, 0, 5, 0x0800),
        bpf(0x30, 0, 0, 23),
        bpf(0x15, 0, 3, 6),
        bpf(0x28, 0, 0, 36),
        bpf(0x15, 0, 1, u32::from(SOURCE_PORT)),
        bpf(0x06, 0, 0, 96),
        bpf(0x06, 0, 0, 0),
    ];
    let ring = Ring::open(&raw.interface, &filter).context("open the receive ring (needs CAP_NET_RAW)")?;
    let sender = Sender::open(&raw.interface).context("open the packet socket (needs CAP_NET_RAW)")?;
    let mut template = Template::new(raw)?;
    let stop = Arc::new(AtomicBool::new(false));
    let receiver = {
        let (answers, stop) = (Arc::clone(&answers), Arc::clone(&stop));
        thread::spawn(move || receive(ring, &answers, &stop))
    };

    let start = Instant::now();
    let mut sent = 0_u64;
    let mut batch = Vec::with_capacity(BATCH);
    let mut pace = Pace { rate: raw.rate, start, sent: 0 };
    for pass in 0..raw.passes {
        let before = sent;
        for (index, port) in answers.ports.iter().enumerate() {
            for host in 0..answers.hosts {
                if answers.states[index * answers.hosts + host].load(Relaxed) != SILENT {
                    continue;
                }
                let address = Ipv4Addr::from(answers.first + host as u32);
                batch.push(template.frame(address, *port, answers.sequence(address, *port))?);
                sent += 1;
                // Small batches where the pace is slow, so that a batch is no burst.
                if batch.len() == if raw.rate == 0 { BATCH } else { PACED_BATCH } {
                    pace.wait(batch.len());
                    sender.send(&batch).context("send SYNs")?;
                    batch.clear();
                }
            }
        }
        pace.wait(batch.len());
        sender.send(&batch).context("send SYNs")?;
        batch.clear();
        if sent == before {
            break;
        }
        if pass + 1 < raw.passes {
            thread::sleep(Duration::from_millis(raw.gap));
        }
    }
    let sending = Instant::now();
    while sending.elapsed() < LAST_WAIT && answers.silent() > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let seconds = start.elapsed().as_secs_f64();
    stop.store(true, Relaxed);
    let lost = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    answers.write(&raw.out).with_context(|| format!("write {}", raw.out.display()))?;
    println!("{}", serde_json::json!({ "seconds": seconds, "sent": sent, "lost_in_ring": lost }));
    Ok(())
}

/// Keeps to a rate over the whole time.
struct Pace {
    rate: u32,
    start: Instant,
    sent: u64,
}

impl Pace {
    /// Waits until that many more are due.
    fn wait(&mut self, count: usize) {
        if self.rate == 0 {
            return;
        }
        let due = Duration::from_secs_f64(self.sent as f64 / f64::from(self.rate));
        thread::sleep(due.saturating_sub(self.start.elapsed()));
        self.sent += count as u64;
    }
}

fn receive(mut ring: Ring, answers: &Answers, stop: &AtomicBool) -> Result<u32> {
    while !stop.load(Relaxed) {
        if !ring.read(|_, frame| answers.note(frame)) {
            ring.wait(20)?;
        }
    }
    Ok(ring.dropped()?)
}

impl Answers {
    fn new(raw: &Raw) -> Result<Self> {
        let (first, last) = (u32::from(raw.first), u32::from(raw.last));
        ensure!(first <= last && last - first < 65_536, "{} to {} is no range of hosts", raw.first, raw.last);
        let hosts = (last - first + 1) as usize;
        let ports: Vec<u16> = ports::parse(&raw.ports)?.into_iter().collect();
        let mut places = vec![u32::MAX; 65_536];
        for (place, port) in ports.iter().enumerate() {
            places[usize::from(*port)] = place as u32;
        }
        let states = (0..hosts * ports.len()).map(|_| AtomicU8::new(SILENT)).collect();
        Ok(Self { first, hosts, ports, places, states, key: RandomState::new() })
    }

    /// The sequence number that only an answer to our own SYN can acknowledge.
    fn sequence(&self, address: Ipv4Addr, port: u16) -> u32 {
        self.key.hash_one((address, port)) as u32
    }

    fn note(&self, frame: &[u8]) {
        let Some(frame) = frame.first_chunk::<54>() else { return };
        let address = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
        let port = u16::from_be_bytes([frame[34], frame[35]]);
        let acknowledged = u32::from_be_bytes([frame[42], frame[43], frame[44], frame[45]]);
        let host = u32::from(address).wrapping_sub(self.first) as usize;
        let place = self.places[usize::from(port)];
        if host >= self.hosts
            || place == u32::MAX
            || acknowledged != self.sequence(address, port).wrapping_add(1)
        {
            return;
        }
        let state = match frame[47] & 0b1_0111 {
            0b1_0010 => OPEN,
            flags if flags & 0b100 != 0 => CLOSED,
            _ => return,
        };
        self.states[place as usize * self.hosts + host].store(state, Relaxed);
    }

    fn silent(&self) -> usize {
        self.states.iter().filter(|state| state.load(Relaxed) == SILENT).count()
    }

    fn write(&self, path: &PathBuf) -> Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        for (place, state) in self.states.iter().enumerate() {
            let address = Ipv4Addr::from(self.first + (place % self.hosts) as u32);
            let word = match state.load(Relaxed) {
                OPEN => "open",
                CLOSED => "closed",
                _ => "filtered",
            };
            writeln!(out, "{word} tcp {} {address}", self.ports[place / self.hosts])?;
        }
        Ok(out.flush()?)
    }
}

/// What is the same in every SYN.
struct Template {
    ethernet: [u8; 14],
    ip: Ipv4Header,
    tcp: TcpHeader,
}

impl Template {
    fn new(raw: &Raw) -> Result<Self> {
        let mut router = [0; 6];
        let bytes: Vec<&str> = raw.router.split(':').collect();
        ensure!(bytes.len() == 6, "`{}` is no hardware address", raw.router);
        for (byte, text) in router.iter_mut().zip(bytes) {
            *byte = u8::from_str_radix(text, 16).with_context(|| format!("read {}", raw.router))?;
        }
        // A router does not look at the sender's hardware address.
        let ethernet =
            Ethernet2Header { destination: router, source: [2, 0, 0, 0, 0, 1], ether_type: EtherType::IPV4 };
        let mut ip = Ipv4Header::new(24, 64, IpNumber::TCP, raw.source.octets(), [0; 4])?;
        ip.dont_fragment = true;
        let mut tcp = TcpHeader::new(SOURCE_PORT, 0, 0, 1024);
        tcp.syn = true;
        tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)])
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(Self { ethernet: ethernet.to_bytes(), ip, tcp })
    }

    fn frame(&mut self, address: Ipv4Addr, port: u16, sequence: u32) -> Result<[u8; FRAME]> {
        self.ip.destination = address.octets();
        self.ip.header_checksum = self.ip.calc_header_checksum();
        self.tcp.destination_port = port;
        self.tcp.sequence_number = sequence;
        self.tcp.checksum = self.tcp.calc_checksum_ipv4(&self.ip, &[])?;
        let mut frame = [0; FRAME];
        frame[..14].copy_from_slice(&self.ethernet);
        frame[14..34].copy_from_slice(&self.ip.to_bytes());
        frame[34..].copy_from_slice(&self.tcp.to_bytes());
        Ok(frame)
    }
}
