//! Routes and neighbours, as a real kernel knows them.

use crate::lab::{FAR, NEAR, in_pair, index, ip, mac, wait_for};
use portolan_packet::{Errno, Hop, Key, Routes, Sender, Solicitor, Via, capable, echo_request, why_not};
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_route_has_an_interface_a_source_and_a_hop() {
    in_pair(|_| {
        ip("route add 10.90.0.0/24 via 10.77.0.2");
        ip("route add fd90::/64 via fd77::2");
        ip("route add 10.91.0.0/24 via inet6 fd77::2 dev near");
        // An Ethernet interface that resolves no addresses, as dummies and VRFs are.
        ip("link add noarp0 type veth peer name noarp1");
        ip("addr add 10.92.0.1/24 dev noarp0");
        ip("link set noarp0 up arp off");
        ip("link set noarp1 up");
        let mut routes = Routes::open().unwrap();
        let near = index("near");
        let expected = [
            ("10.77.0.2", near, "10.77.0.1", Hop::OnLink),
            ("10.77.0.99", near, "10.77.0.1", Hop::OnLink),
            ("fd77::2", near, "fd77::1", Hop::OnLink),
            ("10.90.0.7", near, "10.77.0.1", Hop::Gateway(FAR[0])),
            ("fd90::7", near, "fd77::1", Hop::Gateway(FAR[1])),
            ("10.91.0.7", near, "10.77.0.1", Hop::Gateway(FAR[1])),
            ("10.92.0.7", index("noarp0"), "10.92.0.1", Hop::Kernel),
            ("127.0.0.1", index("lo"), "127.0.0.1", Hop::Kernel),
            ("::1", index("lo"), "::1", Hop::Kernel),
            ("10.77.0.1", index("lo"), "10.77.0.1", Hop::Kernel),
            ("fd77::1", index("lo"), "fd77::1", Hop::Kernel),
            ("10.77.0.255", near, "10.77.0.1", Hop::Kernel),
            ("224.0.0.1", near, "10.77.0.1", Hop::Kernel),
        ];
        ip("route add 224.0.0.0/4 dev near");
        for (destination, interface, source, hop) in expected {
            let route = routes.lookup(address(destination)).unwrap();
            let own = destination == source;
            assert_eq!((route.source, route.hop), (address(source), hop), "{destination}");
            assert!(own || route.interface == interface, "{destination}: {route:?}");
        }
    });
}

#[test]
fn a_tunnel_is_left_to_the_kernel() {
    in_pair(|_| {
        if !std::path::Path::new("/dev/net/tun").exists() {
            eprintln!("SKIPPED: this kernel has no /dev/net/tun");
            return;
        }
        ip("tuntap add mode tun name tun0");
        ip("addr add 10.93.0.1/24 dev tun0");
        ip("addr add fd93::1/64 dev tun0 nodad");
        ip("link set tun0 up");
        let mut routes = Routes::open().unwrap();
        for (destination, source) in [("10.93.0.7", "10.93.0.1"), ("fd93::7", "fd93::1")] {
            let route = routes.lookup(address(destination)).unwrap();
            assert_eq!((route.source, route.hop), (address(source), Hop::Kernel));
            assert_eq!(route.interface, index("tun0"));
        }
    });
}

