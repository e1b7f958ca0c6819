//! Each rule by an example.

use super::fixture::*;
use crate::evaluate::State::{Firing, Ok, Pending, Unknown};
use crate::evaluate::*;
use portolan_common::addresses::AddressSet;
use portolan_common::expectation::Expectation;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::schedule::{Cron, Schedule};
use portolan_policy::model::{Quorum, Quorums};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_fault_is_pending_until_it_is_confirmed_and_ends_when_it_recovers() {
    let mut stage = Stage::new([CheckSpec { confirm: 2, recover: 2, ..check("80", "23") }]);
    assert_eq!(stage.state(80), Unknown);
    assert_eq!(stage.look(1, "80", "23", ""), [], "that it is well is not told");
    assert_eq!((stage.state(80), stage.state(23)), (Ok, Ok));
    assert_eq!(steps(&stage.look(1, "", "80,23", "")), [(80, Ok, Pending)]);
    let told = stage.look(1, "", "80,23", "");
    assert_eq!(steps(&told), [(80, Pending, Firing)]);
    assert_eq!((told[0].since, told[0].at), (second(2), second(3)));
    assert_eq!(told[0].expected, Expected::Port(Expectation::Open));
    let sight = &told[0].sights[0];
    assert_eq!(sight.state, Some((PortState::Closed, Reason::ConnRefused)));
    assert_eq!((sight.since, sight.in_a_row, sight.mismatch, sight.stale), (second(2), 2, true, false));
    assert_eq!((sight.rtts_us.as_slice(), sight.usual_rtt_us), ([400, 0, 0].as_slice(), 400));
    assert_eq!(stage.look(1, "80", "23", ""), []);
    assert_eq!(steps(&stage.look(1, "80", "23", "")), [(80, Firing, Ok)]);
}

#[test]
fn a_mismatch_that_passes_is_told_to_have_passed() {
    let mut stage = Stage::new([CheckSpec { confirm: 2, ..check("80", "") }]);
    assert_eq!(steps(&stage.look(1, "", "80", "")), [(80, Unknown, Pending)]);
    assert_eq!(steps(&stage.look(1, "80", "", "")), [(80, Pending, Ok)]);
}

#[test]
fn only_what_was_looked_at_is_judged() {
    let mut stage = Stage::new([check("80,443", "23")]);
    stage.look(1, "80", "", "");
    assert_eq!(stage.counts(), Counts { ok: 1, unknown: 2, ..Counts::default() });
    let mut host = host(HOST, HOST, "", "23", "");
    host.unscanned = ports("443");
    assert_eq!(stage.see(1, &host), []);
    assert_eq!(stage.counts(), Counts { ok: 2, unknown: 1, ..Counts::default() });
    assert_eq!(stage.look(1, "8080", "", ""), [], "nobody asked");
    let looks = stage.evaluator.looks(satellite(1), "default", address(HOST));
    assert_eq!(looks.iter().map(|look| look.seen).max(), Some(second(2)));
}

#[test]
fn only_vantage_points_of_the_check_and_its_tenant_count() {
    let mut stage = Stage::new([
        check("80", ""),
        CheckSpec { tenant: "acme".into(), name: "other".into(), ..check("80", "") },
    ]);
    assert_eq!(stage.look(2, "", "80", ""), []);
    assert_eq!(stage.look(1, "", "80", "").len(), 1, "one of two tenants");
}

#[test]
fn replays_and_what_is_older_say_nothing() {
    let mut stage = Stage::new([CheckSpec { confirm: 2, ..check("80", "") }]);
    stage.look(1, "80", "", "");
    let shut = host(HOST, HOST, "", "80", "");
    assert_eq!(stage.replay(1, &shut, 1, false, 5).len(), 1);
    assert_eq!(stage.replay(1, &shut, 1, false, 5), [], "the same again");
    assert_eq!(stage.replay(1, &shut, 1, false, 3), [], "an older one");
    assert_eq!(stage.state(80), Pending);
    assert_eq!(steps(&stage.replay(1, &shut, 1, false, 6)), [(80, Pending, Firing)]);
}

