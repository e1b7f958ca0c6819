//! What people say about alerts: silences, acknowledgements, comments, maintenance windows. All of it outlives the
//! server.

use std::time::Duration;

use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::lab::Lab;
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays, wait_for, wait_until};

use super::{QUIET, is_now, text};

/// Ports 80 and 443 must be open.
fn policy(lab: &Lab, address: impl std::fmt::Display, more: &str) -> String {
    with_segments(
        lab,
        &format!(
            r#"[[check]]
               name = "web"
               from = ["segment:office"]
               targets = ["{address}"]
               open = "80,443"
               every = "1s"
               confirm = 1
               recover = 1
               labels = {{ team = "shop" }}
               {more}"#
        ),
    )
}

#[test]
fn silences_and_acknowledgements_hold_through_a_restart_of_the_server() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        // The host answers, so that it is not taken for down.
        let listener = scene.shop.listen(&[80, 443]);
        place.apply(&policy(lab, address, ""));
        place.wait_until_ok("web");
        place.console(&["silence", "add", "port=443", "--for", "1h"]).code_is(2);
        let silence =
            place.ask(&["silence", "add", "team=shop", "port=~443", "--for", "1h", "-m", "new switch"]);
        let silence = text(&silence, "id");
        let mut watch = place.watch_alerts();
        drop(listener);
        let silenced = place.wait_for_alert("443 to be silenced", |alert| {
            is_now(alert, "PortNotOpen", 443, "firing")
                && alert["held_back_by"][0].as_str().is_some_and(|reason| reason.starts_with("silence "))
        });
        let acked = place.wait_for_alert("80 to fire", |alert| is_now(alert, "PortNotOpen", 80, "firing"));
        let id = text(&acked, "id");
        assert_eq!(place.firing().len(), 1);

        place.console(&["alert", "ack", &id, "-m", "on it"]).ok();
        place.console(&["alert", "comment", &id, "the rack has no power"]).ok();
        assert!(place.firing().is_empty(), "an acknowledged alert is nobody else's");
        watch.wait_for(SOON, "the acknowledgement", |event| event.kind == "acknowledged");
        watch.wait_for(SOON, "the comment", |event| event.kind == "commented");

        place.crash();
        place.start();
        let check = || {
            let all = place.alerts();
            let find = |id: &str| all.iter().find(|alert| alert["id"] == id).cloned();
            let (acked, silenced) = (find(&id)?, find(silenced["id"].as_str()?)?);
            let by = acked["acknowledged_by"].is_string() && acked["status"] == "acknowledged";
            let held = silenced["held_back_by"][0].as_str()?.starts_with("silence ");
            (by && held && place.firing().is_empty()).then_some(())
        };
        assert!(check().is_some(), "right after the start: {:#?}", place.alerts());
        place.wait_for_status("office-1", "online");
        stays("both hold", QUIET, || check().is_some());
        let shown = place.ask(&["alert", "show", &id]);
        let comments: Vec<String> =
            shown["comments"].as_array().unwrap().iter().map(|comment| text(comment, "text")).collect();
        assert_eq!(comments, ["on it", "the rack has no power"]);

        // The end of the silence releases what it held back.
        assert_eq!(text(&place.ask(&["silence", "list"])[0], "id"), silence);
        place.console(&["silence", "expire", &silence]).ok();
        let paging = wait_for("443 to page", SOON, || place.firing().into_iter().next());
        assert_eq!(paging["id"], silenced["id"]);
        assert!(place.ask(&["silence", "list"]).as_array().unwrap().is_empty());
        assert_eq!(place.ask(&["silence", "list", "--expired"]).as_array().unwrap().len(), 1);

        // An acknowledgement ends with the alert.
        let _back = scene.shop.listen(&[80, 443]);
        place.wait_for_status_of_alert(&id, "resolved");
        place.console(&["alert", "ack", &id]).code_is(1).says(&["resolved"]);
    });
}

#[test]
fn a_silence_ends_by_itself() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let listener = scene.shop.listen(&[80, 443]);
        place.apply(&policy(lab, address, ""));
        place.wait_until_ok("web");
        place.ask(&["silence", "add", "check=web", "--for", "12s", "-m", "a short one"]);
        let mut watch = place.watch_alerts();
        drop(listener);
        wait_until("both to be silenced", SOON, || {
            place.alerts().iter().filter(|alert| alert["held_back_by"][0].is_string()).count() == 2
        });
        watch.wait_for(SOON, "its end", |event| event.kind == "released");
        wait_until("both to page", SOON, || place.firing().len() == 2);
    });
}

#[test]
fn a_maintenance_window_holds_back_what_it_matches_until_it_is_over() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let listener = scene.shop.listen(&[80, 443]);
        // One minute after the other: always.
        let always = |port: u16| {
            format!(
                "[[maintenance]]\nname = \"always\"\nmatch = {{ team = \"shop\", port = \"{port}\" }}\n\
                 cron = \"* * * * *\"\nlasts = \"1m\"\ntimezone = \"Europe/Berlin\"\n"
            )
        };
        place.apply(&policy(lab, address, &always(443)));
        place.wait_until_ok("web");
        drop(listener);
        let held = place.wait_for_alert("443 to be held back", |alert| {
            is_now(alert, "PortNotOpen", 443, "firing")
                && alert["held_back_by"] == serde_json::json!(["maintenance always"])
        });
        let other = place.wait_for_alert("80 to fire", |alert| is_now(alert, "PortNotOpen", 80, "firing"));
        assert_eq!(place.firing().len(), 1);
        place.crash();
        place.start();
        place.wait_for_status("office-1", "online");
        stays("the window still holds", QUIET, || {
            let firing = place.firing();
            firing.len() == 1 && firing[0]["id"] == other["id"]
        });
        place.apply(&policy(lab, address, ""));
        wait_until("what was held back to page", Duration::from_secs(10), || {
            place.firing().iter().any(|alert| alert["id"] == held["id"])
        });
    });
}
