//! Certificates in use: renewal over the live stream, reload of the server's own, a proxy in between, files on disk.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use portolan_tests::deployment::{Deployment, Satellite};
use portolan_tests::lab::Lab;
use portolan_tests::wait::wait_until;
use portolan_tests::{in_lab, need};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A server whose satellites' certificates live for so long.
fn deployment_with_life(lab: &Lab, life: &str) -> Deployment {
    let deployment = Deployment::new(lab);
    deployment.init().ok();
    let config = lab.directory("config").join("server.toml");
    fs::write(&config, format!("satellite_certificate_life = \"{life}\"\n")).expect("a file below /run");
    deployment.start_with(&["--config", &config.display().to_string()]);
    deployment
}

fn connections(satellite: &Satellite) -> usize {
    satellite.log().lines().filter(|line| line.contains(" connected")).count()
}

#[test]
fn a_satellite_renews_its_certificate_with_a_new_key_and_stays() {
    need!("openssl");
    in_lab!(|lab| {
        let deployment = deployment_with_life(lab, "30s");
        let satellite = deployment.satellite(&lab.host("office", "pc"), "office-1");
        let before = satellite.identity();
        wait_until("a new certificate", SOON, || satellite.identity().certificate() != before.certificate());
        let after = satellite.identity();
        assert_ne!(before.key(), after.key(), "the renewal kept the old key");
        assert!(satellite.log().contains("the certificate was renewed"), "{}", satellite.log());
        // The next connection stands on the new certificate; the old one runs out meanwhile.
        wait_until("a connection with the new certificate", SOON, || connections(&satellite) >= 2);
        wait_until("a second renewal", SOON * 2, || {
            satellite.identity().certificate() != after.certificate()
        });
        assert_eq!(deployment.status_of("office-1"), "online");
        assert!(satellite.is_running());
    });
}

#[test]
fn the_servers_certificate_reloads_without_dropping_a_stream() {
    need!("openssl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite(&lab.host("office", "pc"), "office-1");
        let file = deployment.data_dir().join("deployment.toml");
        let text = fs::read_to_string(&file).expect("deployment.toml");
        let old = fs::read_to_string(deployment.data_dir().join("server.pem")).expect("server.pem");
        fs::write(&file, text.replace("names = [", "names = [\"new-name.example:7443\", ")).expect("ours");
        // SIGHUP, so that the test need not wait for the next look at the file.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(deployment.server_id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("our own process");
        wait_until("a new server certificate", SOON, || {
            fs::read_to_string(deployment.data_dir().join("server.pem")).is_ok_and(|new| new != old)
        });
        let shown = || {
            let connect = ["s_client", "-connect", &deployment.address(), "-servername", "new-name.example"];
            let shown = deployment.server_host().command("openssl").args(connect).stdin("").run().stdout;
            let text = deployment.server_host().command("openssl").args(["x509", "-noout", "-text"]);
            text.stdin(&shown).run().stdout
        };
        wait_until("the new certificate to be shown", SOON, || shown().contains("new-name.example"));
        assert_eq!(connections(&satellite), 1, "the stream was dropped:\n{}", satellite.log());
        assert_eq!(deployment.status_of("office-1"), "online");
        // Tokens made from now on name the new address too.
        let invited = deployment.ask(&["satellite", "add", "office-2", "--segment", "office"]);
        let servers = invited["servers"].to_string();
        assert!(servers.contains("new-name.example:7443"), "{servers}");
    });
}

#[test]
fn the_programs_leave_no_file_that_others_can_read() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite(&lab.host("office", "pc"), "office-1");
        let target = satellite.host().v4().to_string();
        deployment.scan(&[&target, "-p", "1-100", "--from", "office-1"]).code_is(0);
        for directory in [deployment.data_dir(), satellite.data_dir()] {
            check_private(&directory);
        }
        check_mode(&deployment.admin_file(), 0o600);
    });
}

fn check_private(directory: &Path) {
    check_mode(directory, 0o700);
    for entry in fs::read_dir(directory).expect("a directory of ours") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { check_private(&path) } else { check_mode(&path, 0o600) }
    }
}

fn check_mode(path: &Path, wanted: u32) {
    let mode = fs::metadata(path).expect("a file of ours").permissions().mode() & 0o777;
    assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
}
