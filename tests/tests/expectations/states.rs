//! What a port does, and what becomes of it: pending, firing, resolved.

use std::time::{Duration, Instant};

use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, echo_udp, tcp, udp};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays, wait_for};

use super::{QUIET, is, is_now, text};

#[test]
fn a_port_that_must_be_open_fires_when_it_closes_and_resolves_when_it_is_back() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4().to_string());
        let listener = scene.shop.listen(&[80]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "web"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "80"
                   closed = "23"
                   every = "1s"
                   confirm = 2
                   recover = 2
                   labels = {{ team = "shop" }}"#
            ),
        ));
        place.wait_until_ok("web");
        assert!(place.firing().is_empty() && place.alerts().is_empty(), "{:#?}", place.alerts());
        let mut watch = place.watch_alerts();

        let closed = Instant::now();
        drop(listener);
        let fired = watch.wait_for(SOON, "the closed port to fire", |event| event.kind == "firing");
        let took = fired.at - closed;
        // Two observations: the next turn, and one quick look a second later.
        assert!(took < Duration::from_secs(6), "it took {took:?}");
        let alert = &fired.alert;
        assert!(is(alert, "PortNotOpen", 80), "{alert:#}");
        for (key, expected) in [
            ("check", "web"),
            ("target", &address),
            ("address", &address),
            ("protocol", "tcp"),
            ("expected", "open"),
            ("severity", "warning"),
            ("status", "firing"),
        ] {
            assert_eq!(text(alert, key), expected, "{key}");
        }
        assert_eq!(alert["satellites"], serde_json::json!(["office-1"]));
        assert!(text(alert, "observed").contains("closed"), "{alert:#}");
        let labels = serde_json::json!({
            "alertname": "PortNotOpen", "check": "web", "target": address, "address": address, "protocol": "tcp",
            "port": "80", "severity": "warning", "segment": "dmz", "tenant": "default", "team": "shop",
        });
        assert_eq!(alert["labels"], labels);
        assert!(alert["resolved_at"].is_null() && alert["acknowledged_by"].is_null(), "{alert:#}");

        let listed = place.firing();
        assert!(listed.len() == 1 && listed[0]["id"] == alert["id"], "{listed:#?}");
        let id = text(alert, "id");
        let shown = place.ask(&["alert", "show", &id[id.len() - 36..]]);
        let states: Vec<String> = shown["transitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| format!("{}>{}", text(step, "from"), text(step, "to")))
            .collect();
        assert_eq!(states[0], "pending>firing", "{shown:#}");
        let command = text(&shown, "command");
        assert!(command.starts_with("portolan ") && command.contains(&address), "{command}");
        assert!(place.console(&["alert", "show", &id]).ok().stdout.contains("portolan scan"));
        assert_eq!(place.check("web")["state"], "firing");

        let _back = scene.shop.listen(&[80]);
        let resolved = watch.wait_for(SOON, "the port to be well again", |event| event.kind == "resolved");
        assert_eq!(resolved.alert["id"], alert["id"]);
        assert!(!resolved.alert["resolved_at"].is_null());
        assert!(place.firing().is_empty());
        place.wait_until_ok("web");
        assert_eq!(watch.count("firing", &alert["id"]), 1);

        // Both are history: of the port, and of the check.
        let changes = place.history(&format!("{address}:80"));
        let changes: Vec<String> =
            changes.iter().map(|change| format!("{}>{}", text(change, "from"), text(change, "to"))).collect();
        assert_eq!(changes, ["open>closed", "closed>open"]);
        let timeline = place.check("web")["timeline"].clone();
        let mut steps: Vec<String> = timeline
            .as_array()
            .unwrap()
            .iter()
            .filter(|step| step["port"] == 80)
            .map(|s| text(s, "to"))
            .collect();
        steps.reverse();
        let ends = ["pending", "firing", "ok"].map(String::from);
        assert!(
            steps.ends_with(&ends) || steps.join(" ").ends_with("pending firing pending ok"),
            "{steps:?}"
        );
        let changed = place.ask(&["changes", "--since", "10m"]);
        assert_eq!(changed.as_array().unwrap().iter().filter(|change| change["port"] == 80).count(), 2);
        watch.interrupt().code_is(130);
    });
}

