//! The scope guard: a satellite probes nothing that its own file forbids, says so, and goes on with the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use portolan_tests::deployment::{Deployment, Satellite};
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Host, Lab, Listener, any};
use portolan_tests::wait::{SOON, stays, wait_until};

/// A satellite whose administrator lets it probe the shop's network, but not the till in it.
struct Fenced {
    deployment: Deployment,
    satellite: Satellite,
    shop: Host,
    till: Host,
    _listeners: [Listener; 2],
}

impl Fenced {
    fn build(lab: &Lab) -> Self {
        let pc = lab.host("office", "pc");
        let (shop, till) = (lab.host("dmz", "shop"), lab.host("dmz", "till"));
        let listeners = [shop.listen(&[80, 9100]), till.listen(&[80])];
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite(&pc, "office-1");
        let fence = Self { deployment, satellite, shop, till, _listeners: listeners };
        fence.write_scope(&format!("deny = [\"{}\"]\nports = \"1-1024\"", fence.till.v4()));
        let counting = Firewall::open().count("till", "office", &fence.till, any());
        lab.firewall(&counting);
        fence
    }

    /// Writes the scope file; it is in force when a probe that it forbids is refused.
    fn write_scope(&self, more: &str) {
        let network = self.shop.v4().to_string().replace(".10", ".0/24");
        self.satellite.write_config(&format!("[scope]\nallow = [\"{network}\"]\n{more}\n"));
    }

    fn scan(&self, target: IpAddr, ports: &str) -> portolan_tests::deployment::Scan {
        self.deployment.scan(&[&target.to_string(), "-p", ports, "--from", "office-1"])
    }

    fn wait_until_refused(&self, target: IpAddr) {
        let refused = || self.scan(target, "80").finished().code == 4;
        wait_until("the scope file to be read again", SOON, refused);
    }
}

#[test]
fn a_denied_target_is_never_probed_and_the_rest_goes_on() {
    in_lab!(|lab| {
        let fence = Fenced::build(lab);
        // The pc is outside of `allow`: refused once the new file is in force.
        fence.wait_until_refused(fence.satellite.host().v4());
        let both = [fence.shop.v4().to_string(), fence.till.v4().to_string()];
        let scan = fence.deployment.scan(&[&both[0], &both[1], "-p", "80-81", "--from", "office-1"]);
        scan.code_is(4).finished().says(&[&both[1]]);
        scan.finished().says(&["office-1"]).says(&["deny"]);
        assert_eq!(scan.verdicts("office-1").of(fence.shop.v4()).to_string(), "open 80; closed 81");
        assert_eq!(scan.verdicts("office-1").addresses(), [fence.shop.v4()]);
        assert_eq!(lab.packets("till"), 0, "a packet went to a denied address");
    });
}

#[test]
fn what_no_allow_covers_is_refused_whole() {
    in_lab!(|lab| {
        let fence = Fenced::build(lab);
        let outside = fence.deployment.server_host().v4();
        fence.wait_until_refused(outside);
        let scan = fence.scan(outside, "1-100");
        scan.code_is(4).finished().says(&[&outside.to_string()]).says(&["allow", "scope"]);
        assert!(scan.hosts("office-1").is_empty(), "{:?}", scan.document());
    });
}

#[test]
fn a_port_outside_the_scope_is_refused_and_the_others_are_probed() {
    in_lab!(|lab| {
        let fence = Fenced::build(lab);
        fence.wait_until_refused(fence.satellite.host().v4());
        let scan = fence.scan(fence.shop.v4(), "80,9100");
        scan.code_is(4).finished().says(&["9100"]);
        assert_eq!(scan.verdicts("office-1").of(fence.shop.v4()).to_string(), "open 80");
    });
}

#[test]
fn careful_devices_are_probed_slowly_and_not_on_their_forbidden_ports() {
    in_lab!(|lab| {
        let fence = Fenced::build(lab);
        let printer = fence.shop.v4();
        fence.write_scope(&format!(
            "[[scope.careful]]\ncidrs = [\"{printer}/32\"]\nmax_rate = 10\nin_flight = 1\ndeny_ports = \"9100-9107\""
        ));
        fence.wait_until_refused(fence.satellite.host().v4());
        lab.firewall(&Firewall::open().count(
            "printer",
            "office",
            &fence.shop,
            portolan_tests::lab::tcp("9100-9107"),
        ));
        let start = std::time::Instant::now();
        let scan = fence.scan(printer, "61-90,9100");
        assert!(
            start.elapsed() >= Duration::from_secs(2),
            "30 ports at 10 a second took {:?}",
            start.elapsed()
        );
        scan.code_is(4).finished().says(&["9100"]);
        assert_eq!(scan.verdicts("office-1").of(printer).to_string(), "open 80; closed 61-79,81-90");
        assert_eq!(lab.packets("printer"), 0, "a packet went to a forbidden port");
    });
}

#[test]
fn an_edit_of_the_file_widens_the_scope_of_a_running_satellite() {
    in_lab!(|lab| {
        let fence = Fenced::build(lab);
        fence.wait_until_refused(fence.till.v4());
        fence.write_scope("");
        wait_until("the wider scope to be in force", SOON, || {
            fence.scan(fence.till.v4(), "80").finished().code == 0
        });
    });
}

#[test]
fn a_broken_file_keeps_the_last_good_scope_and_refuses_a_start() {
    in_lab!(|lab| {
        let fence = Fenced::build(lab);
        fence.wait_until_refused(fence.till.v4());
        let before = fence.satellite.log().len();
        fence.satellite.write_config("[scope]\nallow = [\"10.99.0.0/99\"]\n");
        wait_until("the satellite to say that the file is wrong", SOON, || {
            fence.satellite.log()[before..].contains("satellite.toml")
        });
        assert!(fence.satellite.is_running());
        fence.scan(fence.till.v4(), "80").code_is(4);
        fence.scan(fence.shop.v4(), "80").code_is(0);

        fence.satellite.stop().ok();
        let refused = fence.satellite.run_command().limit(SOON).run();
        refused.code_is(1).says(&["satellite.toml"]).says(&["10.99.0.0/99"]);
        stays("the satellite offline", Duration::from_secs(1), || {
            fence.deployment.status_of("office-1") != "online"
        });
    });
}

#[test]
fn the_scope_of_the_token_is_printed_and_written_at_enrollment() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &["--scope", "10.99.77.0/24,fd00:77::/64"]);
        let satellite = deployment.satellite_on(&pc, "office-1");
        let enrolled = satellite.enroll(&token);
        enrolled.ok();
        assert!(format!("{}{}", enrolled.stdout, enrolled.stderr).contains("10.99.77.0/24"), "{enrolled}");
        let file = std::fs::read_to_string(satellite.config_file()).unwrap();
        assert!(file.contains("10.99.77.0/24") && file.contains("fd00:77::/64"), "{file}");
    });
}

#[test]
fn without_a_proposal_the_scope_is_the_directly_connected_networks() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite_on(&pc, "office-1");
        satellite.enroll(&deployment.invite("office-1", "office", &[])).ok();
        let file = std::fs::read_to_string(satellite.config_file()).unwrap();
        let segment = lab.segment("office");
        assert!(file.contains(&segment.v4.to_string()) && file.contains(&segment.v6.to_string()), "{file}");
        assert!(!file.contains("0.0.0.0/0"), "{file}");
    });
}