#[test]
fn evidence_counts_for_three_intervals() {
    let mut stage = Stage::new([check("80", "23")]);
    stage.look(1, "80", "23", "");
    assert_eq!(stage.wait(3 * INTERVAL), []);
    assert_eq!(stage.counts().ok, 2);
    assert_eq!(stage.wait(1), [], "that it is unknown is not told where nothing fired");
    assert_eq!(stage.counts().unknown, 2);
}

#[test]
fn an_interval_that_cannot_be_held_is_not_what_counts() {
    let mut stage = Stage::new([check("80", "23")]);
    stage.look(1, "80", "23", "");
    assert_eq!(stage.pace(5 * INTERVAL), []);
    stage.wait(15 * INTERVAL);
    assert_eq!(stage.counts().ok, 2);
    stage.wait(1);
    assert_eq!(stage.counts().unknown, 2);
    stage.look(1, "", "80,23", "");
    stage.wait(4 * INTERVAL);
    assert_eq!(stage.state(80), Firing);
    assert_eq!(steps(&stage.pace(0)), [(80, Firing, Unknown)], "it is held again");
}

#[test]
fn a_fault_outlives_its_evidence() {
    let mut stage = Stage::new([check("80", "")]);
    assert_eq!(steps(&stage.look(1, "", "80", "")), [(80, Unknown, Firing)]);
    let told = stage.wait(4 * INTERVAL);
    assert_eq!(steps(&told), [(80, Firing, Unknown)]);
    assert_eq!(told[0].since, second(1), "it goes on, as far as is known");
    let told = stage.look(1, "", "80", "");
    assert_eq!(steps(&told), [(80, Unknown, Firing)]);
    assert_eq!(told[0].since, second(1));
    stage.wait(4 * INTERVAL);
    assert_eq!(steps(&stage.look(1, "80", "", "")), [(80, Unknown, Ok)]);
}

#[test]
fn evidence_of_a_satellite_that_is_away_does_not_count() {
    let mut stage = Stage::new([from([1, 2], check("80", "23"))]);
    stage.look(1, "", "80,23", "");
    stage.look(2, "80", "23", "");
    assert_eq!(steps(&stage.online(1, false)), [(80, Firing, Unknown)]);
    assert_eq!(stage.state(23), Ok, "the other knows");
    assert_eq!(stage.online(2, false), []);
    assert_eq!(stage.state(23), Unknown);
    assert_eq!(stage.online(2, true), []);
    assert_eq!(steps(&stage.online(1, true)), [(80, Unknown, Firing)]);
    assert_eq!(stage.online(1, true), [], "it was");
}

#[test]
fn what_was_held_back_fires_and_resolves_in_its_own_time() {
    let mut stage = Stage::new([check("80", "")]);
    stage.look(1, "80", "", "");
    stage.wait(10_000);
    let shut = host(HOST, HOST, "", "80", "");
    let told = stage.see_at(1, &shut, 100, true);
    assert_eq!(steps(&told), [(80, Unknown, Firing)]);
    assert!(told[0].late && !told[0].sights[0].stale);
    assert_eq!((told[0].at, told[0].since), (second(100), second(100)));
    let told = stage.see_at(1, &host(HOST, HOST, "80", "", ""), 200, true);
    assert_eq!((steps(&told), told[0].late), (vec![(80, Firing, Ok)], true));
    stage.see_at(1, &shut, 300, true);
    let told = stage.wait(1);
    assert_eq!((steps(&told), told[0].late), (vec![(80, Firing, Unknown)], false), "it is long ago");
}

