//! Policy as code, by its commands: what is wrong is said with its place, what is right is applied as a whole, with a
//! history; and what it asks of satellites reaches them, also later.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;

use portolan_tests::deployment::Deployment;
use portolan_tests::deployment::policy::with_segments;
use portolan_tests::in_lab;
use portolan_tests::scene::OpenScene;
use portolan_tests::wait::{SOON, wait_until};
use serde_json::Value;

/// The example of the contract: accepted as it stands.
const CONTRACT: &str = include_str!("../../policy/tests/fixtures/contract.toml");

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value:#}")).to_owned()
}

/// `CHANGE KIND NAME` of each difference, ascending.
fn in_short(differences: &Value) -> Vec<String> {
    let all = differences.as_array().unwrap_or_else(|| panic!("no list of differences: {differences:#}"));
    let mut short: Vec<String> =
        all.iter().map(|d| [text(d, "change"), text(d, "kind"), text(d, "name")].join(" ")).collect();
    short.sort();
    short
}

/// A check of port 80, every hour.
fn check(name: &str, address: &str, more: &str) -> String {
    format!(
        "[[check]]\nname = \"{name}\"\nfrom = [\"segment:office\"]\ntargets = [\"{address}\"]\nopen = \"80\"\n\
         every = \"1h\"\n{more}\n"
    )
}

#[test]
fn the_contracts_policy_is_applied_as_it_stands() {
    in_lab!(|lab| {
        let place = Deployment::up(lab);
        let path = place.policy_directory(&[("policy.toml", CONTRACT)]).join("policy.toml");
        let path = path.display().to_string();
        let checked = place.policy(&["check", &path]);
        let report = checked.ok().json();
        assert!(report["valid"] == true && report["mistakes"].as_array().unwrap().is_empty(), "{report:#}");
        // Nothing that is not acted upon yet is silently ignored.
        let inactive = report["inactive"].as_array().unwrap();
        let what: Vec<String> = inactive.iter().map(|part| text(part, "what")).collect();
        for part in ["oncall", "netops", "siem", "shop-front", "mail-in", "segmentation", "staff-to-shop"] {
            assert!(what.iter().any(|what| what.contains(part)), "{part} is not among {what:?}");
        }
        let warned: Vec<String> =
            report["warnings"].as_array().unwrap().iter().map(|warning| text(warning, "kind")).collect();
        assert!(warned.contains(&"unknown-satellite".into()), "{warned:?}");
        assert!(warned.contains(&"no-vantage-point".into()), "{warned:?}");
        assert!(place.policy(&["check", &path, "--offline"]).ok().json()["load"].is_null());

        let dry = || place.policy(&["apply", &path, "--dry-run"]);
        let would = dry();
        let would = would.code_is(3).json();
        assert_eq!(would["applied"], false);
        assert!(in_short(&would["differences"]).contains(&"start check shop-front".into()), "{would:#}");
        assert_eq!(place.policy(&["show"]).code, 1, "a dry run applies nothing");
        let applied = place.policy(&["apply", &path, "-m", "the first one"]);
        assert_eq!((&applied.ok().json()["version"], &applied.json()["applied"]), (&1.into(), &true.into()));
        dry().ok();
        let again = place.policy(&["apply", &path]);
        assert_eq!((&again.ok().json()["version"], &again.json()["applied"]), (&1.into(), &false.into()));
        place.policy(&["diff", &path]).ok();

        let names: Vec<String> = place
            .ask(&["check", "list"])
            .as_array()
            .unwrap()
            .iter()
            .map(|check| text(check, "name"))
            .collect();
        assert_eq!(names, ["mail-in", "only-ssh-on-bastion", "shop-front"]);
        // For people, too.
        let said = place.console(&["policy", "check", &path]);
        assert!(said.ok().stdout.contains("oncall") || said.stderr.contains("oncall"), "{said}");
    });
}

