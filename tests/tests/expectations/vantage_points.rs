//! Several vantage points: how many must agree, and what becomes of those that see nothing any more.

use std::time::Duration;

use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, tcp};
use portolan_tests::wait::{SOON, stays, wait_until};

use super::{Fleet, QUIET, is, is_now, text};

/// After this a satellite that is gone counts as offline: the grace, and until its end is noticed.
const GONE: Duration = Duration::from_secs(80);

#[test]
fn an_open_port_needs_a_majority_and_a_closed_one_nobody_else() {
    in_lab!(|lab| {
        let fleet = Fleet::build(lab, &["office", "branch", "guest"]);
        let (place, address) = (&fleet.deployment, fleet.address());
        let _listener = fleet.shop.listen(&[80, 8080]);
        let refused = |segments: &[&str], ports: &str| {
            segments.iter().fold(Firewall::open(), |rules, from| rules.reset(*from, "dmz", tcp(ports)))
        };
        lab.firewall(&refused(&["office", "branch", "guest"], "8080"));
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "web"
                   from = ["segment:office", "segment:branch", "segment:guest"]
                   targets = ["{address}"]
                   open = "80"
                   closed = "8080"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("web");

        // One of three does not reach 80: that is pending, and pages nobody.
        lab.firewall(&refused(&["office", "branch", "guest"], "8080").reset("guest", "dmz", tcp("80")));
        wait_until("one refusal to be pending", SOON, || place.check("web")["pending"] == 1);
        stays("one of three does not fire", QUIET, || place.firing().is_empty());

        // Two do: it fires, and says from where.
        let two = refused(&["office", "branch", "guest"], "8080");
        lab.firewall(&two.reset("guest", "dmz", tcp("80")).reset("office", "dmz", tcp("80")));
        let alert = place.wait_for_alert("two refusals to fire", |alert| {
            is_now(alert, "PortNotOpen", 80, "firing") && alert["satellites"].as_array().unwrap().len() == 2
        });
        let mut from: Vec<&str> =
            alert["satellites"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        from.sort_unstable();
        assert_eq!(from, ["guest-1", "office-1"]);

        // One satellite that reaches a port that must be closed is enough.
        lab.firewall(&refused(&["office", "guest"], "8080"));
        let alert =
            place.wait_for_alert("one way in to fire", |alert| is_now(alert, "PortOpen", 8080, "firing"));
        assert_eq!(alert["satellites"], serde_json::json!(["branch-1"]));
        place.wait_for_alert("80 to be well again", |alert| is_now(alert, "PortNotOpen", 80, "resolved"));
    });
}

#[test]
fn two_of_three_are_cut_and_the_third_decides() {
    in_lab!(|lab| {
        let fleet = Fleet::build(lab, &["office", "branch", "guest"]);
        let (place, address) = (&fleet.deployment, fleet.address());
        let listener = fleet.shop.listen(&[80]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "web"
                   from = ["segment:office", "segment:branch", "segment:guest"]
                   targets = ["{address}"]
                   open = "80"
                   every = "1s"
                   confirm = 2
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("web");
        let cut = [0, 1].map(|one| &fleet.hosts[one]).into_iter().fold(Firewall::open(), |rules, host| {
            rules.cut(host, place.server_host()).cut(host, &fleet.shop)
        });
        lab.firewall(&cut);
        wait_until("the cut ones' evidence to be stale", SOON, || {
            let check = place.check("web");
            let sights = check["ports"][0]["sights"].as_array().cloned().unwrap_or_default();
            sights.iter().filter(|sight| sight["stale"] == true).count() == 2
        });
        assert_eq!(place.check("web")["state"], "ok", "the third still sees it");
        drop(listener);
        let alert =
            place.wait_for_alert("the third to decide", |alert| is_now(alert, "PortNotOpen", 80, "firing"));
        assert_eq!(alert["satellites"], serde_json::json!(["guest-1"]));
        let _back = fleet.shop.listen(&[80]);
        place.wait_for_status_of_alert(&text(&alert, "id"), "resolved");
    });
}

#[test]
fn a_dead_satellite_makes_its_checks_unknown_and_is_one_alert() {
    in_lab!(|lab| {
        let fleet = Fleet::build(lab, &["office"]);
        let (place, address) = (&fleet.deployment, fleet.address());
        let _listener = fleet.shop.listen(&[80, 81, 82]);
        let names = ["web-0", "web-1", "web-2"];
        let check = |port: usize| {
            format!(
                r#"[[check]]
                   name = "web-{port}"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "8{port}"
                   closed = "2{port}"
                   every = "1s"
                   confirm = 1
                   recover = 1
                   "#
            )
        };
        place.apply(&with_segments(lab, &[0, 1, 2].map(check).concat()));
        for name in names {
            place.wait_until_ok(name);
        }
        fleet.satellites[0].crash();
        for name in names {
            place.wait_for_check(name, "unknown", SOON);
        }
        let gone = place.wait_for_alert_within(GONE, "the satellite to be missed", |alert| {
            alert["labels"]["alertname"] == "SatelliteOffline" && alert["status"] == "firing"
        });
        assert_eq!(text(&gone, "severity"), "critical");
        assert!(text(&gone, "summary").contains("office-1"), "{gone:#}");
        stays("one alert, and nothing is called well", QUIET, || {
            let firing = place.firing();
            let all_unknown = names.iter().all(|name| place.check(name)["state"] == "unknown");
            firing.len() == 1 && firing[0]["id"] == gone["id"] && all_unknown
        });
        assert!(place.alerts().iter().all(|alert| alert["port"].is_null()), "{:#?}", place.alerts());

        fleet.satellites[0].start();
        place.wait_for_status_of_alert(&text(&gone, "id"), "resolved");
        for name in names {
            place.wait_until_ok(name);
        }
        assert!(place.firing().is_empty());
    });
}

#[test]
fn an_alert_whose_evidence_vanishes_goes_on_firing_as_unknown() {
    in_lab!(|lab| {
        let fleet = Fleet::build(lab, &["office"]);
        let (place, address) = (&fleet.deployment, fleet.address());
        let telnet = fleet.shop.listen(&[23]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "no-telnet"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   closed = "23"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        let alert =
            place.wait_for_alert("telnet to be found", |alert| is_now(alert, "PortOpen", 23, "firing"));
        let id = text(&alert, "id");
        fleet.satellites[0].crash();
        drop(telnet);
        place.wait_for_check("no-telnet", "unknown", SOON);
        let now = place.wait_for_alert("it to say that nobody knows", |alert| {
            is(alert, "PortOpen", 23) && alert["unknown"] == true
        });
        assert_eq!([text(&now, "id"), text(&now, "status")], [id.clone(), "firing".into()]);
        fleet.satellites[0].start();
        place.wait_for_status_of_alert(&id, "resolved");
    });
}