#[test]
fn a_look_that_finds_nothing_wrong_begins_no_fault() {
    let mut stage = Stage::new([CheckSpec { recover: 2, ..check("80", "") }]);
    stage.online(1, false);
    assert_eq!(stage.look(1, "", "80", ""), [], "it does not count");
    assert_eq!(stage.wait(4 * INTERVAL), []);
    assert_eq!(stage.online(1, true), []);
    assert_eq!(steps(&stage.look(1, "80", "", "")), [(80, Unknown, Pending)], "its end is not confirmed");
    assert_eq!(steps(&stage.look(1, "80", "", "")), [(80, Pending, Ok)]);
}

#[test]
fn flapping_that_was_seen_long_ago_ends_with_time() {
    let mut stage = Stage::new([check("80", "")]);
    stage.look(1, "80", "", "");
    stage.wait(10_000);
    let mut told = Vec::new();
    for look in 0..8 {
        let (open, closed) = if look % 2 == 0 { ("", "80") } else { ("80", "") };
        told.extend(stage.see_at(1, &host(HOST, HOST, open, closed, ""), 100 + look * 60, true));
    }
    assert!(told.last().unwrap().flapping);
    assert_eq!(stage.state(80), Firing);
    let told = stage.wait(1);
    assert_eq!((steps(&told), told[0].flapping), (vec![(80, Firing, Ok)], false), "it was calm since");
    // As it happens, when the fault is over and when nobody knows.
    for end in [Ok, Unknown] {
        for look in 0..6 {
            let (open, closed) = if look % 2 == 0 { ("", "80") } else { ("80", "") };
            stage.look(1, open, closed, "");
        }
        if end == Unknown {
            stage.look(1, "", "80", "");
        }
        assert_eq!(stage.state(80), Firing);
        let told = stage.wait(15 * 60 + 1);
        assert_eq!((steps(&told), told[0].flapping), (vec![(80, Firing, end)], false));
        stage.look(1, "80", "", "");
        stage.wait(3600);
    }
}

#[test]
fn a_fault_outlives_the_satellites_that_saw_it() {
    let mut stage = Stage::new([from([1, 2], check("80", ""))]);
    stage.look(1, "", "80", "");
    assert_eq!(stage.state(80), Firing);
    let told = stage.set([from([2], check("80", ""))]);
    assert_eq!(steps(&told), [(80, Firing, Unknown)], "the only one that saw it is gone");
    assert_eq!(stage.set([from([], check("80", ""))]), []);
    assert_eq!(stage.set([from([3], check("80", ""))]), []);
    assert_eq!(steps(&stage.look(3, "", "80", "")), [(80, Unknown, Firing)]);
    stage.set([from([4], check("80", ""))]);
    assert_eq!(steps(&stage.look(4, "80", "", "")), [(80, Unknown, Ok)], "now somebody sees the contrary");
}

#[test]
fn what_was_held_back_for_longer_than_it_counts_is_told_too() {
    let mut stage = Stage::new([CheckSpec {
        schedule: Schedule::Every(Duration::from_secs(1)),
        confirm: 2,
        ..check("80", "")
    }]);
    stage.look(1, "80", "", "");
    stage.wait(10);
    let mut told = Vec::new();
    for (at, open, closed) in [(3, "", "80"), (4, "", "80"), (6, "80", "")] {
        told.extend(stage.see_at(1, &host(HOST, HOST, open, closed, ""), at, false));
    }
    assert_eq!(steps(&told), [(80, Unknown, Pending), (80, Pending, Firing), (80, Firing, Ok)]);
    assert!(told.iter().all(|told| !told.late));
    stage.wait(1);
    assert_eq!(stage.state(80), Unknown, "as of now nothing is known");
}

#[test]
fn a_name_that_leads_nowhere_is_unknown() {
    let names = ["shop", "mail"].map(str::to_owned).into();
    let spec = CheckSpec { addresses: AddressSet::default(), names, ..check("80", "23") };
    let mut stage = Stage::new([spec.clone()]);
    assert_eq!(stage.counts(), Counts { unknown: 4, ..Counts::default() });
    stage.see(1, &host("shop", HOST, "80", "23", ""));
    assert_eq!(stage.counts(), Counts { ok: 2, unknown: 2, ..Counts::default() });
    stage.wait(1000);
    assert_eq!(stage.counts(), Counts { unknown: 4, ..Counts::default() });
    stage.set([CheckSpec { names: ["mail".to_owned()].into(), ..spec }]);
    assert_eq!(stage.counts(), Counts { unknown: 2, ..Counts::default() });
}

