//! The list with real tasks, under tokio's paused clock.

use super::*;
use std::sync::{Arc, Mutex};
use tokio::time::{Instant as Clock, sleep};

const SECOND: Duration = Duration::from_secs(1);

type Log = Arc<Mutex<Vec<&'static str>>>;

struct List {
    tasks: Tasks,
    shutdown: CancellationToken,
    log: Log,
}

fn list() -> List {
    let shutdown = CancellationToken::new();
    List { tasks: Tasks::new(shutdown.clone()), shutdown, log: Log::default() }
}

impl List {
    /// A task that takes `takes` to end once it is asked to, and then says so.
    fn obedient(&mut self, stage: StageId, name: &'static str, takes: Duration) {
        let log = self.log.clone();
        self.tasks.spawn(stage, name, |stop| async move {
            stop.cancelled().await;
            sleep(takes).await;
            log.lock().unwrap().push(name);
            Ok(())
        });
    }

    fn end_after(&self, pause: Duration) {
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            shutdown.cancel();
        });
    }

    fn log(&self) -> Log {
        self.log.clone()
    }
}

fn told(log: &Log) -> Vec<&'static str> {
    log.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn stages_end_in_the_order_in_which_they_were_declared() {
    let mut list = list();
    let accepting = list.tasks.stage("accepting", SECOND);
    let streams = list.tasks.stage("streams", SECOND);
    let _empty = list.tasks.stage("empty", SECOND);
    let store = list.tasks.stage("store", SECOND);
    list.obedient(store, "store", Duration::ZERO);
    list.obedient(streams, "slow stream", SECOND / 2);
    list.obedient(streams, "stream", SECOND / 10);
    list.obedient(accepting, "accept", SECOND / 4);
    list.end_after(SECOND);
    let (log, began) = (list.log(), Clock::now());
    assert_eq!(list.tasks.run().await, Ok(Stopped { unfinished: vec![] }));
    assert_eq!(told(&log), ["accept", "stream", "slow stream", "store"]);
    assert_eq!(began.elapsed().as_millis(), 1750);
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_all_and_is_the_one_that_is_told() {
    let mut list = list();
    let first = list.tasks.stage("first", SECOND);
    let second = list.tasks.stage("second", SECOND);
    list.obedient(first, "first", Duration::ZERO);
    list.tasks.spawn(second, "receiver", |_| async {
        sleep(SECOND).await;
        Err(std::io::Error::other("the disk is full").into())
    });
    list.tasks.spawn(first, "follower", |stop| async move {
        stop.cancelled().await;
        Err("because of the receiver".into())
    });
    let log = list.log();
    let failed = list.tasks.run().await.unwrap_err();
    assert_eq!(failed.to_string(), "the task `receiver` failed: the disk is full");
    assert_eq!(told(&log), ["first"], "the others were asked, not killed");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_reported_with_its_words() {
    for formatted in [false, true] {
        let mut list = list();
        let stage = list.tasks.stage("only", SECOND);
        list.obedient(stage, "other", Duration::ZERO);
        list.tasks.spawn(stage, "fragile", move |_| async move {
            sleep(SECOND).await;
            if formatted { panic!("{} is no port", 70_000) } else { panic!("it is no port") }
        });
        let log = list.log();
        let failed = list.tasks.run().await.unwrap_err();
        let why = if formatted { "70000 is no port" } else { "it is no port" };
        assert_eq!(failed, TaskFailed::Panic { task: "fragile".into(), why: why.into() });
        assert_eq!(told(&log), ["other"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_unasked_ends_all() {
    let mut list = list();
    let stage = list.tasks.stage("only", SECOND);
    list.obedient(stage, "other", Duration::ZERO);
    list.tasks.spawn(stage, "short", |_| async { Ok(()) });
    let failed = list.tasks.run().await.unwrap_err();
    assert_eq!(failed, TaskFailed::Ended { task: "short".into() });
}

#[tokio::test(start_paused = true)]
async fn each_stage_has_its_time_and_what_has_not_ended_by_then_is_aborted() {
    let mut list = list();
    let first = list.tasks.stage("first", SECOND);
    let second = list.tasks.stage("second", SECOND * 2);
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    list.tasks.spawn(first, "deaf", |_| async move {
        let _held = held;
        std::future::pending().await
    });
    list.obedient(first, "quick", SECOND / 2);
    list.obedient(second, "late", SECOND * 3);
    list.obedient(second, "in time", SECOND * 3 / 2);
    list.end_after(Duration::ZERO);
    let (log, began) = (list.log(), Clock::now());
    let stopped = list.tasks.run().await.unwrap();
    assert_eq!(stopped.unfinished, ["deaf", "late"]);
    assert_eq!(told(&log), ["quick", "in time"]);
    assert_eq!(began.elapsed(), SECOND * 3);
    assert!(dropped.await.is_err(), "what an aborted task held was let go");
}

#[tokio::test(start_paused = true)]
async fn a_group_ends_with_its_last_member_and_survives_their_panics() {
    let mut list = list();
    let stage = list.tasks.stage("only", SECOND * 10);
    let group = list.tasks.group(stage, "connections");
    let log = list.log();
    for name in ["one", "two"] {
        let (stop, log) = (group.stop().clone(), log.clone());
        group.spawn(name, async move {
            stop.cancelled().await;
            sleep(SECOND).await;
            log.lock().unwrap().push(name);
        });
    }
    group.spawn("three", async { panic!("three is broken") });
    list.end_after(SECOND * 5);
    let began = Clock::now();
    assert_eq!(list.tasks.run().await, Ok(Stopped { unfinished: vec![] }));
    assert_eq!((told(&log).len(), began.elapsed()), (2, SECOND * 6));
}

#[tokio::test(start_paused = true)]
async fn the_members_of_a_group_that_takes_too_long_are_dropped() {
    let mut list = list();
    let stage = list.tasks.stage("only", SECOND);
    let group = list.tasks.group(stage, "connections");
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    group.spawn("deaf", async move {
        let _held = held;
        std::future::pending().await
    });
    list.end_after(Duration::ZERO);
    let stopped = list.tasks.run().await.unwrap();
    assert_eq!(stopped.unfinished, ["connections"]);
    assert!(dropped.await.is_err());
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    group.spawn("too late", async move {
        let _held = held;
        std::future::pending().await
    });
    assert!(dropped.await.is_err(), "a group that is gone takes nobody in");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_runs_leaves_nothing_behind() {
    let mut list = list();
    let stage = list.tasks.stage("only", SECOND);
    let group = list.tasks.group(stage, "connections");
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    let (held_too, dropped_too) = tokio::sync::oneshot::channel::<()>();
    group.spawn("member", async move {
        let _held = held;
        std::future::pending().await
    });
    list.tasks.spawn(stage, "task", |_| async move {
        let _held = held_too;
        std::future::pending().await
    });
    tokio::task::yield_now().await;
    drop(list);
    assert!(dropped.await.is_err());
    assert!(dropped_too.await.is_err());
}

#[test]
fn a_cause_is_told_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot write")]
    struct Silent(#[source] std::io::Error);
    #[derive(Debug, thiserror::Error)]
    #[error("cannot start: {0}")]
    struct Telling(#[from] Silent);
    let error = Telling(Silent(std::io::Error::other("the disk is full")));
    assert_eq!(chain(&error), "cannot start: cannot write: the disk is full");
}