#[test]
fn no_way_is_an_error_that_says_why() {
    in_pair(|_| {
        for (kind, v4, v6) in [
            ("unreachable", "10.81.0.0/24", "fd81::/64"),
            ("prohibit", "10.82.0.0/24", "fd82::/64"),
            ("blackhole", "10.83.0.0/24", "fd83::/64"),
        ] {
            ip(&format!("route add {kind} {v4}"));
            ip(&format!("route add {kind} {v6}"));
        }
        let mut routes = Routes::open().unwrap();
        let expected = [
            ("192.0.2.1", Errno::ENETUNREACH),
            ("2001:db8::1", Errno::ENETUNREACH),
            ("10.81.0.1", Errno::EHOSTUNREACH),
            ("fd81::1", Errno::EHOSTUNREACH),
            ("10.82.0.1", Errno::EACCES),
            ("fd82::1", Errno::EACCES),
            ("10.83.0.1", Errno::EINVAL),
            ("fd83::1", Errno::EINVAL),
        ];
        for (destination, errno) in expected {
            let error = routes.lookup(address(destination)).unwrap_err();
            assert_eq!(error.raw_os_error().map(Errno::from_raw), Some(errno), "{destination}: {error}");
        }
        ip("link set near down");
        let error = routes.lookup(FAR[0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENETUNREACH as i32), "{error}");
    });
}

#[test]
fn neighbours_are_found_without_the_kernels_table() {
    in_pair(|far| {
        let far_mac = far.run(|| mac("far"));
        let near = index("near");
        let mut routes = Routes::open().unwrap();
        let mut solicitor = Solicitor::open().unwrap();
        for (source, target) in NEAR.into_iter().zip(FAR) {
            assert_eq!(routes.neighbour(near, target).unwrap(), None);
            let (mut answers, mut next) = (Vec::new(), Instant::now());
            wait_for("answer", || {
                // A new address joins its multicast group in its own time.
                if next <= Instant::now() {
                    next += Duration::from_millis(200);
                    solicitor.ask(near, source, target).unwrap();
                }
                solicitor.drain(|interface, address, mac| answers.push((interface, address, mac)));
                (!answers.is_empty()).then_some(())
            });
            assert_eq!(answers, [(near, target, far_mac)]);
            assert_eq!(routes.neighbour(near, target).unwrap(), None);
        }
    });
}

#[test]
fn what_the_kernel_knows_of_a_neighbour_is_used() {
    in_pair(|far| {
        let far_mac = far.run(|| mac("far"));
        let near = index("near");
        let (mut routes, mut sender) = (Routes::open().unwrap(), Sender::open().unwrap());
        for (source, target) in NEAR.into_iter().zip(FAR) {
            sender.queue(Via::Kernel, target, &echo_request(source, target, &Key::random())).unwrap();
            sender.flush(&mut Vec::new());
            let known = wait_for("neighbour entry", || routes.neighbour(near, target).unwrap());
            assert_eq!(known, far_mac);
        }
        // Nobody has this address: an entry that has failed is of no use.
        ip("neigh add 10.77.0.50 dev near nud failed");
        assert_eq!(routes.neighbour(near, address("10.77.0.50")).unwrap(), None);
        ip("neigh add 10.77.0.51 lladdr 02:00:00:00:00:51 dev near nud permanent");
        assert_eq!(routes.neighbour(near, address("10.77.0.51")).unwrap(), Some([2, 0, 0, 0, 0, 0x51]));
        assert!(routes.neighbour(9999, FAR[0]).is_err());
    });
}

#[test]
fn only_ethernet_has_somebody_to_ask() {
    in_pair(|_| {
        let mut solicitor = Solicitor::open().unwrap();
        let errno =
            |result: std::io::Result<()>| Errno::from_raw(result.unwrap_err().raw_os_error().unwrap());
        let loopback = address("127.0.0.1");
        assert_eq!(errno(solicitor.ask(index("lo"), loopback, loopback)), Errno::EADDRNOTAVAIL);
        assert_eq!(errno(solicitor.ask(9999, NEAR[0], FAR[0])), Errno::ENODEV);
        assert_eq!(errno(solicitor.ask(index("near"), NEAR[0], FAR[1])), Errno::EAFNOSUPPORT);
        ip("link set near down");
        assert_eq!(errno(solicitor.ask(index("near"), NEAR[0], FAR[0])), Errno::ENETDOWN);
    });
}

#[test]
fn who_may_is_found_out_by_trying() {
    assert_eq!(capable(), why_not().is_none());
}
