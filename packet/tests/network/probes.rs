//! Probes over a real link: sent both ways, answered by a real kernel, received and read.

use crate::lab::{FAR, Far, NEAR, in_pair, index, ip, mac, sysctl, wait_for};
use portolan_packet::{
    Block, Errno, Families, Flow, Key, Probed, Receiver, Reply, Seen, Sender, SourcePorts, Via, ack,
    echo_request, read, syn,
};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Everything that a sweep needs.
struct Engine {
    key: Key,
    ports: SourcePorts,
    sender: Sender,
    receiver: Receiver,
}

impl Engine {
    fn open() -> Self {
        let ports = SourcePorts::reserve().unwrap();
        let receiver = Receiver::open(ports.block(), Families::ALL).unwrap();
        Self { key: Key::random(), ports, sender: Sender::open().unwrap(), receiver }
    }

    fn block(&self) -> Block {
        self.ports.block()
    }

    fn flow(&self, source: IpAddr, destination: IpAddr, destination_port: u16) -> Flow {
        Flow { source, source_port: self.block().port(5), destination, destination_port }
    }

    fn flush(&mut self) {
        let mut failed = Vec::new();
        self.sender.flush(&mut failed);
        assert_eq!(failed, []);
        assert!(self.sender.is_empty());
    }

    /// What is there now.
    fn replies(&mut self) -> Vec<(Reply, Instant)> {
        let mut replies = Vec::new();
        let (key, block) = (&self.key, self.ports.block());
        self.receiver.drain(|bytes, at| replies.extend(read(bytes, key, block).map(|reply| (reply, at))));
        replies
    }

    /// The next reply; the others of the same moment are lost.
    fn reply(&mut self) -> Reply {
        wait_for("reply", || self.replies().pop()).0
    }
}

fn links(far: &Far) -> [Via; 2] {
    [Via::Kernel, Via::Link { interface: index("near"), address: far.run(|| mac("far")) }]
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()
}

#[test]
fn open_and_closed_ports_are_told_apart() {
    in_pair(|far| {
        let _listener = far.run(|| listen(80));
        let mut engine = Engine::open();
        for via in links(far) {
            for (source, target) in NEAR.into_iter().zip(FAR) {
                let sent = Instant::now();
                for port in [80, 81] {
                    let packet = syn(&engine.flow(source, target, port), &engine.key);
                    engine.sender.queue(via, target, &packet).unwrap();
                }
                engine.flush();
                let mut replies = Vec::new();
                wait_for("both answers", || {
                    replies.extend(engine.replies());
                    (replies.len() >= 2).then_some(())
                });
                replies.sort_by_key(|(reply, _)| matches!(reply.what, Seen::Reset { .. }));
                let [(open, at), (closed, _)] = replies[..] else { panic!("{replies:?}") };
                assert_eq!((open.from, open.ttl, closed.from, closed.ttl), (target, 64, target, 64));
                let Seen::SynAck { port: 80, source_port_index: 5, window: 1.., options: true } = open.what
                else {
                    panic!("{open:?} by {via:?}");
                };
                assert_eq!(closed.what, Seen::Reset { port: 81, source_port_index: 5, window: 0 });
                assert!(
                    at >= sent - Duration::from_millis(1) && at <= Instant::now(),
                    "{:?}",
                    sent.elapsed()
                );
            }
        }
        assert_eq!(engine.receiver.dropped(), 0);
    });
}

#[test]
fn the_kernel_resets_what_answers_us() {
    in_pair(|far| {
        let _listener = far.run(|| listen(80));
        let mut engine = Engine::open();
        for (source, target) in NEAR.into_iter().zip(FAR) {
            let before = sent_resets();
            let packet = syn(&engine.flow(source, target, 80), &engine.key);
            engine.sender.queue(Via::Kernel, target, &packet).unwrap();
            engine.flush();
            assert!(matches!(engine.reply().what, Seen::SynAck { .. }));
            assert_eq!(wait_for("RST", || Some(sent_resets()).filter(|now| *now > before)), before + 1);
            let half_open = || {
                let tables = ["tcp", "tcp6"]
                    .map(|name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")));
                // State 03 is SYN_RECV.
                tables.into_iter().flatten().any(|table| table.contains(" 03 "))
            };
            wait_for("end of the half-open connection", || far.run(move || (!half_open()).then_some(())));
        }
    });
}

/// How many RSTs this namespace has sent.
fn sent_resets() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "OutRsts").unwrap().1.parse().unwrap()
}

#[test]
fn pings_are_answered() {
    in_pair(|far| {
        let mut engine = Engine::open();
        for via in links(far) {
            for (source, target) in NEAR.into_iter().zip(FAR) {
                engine.sender.queue(via, target, &echo_request(source, target, &engine.key)).unwrap();
                engine.flush();
                assert_eq!(engine.reply(), Reply { from: target, ttl: 64, what: Seen::EchoReply });

                let packet = ack(&engine.flow(source, target, 443), &engine.key);
                engine.sender.queue(via, target, &packet).unwrap();
                engine.flush();
                assert_eq!(
                    engine.reply(),
                    Reply { from: target, ttl: 64, what: Seen::AckReset { port: 443 } }
                );
            }
        }
    });
}