#[test]
fn evidence_counts_over_a_night_without_looks() {
    // 1970-01-12 13:46:40 is when it begins, a Monday.
    let cron = Cron::new("*/5 8-14 * * 1-5", "UTC").unwrap();
    let mut stage = Stage::new([CheckSpec { schedule: Schedule::Cron(cron), ..check("80", "") }]);
    stage.now = 4300; // 14:58:20
    stage.look(1, "80", "", "");
    stage.now += 17 * 3600; // 07:58:21, after a night
    stage.wait(1);
    assert_eq!(stage.state(80), Ok);
    stage.wait(13 * 60); // 08:11: three more were due
    assert_eq!(stage.state(80), Unknown);
    stage.look(1, "80", "", "");
    stage.wait(200);
    assert_eq!(stage.state(80), Ok);
    stage.wait(900);
    assert_eq!(stage.state(80), Unknown);
}

#[test]
fn a_time_ahead_of_now_is_now() {
    let mut stage = Stage::new([check("80", "")]);
    let told = stage.see_at(1, &host(HOST, HOST, "", "80", ""), 1_000_000, false);
    assert_eq!(told[0].at, second(0));
}

#[test]
fn silence_over_udp_says_nothing() {
    let mut stage = Stage::new([CheckSpec { confirm: 2, ..check("U:53", "U:161") }]);
    let mut silent = host(HOST, HOST, "", "", "U:53,U:161");
    silent.runs[0].state = PortState::OpenFiltered;
    assert_eq!(stage.see(1, &silent), []);
    assert_eq!(stage.counts().unknown, 2);
    let shut = host(HOST, HOST, "", "U:53,U:161", "");
    assert_eq!(stage.see(1, &shut).len(), 1);
    assert_eq!(steps(&stage.see(1, &silent)), [(53, Pending, Unknown)]);
    let told = stage.see(1, &shut);
    assert_eq!(steps(&told), [(53, Unknown, Firing)], "two in a row, and nothing between");
    assert_eq!(steps(&stage.see(1, &silent)), [(53, Firing, Unknown)], "it ends nothing");
}

#[test]
fn each_expectation_has_its_own_quorum() {
    let quorum = Quorums { open: Quorum::Majority, closed: Quorum::Any, blocked: Quorum::All };
    let mut spec = from([1, 2, 3], CheckSpec { quorum, ..check("80", "23") });
    spec.ports.blocked = ports("3306");
    let mut stage = Stage::new([spec]);
    stage.look(1, "80", "23", "3306");
    stage.look(2, "80", "23", "3306");
    stage.look(3, "80", "23", "3306");
    let told = stage.look(1, "23,3306", "80", "");
    assert_eq!(steps(&told), [(23, Ok, Firing), (80, Ok, Pending), (3306, Ok, Pending)]);
    let told = stage.look(2, "23", "80,3306", "");
    assert_eq!(steps(&told), [(23, Firing, Firing), (80, Pending, Firing)]);
    assert_eq!(told[0].sights.iter().filter(|sight| sight.mismatch).count(), 2, "one more sees it");
    assert_eq!(steps(&stage.look(3, "80", "23", "")), []);
    assert_eq!(steps(&stage.look(3, "", "", "3306,80")), [(80, Firing, Firing)]);
    assert_eq!(steps(&stage.look(3, "", "3306", "")), [(3306, Pending, Firing)]);
    let told = stage.look(1, "80", "23", "3306");
    assert_eq!(
        steps(&told),
        [(23, Firing, Firing), (80, Firing, Firing), (3306, Firing, Ok), (3306, Ok, Pending)]
    );
}

