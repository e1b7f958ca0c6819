//! Blackouts: nothing is sent in them, whatever is due or under way.

use super::*;

fn night() -> Vec<v1::Window> {
    vec![v1::Window { cron: "0 2 * * *".into(), timezone: "Europe/Berlin".into(), lasts_ms: 3_600_000 }]
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_in_a_blackout() {
    // Ten seconds before 02:00 in Berlin.
    let mut run = Run::start("2026-11-22T00:59:50Z");
    run.world.takes(0.4);
    let often = check("often", 1000);
    let seldom = v1::CheckAssignment { targets: vec!["10.0.0.2".into()], ..check("seldom", 30_000) };
    let sweep = v1::CheckAssignment {
        targets: vec!["10.0.0.3".into()],
        open: "U:53".into(),
        ..check("u", 86_400_000)
    };
    run.assign(1, vec![often, seldom, sweep], night());
    run.pass(9.0).await;
    run.world.takes(5.0);
    run.orders.run(vec!["u".into()]);
    run.pass(2.0).await;
    let before = run.world.looks();
    assert!(before >= 9);
    let dark = run.world.times("10.0.0.1");
    assert!(dark.iter().all(|time| *time < 10.0), "{dark:?}");
    assert_eq!(run.world.given_up(), 1, "what was under way is given up");
    run.orders.run(vec!["seldom".into()]);
    run.pass(3500.0).await;
    assert_eq!(run.world.looks(), before);
    assert!(run.world.paused() > 3000, "sweeps stand still");
    run.world.takes(0.0);
    run.pass(200.0).await;
    let after: Vec<f64> = run.world.times("10.0.0.2").into_iter().filter(|time| *time > 10.0).collect();
    assert!(after[0] >= 3610.0 && after[0] < 3616.0, "what was held back runs: {after:?}");
    let often = run.world.times("10.0.0.1");
    assert!(often.len() > 90);
    assert_eq!(run.world.sweeps().len(), 2, "and the sweep went on where it stood");
    let told = run.reports().1;
    assert!(told.iter().all(|status| status.interval_ms == 0 && status.error.is_empty()), "{told:?}");
}

/// A doubt that arose just before is cleared up after.
#[tokio::test(start_paused = true)]
async fn doubts_wait_too() {
    let mut run = Run::start("2026-11-22T00:59:30Z");
    run.world.set("10.0.0.1", 443, PortState::Closed);
    let wanted = v1::CheckAssignment { confirm: 6, ..check("shop", 86_400_000) };
    run.assign(1, vec![wanted], night());
    run.pass(40.0).await;
    let doubts = run.world.looks();
    assert!((5..=6).contains(&doubts), "{doubts}");
    run.assign(2, vec![v1::CheckAssignment { confirm: 20, ..check("shop", 86_400_000) }], night());
    run.pass(3500.0).await;
    assert_eq!(run.world.looks(), doubts);
    run.pass(100.0).await;
    assert!(run.world.looks() > doubts + 3);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_into_a_blackout_counts() {
    let mut run = Run::start("2026-11-22T00:30:00Z");
    run.assign(1, vec![check("shop", 1000)], night());
    run.pass(10.0).await;
    run.world.set_wall(3600);
    run.pass(1.5).await;
    let before = run.world.looks();
    run.pass(60.0).await;
    assert_eq!(run.world.looks(), before, "it is half past two");
    run.world.set_wall(-3600);
    run.pass(60.0).await;
    assert!(run.world.looks() > before + 55);
}

#[tokio::test(start_paused = true)]
async fn without_knowing_when_it_must_not_it_sends_nothing() {
    let mut run = Run::start("2026-11-22T12:00:00Z");
    let unreadable =
        vec![v1::Window { cron: "whenever".into(), timezone: String::new(), lasts_ms: 3_600_000 }];
    run.assign(1, vec![check("shop", 1000)], unreadable);
    run.pass(60.0).await;
    let told = run.reports().1;
    assert!(run.world.looks() == 0 && told.len() == 1 && told[0].error.contains("whenever"), "{told:?}");
    run.assign(2, vec![check("shop", 1000)], vec![]);
    run.pass(10.0).await;
    assert!(run.world.looks() >= 9);
}