#[test]
fn all_mistakes_of_all_files_are_told_with_their_places() {
    in_lab!(|lab| {
        let place = Deployment::up(lab);
        let good = check("web", "10.99.2.10", "");
        let directory = place.policy_directory(&[
            ("segments.toml", "version = 1\n[segment.office]\ncidrs = [\"10.99.1.7/24\"]\n"),
            (
                "web.toml",
                &format!("{good}closed = \"80\"\n\n{}", check("other", "10.99.2.11", "evry = \"1m\"")),
            ),
        ]);
        let path = directory.display().to_string();
        for command in
            [&["check", &path][..], &["check", "--offline", &path], &["apply", &path], &["diff", &path]]
        {
            let refused = place.console(&[&["policy"], command].concat());
            refused.code_is(1).says(&["segments.toml:3:"]).says(&["web.toml:8:"]).says(&["web.toml:16:"]);
            refused.says(&["10.99.1.0/24"]).says(&["every"]);
        }
        let report = place.policy(&["check", &path]).code_is(1).json();
        let mistakes = report["mistakes"].as_array().unwrap();
        let places: Vec<String> = mistakes
            .iter()
            .map(|mistake| {
                format!("{}:{}", text(mistake, "file").rsplit('/').next().unwrap(), mistake["line"])
            })
            .collect();
        assert_eq!(places, ["segments.toml:3", "web.toml:8", "web.toml:16"]);
        assert!(
            mistakes.iter().all(|mistake| mistake["column"].as_u64().is_some_and(|c| c >= 1)),
            "{report:#}"
        );
        assert!(place.ask(&["check", "list"]).as_array().unwrap().is_empty(), "nothing is applied");
    });
}

#[test]
fn versions_can_be_compared_shown_exported_and_brought_back() {
    in_lab!(|lab| {
        let place = Deployment::up(lab);
        lab.segment("office");
        let base = with_segments(lab, "");
        let first = check("web", "10.99.2.10", "") + &check("mail", "10.99.2.25", "");
        let second = check("mail", "10.99.2.25", "closed = \"23\"") + &check("new", "10.99.2.26", "");
        let write = |checks: &str| {
            let directory = place.policy_directory(&[("a-base.toml", &base), ("checks.toml", checks)]);
            directory.display().to_string()
        };
        let path = write(&first);
        place.policy(&["apply", &path, "-m", "two checks"]).ok();
        // Order, comments and spellings are no change.
        let reordered = check("mail", "10.99.2.25", "# the other one") + &check("web", "10.99.2.10", "");
        write(&reordered.replace("every = \"1h\"", "every = \"60m\""));
        assert!(in_short(&place.policy(&["diff", &path]).ok().json()).is_empty());

        write(&second);
        let diff = place.policy(&["diff", &path]);
        let told = diff.code_is(3).json();
        assert_eq!(in_short(&told), ["change check mail", "start check new", "stop check web"]);
        let words = told.as_array().unwrap().iter().find(|d| d["name"] == "mail").unwrap();
        assert!(text(words, "words").contains("23"), "{words}");
        place.policy(&["apply", &path, "-m", "another one"]).ok();

        let back = place.policy(&["rollback", "1", "--dry-run"]);
        assert_eq!(in_short(&back.code_is(3).json()["differences"]).len(), 3);
        let back = place.policy(&["rollback", "1", "-m", "the new one was wrong"]);
        assert_eq!(back.ok().json()["version"], 3);
        place.policy(&["rollback", "9"]).code_is(1).says(&["9"]);

        let history = place.policy(&["history"]).ok().json();
        let told: Vec<(u64, String)> = history
            .as_array()
            .unwrap()
            .iter()
            .map(|version| (version["version"].as_u64().unwrap(), text(version, "message")))
            .collect();
        let expected = [(3, "the new one was wrong"), (2, "another one"), (1, "two checks")];
        assert_eq!(told, expected.map(|(version, message)| (version, message.to_owned())));
        assert_eq!(history[0]["rollback_to"], 1);
        assert!(
            history.as_array().unwrap().iter().all(|version| version["author"].is_string()),
            "{history:#}"
        );

        let shown = place.policy(&["show", "--version", "2"]).ok().json();
        let file =
            shown["files"].as_array().unwrap().iter().find(|file| text(file, "name").contains("checks"));
        assert_eq!(text(file.unwrap(), "text"), second);
        let out = place.directory().join("exported");
        let export = |more: &[&str]| {
            place.console(&[&["policy", "export", &out.display().to_string()], more].concat())
        };
        export(&[]).ok();
        let exported = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!((exported("a-base.toml"), exported("checks.toml")), (base.clone(), first.clone()));
        export(&[]).code_is(1);
        export(&["--force"]).ok();
        place.policy(&["diff", &out.display().to_string()]).ok();

        // It is all there after a restart, and what is in force is in force.
        place.crash();
        place.start();
        assert_eq!(place.policy(&["history"]).ok().json(), history);
        let names: Vec<String> = place
            .ask(&["check", "list"])
            .as_array()
            .unwrap()
            .iter()
            .map(|check| text(check, "name"))
            .collect();
        assert_eq!(names, ["mail", "web"]);
    });
}

