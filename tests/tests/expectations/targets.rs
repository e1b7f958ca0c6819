//! What is looked at, when: names with several addresses, files with targets, blackouts, baselines.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use portolan_tests::deployment::Deployment;
use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::lab::{Firewall, Lab, Place, tcp};
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, stays, wait_until};

use super::{QUIET, is_now, text};

#[test]
fn every_address_of_a_name_is_checked_on_its_own() {
    in_lab!(|lab| {
        let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
        let segment = lab.segment("dmz");
        let ((second, second6), (third, _)) = (segment.address(77), segment.address(78));
        shop.add_address(second.into());
        shop.add_address(third.into());
        let name = |addresses: &[std::net::IpAddr]| {
            let names: Vec<_> = addresses.iter().map(|address| ("shop.internal", *address)).collect();
            pc.set_names(&names);
        };
        name(&[shop.v4(), second.into()]);
        let place = Deployment::up(lab);
        let _office = place.satellite(&pc, "office-1");
        let _listener = shop.listen(&[80]);
        place.apply(&with_segments(
            lab,
            r#"[[check]]
               name = "shop"
               from = ["segment:office"]
               targets = ["shop.internal"]
               open = "80"
               every = "1s"
               confirm = 1
               recover = 1"#,
        ));
        wait_until("both addresses to be well", SOON, || place.check("shop")["ok"] == 2);

        lab.firewall(&Firewall::open().reset(
            "office",
            Place::Host(second.into(), second6.into()),
            tcp("80"),
        ));
        let alert = place
            .wait_for_alert("the second address to fire", |alert| is_now(alert, "PortNotOpen", 80, "firing"));
        assert_eq!(
            [text(&alert, "target"), text(&alert, "address")],
            ["shop.internal".into(), second.to_string()]
        );
        let check = place.check("shop");
        assert_eq!([&check["ok"], &check["firing"]], [1, 1], "the first address has its own state");

        // The name moves: what it no longer means is not expected any more.
        name(&[shop.v4(), third.into()]);
        place.wait_for_status_of_alert(&text(&alert, "id"), "resolved");
        wait_until("the new address to be well", SOON, || place.check("shop")["ok"] == 2);

        // A name that means nothing any more is told, and its last addresses are left alone.
        name(&[]);
        wait_until("the satellite to say so", SOON, || {
            let unresolved = &place.check("shop")["vantage_points"][0]["unresolved"];
            unresolved[0].as_str().is_some_and(|said| said.contains("shop.internal"))
        });
    });
}

#[test]
fn files_of_targets_feed_checks_and_a_broken_one_changes_nothing() {
    in_lab!(|lab| {
        let scene_hosts = (lab.host("office", "pc"), lab.host("dmz", "shop"));
        let (pc, shop) = &scene_hosts;
        let second = lab.segment("dmz").address(77).0;
        shop.add_address(second.into());
        let place = Deployment::new(lab);
        place.init().ok();
        let directory = lab.directory("sources");
        fs::create_dir_all(directory.join("web")).unwrap();
        let file = directory.join("web").join("shop.json");
        let write = |targets: &str| {
            fs::write(&file, format!("[{{\"targets\": [{targets}], \"labels\": {{}}}}]")).unwrap()
        };
        write(&format!("\"{}:9100\"", shop.v4()));
        let config = place.config(&format!("[sources]\ndirectory = \"{}\"\n", directory.display()));
        place.start_with(&config);
        let _office = place.satellite(pc, "office-1");
        let _listener = shop.listen(&[80]);
        place.apply(&with_segments(
            lab,
            r#"[[check]]
               name = "inventory"
               from = ["segment:office"]
               targets = [{ file_sd = "web/*.json", refresh = "10s" }]
               open = "80"
               every = "1s"
               confirm = 1
               recover = 1"#,
        ));
        wait_until("the first target to be well", SOON, || place.check("inventory")["ok"] == 1);

        write(&format!("\"{}\", \"{second}:9100\"", shop.v4()));
        wait_until("the second target to be well", SOON, || place.check("inventory")["ok"] == 2);

        // What cannot be read is told, and the last good answer stays, also over a restart.
        fs::write(&file, "[{\"targets\": ").unwrap();
        let said = place.wait_for_problem("web/*.json", SOON);
        assert!(!said.is_empty());
        assert_eq!(place.check("inventory")["ok"], 2);
        place.crash();
        place.start_with(&config);
        wait_until("both to be looked at", SOON * 2, || place.check("inventory")["ok"] == 2);
    });
}

#[test]
fn an_inventory_behind_http_feeds_checks_and_its_last_good_answer_holds() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, shop) = (&scene.deployment, &scene.shop);
        let second = lab.segment("dmz").address(77).0;
        shop.add_address(second.into());
        let _listener = shop.listen(&[80]);
        let inventory = Inventory::start(lab);
        inventory.answer(&format!("[{{\"targets\": [\"{}:9100\"]}}]", shop.v4()));
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "inventory"
                   from = ["segment:office"]
                   targets = [{{ http_sd = "http://{}/targets", refresh = "10s" }}]
                   open = "80"
                   every = "1s"
                   confirm = 1
                   recover = 1"#,
                inventory.at
            ),
        ));
        wait_until("the first target to be well", SOON, || place.check("inventory")["ok"] == 1);
        inventory.answer("this is no JSON");
        place.wait_for_problem(&inventory.at.to_string(), SOON);
        assert_eq!(place.check("inventory")["ok"], 1);
        inventory.answer(&format!("[{{\"targets\": [\"{}\", \"{second}:80\"]}}]", shop.v4()));
        wait_until("the second target to be well", SOON, || place.check("inventory")["ok"] == 2);
        wait_until("the problem to be over", SOON, || {
            !place.console(&["status"]).stdout.contains(&inventory.at.to_string())
        });
    });
}

