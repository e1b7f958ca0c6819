//! Who may do what, seen from outside: certificates decide, by openssl and curl as the ones who ask.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::{Duration, Instant};

use portolan_tests::deployment::{Deployment, Identity, grpc};
use portolan_tests::lab::Host;
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays, wait_until};
use portolan_tests::{in_lab, need};

/// What only operators may call without arguments.
const CONSOLE: [&str; 3] =
    ["portolan.v1.Console/Status", "portolan.v1.Console/ListSatellites", "portolan.v1.Console/ListPorts"];
/// What only satellites may call.
const UPLINK: &str = "portolan.v1.Uplink/Connect";

/// How many established connections a host has to a server.
fn connections(host: &Host, deployment: &Deployment) -> usize {
    let filter = format!("dst {}", deployment.address());
    let listed = host.command("ss").args(["-H", "-t", "-n", "state", "established", &filter]).run();
    listed.ok().stdout.lines().count()
}

/// Whether the server turns `identity` away from an RPC. It answers one way or the other.
fn refused(deployment: &Deployment, rpc: &str, identity: Option<&Identity>) -> bool {
    let answer = grpc(deployment.server_host(), &deployment.address(), rpc, identity);
    assert!(answer.is_ok() || answer.is_refused(), "neither yes nor no to {rpc}:\n{}", answer.text);
    answer.is_refused()
}

#[test]
fn an_operator_may_call_the_console_and_a_satellite_or_nobody_may_not() {
    need!("curl", "openssl");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (operator, satellite) = (scene.deployment.admin().identity(), scene.office.identity());
        for rpc in CONSOLE {
            let answer =
                grpc(scene.deployment.server_host(), &scene.deployment.address(), rpc, Some(&operator));
            assert!(answer.is_ok(), "the operator is refused {rpc}:\n{}", answer.text);
            assert!(refused(&scene.deployment, rpc, Some(&satellite)), "a satellite may call {rpc}");
            assert!(refused(&scene.deployment, rpc, None), "anybody may call {rpc}");
        }
        assert!(refused(&scene.deployment, UPLINK, Some(&operator)), "an operator may be a satellite");
        assert!(refused(&scene.deployment, UPLINK, None), "anybody may be a satellite");
    });
}

#[test]
fn a_self_made_certificate_is_nobodys() {
    need!("curl", "openssl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let operator = deployment.admin().identity();
        let forged = operator.self_signed_twin(&lab.directory("forged"));
        for rpc in CONSOLE.iter().chain([&UPLINK]) {
            assert!(refused(&deployment, rpc, Some(&forged)), "{rpc} believes a self-made certificate");
        }
    });
}

#[test]
fn a_satellites_certificate_is_no_authority() {
    need!("curl", "openssl");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let satellite = scene.office.identity();
        let text = satellite.description();
        assert!(text.contains("CA:FALSE") && !text.contains("CA:TRUE"), "{text}");
        assert!(!text.contains("Certificate Sign"), "{text}");
        // An operator's certificate that a satellite signed with its own key.
        let forged = scene.deployment.admin().identity().twin_signed_by(&satellite, &lab.directory("forged"));
        for rpc in CONSOLE {
            assert!(refused(&scene.deployment, rpc, Some(&forged)), "{rpc} believes a satellite's signature");
        }
    });
}

#[test]
fn anonymous_health_is_answered_and_unknown_paths_are_not() {
    need!("curl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let get = |path: &str| {
            let url = format!("https://{}{path}", deployment.address());
            let curl = deployment.server_host().command("curl").args([
                "--silent",
                "--insecure",
                "--output",
                "/dev/null",
            ]);
            curl.args(["--max-time", "20", "--write-out", "%{http_code}", &url]).run().stdout
        };
        assert_eq!(get("/healthz"), "200");
        assert_eq!(get("/readyz"), "200");
        for path in ["/", "/admin", "/portolan.v1.Console/Status", "/metrics/../readyz/x"] {
            let code = get(path);
            assert!(code.starts_with('4'), "{path} is answered with {code}");
        }
    });
}

#[test]
fn only_tls_1_3_is_spoken() {
    need!("openssl");
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let connect = |version: &str| {
            let client = deployment
                .server_host()
                .command("openssl")
                .args(["s_client", version, "-alpn", "h2", "-connect"]);
            client.arg(deployment.address()).run().stdout
        };
        assert!(connect("-tls1_3").contains("TLSv1.3"));
        let older = connect("-tls1_2");
        assert!(older.contains("Cipher is (NONE)"), "{older}");
    });
}

#[test]
fn a_revoked_satellite_is_cut_off_within_a_second_and_stays_out() {
    need!("ss", "curl");
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let other = scene.deployment.satellite(&lab.host("office", "other"), "office-2");
        assert!(connections(&scene.pc, &scene.deployment) > 0);
        let identity = scene.office.identity();

        scene.deployment.console(&["satellite", "revoke", "office-1"]).ok();
        let revoked = Instant::now();
        wait_until("the revoked satellite's connection to end", SOON, || {
            connections(&scene.pc, &scene.deployment) == 0
        });
        // A second, and what a loaded machine adds to looking.
        assert!(revoked.elapsed() < Duration::from_millis(2_500), "cut off after {:?}", revoked.elapsed());
        assert_eq!(scene.deployment.status_of("office-1"), "revoked");

        scene.office.crash();
        let again = scene.office.run_command().spawn();
        stays("revoked and not online", Duration::from_secs(4), || {
            scene.deployment.status_of("office-1") == "revoked"
        });
        assert!(
            again.stderr().contains("revoked"),
            "the satellite's operator is not told:\n{}",
            again.stderr()
        );
        assert!(refused(&scene.deployment, UPLINK, Some(&identity)), "a revoked certificate is welcome");
        let scan = scene.deployment.scan(&["10.99.2.10", "-p", "80", "--from", "office-1"]);
        assert!([1, 4].contains(&scan.finished().code), "{}", scan.finished());
        scan.finished().says(&["revoked"]);

        assert!(other.is_running());
        assert_eq!(scene.deployment.status_of("office-2"), "online", "nobody else is cut off");
    });
}

#[test]
fn a_revocation_survives_a_restart_of_the_server() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        scene.deployment.console(&["satellite", "revoke", "office-1"]).ok();
        scene.deployment.crash();
        scene.deployment.start();
        scene.office.crash();
        let _again = scene.office.run_command().spawn();
        stays("revoked and not online", Duration::from_secs(4), || {
            scene.deployment.status_of("office-1") == "revoked"
        });
    });
}

#[test]
fn a_satellite_is_removed_only_after_it_was_revoked_and_its_name_is_free_again() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let remove = || scene.deployment.console(&["satellite", "remove", "office-1"]);
        remove().code_is(1).says(&["revoke"]);
        assert_eq!(scene.deployment.status_of("office-1"), "online");
        scene.deployment.console(&["satellite", "revoke", "office-1"]).ok();
        remove().ok();
        assert_eq!(scene.deployment.ask(&["satellite", "list"]).as_array().map(Vec::len), Some(0));
        std::fs::remove_dir_all(scene.office.data_dir()).expect("the revoked satellite's directory");
        let _new = scene.deployment.satellite(&lab.host("office", "new-pc"), "office-1");
    });
}
