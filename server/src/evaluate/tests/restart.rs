//! What fired before a restart goes on firing.

use super::fixture::*;
use crate::evaluate::State::{Firing, Ok, Unknown};
use crate::evaluate::*;
use portolan_common::expectation::Expectation;
use portolan_policy::model::{Quorum, Quorums};

fn saved(told: &Transition) -> Saved {
    Saved {
        key: told.key.clone(),
        target: told.target.clone(),
        expected: told.expected,
        state: told.to,
        since: told.since,
        flapping: told.flapping,
        sights: told.sights.clone(),
    }
}

fn spec() -> CheckSpec {
    let quorum = Quorums { open: Quorum::Majority, ..Quorums::default() };
    from([1, 2, 3], CheckSpec { confirm: 2, recover: 2, quorum, ..check("80,443", "23") })
}

/// A stage on which 80 and 23 fire from 1 and 2, and what was told of them.
fn fire() -> (Stage, Vec<Saved>) {
    let mut stage = Stage::new([spec()]);
    let mut told = Vec::new();
    for _ in 0..2 {
        told.extend(stage.look(1, "443,23", "80", ""));
        told.extend(stage.look(2, "443,23", "80", ""));
    }
    let last = |port| told.iter().rev().find(|told| told.key.port.unwrap().1 == port).unwrap();
    let saved = [last(80), last(23)].map(saved).to_vec();
    assert!(saved.iter().all(|saved| saved.state == Firing && saved.sights.len() == 2));
    (stage, saved)
}

fn restart(stage: Stage, checks: impl Into<Vec<CheckSpec>>, saved: Vec<Saved>) -> (Stage, Vec<Transition>) {
    let mut new = Stage::new(checks);
    new.now = stage.now;
    let mut out = Vec::new();
    new.evaluator.restore(saved, second(new.now), &mut out);
    (new, out)
}

#[test]
fn a_quick_restart_changes_nothing() {
    let (stage, saved) = fire();
    let (mut stage, told) = restart(stage, [spec()], saved);
    assert_eq!(told, []);
    assert_eq!((stage.state(80), stage.state(23), stage.counts().firing), (Firing, Firing, 2));
    assert_eq!(stage.wait(5), []);
    assert_eq!(stage.look(1, "443,23", "80", ""), [], "the same again");
    assert_eq!(stage.look(1, "443,80", "23", ""), [], "not twice in a row yet");
    let told = stage.look(1, "443,80", "23", "");
    assert_eq!(steps(&told), [(23, Firing, Firing), (80, Firing, Ok), (80, Ok, State::Pending)]);
    assert!(told[0].sights.iter().any(|sight| sight.satellite == satellite(2) && sight.mismatch));
}

#[test]
fn after_a_long_one_nobody_knows_and_nothing_has_ended() {
    let (mut stage, saved) = fire();
    stage.now += 10_000;
    let (mut stage, _) = restart(stage, [spec()], saved.clone());
    assert_eq!(stage.state(80), Firing);
    assert_eq!(steps(&stage.wait(1)), [(23, Firing, Unknown), (80, Firing, Unknown)]);
    let told = stage.look(1, "443,23", "80", "");
    assert_eq!(steps(&told), [(23, Unknown, Firing), (80, Unknown, Firing)]);
    assert_eq!(told[1].since, saved[0].since);
}

#[test]
fn without_sights_all_vantage_points_are_taken_to_see_it() {
    let (mut stage, mut saved) = fire();
    saved.iter_mut().for_each(|saved| saved.sights.clear());
    stage.now += 1;
    let (mut stage, told) = restart(stage, [spec()], saved);
    assert_eq!(told, []);
    assert_eq!(steps(&stage.wait(1)), [(23, Firing, Unknown), (80, Firing, Unknown)]);
    for _ in 0..2 {
        stage.look(1, "443,80", "23", "");
    }
    assert_eq!((stage.state(80), stage.state(23)), (Unknown, Unknown), "the others may see it still");
    for number in [2, 3] {
        for _ in 0..2 {
            stage.look(number, "443,80", "23", "");
        }
    }
    assert_eq!((stage.state(80), stage.state(23)), (Ok, Ok));
}

#[test]
fn what_is_not_expected_any_more_is_gone() {
    let (stage, saved) = fire();
    let (stage, told) = restart(stage, [from([1, 2, 3], check("443", "80"))], saved.clone());
    assert_eq!(steps(&told), [(80, Firing, Ok), (23, Firing, Ok)]);
    assert!(told.iter().all(|told| told.gone));
    assert_eq!(told[0].expected, Expected::Port(Expectation::Open));
    let (_, told) = restart(stage, [], saved);
    assert_eq!(told.len(), 2);
}

#[test]
fn flapping_goes_on_for_a_while() {
    let (stage, mut saved) = fire();
    saved[0].flapping = true;
    let (mut stage, _) = restart(stage, [spec()], saved);
    let mut told = Vec::new();
    for _ in 0..14 {
        for number in [1, 2, 3] {
            told.extend(stage.look(number, "443,80", "23", ""));
        }
        told.extend(stage.wait(60));
    }
    assert_eq!(told.iter().filter(|told| told.key == key(80)).count(), 0, "{told:?}");
    assert_eq!(stage.wait(10), []);
    let told = stage.wait(15 * 60);
    assert_eq!(steps(&told)[0], (80, Firing, Ok));
}

#[test]
fn what_was_covered_is_known_again_and_nothing_else() {
    let [other, spec] = ["other", "web"].map(|name| CheckSpec { name: name.into(), ..check("80", "23") });
    let mut stage = Stage::new([spec.clone()]);
    stage.look(1, "80", "", "");
    assert_eq!(stage.evaluator.covered("web"), [], "23 was never looked at");
    stage.look(1, "", "23", "");
    stage.look(1, "80", "", "");
    assert_eq!(stage.evaluator.covered("web"), [(satellite(1), second(2))], "80 alone proves nothing of 23");
    let now = stage.now;
    let mut stage = Stage::new([spec, other]);
    let host = host(HOST, HOST, "80", "23", "");
    let (tenant, satellite, order) = ("default", satellite(1), Default::default());
    let seen = Sighting { tenant, satellite, order, at: second(0), late: false, host: &host };
    let mut out = Vec::new();
    let covered = |check: &str| (check == "web").then_some(second(2));
    stage.evaluator.recall(&seen, covered, second(now), &mut out);
    assert_eq!((stage.state(80), stage.state(23)), (Ok, Ok));
    assert_eq!(stage.evaluator.counts("other").unwrap().unknown, 2, "of it nothing is known");
    stage.wait(3 * INTERVAL + 3);
    assert_eq!((stage.state(80), stage.state(23)), (Unknown, Unknown), "it is no younger than it was");
    let mut stage = Stage::new([check("23", "80")]);
    stage.evaluator.recall(&seen, |_| Some(second(2)), second(1000), &mut out);
    assert_eq!(out, [], "nothing is raised of what was long ago");
}
