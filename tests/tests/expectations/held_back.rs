//! What pages nobody because something else explains it: a host that is down, a check that others depend on, a change
//! that was announced.

use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, any, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays, wait_for, wait_until};

use super::{QUIET, is, is_now, text};

#[test]
fn a_host_that_is_down_holds_its_ports_back() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4().to_string());
        let _listener = scene.shop.listen(&[80, 443, 22]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "shop"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "22,80,443"
                   closed = "23"
                   every = "2s"
                   confirm = 2
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("shop");
        lab.firewall(&Firewall::open().drop("office", &scene.shop, any()));
        let down = place.wait_for_alert("the host to be found down", |alert| {
            alert["labels"]["alertname"] == "HostDown" && alert["status"] == "firing"
        });
        assert_eq!([text(&down, "address"), text(&down, "expected")], [address.clone(), "up".into()]);
        assert!(down["port"].is_null());
        let reason = serde_json::json!([format!("host {address}")]);
        for port in [22, 80, 443] {
            place.wait_for_alert("its ports to be held back", |alert| {
                is_now(alert, "PortNotOpen", port, "firing") && alert["held_back_by"] == reason
            });
        }
        stays("only the host pages", QUIET, || {
            let firing = place.firing();
            firing.len() == 1 && firing[0]["id"] == down["id"]
        });
        lab.firewall(&Firewall::open());
        place.wait_for_status_of_alert(&text(&down, "id"), "resolved");
        place.wait_until_ok("shop");
        assert!(place.firing().is_empty());

        // A port alone is no host.
        lab.firewall(&Firewall::open().drop("office", &scene.shop, tcp("443")));
        place.wait_for_alert("443 alone to page", |alert| {
            is_now(alert, "PortNotOpen", 443, "firing") && alert["held_back_by"] == serde_json::json!([])
        });
        assert_eq!(place.firing().len(), 1);
    });
}

#[test]
fn a_check_holds_back_those_that_depend_on_it() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let way_in = scene.shop.listen(&[22]);
        let service = scene.shop.listen(&[443]);
        let check = |name: &str, port: u16, more: &str| {
            format!(
                "[[check]]\nname = \"{name}\"\nfrom = [\"segment:office\"]\ntargets = [\"{address}\"]\n\
                 open = \"{port}\"\nevery = \"1s\"\nconfirm = 1\nrecover = 1\n{more}\n"
            )
        };
        let checks = check("gateway", 22, "") + &check("service", 443, "depend_on = [\"gateway\"]");
        place.apply(&with_segments(lab, &checks));
        place.wait_until_ok("gateway");
        place.wait_until_ok("service");
        let mut watch = place.watch_alerts();

        drop(way_in);
        let cause =
            place.wait_for_alert("the gateway to fire", |alert| is_now(alert, "PortNotOpen", 22, "firing"));
        drop(service);
        let held = place.wait_for_alert("the service to be held back", |alert| {
            is_now(alert, "PortNotOpen", 443, "firing")
                && alert["held_back_by"] == serde_json::json!(["check gateway"])
        });
        let firing = place.firing();
        assert!(firing.len() == 1 && firing[0]["id"] == cause["id"], "{firing:#?}");

        // The gateway is well again, and the service still is not.
        let _way_in = scene.shop.listen(&[22]);
        place.wait_for_status_of_alert(&text(&cause, "id"), "resolved");
        let released = watch.wait_for(SOON, "the service to be released", |event| event.kind == "released");
        assert_eq!(released.alert["id"], held["id"]);
        let firing = place.firing();
        assert!(firing.len() == 1 && firing[0]["id"] == held["id"], "{firing:#?}");
    });
}

#[test]
fn an_announced_change_pages_nobody_and_anything_else_does() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "shut"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   closed = "8440-8449"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("shut");
        let expect = format!("office->{address}:8443 open");
        let open = |name: &str, expect: &str| {
            place.console(&["change", "open", name, "--expect", expect, "--for", "2h", "-m", "payment API"])
        };
        open("CHG31337", &expect).ok();
        open("CHG31337", &expect).code_is(1).says(&["CHG31337"]);
        open("CHG2", "office>10.99.2.10:8443 open").code_is(2);

        let announced = scene.shop.listen(&[8443]);
        let held = place.wait_for_alert("the announced port to be held back", |alert| {
            is_now(alert, "PortOpen", 8443, "firing")
                && alert["held_back_by"] == serde_json::json!(["change CHG31337"])
        });
        stays("what was announced pages nobody", QUIET, || place.firing().is_empty());
        // Nothing is hidden from history.
        wait_until("the history to have it", SOON, || place.history(&format!("{address}:8443")).len() == 1);

        let other = scene.shop.listen(&[8444]);
        let paging = wait_for("the other port to page", SOON, || place.firing().into_iter().next());
        assert!(is(&paging, "PortOpen", 8444), "{paging:#}");
        drop(other);
        place.wait_for_status_of_alert(&text(&paging, "id"), "resolved");

        // It outlives the server; closing it shows before and after, and pages what stays.
        place.crash();
        place.start();
        place.wait_for_status("office-1", "online");
        let listed = place.ask(&["change", "list"]);
        assert_eq!(listed[0]["name"], "CHG31337");
        assert!(place.firing().is_empty());
        // What was announced and stays is what the check forbids.
        let closing = place.console(&["change", "close", "CHG31337", "-o", "json"]);
        let closed = closing.code_is(3).json();
        let states = |key: &str| -> Vec<String> {
            let ports = closed["expectations"][0][key].as_array().unwrap().iter();
            ports.filter(|port| port["port"] == 8443).map(|port| text(port, "state")).collect()
        };
        assert_eq!(
            (states("before"), states("after")),
            (vec!["closed".into()], vec!["open".into()]),
            "{closed:#}"
        );
        let paging = wait_for("what stays to page", SOON, || place.firing().into_iter().next());
        assert_eq!(paging["id"], held["id"]);
        drop(announced);
        place.wait_for_status_of_alert(&text(&held, "id"), "resolved");
        place.console(&["change", "close", "CHG31337"]).code_is(1).says(&["CHG31337"]);
    });
}