#[test]
fn what_vanished_does_not_end_a_fault_of_the_majority() {
    let quorum = Quorums { open: Quorum::Majority, ..Quorums::default() };
    let mut stage = Stage::new([from([1, 2, 3], CheckSpec { quorum, ..check("80", "") })]);
    stage.look(1, "", "80", "");
    stage.look(2, "", "80", "");
    stage.look(3, "80", "", "");
    assert_eq!(stage.state(80), Firing);
    assert_eq!(
        steps(&stage.online(1, false)),
        [(80, Firing, Firing)],
        "one of two that are left still sees it"
    );
    assert_eq!(steps(&stage.online(2, false)), [(80, Firing, Unknown)]);
    stage.online(2, true);
    assert_eq!(steps(&stage.look(2, "80", "", "")), [(80, Firing, Ok)], "two of three see that it is over");
}

#[test]
fn a_host_that_is_down_is_told_once_beside_its_ports() {
    let mut stage = Stage::new([CheckSpec { confirm: 2, ..check("80,443", "23") }]);
    stage.look(1, "80,443", "23", "");
    assert_eq!(
        steps(&stage.look(1, "", "", "23,80,443")),
        [(80, Ok, Pending), (443, Ok, Pending), (0, Ok, Pending)]
    );
    let told = stage.look(1, "", "", "23,80,443");
    assert_eq!(steps(&told), [(80, Pending, Firing), (443, Pending, Firing), (0, Pending, Firing)]);
    assert_eq!(told[2].expected, Expected::Up);
    assert_eq!(told[2].sights[0].state, None, "nothing answered");
    let told = stage.look(1, "", "80,443,23", "");
    assert_eq!(steps(&told), [(80, Firing, Firing), (443, Firing, Firing), (0, Firing, Ok)], "it answers");
    assert_eq!(told[2].sights[0].state, Some((PortState::Closed, Reason::ConnRefused)));
}

#[test]
fn the_silence_of_a_host_that_is_down_ends_no_fault() {
    let mut spec = CheckSpec { recover: 2, ..check("80,443", "23") };
    spec.ports.blocked = ports("3306");
    let mut stage = Stage::new([spec]);
    assert_eq!(stage.look(1, "80,443,23,3306", "", "").len(), 2);
    let told = stage.look(1, "", "", "80,443,23,3306");
    let down = [
        (23, Firing, Unknown),
        (80, Ok, Firing),
        (443, Ok, Firing),
        (3306, Firing, Unknown),
        (0, Ok, Firing),
    ];
    assert_eq!(steps(&told), down);
    for _ in 0..3 {
        assert_eq!(stage.look(1, "", "", "80,443,23,3306"), []);
    }
    stage.look(1, "80,443", "23", "3306");
    let told = stage.look(1, "80,443", "23", "3306");
    let back = [(23, Firing, Ok), (80, Firing, Ok), (443, Firing, Ok), (3306, Firing, Ok), (0, Firing, Ok)];
    assert_eq!(steps(&told), back, "it answers, and that port does not");
}

#[test]
fn silence_of_one_port_is_not_that_of_the_host() {
    let mut stage = Stage::new([check("80,443", "23")]);
    stage.look(1, "80,443", "23", "");
    assert_eq!(steps(&stage.look(1, "", "", "80")), [(80, Ok, Firing)], "443 was open a moment ago");
    assert_eq!(stage.look(1, "", "", "23"), [], "that says nothing of a host");
    assert_eq!(steps(&stage.look(1, "", "", "443")), [(443, Ok, Firing), (0, Unknown, Firing)]);
    assert_eq!(steps(&stage.look(1, "443", "", "80")), [(443, Firing, Ok), (0, Firing, Ok)]);
    let mut stage = Stage::new([check("80", "")]);
    assert_eq!(steps(&stage.look(1, "", "", "80")), [(80, Unknown, Firing)], "one port is no host");
}

