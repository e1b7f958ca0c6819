//! A satellite whose only way out is an HTTP proxy.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use portolan_tests::deployment::Deployment;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Lab, Proxy, tcp};

/// `operator:secret` in base64.
const CREDENTIALS: &str = "b3BlcmF0b3I6c2VjcmV0";

/// The office reaches the proxy in the middle and nothing else; the proxy reaches the server.
fn only_through_the_proxy(lab: &Lab, deployment: &Deployment) -> portolan_tests::lab::Host {
    let proxy = lab.host("middle", "proxy");
    lab.firewall(&Firewall::closed().allow("office", &proxy, tcp("3128")).allow(
        &proxy,
        deployment.server_host(),
        tcp("7443"),
    ));
    proxy
}

#[test]
fn a_satellite_enrols_and_runs_through_a_proxy() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let pc = lab.host("office", "pc");
        let host = only_through_the_proxy(lab, &deployment);
        let proxy = Proxy::start(&host, 3128, Some(CREDENTIALS));
        let token = deployment.invite("office-1", "office", &["--scope", "10.99.0.0/16"]);
        let satellite = deployment.satellite_on(&pc, "office-1");

        satellite.enroll(&token).code_is(1).says(&["no answer"]);
        let through = |credentials: &str| {
            let url = format!("http://{credentials}{}:3128", host.v4());
            satellite.enroll_command(&token).args(["--proxy", &url]).run()
        };
        through("").code_is(1).says(&["proxy"]);
        let wrong = through("operator:guessed@");
        wrong.code_is(1).says(&["proxy"]);
        assert!(!wrong.stderr.contains("guessed"), "the password is shown:\n{wrong}");
        through("operator:secret@").ok();
        satellite.start();
        deployment.wait_for_status("office-1", "online");
        assert!(proxy.requests().iter().all(|line| line.starts_with("CONNECT ")), "{:?}", proxy.requests());
        let target = pc.v4().to_string();
        deployment.scan(&[&target, "-p", "22", "--from", "office-1"]).code_is(0);
    });
}

#[test]
fn a_proxy_that_is_no_url_is_a_mistake_that_is_said() {
    in_lab!(|lab| {
        let deployment = Deployment::up(lab);
        let satellite = deployment.satellite_on(&lab.host("office", "pc"), "office-1");
        let token = deployment.invite("office-1", "office", &[]);
        for wrong in ["proxy.example:3128", "https://proxy.example:3128", "http://proxy.example"] {
            let finished = satellite.enroll_command(&token).args(["--proxy", wrong]).run();
            finished.code_is(2).says(&["proxy URL"]).says(&["http://"]);
        }
    });
}
