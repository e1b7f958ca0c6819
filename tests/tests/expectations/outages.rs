//! Links that are cut, servers that die: satellites go on with what they were assigned, what they saw meanwhile is
//! told late, and an alert is neither lost nor raised twice.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use portolan_tests::deployment::Deployment;
use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Lab};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays, wait_for, wait_until};

use super::{QUIET, is_now, text};

/// What waited longer than this is late, with some time to spare.
const LATE: Duration = Duration::from_secs(34);
/// Until a satellite is back after an outage of that length, its longest pause included.
const BACK: Duration = Duration::from_secs(60);

fn policy(lab: &Lab, address: impl std::fmt::Display) -> String {
    with_segments(
        lab,
        &format!(
            r#"[[check]]
               name = "web"
               from = ["segment:office"]
               targets = ["{address}"]
               open = "80"
               closed = "23"
               every = "1s"
               confirm = 1
               recover = 1"#
        ),
    )
}

/// The alert of port 80 fired and resolved, late, and everybody can read that it did.
#[track_caller]
fn was_told_late(place: &Deployment, address: &str) {
    let alert = place.wait_for_alert_within(BACK, "what happened meanwhile to be told", |alert| {
        is_now(alert, "PortNotOpen", 80, "resolved")
    });
    assert_eq!(alert["late"], true, "{alert:#}");
    let since: jiff::Timestamp = text(&alert, "since").parse().unwrap();
    let resolved: jiff::Timestamp = text(&alert, "resolved_at").parse().unwrap();
    let lasted = resolved.duration_since(since);
    assert!(lasted.as_secs() < 20, "it was down for some seconds, not for {lasted}: {alert:#}");
    let shown = place.ask(&["alert", "show", &text(&alert, "id")]);
    let late = shown["transitions"].as_array().unwrap().iter().filter(|step| step["late"] == true).count();
    assert!(late >= 2, "{shown:#}");
    let history = place.history(&format!("{address}:80"));
    let told: Vec<String> = history
        .iter()
        .map(|change| format!("{}>{} {}", text(change, "from"), text(change, "to"), change["late"]))
        .collect();
    assert_eq!(told, ["open>closed true", "closed>open true"]);
}

#[test]
fn what_happens_while_the_link_is_cut_is_told_late_and_in_order() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4().to_string());
        let listener = scene.shop.listen(&[80]);
        place.apply(&policy(lab, &address));
        place.wait_until_ok("web");
        let mut watch = place.watch_alerts();
        lab.firewall(&Firewall::open().cut(&scene.pc, place.server_host()));
        let cut = Instant::now();
        thread::sleep(Duration::from_secs(3));
        drop(listener);
        thread::sleep(Duration::from_secs(6));
        let _back = scene.shop.listen(&[80]);
        thread::sleep(Duration::from_secs(3));
        place.wait_for_check("web", "unknown", SOON);
        assert!(place.alerts().iter().all(|alert| alert["port"].is_null()), "{:#?}", place.alerts());
        thread::sleep((LATE + Duration::from_secs(9)).saturating_sub(cut.elapsed()));
        lab.firewall(&Firewall::open());
        was_told_late(place, &address);
        place.wait_until_ok("web");
        let about: Vec<String> = watch
            .events()
            .iter()
            .filter(|event| {
                event.alert["port"] == 80 && ["firing", "resolved"].contains(&event.kind.as_str())
            })
            .map(|event| event.kind.clone())
            .collect();
        assert_eq!(about, ["firing", "resolved"]);
    });
}

#[test]
fn a_satellite_goes_on_while_the_server_is_dead_also_after_a_restart_of_its_own() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4().to_string());
        let listener = scene.shop.listen(&[80]);
        place.apply(&policy(lab, &address));
        place.wait_until_ok("web");
        place.crash();
        let dead = Instant::now();
        let looked = |listener: &portolan_tests::lab::Listener| {
            let before = listener.accepted();
            wait_until("the satellite to look without a server", SOON, || listener.accepted() >= before + 3);
        };
        looked(&listener);
        scene.office.crash();
        scene.office.start();
        looked(&listener);
        drop(listener);
        thread::sleep(Duration::from_secs(4));
        let again = scene.shop.listen(&[80]);
        looked(&again);
        thread::sleep((LATE + Duration::from_secs(10)).saturating_sub(dead.elapsed()));
        place.start();
        was_told_late(place, &address);
        place.wait_until_ok("web");
    });
}

#[test]
fn a_fault_that_outlives_the_outage_is_firing_afterwards() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let _listener = scene.shop.listen(&[80]);
        place.apply(&policy(lab, address));
        place.wait_until_ok("web");
        place.crash();
        let _telnet = scene.shop.listen(&[23]);
        thread::sleep(Duration::from_secs(3));
        place.start();
        place.wait_for_alert_within(BACK, "what opened meanwhile to fire", |alert| {
            is_now(alert, "PortOpen", 23, "firing")
        });
        assert_eq!(place.firing().len(), 1);
    });
}

#[test]
fn alerts_survive_the_death_of_the_server_and_none_is_raised_twice() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        // Twenty ports that must be open, and none is.
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "web"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "8000-8019"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        let ids = |alerts: &[serde_json::Value]| {
            alerts.iter().map(|alert| text(alert, "id")).collect::<BTreeSet<_>>()
        };
        let before = wait_for("all to fire", SOON, || {
            let ids = ids(&place.firing());
            (ids.len() == 20).then_some(ids)
        });
        for _ in 0..2 {
            place.crash();
            place.start();
            assert_eq!(ids(&place.firing()), before, "right after the start");
            let mut watch = place.watch_alerts();
            place.wait_for_status("office-1", "online");
            stays("the same alerts, once each", QUIET, || {
                let all = place.alerts();
                all.len() == 20 && ids(&all) == before
            });
            let raised = watch.events().iter().filter(|event| event.kind == "firing").count();
            assert_eq!(raised, 0, "{:#?}", watch.events());
        }
        // They still are what they were: one that heals resolves.
        let _listener = scene.shop.listen(&[8007]);
        place.wait_for_alert("the one that is well to resolve", |alert| {
            is_now(alert, "PortNotOpen", 8007, "resolved")
        });
        assert_eq!(place.firing().len(), 19);
    });
}