fn baseline(open: &str) -> Option<Arc<BaselinePorts>> {
    let open_here = BTreeMap::from([(satellite(1), set(open))]);
    Some(Arc::new(BaselinePorts {
        open: BTreeMap::from([((address(HOST), Protocol::Tcp), open_here)]),
        seen: BTreeMap::from([(satellite(1), AddressSet::single(address(HOST)))]),
    }))
}

#[test]
fn what_differs_from_the_baseline_fires() {
    let mut spec = from([1, 2], check("", ""));
    spec.ports.watch = ports("1-1000");
    let mut stage = Stage::new([spec.clone()]);
    assert_eq!(stage.look(1, "22,80", "1-21", ""), [], "without a baseline nothing is expected");
    assert_eq!(stage.counts(), Counts::default());
    spec.baseline = baseline("22,80");
    stage.set([spec.clone()]);
    assert_eq!(stage.counts().unknown, 1000);
    assert_eq!(stage.look(1, "22,80", "1-21,23-79,81-1000", ""), []);
    assert_eq!(stage.counts().ok, 1000);
    let told = stage.look(1, "80,443", "1-79", "");
    assert_eq!(steps(&told), [(22, Ok, Firing), (443, Ok, Firing)]);
    assert_eq!(told[0].expected, Expected::Baseline { open: true });
    assert_eq!(told[1].expected, Expected::Baseline { open: false });
    assert_eq!(stage.look(2, "443", "22", ""), [], "nothing is known of what this one saw before");
    let told = stage.look(1, "22", "443", "");
    assert_eq!(steps(&told), [(22, Firing, Ok), (443, Firing, Ok)]);
    assert_eq!(told[0].expected, Expected::Baseline { open: true });
    stage.look(1, "443", "", "");
    spec.baseline = baseline("22,80,443");
    let told = stage.set([spec]);
    assert_eq!((steps(&told), told[0].gone), (vec![(443, Firing, Ok)], true), "accepted");
    assert_eq!((stage.state(443), stage.state(22)), (Unknown, Ok));
    assert_eq!(stage.look(1, "443", "", ""), []);
    assert_eq!(stage.state(443), Ok);
}

#[test]
fn to_and_fro_is_told_once() {
    let mut stage = Stage::new([check("80", "")]);
    let mut told = Vec::new();
    for _ in 0..20 {
        told.extend(stage.look(1, "", "80", ""));
        told.extend(stage.look(1, "80", "", ""));
    }
    assert_eq!(steps(&told).len(), 6, "{told:?}");
    assert_eq!((told[5].from, told[5].to, told[5].flapping), (Firing, Firing, true));
    assert!(told[..5].iter().all(|told| !told.flapping));
    assert_eq!(stage.state(80), Firing, "whatever it is right now");
    for _ in 0..14 {
        assert_eq!(stage.wait(60), []);
        assert_eq!(stage.look(1, "80", "", ""), []);
    }
    let told = stage.wait(60);
    assert_eq!((steps(&told), told[0].flapping), (vec![(80, Firing, Ok)], false));
    assert_eq!(stage.state(80), Ok);
}

#[test]
fn flapping_that_ends_in_a_fault_says_so() {
    let mut stage = Stage::new([check("80", "")]);
    for _ in 0..5 {
        stage.look(1, "", "80", "");
        stage.look(1, "80", "", "");
    }
    stage.look(1, "", "80", "");
    let mut told = Vec::new();
    for _ in 0..16 {
        told.extend(stage.wait(60));
        told.extend(stage.look(1, "", "80", ""));
    }
    assert_eq!((steps(&told), told[0].flapping), (vec![(80, Firing, Firing)], false));
}

