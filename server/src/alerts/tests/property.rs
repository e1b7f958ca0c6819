//! Whatever happens in whatever order, restarts included: of each fingerprint there is one unresolved alert at most, and
//! what fires has one.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Step { port: u16, to: u8, flapping: bool, gone: bool },
    Host(bool),
    Satellite(bool),
    Acknowledge(usize),
    Silence(u16),
    Expire,
    Tick { unknown: u64, seconds: i64 },
    Restart,
    Pause(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3u16, 0..4u8, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(port, to, flapping, gone)| Event::Step { port: [80, 443, 23][usize::from(port)], to, flapping, gone }),
        1 => any::<bool>().prop_map(Event::Host),
        1 => any::<bool>().prop_map(Event::Satellite),
        1 => (0..4usize).prop_map(Event::Acknowledge),
        1 => (0..3u16).prop_map(|port| Event::Silence([80, 443, 23][usize::from(port)])),
        1 => Just(Event::Expire),
        2 => (any::<bool>(), 0..1200i64).prop_map(|(unknown, seconds)| Event::Tick { unknown: u64::from(unknown), seconds }),
        2 => Just(Event::Restart),
        1 => any::<bool>().prop_map(Event::Pause),
    ]
}

/// What should fire, as told.
type Model = BTreeSet<Key>;

fn step_of(port: u16, to: u8, flapping: bool, gone: bool) -> Transition {
    let to = [State::Ok, State::Pending, State::Firing, State::Unknown][usize::from(to)];
    let (expectation, wrong) = match port {
        23 => (Expectation::Closed, PortState::Open),
        _ => (Expectation::Open, PortState::Closed),
    };
    Transition { flapping, gone, ..step(expectation, port, to, wrong) }
}

fn holds(alerts: &Alerts, model: &Model) -> Result<(), TestCaseError> {
    let current = alerts.current(&[]);
    let fingerprints: BTreeSet<&str> = current.iter().map(|alert| alert.fingerprint.as_str()).collect();
    prop_assert_eq!(fingerprints.len(), current.len(), "one a fingerprint");
    let keys: Model = alerts.unresolved().filter_map(|alert| alert.subject.key().cloned()).collect();
    prop_assert_eq!(&keys, model, "what fires has an alert, and nothing else has");
    for alert in alerts.unresolved() {
        prop_assert_eq!(&alerts.reasons(alert), &alert.held_back_by, "reasons are those of now");
        prop_assert_eq!(alerts.index.open(&alert.subject), Some(alert.id));
    }
    let resolved = alerts.alerts.values().filter(|alert| !alert.is_unresolved()).count();
    prop_assert_eq!(alerts.index.oldest_resolved().map_or(0, |(.., number)| number), resolved);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn one_alert_a_fault_and_none_is_lost(events in prop::collection::vec(event(), 1..60)) {
        let mut alerts = with_checks(chain(&["router", "shop"]));
        let mut disk = Disk::default();
        let mut model = Model::new();
        let mut now = at(1);
        for event in events {
            now += SignedDuration::from_secs(1);
            match event {
                Event::Step { port, to, flapping, gone } => {
                    let transition = step_of(port, to, flapping, gone);
                    match (transition.to, gone) {
                        (State::Ok, _) | (_, true) => drop(model.remove(&transition.key)),
                        (State::Firing, false) => drop(model.insert(transition.key.clone())),
                        _ => {}
                    }
                    alerts.apply(&[transition], now);
                }
                Event::Host(down) => {
                    let transition = host(if down { State::Firing } else { State::Ok });
                    if down {
                        model.insert(transition.key.clone());
                    } else {
                        model.remove(&transition.key);
                    }
                    alerts.apply(&[transition], now);
                }
                Event::Satellite(offline) => alerts.satellite(OFFICE, offline.then_some(now), now),
                Event::Acknowledge(which) => {
                    if let Some(alert) = alerts.current(&[]).get(which) {
                        alerts.acknowledge(&alert.id, "ada", "", now).unwrap();
                    }
                }
                Event::Silence(port) => {
                    let request = v1::AddSilenceRequest {
                        matchers: vec![format!("port={port}")],
                        reason: "test".into(),
                        starts_at_ms: 0,
                        ends_at_ms: (now + SignedDuration::from_secs(600)).as_millisecond(),
                    };
                    alerts.add_silence(&request, "ada", now).unwrap();
                }
                Event::Expire => {
                    if let Some(silence) = alerts.silences(false, now).first() {
                        alerts.expire_silence(&silence.id, now).unwrap();
                    }
                }
                Event::Tick { unknown, seconds } => {
                    now += SignedDuration::from_secs(seconds);
                    alerts.tick([CheckCounts { check: "shop", unknown }], now);
                }
                Event::Restart => {
                    let before = alerts.current(&[]);
                    alerts.take_events();
                    alerts = restarted(&mut alerts, &mut disk, now);
                    prop_assert_eq!(alerts.current(&[]), before);
                    prop_assert!(alerts.take_events().is_empty());
                }
                Event::Pause(paused) => {
                    let mut checks = chain(&["router", "shop"]);
                    checks[1].paused = paused;
                    alerts.set_context(Arc::new(context(checks)), now);
                }
            }
            holds(&alerts, &model)?;
        }
    }
}