#[test]
fn nobody_applies_over_what_he_has_not_seen() {
    in_lab!(|lab| {
        let place = Deployment::up(lab);
        lab.segment("office");
        let policy = |name: &str| with_segments(lab, &check(name, "10.99.2.10", ""));
        place.try_apply(&policy("web"), &["--based-on", "0", "-m", "first"]).ok();
        let late = place.try_apply(&policy("other"), &["--based-on", "0"]);
        late.code_is(1).says(&["version 1"]);
        assert_eq!(place.ask(&["check", "list"])[0]["name"], "web");
        place.try_apply(&policy("other"), &["--based-on", "1"]).ok();
        assert_eq!(place.ask(&["check", "list"])[0]["name"], "other");
    });
}

#[test]
fn a_satellite_that_was_away_gets_what_was_applied_meanwhile() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let place = &scene.deployment;
        let listener = scene.shop.listen(&[80]);
        let address = scene.shop.v4().to_string();
        scene.office.stop().ok();
        place.wait_for_status("office-1", "offline");
        place.apply(&with_segments(lab, &check("web", &address, "")));
        assert_eq!(listener.accepted(), 0);
        scene.office.start();
        place.wait_until_ok("web");
        assert!(listener.accepted() > 0);
        assert!(place.revision_of("office-1") > 0);

        // What is not asked any more is not done any more.
        let every_second = check("web", &address, "").replace("1h", "1s");
        place.apply(&with_segments(lab, &every_second));
        let before = listener.accepted();
        wait_until("it to look every second", SOON, || listener.accepted() > before + 2);
        place.apply(&with_segments(lab, ""));
        wait_until("it to look no more", SOON, || {
            let before = listener.accepted();
            std::thread::sleep(std::time::Duration::from_millis(2_500));
            listener.accepted() == before
        });
    });
}

#[test]
fn a_scope_that_is_too_small_is_told_with_the_line_to_add() {
    in_lab!(|lab| {
        let scene = OpenScene::build(lab);
        let place = &scene.deployment;
        let _narrow = place.satellite_with_scope(&lab.host("guest", "kiosk"), "guest-1", "10.99.200.0/24");
        let address = scene.shop.v4().to_string();
        let policy = with_segments(lab, &check("web", &address, "").replace("office", "guest"));
        let report = place.apply(&policy);
        let warnings = report["warnings"].as_array().unwrap();
        let outside = warnings.iter().find(|warning| warning["kind"] == "outside-scope");
        let outside = outside.unwrap_or_else(|| panic!("no such warning in {warnings:#?}"));
        assert_eq!(text(outside, "satellite"), "guest-1");
        let add = &report["scope_changes"][0];
        assert!(
            add["satellite"] == "guest-1" && add["add"][0].as_str().unwrap().contains(&address),
            "{report:#}"
        );
        // It was applied all the same; the satellite refuses, and the check says so.
        wait_until("the refusal to be told", SOON, || {
            let vantage = &place.check("web")["vantage_points"][0];
            vantage["refused"].as_array().is_some_and(|all| !all.is_empty())
        });
        assert!(place.firing().is_empty());
    });
}
