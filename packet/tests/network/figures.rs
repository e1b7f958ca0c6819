//! What it costs: measured on demand, `cargo test --release -p portolan-packet --test network -- --ignored --nocapture
//! --test-threads 1`. Asserts nothing: figures depend on the machine.

use crate::lab::{FAR, NEAR, in_pair, index, mac, wait_for};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use portolan_packet::{
    Block, Families, Flow, Key, Receiver, Routes, Sender, SourcePorts, Via, echo_request, read, syn,
};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn flow(number: u32, block: Block, v6: usize) -> Flow {
    Flow {
        source: NEAR[v6],
        source_port: block.port(number as u8),
        destination: FAR[v6],
        destination_port: (number % 60_000) as u16 + 1,
    }
}

fn each(what: &str, count: u32, time: Duration) {
    println!("FIGURE: {what}: {:.0} ns each", time.as_nanos() as f64 / f64::from(count));
}

#[test]
#[ignore = "measures"]
fn building_queueing_and_reading() {
    const COUNT: u32 = 1 << 20;
    let key = Key::random();
    let block = Block::of(40_000);
    for (v6, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let begin = Instant::now();
        for number in 0..COUNT {
            black_box(syn(black_box(&flow(number, block, v6)), &key));
        }
        each(&format!("{family} SYN made"), COUNT, begin.elapsed());

        // An echo reply and a reset cost the same to read: both are hashed once.
        let begin = Instant::now();
        for _ in 0..COUNT {
            black_box(read(black_box(&reset(v6, &key, block)), &key, block).unwrap());
        }
        let both = begin.elapsed();
        let begin = Instant::now();
        for _ in 0..COUNT {
            black_box(reset(v6, &key, black_box(block)));
        }
        each(&format!("{family} RST read"), COUNT, both.saturating_sub(begin.elapsed()));
    }
}

/// A RST to probe number 7, its bytes copied from a template.
fn reset(v6: usize, key: &Key, block: Block) -> [u8; 60] {
    use std::sync::OnceLock;
    static TEMPLATES: [OnceLock<[u8; 60]>; 2] = [OnceLock::new(), OnceLock::new()];
    *TEMPLATES[v6].get_or_init(|| {
        let flow = flow(7, block, v6);
        let mirror = Flow {
            source: flow.destination,
            source_port: flow.destination_port,
            destination: flow.source,
            destination_port: flow.source_port,
        };
        let mut bytes = [0; 60];
        let probe = syn(&mirror, key);
        let tcp = if v6 == 0 { 20 } else { 40 };
        bytes[..tcp + 20].copy_from_slice(&probe.as_bytes()[..tcp + 20]);
        bytes[tcp + 8..tcp + 12].copy_from_slice(&key.token(&flow).wrapping_add(1).to_be_bytes());
        bytes[tcp + 12] = 5 << 4;
        bytes[tcp + 13] = 0x14;
        bytes
    })
}

#[test]
#[ignore = "measures"]
fn sending_and_draining() {
    const COUNT: u32 = 200_000;
    in_pair(|far| {
        let link = Via::Link { interface: index("near"), address: far.run(|| mac("far")) };
        for (via, name) in [(Via::Kernel, "by the kernel"), (link, "by the link")] {
            for (v6, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
                let key = Key::random();
                let ports = SourcePorts::reserve().unwrap();
                let mut receiver = Receiver::open(ports.block(), Families::ALL).unwrap();
                let (mut sender, mut failed) = (Sender::open().unwrap(), Vec::new());
                let (mut queueing, mut draining, mut replies) = (Duration::ZERO, Duration::ZERO, 0);
                let begin = Instant::now();
                for batch in 0..COUNT / 256 {
                    let start = Instant::now();
                    for number in batch * 256..(batch + 1) * 256 {
                        let packet = syn(&flow(number, ports.block(), v6), &key);
                        sender.queue(via, FAR[v6], &packet);
                    }
                    queueing += start.elapsed();
                    sender.flush(&mut failed);
                    let start = Instant::now();
                    receiver
                        .drain(|bytes, _| replies += u32::from(read(bytes, &key, ports.block()).is_some()));
                    draining += start.elapsed();
                }
                let took = begin.elapsed();
                each(&format!("{family} SYN {name}, all of it, answered in between"), COUNT, took);
                each(&format!("{family} SYN {name}, made and queued"), COUNT, queueing);
                each(&format!("{family} SYN {name}, answer drained and read"), replies.max(1), draining);
                println!(
                    "FIGURE: {replies} of {} answered, {} lost, {} not sent",
                    COUNT / 256 * 256,
                    receiver.dropped(),
                    failed.len()
                );
            }
        }
    });
}

#[test]
#[ignore = "measures"]
fn latency_of_one_answer() {
    const COUNT: usize = 1000;
    in_pair(|_| {
        let key = Key::random();
        let ports = SourcePorts::reserve().unwrap();
        let mut receiver = Receiver::open(ports.block(), Families::ALL).unwrap();
        let mut sender = Sender::open().unwrap();
        let (mut stamped, mut woken) = (Vec::new(), Vec::new());
        for _ in 0..COUNT {
            sender.queue(Via::Kernel, FAR[0], &echo_request(NEAR[0], FAR[0], &key));
            let sent = Instant::now();
            sender.flush(&mut Vec::new());
            wait_for("answer", || {
                let mut fds = receiver.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect::<Vec<_>>();
                poll(&mut fds, PollTimeout::from(100_u8)).unwrap();
                let now = Instant::now();
                let mut seen = false;
                receiver.drain(|bytes, at| {
                    if read(bytes, &key, ports.block()).is_some() {
                        stamped.push(at.saturating_duration_since(sent));
                        woken.push(now - sent);
                        seen = true;
                    }
                });
                seen.then_some(())
            });
        }
        for (what, mut times) in [("stamped by the kernel", stamped), ("seen by us", woken)] {
            times.sort();
            println!(
                "FIGURE: answer {what} after {:?} (median), {:?} (99 %)",
                times[COUNT / 2],
                times[COUNT * 99 / 100]
            );
        }
    });
}

#[test]
#[ignore = "measures"]
fn asking_for_routes() {
    const COUNT: u32 = 20_000;
    in_pair(|_| {
        let mut routes = Routes::open().unwrap();
        let begin = Instant::now();
        for number in 0..COUNT {
            let [_, _, c, d] = number.to_be_bytes();
            black_box(routes.lookup([10, 77, 0, d ^ c].into()).unwrap());
        }
        each("route looked up", COUNT, begin.elapsed());
        let begin = Instant::now();
        for _ in 0..COUNT {
            black_box(routes.neighbour(index("near"), FAR[0]).unwrap());
        }
        each("neighbour and interface index looked up", COUNT, begin.elapsed());
    });
}