#[test]
fn a_port_that_must_be_closed_is_critical_and_keeps_its_id_when_it_opens_again() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "no-telnet"
                   from = ["*"]
                   targets = ["{address}"]
                   closed = "23"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("no-telnet");
        let mut id = None;
        for _ in 0..2 {
            let telnet = scene.shop.listen(&[23]);
            let alert =
                place.wait_for_alert("telnet to be found", |alert| is_now(alert, "PortOpen", 23, "firing"));
            assert_eq!([text(&alert, "severity"), text(&alert, "expected")], ["critical", "closed"]);
            assert!(text(&alert, "observed").contains("open"), "{alert:#}");
            let id = id.get_or_insert_with(|| text(&alert, "id"));
            assert_eq!(text(&alert, "id"), *id, "the same alert within the hold-off");
            drop(telnet);
            place.wait_for_status_of_alert(id, "resolved");
        }
        assert_eq!(place.alerts().len(), 1);
    });
}

#[test]
fn blocked_wants_silence_or_a_devices_word_and_follows_the_firewall() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let dropped = || Firewall::open().drop("office", "dmz", tcp("3306"));
        lab.firewall(&dropped());
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "database"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   blocked = "3306"
                   every = "2s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("database");

        // The target's own refusal proves that the path is open.
        lab.firewall(&Firewall::open());
        let alert = place
            .wait_for_alert("the refusal to fire", |alert| is_now(alert, "PortReachable", 3306, "firing"));
        assert_eq!([text(&alert, "severity"), text(&alert, "expected")], ["critical", "blocked"]);
        assert!(text(&alert, "observed").contains("closed"), "{alert:#}");
        let id = text(&alert, "id");

        // A device that rejects aloud shuts it as well as silence does.
        lab.firewall(&Firewall::open().prohibit("office", "dmz", tcp("3306")));
        place.wait_for_status_of_alert(&id, "resolved");
        lab.firewall(&Firewall::open().reset("office", "dmz", tcp("3306")));
        place.wait_for_status_of_alert(&id, "firing");
        lab.firewall(&dropped());
        place.wait_for_status_of_alert(&id, "resolved");
        place.wait_until_ok("database");
    });
}

#[test]
fn an_interval_that_cannot_be_held_is_told_and_makes_nothing_unknown() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let dropped = || Firewall::open().drop("office", "dmz", tcp("3000-3059"));
        lab.firewall(&dropped());
        // Silence takes four probes and two seconds, and a gentle check has 20 ports in flight at a time.
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "shut"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   blocked = "3000-3059"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("shut");
        let told = wait_for("the real interval to be told", SOON, || {
            place.check("shut")["vantage_points"][0]["interval_ms"].as_u64()
        });
        assert!(told > 2_000, "{told} ms");
        stays("it is known all the time", Duration::from_secs(15), || place.check("shut")["state"] == "ok");
        // And what opens is found in one of its turns.
        lab.firewall(&Firewall::open().drop("office", "dmz", tcp("3000-3029,3031-3059")));
        place.wait_for_alert("the open path to fire", |alert| is_now(alert, "PortReachable", 3030, "firing"));
    });
}

#[test]
fn a_firewall_rule_that_changes_under_a_running_check_is_noticed() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let _listener = scene.shop.listen(&[443, 8443]);
        let right = || Firewall::open().drop("office", "dmz", tcp("8443"));
        lab.firewall(&right());
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "front"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "443"
                   closed = "8443"
                   every = "2s"
                   confirm = 2
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("front");
        // Somebody mixed two rules up.
        lab.firewall(&Firewall::open().drop("office", "dmz", tcp("443")));
        let shut = place.wait_for_alert("the path to 443 to be found shut", |alert| {
            is_now(alert, "PortNotOpen", 443, "firing")
        });
        assert!(text(&shut, "observed").contains("filtered"), "{shut:#}");
        place.wait_for_alert("8443 to be found open", |alert| is_now(alert, "PortOpen", 8443, "firing"));
        lab.firewall(&right());
        place.wait_until_ok("front");
        assert!(place.firing().is_empty());
    });
}

#[test]
fn an_exclusive_check_allows_nothing_else_and_takes_a_scan_as_evidence() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let _ssh = scene.shop.listen(&[22]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "only-ssh"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "22"
                   exclusive = true
                   every = "6h"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        // The check's own sweep is gentle and takes minutes; whoever scans meanwhile sees for it too.
        let scan = || {
            place.scan(&[&address.to_string(), "-p-", "--from", "office-1"]).code_is(0);
        };
        scan();
        place.wait_until_ok("only-ssh");
        let other = scene.shop.listen(&[50_123]);
        scan();
        let alert = place
            .wait_for_alert("the other port to fire", |alert| is_now(alert, "PortOpen", 50_123, "firing"));
        assert_eq!(text(&alert, "severity"), "critical");
        drop(other);
        scan();
        place.wait_for_status_of_alert(&text(&alert, "id"), "resolved");
    });
}

