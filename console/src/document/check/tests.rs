use super::*;
use serde_json::json;

#[test]
fn a_check_says_what_it_expects_and_how_it_is() {
    let wire = fixture::check();
    let document = CheckDocument::from(&wire);
    assert_eq!(document.cells().len(), CheckDocument::HEADER.len());
    assert_eq!(
        serde_json::to_value(&document).unwrap(),
        json!({
            "name": "shop-front", "tenant": "default", "state": "firing", "since": "2026-05-01T11:48:00Z",
            "ok": 13, "pending": 0, "firing": 1, "unknown": 1,
            "from": ["segment:office", "satellite:dmz-1"], "targets": ["10.99.2.10", "10.99.2.32/30"],
            "open": "80,443", "closed": "23", "blocked": "", "watch": "", "exclusive": false, "schedule": "30s",
            "labels": {"team": "shop"}, "paused_by": null, "paused_at": null, "held_back_by": [],
            "vantage_points": [
                {"satellite": "office-1", "segment": "office", "status": "online",
                 "oldest_seen": "2026-05-01T11:59:48Z", "newest_seen": "2026-05-01T11:59:48Z", "error": null,
                 "refused": [], "unresolved": [], "interval_ms": null, "outdated": false, "method": "syn",
                 "addresses": 5},
                {"satellite": "dmz-1", "segment": "dmz", "status": "offline",
                 "oldest_seen": "2026-05-01T10:30:00Z", "newest_seen": "2026-05-01T10:30:00Z", "error": null,
                 "refused": [], "unresolved": [], "interval_ms": null, "outdated": false, "method": "syn",
                 "addresses": 5},
            ],
        })
    );
}

#[test]
fn its_age_is_that_of_the_oldest_look() {
    let mut wire = fixture::check();
    let age = |wire: &v1::Check| CheckDocument::from(wire).oldest_seen().map(|at| at.to_string());
    assert_eq!(age(&wire).as_deref(), Some("2026-05-01T10:30:00Z"));
    wire.vantage_points[0].oldest_seen_at_ms = 0;
    assert_eq!(age(&wire), None, "one has never looked at everything");
    wire.vantage_points.clear();
    assert_eq!(age(&wire), None);
}

#[test]
fn details_follow_the_check() {
    let wire = fixture::answer();
    let details = CheckDetails::new(wire.check.as_ref().unwrap(), &wire).unwrap();
    let json = serde_json::to_value(&details).unwrap();
    assert_eq!((&json["name"], &json["ports_omitted"]), (&json!("shop-front"), &json!(12)));
    let port = &json["ports"][0];
    assert_eq!((&port["expected"], &port["state"]), (&json!("closed"), &json!("firing")));
    assert_eq!(port["alert_id"], "01a1f82d-c1f4-72f9-8fcd-2e760e5281d2");
    assert_eq!(json["ports"][1]["sights"][0]["stale"], true);
    assert_eq!(json["timeline"].as_array().unwrap().len(), 2);
}
