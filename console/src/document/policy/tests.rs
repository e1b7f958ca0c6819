use super::*;
use crate::scan_result::fixture::noon;
use portolan_common::document;
use serde_json::json;

/// What a server says of a policy that is right and meets a world that is not ready.
pub fn report() -> v1::PolicyReport {
    let warning = |kind: &str, subject: &str, message: &str| v1::PolicyWarning {
        kind: kind.into(),
        subject: subject.into(),
        message: message.into(),
        ..Default::default()
    };
    let outside = |add: &[&str]| v1::PolicyWarning {
        satellite: "office-1".into(),
        add_to_scope: add.iter().map(|net| (*net).to_owned()).collect(),
        ..warning("outside-scope", "office-1", "its scope does not cover 10.99.3.0/24")
    };
    let difference = |change: Change, name: &str, words: &str| v1::PolicyDifference {
        change: change.into(),
        kind: "check".into(),
        name: name.into(),
        words: words.into(),
    };
    let pair = |from: &str, to: &str, probes_per_hour| v1::PairLoad {
        from: from.into(),
        to: to.into(),
        probes_per_hour,
    };
    v1::PolicyReport {
        warnings: vec![
            outside(&["10.99.3.0/24"]),
            warning("no-vantage-point", "mail-in", "segment dmz has no satellite"),
            outside(&["10.99.2.0/24", "10.99.3.0/24"]),
        ],
        inactive: vec![v1::PolicyInactive {
            what: "[[receiver]] oncall".into(),
            why: "nobody is told of alerts yet".into(),
        }],
        differences: vec![
            difference(Change::Start, "shop-front", "every 30s from segment:office"),
            difference(Change::Stop, "old-shop", ""),
            difference(Change::Change, "mail-in", "every 30s instead of 1m; 25 must be open"),
        ],
        load: Some(v1::PolicyLoad {
            pairs: vec![pair("office", "dmz", 14_400), pair("office", "(none)", 60)],
            busiest: Some(v1::PathLoad {
                satellite: "office-1".into(),
                network: "10.99.2.0/24".into(),
                probes_per_second: 4.0,
            }),
        }),
        version: 11,
        checks: 2,
        ..Default::default()
    }
}

/// One that says why.
pub fn version() -> v1::PolicyVersion {
    v1::PolicyVersion {
        version: 12,
        applied_at_ms: noon().as_millisecond() - 7_200_000,
        author: "ada".into(),
        message: "NET-112: payment API".into(),
        rollback_to: 0,
        changes: vec!["start check shop-front".into(), "stop check old-shop".into()],
        changes_dropped: 0,
    }
}

#[test]
fn a_report_has_what_the_server_says() {
    let wire = report();
    let inactive = wire.inactive.iter().map(InactiveDocument::from).collect();
    let json = serde_json::to_value(ReportDocument::new(&[], inactive, Some(&wire))).unwrap();
    assert_eq!(
        json["scope_changes"],
        json!([{"satellite": "office-1", "add": ["10.99.2.0/24", "10.99.3.0/24"]}])
    );
    assert_eq!(
        json["differences"][2],
        json!({"change": "change", "kind": "check", "name": "mail-in",
            "words": "every 30s instead of 1m; 25 must be open"})
    );
    assert_eq!(
        json["warnings"][1],
        json!({"kind": "no-vantage-point", "subject": "mail-in", "message": "segment dmz has no satellite",
            "satellite": null, "add_to_scope": []})
    );
    assert_eq!(
        json["load"]["busiest"],
        json!({"satellite": "office-1", "network": "10.99.2.0/24", "probes_per_second": 4.0})
    );
    assert_eq!(
        json["inactive"],
        json!([{"what": "[[receiver]] oncall", "why": "nobody is told of alerts yet"}])
    );
    assert_eq!(
        (&json["valid"], &json["version"], &json["applied"]),
        (&json!(true), &json!(11), &json!(false))
    );
}

#[test]
fn mistakes_have_their_places_and_leave_the_rest_out() {
    let source = "version = 1\n[[check]]\ncolour = \"grün\"\n";
    let (_, mistakes) = document::read_with("shop.toml", source, |root| {
        root.integer("version", 1..=1);
        root.tables("check").iter_mut().for_each(|check| check.require(&["name"]));
        Some(())
    });
    let wire = report();
    let files = [mistakes];
    let json = serde_json::to_value(ReportDocument::new(&files, vec![], Some(&wire))).unwrap();
    assert_eq!(
        (&json["valid"], &json["warnings"], &json["load"]),
        (&json!(false), &json!(null), &json!(null))
    );
    let mistakes = json["mistakes"].as_array().unwrap();
    let unknown = mistakes.iter().find(|mistake| mistake["line"] == 3).unwrap();
    for (key, value) in [
        ("file", json!("shop.toml")),
        ("column", json!(1)),
        ("length", json!(6)),
        ("text", json!("colour = \"grün\"")),
    ] {
        assert_eq!(unknown[key], value, "{key}");
    }
    assert!(mistakes.iter().all(|mistake| mistake["length"].as_u64().unwrap() >= 1));
}

#[test]
fn a_version_says_what_it_changed() {
    let wire = v1::PolicyVersion { rollback_to: 9, message: String::new(), ..version() };
    let document = VersionDocument::from(&wire);
    assert_eq!(document.cells().len(), VersionDocument::HEADER.len());
    assert_eq!(
        serde_json::to_value(&document).unwrap(),
        json!({
            "version": 12, "applied_at": "2026-05-01T10:00:00Z", "author": "ada", "message": null,
            "rollback_to": 9, "changes": ["start check shop-front", "stop check old-shop"], "changes_omitted": 0,
        })
    );
}