#[test]
fn a_router_s_errors_name_the_probe() {
    in_pair(|far| {
        far.run(|| {
            sysctl("ipv4/ip_forward", "1");
            sysctl("ipv6/conf/all/forwarding", "1");
            // Several errors in a row are wanted.
            sysctl("ipv4/icmp_ratelimit", "0");
            sysctl("ipv6/icmp/ratelimit", "0");
            ip("route add unreachable 10.99.0.0/24");
            ip("route add unreachable fd99::/64");
        });
        ip("route add 10.99.0.0/24 via 10.77.0.2");
        ip("route add fd99::/64 via fd77::2");
        let targets: [IpAddr; 2] = ["10.99.0.7", "fd99::7"].map(|text| text.parse().unwrap());
        let mut engine = Engine::open();
        for via in links(far) {
            for ((source, router), (target, (kind, code))) in
                NEAR.into_iter().zip(FAR).zip(targets.into_iter().zip([(3, 1), (1, 3)]))
            {
                let flow = engine.flow(source, target, 443);
                let probes = [
                    (syn(&flow, &engine.key), Probed::Syn { port: 443, source_port_index: 5 }),
                    (ack(&flow, &engine.key), Probed::Ack { port: 443 }),
                    (echo_request(source, target, &engine.key), Probed::Echo),
                ];
                // A router says no route five times, then once a second: few are asked for.
                let few = if via == Via::Kernel { 3 } else { 1 };
                for (packet, probe) in probes.into_iter().take(few) {
                    engine.sender.queue(via, target, &packet).unwrap();
                    engine.flush();
                    let reply = engine.reply();
                    assert_eq!(reply.from, router);
                    let Seen::Error { destination, probe: seen, kind: kind_seen, code: code_seen } =
                        reply.what
                    else {
                        panic!("{reply:?}");
                    };
                    assert_eq!((destination, seen, kind_seen), (target, probe, kind));
                    // An unreachable route is "no route" (0) or "address unreachable" (3) by ICMPv6.
                    assert!(code_seen == code || (kind == 1 && code_seen == 0), "{reply:?}");
                }
            }
        }
    });
}

#[test]
fn loopback_is_swept_like_any_network() {
    in_pair(|_| {
        let listener = listen(80);
        let mut engine = Engine::open();
        for address in ["127.0.0.1", "::1"].map(|text| text.parse().unwrap()) {
            let packet = syn(&engine.flow(address, address, 80), &engine.key);
            engine.sender.queue(Via::Kernel, address, &packet).unwrap();
            engine.flush();
            assert!(matches!(engine.reply().what, Seen::SynAck { port: 80, .. }));
        }
        drop(listener);
    });
}

#[test]
fn nothing_else_is_received() {
    in_pair(|far| {
        let _listener = far.run(|| listen(80));
        let mut engine = Engine::open();
        let nobody: SourcePorts = SourcePorts::reserve().unwrap();
        for (source, target) in NEAR.into_iter().zip(FAR) {
            // A connection and a refusal, from ports of the kernel's; UDP; a probe from another block.
            drop(TcpStream::connect((target, 80)).unwrap());
            TcpStream::connect((target, 81)).unwrap_err();
            let socket = UdpSocket::bind((source, 0)).unwrap();
            let echo = far.run(move || UdpSocket::bind((target, 53)).unwrap());
            socket.send_to(b"?", (target, 53)).unwrap();
            let (_, from) = echo.recv_from(&mut [0; 8]).unwrap();
            far.run(move || echo.send_to(b"!", from)).unwrap();
            socket.recv(&mut [0; 8]).unwrap();
            let flow = Flow { source_port: nobody.block().port(1), ..engine.flow(source, target, 81) };
            engine.sender.queue(Via::Kernel, target, &syn(&flow, &engine.key)).unwrap();
            engine.flush();
        }
        // Last of all one that is received, so that all the others have had their time.
        let packet = syn(&engine.flow(NEAR[0], FAR[0], 81), &engine.key);
        engine.sender.queue(Via::Kernel, FAR[0], &packet).unwrap();
        engine.flush();
        let mut seen = Vec::new();
        wait_for("the last answer", || {
            engine.receiver.drain(|bytes, _| seen.push(bytes.to_vec()));
            (!seen.is_empty()).then_some(())
        });
        assert_eq!(seen.len(), 1, "{seen:02x?}");
        assert!(matches!(read(&seen[0], &engine.key, engine.block()).unwrap().what, Seen::Reset { .. }));
    });
}

