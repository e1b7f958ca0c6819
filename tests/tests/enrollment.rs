//! Join tokens: one satellite, once, for a while. Each way in which one is no good is told apart, and none burns it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use portolan_tests::deployment::Deployment;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Program, run_ok, tcp};
use portolan_tests::wait::SOON;

#[test]
fn a_token_is_used_once() {
    in_lab!(|lab| {
        let (pc, other) = (lab.host("office", "pc"), lab.host("office", "other"));
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &[]);
        let first = deployment.satellite_on(&pc, "office-1");
        first.enroll(&token).ok();
        let second = deployment.satellite_on(&other, "second");
        second.enroll(&token).code_is(1).says(&["used"]);
        second.run_command().limit(SOON).run().code_is(1).says(&["enroll"]);

        first.start();
        deployment.wait_for_status("office-1", "online");
    });
}

#[test]
fn a_satellite_that_is_enrolled_is_not_enrolled_over() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite(&pc, "office-1");
        let before = satellite.identity();
        let token = deployment.invite("office-2", "office", &[]);
        satellite.enroll(&token).code_is(1).says(&["already", "enrolled"]);
        assert_eq!(satellite.identity().certificate(), before.certificate());
        // The token was not burnt by it.
        deployment.satellite_on(&lab.host("office", "other"), "office-2").enroll(&token).ok();
    });
}

#[test]
fn an_expired_token_is_said_to_be_expired() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &["--ttl", "1m"]);
        let satellite = deployment.satellite_on(&pc, "office-1");
        // The shortest life that a token can have.
        std::thread::sleep(Duration::from_secs(61));
        satellite.enroll(&token).code_is(1).says(&["expired"]);
        assert_eq!(deployment.status_of("office-1"), "pending");
    });
}

#[test]
fn a_damaged_token_is_noticed_before_anything_is_sent() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &[]);
        let satellite = deployment.satellite_on(&pc, "office-1");
        lab.firewall(&Firewall::open().count("dials", "office", "server", tcp("-")));
        let middle = token.len() / 2;
        let swapped = if token.as_bytes()[middle] == b'A' { "B" } else { "A" };
        let altered = format!("{}{swapped}{}", &token[..middle], &token[middle + 1..]);
        for damaged in [&altered[..], &token[..token.len() - 4], "ptl1_", &format!("{token}AAAA")] {
            satellite.enroll(damaged).code_is(1).says(&["damaged"]);
        }
        for nonsense in ["hello", "ptl_x", "-----BEGIN CERTIFICATE-----"] {
            let refused = satellite.enroll(nonsense);
            assert!([1, 2].contains(&refused.code), "{refused}");
            refused.says(&["token", "unexpected"]);
        }
        assert_eq!(lab.packets("dials"), 0, "a damaged token was sent somewhere");
        satellite.enroll(&token).ok();
    });
}

#[test]
fn a_foreign_servers_token_shows_by_its_pin() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let server = lab.host("server", "server");
        let old = Deployment::on(lab, &server, "old");
        old.init().ok();
        old.start();
        let token = old.invite("office-1", "office", &[]);
        old.stop().ok();
        // Another deployment now answers at the same address.
        let new = Deployment::on(lab, &server, "new");
        new.init().ok();
        new.start();
        let refused = new.satellite_on(&pc, "office-1").enroll(&token);
        refused.code_is(1).says(&["pin", "another deployment", "not the server"]);
        refused.never_says("expired").never_says("used");
    });
}

#[test]
fn a_secret_that_the_server_never_knew_is_not_told_from_a_forgotten_one() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        deployment.stop().ok();
        let (data, backup) = (deployment.data_dir(), lab.directory("backup").join("data"));
        run_ok(Program::new("cp").arg("-a").arg(&data).arg(&backup));
        deployment.start();
        let token = deployment.invite("office-1", "office", &[]);
        deployment.stop().ok();
        // The same deployment as it was before the token was made.
        fs::remove_dir_all(&data).unwrap();
        run_ok(Program::new("cp").arg("-a").arg(&backup).arg(&data));
        deployment.start();
        let refused = deployment.satellite_on(&pc, "office-1").enroll(&token);
        refused.code_is(1).says(&["not known", "unknown", "does not know", "not accept", "refuse"]);
        refused.never_says("expired").never_says("already used");
    });
}

#[test]
fn an_unreachable_server_does_not_burn_the_token() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &[]);
        deployment.stop().ok();
        let satellite = deployment.satellite_on(&pc, "office-1");
        satellite.enroll(&token).code_is(1).says(&[&deployment.address()]);
        deployment.start();
        satellite.enroll(&token).ok();
        satellite.start();
        deployment.wait_for_status("office-1", "online");
    });
}

#[test]
fn a_satellite_without_a_writable_directory_keeps_the_token_good() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &[]);
        let satellite = deployment.satellite_on(&pc, "office-1");
        fs::create_dir_all(satellite.data_dir()).unwrap();
        run_ok(Program::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(satellite.data_dir()));
        satellite.enroll(&token).code_is(1).says(&[satellite.data_dir().to_str().unwrap()]);
        run_ok(Program::new("umount").arg(satellite.data_dir()));
        satellite.enroll(&token).ok();
    });
}

#[test]
fn a_satellite_that_never_enrolled_says_how_to() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        deployment.satellite_on(&pc, "office-1").run_command().limit(SOON).run().code_is(1).says(&["enroll"]);
    });
}

#[test]
fn a_token_is_kept_nowhere_and_a_key_stays_where_it_was_made() {
    in_lab!(|lab| {
        let pc = lab.host("office", "pc");
        let deployment = Deployment::up(lab);
        let token = deployment.invite("office-1", "office", &[]);
        let satellite = deployment.satellite_on(&pc, "office-1");
        satellite.enroll(&token).ok();
        deployment.stop().ok();
        let key = satellite.identity().key().lines().nth(1).unwrap().to_owned();
        let found = |needle: &str| {
            let grep = Program::new("grep").args(["-r", "-a", "-l", "-F", "-e", needle]);
            grep.arg(deployment.data_dir()).run().stdout
        };
        assert_eq!(found(&token), "", "the token in plain text");
        assert_eq!(found(&key), "", "the satellite's private key at the server");
        assert!(satellite.identity().description().contains("URI:spiffe://portolan/"));
    });
}
