//! The lab's stranger paths test themselves: devices that lie, limits on what comes back, links without Ethernet.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use portolan_tests::lab::{Firewall, Host, Middlebox, tcp};
use portolan_tests::wait::SOON;
use portolan_tests::{in_lab, judge, need, ports, skip};
use socket2::{Domain, Socket, Type};

/// How many of these connections, all begun at once, are refused within `patience`.
fn refused(prober: &Host, target: IpAddr, ports: std::ops::Range<u16>, patience: Duration) -> usize {
    prober.inside(|| {
        let begin = |port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&SocketAddr::new(target, port).into());
            socket
        };
        let sockets: Vec<Socket> = ports.map(begin).collect();
        std::thread::sleep(patience);
        sockets.iter().filter(|socket| socket.take_error().unwrap().is_some()).count()
    })
}

#[test]
fn a_host_answers_for_a_whole_network() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let _listener = shop.listen(&[80]);
        shop.answers_for("10.99.9.0/24");
        shop.answers_for("fd00:99:9::/120");
        let all =
            ["10.99.9.1", "10.99.9.254", "fd00:99:9::1", "fd00:99:9::fe"].map(|text| text.parse().unwrap());
        let seen = judge::nmap_connect(&prober, &all, "80-81");
        for address in all {
            assert_eq!(seen.of(address).to_string(), "open 80; closed 81");
        }
    });
}

#[test]
fn a_host_limits_its_icmp_errors_when_it_is_told_to() {
    in_lab!(|lab| {
        let prober = lab.host("office", "prober");
        let (frank, terse) = (lab.host("dmz", "frank"), lab.host("dmz", "terse"));
        terse.icmp_rate_limit(true);
        let proved_closed = |host: &Host| {
            let sockets: Vec<UdpSocket> = prober.inside(|| {
                let send = |port| {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect(host.at(port)).unwrap();
                    socket.send(b"chart").unwrap();
                    socket
                };
                (2000..2030).map(send).collect()
            });
            std::thread::sleep(Duration::from_millis(300));
            sockets.iter().filter(|socket| socket.take_error().unwrap().is_some()).count()
        };
        assert_eq!(proved_closed(&frank), 30);
        let answered = proved_closed(&terse);
        assert!(
            (5..=8).contains(&answered),
            "{answered} of 30 ports were proved closed within a burst of six"
        );
    });
}

#[test]
fn nmap_tells_states_and_reasons_by_syn_and_by_udp() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let _listener = shop.listen(&[80]);
        let service = shop.inside(|| UdpSocket::bind((shop.v4(), 2000)).unwrap());
        lab.firewall(&Firewall::open().drop("office", "dmz", tcp("81")).prohibit("office", "dmz", tcp("83")));
        let all = [shop.v4(), shop.v6()];
        let seen = judge::nmap_syn(&prober, &all, "79-81,83");
        for address in all {
            assert_eq!(seen.of(address).to_string(), "open 80; closed 79; filtered 81,83");
            assert_eq!(seen.reason(address, 80).word, "syn-ack");
            assert_eq!(seen.reason(address, 79).word, "reset");
            assert_eq!(seen.by_reason(address)["no-response"], ports::parse("81"));
            assert!(seen.reason(address, 83).word.contains("prohibited"), "{:?}", seen.by_reason(address));
        }
        let seen = judge::nmap_udp(&prober, &[shop.v4()], "1999-2000");
        assert_eq!(seen.of(shop.v4()).to_string(), "closed 1999; open|filtered 2000");
        assert_eq!(seen.reason(shop.v4(), 1999).word, "port-unreach");
        drop(service);
    });
}

#[test]
fn a_reset_that_a_device_injects_has_come_another_way() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        lab.firewall(&Firewall::open().reset("office", "dmz", tcp("82")));
        let seen = judge::nmap_syn(&prober, &[shop.v4()], "81-82");
        assert_eq!(seen.of(shop.v4()).to_string(), "closed 81-82");
        let ttl = |port| seen.reason(shop.v4(), port).ttl.expect("nmap tells it");
        assert_eq!(ttl(82), ttl(81) + 1, "the router is one hop nearer than the target");
    });
}

#[test]
fn resets_can_be_limited_on_their_way_back() {
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let patience = Duration::from_millis(500);
        assert_eq!(refused(&prober, shop.v4(), 2000..2300, patience), 300);
        lab.firewall(&Firewall::open().limit_resets("dmz", "office", 50));
        let came = refused(&prober, shop.v4(), 3000..3300, patience);
        assert!((5..=60).contains(&came), "{came} of 300 resets came at 50 a second");
    });
}