#[test]
fn what_the_ring_cannot_take_is_counted() {
    const ROOM: u64 = 8192;
    in_pair(|far| {
        let mut engine = Engine::open();
        let [_, via] = links(far);
        let mut failed = Vec::new();
        let count = ROOM + 1000;
        for port in 0..count {
            let packet = syn(&engine.flow(NEAR[0], FAR[0], 1000 + port as u16), &engine.key);
            engine.sender.queue(via, FAR[0], &packet).unwrap();
            if engine.sender.is_full() {
                engine.sender.flush(&mut failed);
            }
        }
        engine.sender.flush(&mut failed);
        assert_eq!(failed, []);
        let mut lost = 0;
        let mut received = 0;
        wait_for("overflow", || {
            lost += engine.receiver.dropped();
            (lost > 0).then_some(())
        });
        wait_for("account of all answers", || {
            engine.receiver.drain(|_, _| received += 1);
            lost += engine.receiver.dropped();
            (lost + received == count).then_some(())
        });
        assert!(received >= ROOM, "{received} received, {lost} lost");
        assert_eq!(engine.receiver.dropped(), 0);
    });
}

#[test]
fn what_cannot_be_sent_is_named_and_the_rest_goes_on() {
    in_pair(|far| {
        let [kernel, link] = links(far);
        ip("link add down0 type veth peer name down1");
        let down = Via::Link { interface: index("down0"), address: [2, 0, 0, 0, 0, 1] };
        let gone = Via::Link { interface: 9999, address: [2, 0, 0, 0, 0, 1] };
        ip("route add prohibit 10.98.0.0/24");
        let mut engine = Engine::open();
        let nowhere: [IpAddr; 3] =
            ["192.0.2.1", "2001:db8::1", "10.98.0.1"].map(|text| text.parse().unwrap());
        let sent = [
            (kernel, FAR[0]),
            (kernel, nowhere[0]),
            (link, FAR[1]),
            (down, FAR[0]),
            (kernel, nowhere[1]),
            (gone, FAR[0]),
            (kernel, FAR[1]),
            (link, FAR[0]),
            (kernel, nowhere[2]),
        ];
        for (place, (via, target)) in sent.into_iter().enumerate() {
            let packet = echo_request(NEAR[usize::from(target.is_ipv6())], target, &engine.key);
            assert_eq!(engine.sender.queue(via, target, &packet), Some(place));
        }
        assert_eq!(engine.sender.len(), sent.len());
        let mut failed = Vec::new();
        engine.sender.flush(&mut failed);
        failed.sort_by_key(|(place, _)| *place);
        let expected = [
            (1, Errno::ENETUNREACH),
            (3, Errno::ENETDOWN),
            (4, Errno::ENETUNREACH),
            (5, Errno::ENXIO),
            (8, Errno::EACCES),
        ];
        assert_eq!(failed, expected);
        let mut replies = 0;
        wait_for("four answers", || {
            replies += engine.replies().len();
            (replies == 4).then_some(())
        });
        assert_eq!(engine.replies(), []);
    });
}

#[test]
fn the_kernel_gives_our_ports_to_nobody() {
    in_pair(|far| {
        sysctl("ipv4/ip_local_port_range", "40000 40047");
        sysctl("ipv4/ip_local_reserved_ports", "40020");
        let _listener = far.run(|| listen(80));
        let ports = SourcePorts::reserve().unwrap();
        assert!(!ports.block().contains(40020));
        let connections: Vec<TcpStream> =
            (0..31).map_while(|_| TcpStream::connect((FAR[0], 80)).ok()).collect();
        assert_eq!(connections.len(), 31);
        for connection in &connections {
            let port = connection.local_addr().unwrap().port();
            assert!(!ports.block().contains(port), "{port}");
        }
        // What is left of the range has connections all over it.
        let error = SourcePorts::reserve().unwrap_err();
        assert!(error.to_string().contains("between 40000 and 40047"), "{error}");
    });
}

#[test]
fn a_full_device_queue_is_reported() {
    in_pair(|far| {
        // Room for a few packets, and the next second's worth is 1,000 bytes.
        let narrow = "qdisc add dev near root tbf rate 8kbit burst 1600 limit 1600";
        match Command::new("tc").args(narrow.split(' ')).output() {
            Ok(output) if output.status.success() => {}
            _ => return eprintln!("SKIPPED: this kernel cannot limit a queue"),
        }
        // Or the kernel would keep the packets itself until it knows the neighbour.
        let [a, b, c, d, e, f] = far.run(|| mac("far"));
        for target in FAR {
            ip(&format!("neigh add {target} lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} dev near"));
        }
        let mut engine = Engine::open();
        for via in links(far) {
            for (source, target) in NEAR.into_iter().zip(FAR) {
                for _ in 0..Sender::CAPACITY {
                    engine.sender.queue(via, target, &echo_request(source, target, &engine.key)).unwrap();
                }
                let (begin, mut failed) = (Instant::now(), Vec::new());
                engine.sender.flush(&mut failed);
                assert!(begin.elapsed() < Duration::from_secs(1));
                assert!(engine.sender.is_empty() && failed.len() > 100, "{} by {via:?}", failed.len());
                assert!(failed.iter().all(|(_, errno)| *errno == Errno::ENOBUFS), "{failed:?}");
                // What remained, in order.
                let last = Sender::CAPACITY - 1;
                assert!(failed.iter().map(|(place, _)| *place).eq(last + 1 - failed.len()..=last));
            }
        }
    });
}