#[test]
fn a_port_that_flaps_is_one_alert_that_says_so() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let mut listener = Some(scene.shop.listen(&[80]));
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "web"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "80"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("web");
        let mut watch = place.watch_alerts();
        // Each time it is seen: six changes and more.
        let mut flapping = false;
        for _ in 0..20 {
            let open = listener.is_some();
            listener = (!open).then(|| scene.shop.listen(&[80]));
            let wanted = if open { "closed" } else { "open" };
            flapping = wait_for("the change to be seen", SOON, || {
                let check = place.check("web");
                let port = check["ports"].as_array()?.iter().find(|port| port["port"] == 80)?.clone();
                let seen = port["sights"][0]["state"] == wanted;
                seen.then(|| port["flapping"] == true)
            });
            if flapping {
                break;
            }
        }
        assert!(flapping, "20 changes are no flapping: {:#}", place.check("web"));
        let alerts = place.alerts();
        assert!(alerts.len() == 1 && alerts[0]["flapping"] == true, "{alerts:#?}");
        let id = alerts[0]["id"].clone();
        let told = |watch: &mut portolan_tests::deployment::AlertWatch| {
            watch.count("firing", &id) + watch.count("resolved", &id)
        };
        let before = told(&mut watch);
        for _ in 0..4 {
            listener = listener.is_none().then(|| scene.shop.listen(&[80]));
            std::thread::sleep(Duration::from_millis(1_500));
        }
        assert_eq!(told(&mut watch), before, "a flapping port goes on to page");
        assert_eq!(place.firing().len(), 1);
    });
}

#[test]
fn a_check_runs_at_once_when_asked_and_says_how_it_went() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let listener = scene.shop.listen(&[80]);
        let policy = |from: &str| {
            with_segments(
                lab,
                &format!(
                    r#"[[check]]
                       name = "web"
                       from = {from}
                       targets = ["{address}"]
                       open = "80"
                       every = "12h"
                       confirm = 1
                       recover = 1"#
                ),
            )
        };
        place.apply(&policy(r#"["segment:office"]"#));
        place.wait_until_ok("web");
        let run = || place.console(&["check", "run", "web", "-o", "json"]);
        run().ok();
        drop(listener);
        let bad = run();
        assert_eq!(bad.code_is(3).json()["check"]["state"], "firing");
        assert_eq!(place.firing().len(), 1);
        let _back = scene.shop.listen(&[80]);
        run().ok();
        assert!(place.firing().is_empty());

        // A vantage point that is not there makes it a part.
        place.invite("branch-1", "branch", &[]);
        place.apply(&policy(r#"["satellite:office-1", "satellite:branch-1"]"#));
        let part = run();
        assert_eq!(part.code_is(4).json()["failed"][0]["satellite"], "branch-1");
        place.console(&["check", "run", "no-such"]).code_is(1).says(&["no-such"]);
    });
}

#[test]
fn a_paused_check_sends_nothing_and_changes_nothing_until_it_is_resumed() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let counting = || Firewall::open().count("probes", "office", "dmz", tcp("80"));
        let listener = scene.shop.listen(&[80]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "web"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "80"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("web");
        place.console(&["check", "pause", "web"]).ok();
        let paused = place.check("web");
        assert!(paused["paused_by"].is_string() && paused["paused_at"].is_string(), "{paused:#}");
        // What was under way has ended by the next turn.
        std::thread::sleep(Duration::from_secs(1));
        lab.firewall(&counting());
        drop(listener);
        stays("a paused check sends nothing", QUIET, || lab.packets("probes") == 0);
        assert!(place.alerts().is_empty());
        assert_eq!(place.check("web")["state"], "ok", "it stays as it was");

        // The pause outlives the server.
        place.crash();
        place.start();
        place.wait_for_status("office-1", "online");
        assert!(place.check("web")["paused_by"].is_string());
        place.console(&["check", "resume", "web"]).ok();
        place.wait_for_alert("the resumed check to fire", |alert| is_now(alert, "PortNotOpen", 80, "firing"));
    });
}

#[test]
fn udp_is_judged_where_it_answers_and_unknown_where_it_is_silent() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        echo_udp(&scene.shop, &[5353]);
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "names"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   open = "U:5353"
                   closed = "U:161"
                   every = "5s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        place.wait_until_ok("names");
        lab.firewall(&Firewall::open().drop("office", "dmz", udp("5353")));
        let check = wait_for("silence to be no evidence", SOON * 2, || {
            let check = place.check("names");
            (check["unknown"] == 1).then_some(check)
        });
        assert_eq!([&check["ok"], &check["firing"]], [1, 0]);
        assert!(place.alerts().iter().all(|alert| alert["port"] != 5353), "{:#?}", place.alerts());
    });
}