#[test]
fn a_slow_link_passes_so_many_packets_a_second() {
    in_lab!(|lab| {
        let (sender, receiver) = (lab.host("office", "sender"), lab.host("dmz", "receiver"));
        lab.firewall(&Firewall::open().police("office", "dmz", 100));
        let socket = receiver.inside(|| UdpSocket::bind((receiver.v4(), 9)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let start = Instant::now();
        sender.inside(|| {
            let from = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..400 {
                from.send_to(b"chart", receiver.at(9)).unwrap();
            }
        });
        let took = start.elapsed().as_secs_f64();
        let mut arrived = 0.0;
        while socket.recv(&mut [0; 16]).is_ok() {
            arrived += 1.0;
        }
        let most = 12.0 + 100.0 * took;
        assert!((8.0..=most).contains(&arrived), "{arrived} of 400 packets passed within {took} s");
    });
}

#[test]
fn a_middlebox_answers_for_hosts_that_do_not_exist() {
    need!("nmap");
    in_lab!(|lab| {
        let prober = lab.host("office", "prober");
        for network in ["10.99.9.0/24", "fd00:99:9::/120"] {
            if let Err(why) = lab.middlebox(Middlebox::SynAck, network) {
                skip!("{why}");
            }
        }
        let all = ["10.99.9.7", "fd00:99:9::7"].map(|text| text.parse().unwrap());
        let seen = judge::nmap_syn(&prober, &all, "22,80,47001");
        for address in all {
            assert_eq!(seen.of(address).to_string(), "open 22,80,47001");
        }
    });
}

#[test]
fn a_tarpit_lets_everybody_in_and_nobody_out() {
    in_lab!(|lab| {
        let prober = lab.host("office", "prober");
        if let Err(why) = lab.middlebox(Middlebox::Tarpit, "10.99.9.0/24") {
            skip!("{why}");
        }
        let mut stuck =
            prober.inside(|| TcpStream::connect_timeout(&"10.99.9.7:25".parse().unwrap(), SOON).unwrap());
        stuck.write_all(b"HELO chart\r\n").unwrap();
        stuck.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        assert_eq!(stuck.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(stuck.take_error().unwrap().is_none());
    });
}

#[test]
fn a_syn_proxy_says_open_for_every_port_and_lets_real_connections_pass() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let service = shop.inside(|| std::net::TcpListener::bind((shop.v4(), 80)).unwrap());
        lab.firewall(&Firewall::open().syn_proxy("office", "dmz", tcp("79-81")));
        let seen = judge::nmap_syn(&prober, &[shop.v4()], "79-82");
        assert_eq!(seen.of(shop.v4()).to_string(), "open 79-81; closed 82");

        let mut near = prober.inside(|| TcpStream::connect_timeout(&shop.at(80), SOON).unwrap());
        let (mut far, _) = service.accept().unwrap();
        near.write_all(b"chart").unwrap();
        far.set_read_timeout(Some(SOON)).unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"chart");
    });
}

#[test]
fn a_tunnel_carries_everything_without_ethernet() {
    need!("nmap");
    in_lab!(|lab| {
        let (prober, shop) = (lab.host("office", "prober"), lab.host("dmz", "shop"));
        let _listener = shop.listen(&[80]);
        if let Err(why) = lab.tunnel(&prober) {
            skip!("{why}");
        }
        let all = [shop.v4(), shop.v6()];
        for seen in [judge::nmap_syn(&prober, &all, "80-81"), judge::nmap_connect(&prober, &all, "80-81")] {
            for address in all {
                assert_eq!(seen.of(address).to_string(), "open 80; closed 81");
            }
        }
        let route = prober.command("ip").args(["route", "get", &shop.v4().to_string()]).run();
        assert!(route.ok().stdout.contains("dev tun0"), "{route}");
        let link = prober.command("ip").args(["-brief", "link", "show", "dev", "tun0"]).run();
        assert!(link.ok().stdout.contains("POINTOPOINT"), "{link}");
        lab.firewall(&Firewall::open().cut("office", "dmz"));
        let seen = judge::nmap_connect(&prober, &[shop.v4()], "80");
        assert_eq!(
            seen.of(shop.v4()).to_string(),
            "filtered 80",
            "the firewall judges what comes by the tunnel"
        );
    });
}
