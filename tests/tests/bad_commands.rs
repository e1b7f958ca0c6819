//! What operators type wrong, and what may be wrong around them: each mistake has its exit code, is named, and breaks
//! nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use portolan_tests::deployment::{Deployment, grpc};
use portolan_tests::in_lab;
use portolan_tests::lab::{Finished, tcp};
use portolan_tests::scene::{OpenScene, Scene};

/// Commands that make no sense (exit code 2), each with words that must be in the message.
const NONSENSE: &[(&[&str], &[&str])] = &[
    (&["scan", "10.99.2.300", "-p", "80", "--from", "office-1"], &["10.99.2.300"]),
    (&["scan", "10.99.2.0/33", "-p", "80", "--from", "office-1"], &["10.99.2.0/33"]),
    (&["scan", "10.99.2.9-3", "-p", "80", "--from", "office-1"], &["10.99.2.9-3"]),
    (&["scan", "fd00::/129", "-p", "80", "--from", "office-1"], &["fd00::/129"]),
    (&["scan", "shop_.-internal..", "-p", "80", "--from", "office-1"], &["shop_.-internal.."]),
    (&["scan", "", "-p", "80", "--from", "office-1"], &["target", "empty", "value"]),
    (&["scan", "10.99.2.10", "-p", "65536", "--from", "office-1"], &["65536"]),
    (&["scan", "10.99.2.10", "-p", "90-80", "--from", "office-1"], &["90-80"]),
    (&["scan", "10.99.2.10", "-p", "80,,http!", "--from", "office-1"], &["a port is missing", "http!"]),
    (&["scan", "10.99.2.10", "-p", "", "--from", "office-1"], &["port", "empty", "value"]),
    (&["scan", "10.99.2.10", "-p", "top-0", "--from", "office-1"], &["top-0"]),
    (&["scan", "10.99.2.10", "-p", "80", "--from", "office-1", "--exclude", "10.0.0.0/40"], &["10.0.0.0/40"]),
    (&["scan", "10.99.2.10", "-p", "80", "--from", "office-1", "--method", "magic"], &["magic"]),
    (&["scan", "10.99.2.10", "-p", "80", "--from", "office-1", "-o", "xls"], &["xls"]),
    (&["scan", "10.99.2.10", "-p", "80"], &["--from"]),
    (&["scan", "-p", "80", "--from", "office-1"], &["target"]),
    (&["history", "10.99.2.10:99999"], &["99999"]),
    (&["satellite", "add", "Office 1", "--segment", "office"], &["Office 1"]),
    (&["satellite", "add", "office-2", "--segment", "office", "--scope", "10.0.0.0/40"], &["10.0.0.0/40"]),
    (&["satellite", "add", "office-2", "--segment", "office", "--ttl", "soon"], &["soon"]),
    (&["satellite", "add", "office-2"], &["--segment"]),
    (&["chart"], &["chart"]),
    (&[], &["usage"]),
];

#[test]
fn nonsense_is_a_usage_error_that_quotes_it() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        for (args, words) in NONSENSE {
            let finished = scene.deployment.console(args);
            finished.code_is(2).says(words);
            assert!(finished.stdout.is_empty(), "an error is no result:\n{finished}");
        }
        // Nothing of it left a trace.
        let list = scene.deployment.ask(&["satellite", "list"]);
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    });
}

#[test]
fn an_unreadable_list_of_targets_is_named() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let list = lab.directory("lists").join("no-such-list");
        let list = list.to_str().unwrap();
        let finished =
            scene.deployment.console(&["scan", "--input-list", list, "-p", "80", "--from", "office-1"]);
        assert!([1, 2].contains(&finished.code), "{finished}");
        finished.says(&[list]);
    });
}

#[test]
fn an_unknown_satellite_is_an_error_and_nothing_is_scanned() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        lab.firewall(&Scene::rules().count("probes", "office", "dmz", tcp("-")));
        let target = scene.shop.v4().to_string();
        let scan = scene.deployment.scan(&[&target, "-p", "80", "--from", "office-1,ofice-2"]);
        scan.code_is(1).finished().says(&["ofice-2"]);
        assert_eq!(lab.packets("probes"), 0);
        for args in [
            ["satellite", "show", "ofice-2"],
            ["satellite", "revoke", "ofice-2"],
            ["satellite", "remove", "ofice-2"],
        ] {
            scene.deployment.console(&args).code_is(1).says(&["ofice-2"]);
        }
    });
}

#[test]
fn a_name_is_given_once() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let first = deployment.invite("office-1", "office", &[]);
        // Until it is used, a token can be replaced: the first may have been lost.
        let second = deployment.invite("office-1", "office", &[]);
        let satellite = deployment.satellite_on(&lab.host("office", "pc"), "office-1");
        satellite.enroll(&first).code_is(1).says(&["void"]);
        satellite.enroll(&second).ok();
        let again = deployment.console(&["satellite", "add", "office-1", "--segment", "office"]);
        again.code_is(1).says(&["office-1"]).says(&["exists", "taken", "already"]);
    });
}