#[test]
fn a_paused_check_stands_still() {
    let mut stage = Stage::new([check("80", "23")]);
    stage.look(1, "", "80,23", "");
    assert_eq!(stage.set([CheckSpec { paused: true, ..check("80", "23") }]), []);
    assert_eq!(stage.look(1, "80,23", "", ""), []);
    assert_eq!(stage.wait(4 * INTERVAL), []);
    assert_eq!(stage.online(1, false), []);
    assert_eq!(stage.counts(), Counts { ok: 1, firing: 1, ..Counts::default() });
    let told = stage.set([CheckSpec { paused: true, ..check("", "23") }]);
    assert_eq!((steps(&told), told[0].gone), (vec![(80, Firing, Ok)], true));
    assert_eq!(stage.counts(), Counts { ok: 1, ..Counts::default() });
    stage.online(1, true);
    assert_eq!(stage.set([check("", "23")]), []);
    assert_eq!(stage.counts().unknown, 1, "by now that is old");
}

#[test]
fn what_is_expected_no_more_is_gone() {
    let mut stage = Stage::new([check("80,443", "23")]);
    stage.look(1, "23", "80,443", "");
    let told = stage.set([check("80", "443")]);
    assert_eq!(steps(&told), [(23, Firing, Ok), (443, Firing, Ok)]);
    assert!(told.iter().all(|told| told.gone));
    assert_eq!(told[1].expected, Expected::Port(Expectation::Open), "in the words of before");
    assert_eq!((stage.state(80), stage.state(443)), (Firing, Unknown), "the one stays, the other begins");
    let other = CheckSpec { addresses: AddressSet::single(address("10.0.0.9")), ..check("80", "443") };
    assert_eq!(steps(&stage.set([other])), [(80, Firing, Ok)]);
    assert_eq!(stage.counts(), Counts { unknown: 2, ..Counts::default() });
    assert_eq!(stage.set([]), []);
    assert_eq!(stage.evaluator.counts("web"), None);
}

#[test]
fn a_check_keeps_its_state_through_changes_that_are_not_about_it() {
    let mut stage = Stage::new([from([1, 2], CheckSpec { confirm: 3, ..check("80", "23") })]);
    for _ in 0..2 {
        stage.look(1, "", "80,23", "");
    }
    let other = CheckSpec { name: "a-first".into(), ..check("22", "") };
    assert_eq!(stage.set([other, from([1], CheckSpec { confirm: 3, ..check("80,443", "23") })]), []);
    assert_eq!(steps(&stage.look(1, "", "80,23", "")), [(80, Pending, Firing)], "two of before and one");
    stage.wait(4 * INTERVAL);
    assert_eq!(stage.state(80), Unknown, "its time is its own too");
}

#[test]
fn a_vantage_point_that_leaves_takes_its_word_with_it() {
    let mut stage = Stage::new([from([1, 2], check("80", ""))]);
    stage.look(1, "", "80", "");
    stage.look(2, "80", "", "");
    let told = stage.set([from([2], check("80", ""))]);
    assert_eq!((steps(&told), told[0].gone), (vec![(80, Firing, Ok)], false));
}

fn named() -> CheckSpec {
    let names = BTreeSet::from(["shop".to_owned()]);
    CheckSpec { names, addresses: AddressSet::default(), ..from([1, 2], check("80", "")) }
}

#[test]
fn a_name_is_looked_at_under_each_of_its_addresses() {
    let spec = CheckSpec { exclude: AddressSet::single(address("10.0.0.3")), ..named() };
    let mut stage = Stage::new([spec]);
    assert_eq!(stage.look(1, "", "80", ""), [], "an address is not the name");
    let told = stage.see(1, &host("shop", HOST, "", "80", ""));
    assert_eq!((steps(&told), told[0].target.as_str()), (vec![(80, Unknown, Firing)], "shop"));
    stage.see(1, &host("shop", "10.0.0.2", "80", "", ""));
    assert_eq!(stage.see(1, &host("shop", "10.0.0.3", "", "80", "")), [], "left out");
    assert_eq!(stage.counts(), Counts { ok: 1, firing: 1, ..Counts::default() });
}