/// A web server that answers every request with the same text.
struct Inventory {
    at: SocketAddr,
    text: Arc<Mutex<String>>,
}

impl Inventory {
    fn start(lab: &Lab) -> Self {
        let host = lab.host("server", "inventory");
        let at = host.at(8000);
        let listener = host.inside(|| TcpListener::bind(at).unwrap());
        let text = Arc::new(Mutex::new(String::new()));
        let said = text.clone();
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                // One read: a request without a body is one packet here.
                let _request = connection.read(&mut [0; 4096]);
                let body = said.lock().unwrap().clone();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
                let _gone = write!(connection, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { at, text }
    }

    fn answer(&self, text: &str) {
        *self.text.lock().unwrap() = text.to_owned();
    }
}

#[test]
fn nothing_leaves_in_a_blackout() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let listener = scene.shop.listen(&[80]);
        let policy = |blackout: &str| {
            with_segments(
                lab,
                &format!(
                    r#"[[check]]
                       name = "web"
                       from = ["segment:office"]
                       targets = ["{address}"]
                       open = "80"
                       every = "1s"
                       confirm = 1
                       recover = 1
                       {blackout}"#
                ),
            )
        };
        place.apply(&policy(""));
        place.wait_until_ok("web");
        // A window that began with this minute, the shortest there is, with ten seconds to go at least.
        let second = || Timestamp::now().as_second().rem_euclid(60);
        wait_until("a minute with enough left", Duration::from_secs(30), || second() < 48);
        let minute = Timestamp::now().strftime("%M %H").to_string();
        let end = Timestamp::now().as_second() / 60 * 60 + 60;
        let revision = place.revision_of("office-1");
        place.apply(&policy(&format!(
            "[[blackout]]\nname = \"quiet\"\nfrom = [\"segment:office\"]\ncron = \"{minute} * * *\"\nlasts = \"1m\"\n"
        )));
        wait_until("the satellite to have it", SOON, || place.revision_of("office-1") > revision);
        // What was under way has ended a second later.
        thread::sleep(Duration::from_secs(1));
        lab.firewall(&Firewall::open().count("probes", "office", "dmz", tcp("1-65535")));
        drop(listener);
        wait_until("the last moments of the window", SOON * 2, || {
            assert_eq!(lab.packets("probes"), 0, "sent in a blackout, at second {}", second());
            Timestamp::now().as_second() >= end - 1
        });
        assert!(place.alerts().iter().all(|alert| alert["port"].is_null()), "{:#?}", place.alerts());
        // Afterwards it goes on by itself.
        place.wait_for_alert("what changed meanwhile to fire", |alert| {
            is_now(alert, "PortNotOpen", 80, "firing")
        });
        assert!(lab.packets("probes") > 0);
    });
}

#[test]
fn a_baseline_tells_what_is_new_and_what_vanished() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let (place, address) = (&scene.deployment, scene.shop.v4());
        let (_ssh, web) = (scene.shop.listen(&[22]), scene.shop.listen(&[80]));
        place.apply(&with_segments(
            lab,
            &format!(
                r#"[[check]]
                   name = "servers"
                   from = ["segment:office"]
                   targets = ["{address}"]
                   watch = "20-25,80-84"
                   every = "1s"
                   confirm = 1
                   recover = 1"#
            ),
        ));
        wait_until("the ports to be known", SOON, || {
            place.ask(&["ports", "--host", &address.to_string()]).as_array().unwrap().len() == 2
        });
        let taken = place.ask(&["baseline", "take", "servers"]);
        let ports: Vec<u64> =
            taken["ports"].as_array().unwrap().iter().filter_map(|port| port["port"].as_u64()).collect();
        assert_eq!(ports, [22, 80]);
        let diff = || place.console(&["baseline", "diff", "servers", "-o", "json"]);
        diff().ok();

        let _new = scene.shop.listen(&[82]);
        let new =
            place.wait_for_alert("the new port to fire", |alert| is_now(alert, "BaselineNew", 82, "firing"));
        assert_eq!(text(&new, "severity"), "critical");
        drop(web);
        let vanished = place.wait_for_alert("the vanished one to fire", |alert| {
            is_now(alert, "BaselineVanished", 80, "firing")
        });
        assert_eq!(text(&vanished, "severity"), "warning");
        let differences = diff();
        let kinds: Vec<String> =
            differences.code_is(3).json().as_array().unwrap().iter().map(|d| text(d, "kind")).collect();
        assert_eq!(kinds.len(), 2, "{kinds:?}");

        // One is wanted, and only that is accepted.
        place.console(&["baseline", "accept", "servers", &format!("{address}:82")]).ok();
        place.wait_for_status_of_alert(&text(&new, "id"), "resolved");
        stays("the other still fires", QUIET, || place.firing().len() == 1);
        place.console(&["baseline", "accept", "servers"]).ok();
        place.wait_for_status_of_alert(&text(&vanished, "id"), "resolved");
        diff().ok();
        assert_eq!(place.ask(&["baseline", "show", "servers"])["ports"].as_array().unwrap().len(), 2);
    });
}