#[test]
fn an_offline_satellite_makes_the_scan_partial_and_the_others_do_theirs() {
    in_lab!(|lab| {
        let scene = Scene::build(lab);
        scene.pci.stop().ok();
        scene.deployment.wait_for_status("pci-1", "offline");
        let target = scene.shop.v4().to_string();
        let scan = scene.deployment.scan(&[&target, "-p", "443", "--from", "office-1,pci-1"]);
        scan.code_is(4).finished().says(&["pci-1"]).says(&["offline", "not connected"]);
        assert_eq!(scan.satellite("office-1")["complete"], true);
        assert_eq!(scan.satellite("pci-1")["complete"], false);
        assert!(scan.satellite("pci-1")["error"].is_string(), "{}", scan.document());
        assert_eq!(scan.verdicts("office-1").of(scene.shop.v4()).to_string(), "open 443");

        let alone = scene.deployment.scan(&[&target, "-p", "443", "--from", "pci-1"]);
        alone.code_is(4).finished().says(&["pci-1"]).says(&["offline", "not connected"]);
    });
}

#[test]
fn a_satellite_that_never_enrolled_is_no_vantage_point() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        deployment.invite("office-1", "office", &[]);
        let scan = deployment.scan(&["10.99.2.10", "-p", "443", "--from", "office-1"]);
        scan.code_is(4).finished().says(&["office-1"]).says(&[
            "enrolled",
            "pending",
            "offline",
            "not connected",
        ]);
    });
}

#[test]
fn an_unreachable_server_is_said_to_be_unreachable() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        deployment.stop().ok();
        let refused = deployment.console(&["satellite", "list"]);
        refused.code_is(1).says(&[&deployment.address()]).says(&["refused"]);
        deployment.console(&["status"]).code_is(1);
    });
}

#[test]
fn a_silent_way_to_the_server_ends_too() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let away = lab.host("office", "away");
        lab.firewall(&portolan_tests::lab::Firewall::open().cut("office", "server"));
        let binaries = portolan_tests::deployment::binaries();
        let console =
            away.command(binaries[2].1.to_str().unwrap()).arg("--context").arg(deployment.admin_file());
        let finished = console.args(["satellite", "list"]).env("HOME", "/run/lab").run();
        finished.code_is(1).says(&[&deployment.address()]).says(&["time", "no answer"]);
    });
}

#[test]
fn an_expired_operator_is_told_so_and_refused_by_the_server_too() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let admin = deployment.admin();
        let scratch = lab.directory("expired");
        let expired = admin.identity().expired_twin(&deployment.data_dir(), &scratch);
        let context = admin.with_certificate(&expired).write(scratch.join("expired.toml"));
        deployment.console_with(&context, &["satellite", "list"]).run().code_is(1).says(&["expired"]);

        // The server does not rely on the console's honesty.
        let identity = admin.identity().with_certificate(&expired);
        let answer = grpc(
            deployment.server_host(),
            &deployment.address(),
            "portolan.v1.Console/ListSatellites",
            Some(&identity),
        );
        assert!(answer.is_refused(), "an expired certificate was accepted:\n{}", answer.text);
    });
}

#[test]
fn another_deployments_server_is_not_trusted() {
    in_lab!(|lab| {
        let (one, other) = (lab.host("server", "server-a"), lab.host("server", "server-b"));
        let ours = Deployment::on(lab, &one, "ours");
        let theirs = Deployment::on(lab, &other, "theirs");
        for deployment in [&ours, &theirs] {
            deployment.init().ok();
            deployment.start();
        }
        let strayed = ours.admin().with_server(&theirs.address());
        let strayed = strayed.write(lab.directory("strayed").join("strayed.toml"));
        let finished = theirs.console_with(&strayed, &["satellite", "list"]).run();
        finished.code_is(1).says(&["certificate", "trust"]).says(&[&theirs.address()]);
    });
}

#[test]
fn a_missing_or_damaged_context_is_named() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let directory = lab.directory("contexts");
        let list = |context: &std::path::Path| -> Finished {
            deployment.console_with(context, &["satellite", "list"]).run()
        };
        list(&directory.join("none.toml")).code_is(1).says(&["none.toml"]);
        let damaged = directory.join("damaged.toml");
        std::fs::write(&damaged, "servers = [").unwrap();
        list(&damaged).code_is(1).says(&["damaged.toml"]);
        let without_key =
            std::fs::read_to_string(deployment.admin_file()).unwrap().replace("PRIVATE KEY", "LOST KEY");
        std::fs::write(&damaged, without_key).unwrap();
        list(&damaged).code_is(1).says(&["damaged.toml"]);
    });
}