#[test]
fn an_address_that_its_name_left_is_gone() {
    let mut stage = Stage::new([named()]);
    stage.see(1, &host("shop", HOST, "", "80", ""));
    stage.see(2, &host("shop", HOST, "", "80", ""));
    let moved = |stage: &mut Stage, from| {
        let mut told = Vec::new();
        for _ in 0..4 {
            told.extend(stage.see(from, &host("shop", "10.0.0.2", "80", "", "")));
            told.extend(stage.wait(INTERVAL));
        }
        told
    };
    let told = moved(&mut stage, 1);
    assert_eq!(
        steps(&told),
        [(80, Firing, Firing), (80, Firing, Unknown)],
        "the other may still find it there"
    );
    stage.wait(4 * INTERVAL);
    assert_eq!(moved(&mut stage, 2), [], "the first has not looked for long");
    stage.see(1, &host("shop", "10.0.0.2", "80", "", ""));
    let told = stage.wait(1);
    assert_eq!((steps(&told), told[0].gone), (vec![(80, Unknown, Ok)], true));
    assert_eq!(stage.counts(), Counts { ok: 1, ..Counts::default() });
}

#[test]
fn a_name_that_nobody_looks_up_leaves_nothing() {
    let mut stage = Stage::new([named()]);
    stage.see(1, &host("shop", HOST, "", "80", ""));
    assert_eq!(steps(&stage.wait(100 * INTERVAL)), [(80, Firing, Unknown)]);
}

#[test]
fn a_summary_says_how_old_it_is_from_where() {
    let mut stage = Stage::new([from(
        [1, 2],
        CheckSpec {
            addresses: [address(HOST), address("10.0.0.2")].into_iter().collect(),
            ..check("80", "23")
        },
    )]);
    stage.look(1, "80", "23", "");
    stage.see(1, &host("10.0.0.2", "10.0.0.2", "23", "80", ""));
    stage.look(2, "80", "23", "");
    let summary = stage.evaluator.summary("web").unwrap();
    assert_eq!(summary.counts, Counts { ok: 2, firing: 2, ..Counts::default() });
    assert_eq!((summary.state, summary.since), (Firing, second(2)));
    let vantage = |number, oldest: Option<i64>, newest: i64, addresses| VantageSummary {
        satellite: satellite(number),
        oldest: oldest.map(second),
        newest: Some(second(newest)),
        addresses,
    };
    assert_eq!(summary.vantages, [vantage(1, Some(1), 2, 2), vantage(2, None, 3, 1)]);
}

#[test]
fn standings_begin_with_what_is_not_ok() {
    let mut stage = Stage::new([CheckSpec {
        addresses: "10.0.0.0-10.255.255.255"
            .parse::<portolan_common::addresses::AddressRange>()
            .unwrap()
            .into(),
        confirm: 2,
        ..check("80,443", "1-79")
    }]);
    stage.look(1, "80,23", "443,22", "");
    stage.look(1, "80,23", "22", "");
    let (standings, rest) = stage.evaluator.standings("web", 4);
    let listed: Vec<_> = standings
        .iter()
        .map(|standing| (standing.key.address, standing.key.port.unwrap().1, standing.state))
        .collect();
    let first = address("10.0.0.0");
    assert_eq!(
        listed,
        [
            (address(HOST), 23, Firing),
            (first, 80, Unknown),
            (first, 443, Unknown),
            (address("10.0.0.2"), 80, Unknown),
        ]
    );
    assert_eq!(rest, (1 << 24) * 81 - 4);
    stage.set([CheckSpec { confirm: 2, ..check("80,443", "1-79") }]);
    let (standings, rest) = stage.evaluator.standings("web", 100);
    let listed: Vec<_> =
        standings.iter().map(|standing| (standing.key.port.unwrap().1, standing.state)).collect();
    assert_eq!(listed, [(23, Firing), (443, Pending), (80, Ok)]);
    assert_eq!((rest, standings[2].sights[0].rtts_us.len()), (78, 2));
    assert_eq!(stage.evaluator.standings("nothing", 9), (vec![], 0));
}
