//! What decides: which task failed first, which stage is stopped when, and what is aborted because it took too long.
//!
//! Pure: no clock, no tasks, no I/O. It is told what happened and when, and answers with what is to be done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A stage of the shutdown, in the order in which the stages were declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub(crate) usize);

/// Tells one task from another.
pub type TaskKey = usize;

/// How a task ended.
#[derive(Debug)]
pub enum Ending {
    /// It returned.
    Done,
    /// It returned an error, in words.
    Failed(String),
    /// It panicked, saying this.
    Panicked(String),
}

/// The task that failed first, and why. Everything else was ended because of it, or was ending already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailed {
    /// It returned an error.
    #[error("the task `{task}` failed: {why}")]
    Error {
        /// Its name.
        task: String,
        /// The error, with its causes.
        why: String,
    },
    /// It panicked.
    #[error(
        "the task `{task}` panicked ({why}); that is a defect: please report it with the log, then start again"
    )]
    Panic {
        /// Its name.
        task: String,
        /// What it said.
        why: String,
    },
    /// It returned although nobody had asked it to.
    #[error(
        "the task `{task}` ended by itself; that is a defect: please report it with the log, then start again"
    )]
    Ended {
        /// Its name.
        task: String,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the tasks of this stage to end.
    Stop(StageId),
    /// End this task without asking: it had its time.
    Abort(TaskKey),
}

#[derive(Debug)]
struct Stage {
    name: &'static str,
    within: Duration,
}

#[derive(Debug)]
struct Task {
    stage: StageId,
    name: String,
}

#[derive(Debug)]
enum Phase {
    Running,
    Stopping { stage: StageId, until: Instant },
    Over,
}

/// See the module.
#[derive(Debug)]
pub struct Supervision {
    stages: Vec<Stage>,
    tasks: BTreeMap<TaskKey, Task>,
    phase: Phase,
    failed: Option<TaskFailed>,
    unfinished: Vec<String>,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            tasks: BTreeMap::new(),
            phase: Phase::Running,
            failed: None,
            unfinished: Vec::new(),
        }
    }
}

impl Supervision {
    /// Declares the next stage: stopped after those declared before it, and given `within` to end.
    pub fn stage(&mut self, name: &'static str, within: Duration) -> StageId {
        self.stages.push(Stage { name, within });
        StageId(self.stages.len() - 1)
    }

    /// A task runs.
    pub fn started(&mut self, key: TaskKey, stage: StageId, name: String) {
        self.tasks.insert(key, Task { stage, name });
    }

    /// Somebody wants everything to end.
    pub fn asked(&mut self, now: Instant) -> Vec<Command> {
        match self.phase {
            Phase::Running => self.enter(0, now),
            Phase::Stopping { .. } | Phase::Over => Vec::new(),
        }
    }

    /// A task ended. The first that fails ends everything.
    pub fn ended(&mut self, key: TaskKey, ending: Ending, now: Instant) -> Vec<Command> {
        // One that was aborted is no longer known here.
        let Some(Task { name, .. }) = self.tasks.remove(&key) else { return Vec::new() };
        let running = matches!(self.phase, Phase::Running);
        let failed = match ending {
            // What a later stage is made of may end with an earlier one.
            Ending::Done if !running => None,
            Ending::Done => Some(TaskFailed::Ended { task: name }),
            Ending::Failed(why) => Some(TaskFailed::Error { task: name, why }),
            Ending::Panicked(why) => Some(TaskFailed::Panic { task: name, why }),
        };
        if let Some(failed) = failed {
            self.failed.get_or_insert(failed);
        }
        match self.phase {
            Phase::Running => self.enter(0, now),
            Phase::Stopping { stage, .. } if self.is_idle(stage) => self.enter(stage.0 + 1, now),
            Phase::Stopping { .. } | Phase::Over => Vec::new(),
        }
    }

    /// Time passed: what has not ended by its stage's deadline is aborted, and the next stage begins.
    pub fn elapsed(&mut self, now: Instant) -> Vec<Command> {
        let Phase::Stopping { stage, until } = self.phase else { return Vec::new() };
        if now < until {
            return Vec::new();
        }
        let late: Vec<TaskKey> =
            self.tasks.iter().filter(|(_, task)| task.stage == stage).map(|(key, _)| *key).collect();
        for key in &late {
            if let Some(task) = self.tasks.remove(key) {
                self.unfinished.push(task.name);
            }
        }
        let mut commands: Vec<Command> = late.into_iter().map(Command::Abort).collect();
        commands.extend(self.enter(stage.0 + 1, now));
        commands
    }

    /// When [`Supervision::elapsed`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopping { until, .. } => Some(until),
            Phase::Running | Phase::Over => None,
        }
    }

    /// Whether everything has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether the end has begun.
    pub fn is_stopping(&self) -> bool {
        !matches!(self.phase, Phase::Running)
    }

    /// The first task that failed.
    pub fn failed(&self) -> Option<&TaskFailed> {
        self.failed.as_ref()
    }

    /// The tasks that had to be aborted, in the order in which that happened.
    pub fn unfinished(&self) -> &[String] {
        &self.unfinished
    }

    /// A stage's name and how long it may take to end.
    pub fn describe(&self, stage: StageId) -> (&'static str, Duration) {
        self.stages.get(stage.0).map_or(("", Duration::ZERO), |stage| (stage.name, stage.within))
    }

    /// The stage being stopped, if any.
    pub fn stopping(&self) -> Option<StageId> {
        match self.phase {
            Phase::Stopping { stage, .. } => Some(stage),
            Phase::Running | Phase::Over => None,
        }
    }

    fn is_idle(&self, stage: StageId) -> bool {
        self.tasks.values().all(|task| task.stage != stage)
    }

    /// Stops the stages from the `first` on, up to the one that has something to wait for.
    fn enter(&mut self, first: usize, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for stage in (first..self.stages.len()).map(StageId) {
            commands.push(Command::Stop(stage));
            if !self.is_idle(stage) {
                let until = now + self.describe(stage).1;
                self.phase = Phase::Stopping { stage, until };
                return commands;
            }
        }
        self.phase = Phase::Over;
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn three_stages() -> (Supervision, [StageId; 3], Instant) {
        let mut supervision = Supervision::default();
        let stages = ["first", "second", "third"].map(|name| supervision.stage(name, SECOND));
        for (key, stage) in stages.iter().enumerate() {
            supervision.started(key, *stage, format!("task {key}"));
        }
        (supervision, stages, Instant::now())
    }

    #[test]
    fn stages_end_in_their_order() {
        let (mut s, stages, now) = three_stages();
        assert_eq!(s.asked(now), [Command::Stop(stages[0])]);
        assert_eq!(s.asked(now), [], "asked once is enough");
        assert_eq!(s.ended(0, Ending::Done, now), [Command::Stop(stages[1])]);
        assert_eq!(s.ended(2, Ending::Done, now), [], "a later one may end early");
        assert_eq!(s.ended(1, Ending::Done, now), [Command::Stop(stages[2])]);
        assert!(s.is_over());
        assert_eq!((s.failed(), s.unfinished()), (None, &[][..]));
    }

    #[test]
    fn what_takes_too_long_is_aborted_and_named() {
        let (mut s, stages, now) = three_stages();
        s.asked(now);
        assert_eq!(s.elapsed(now + SECOND / 2), []);
        assert_eq!(s.deadline(), Some(now + SECOND));
        assert_eq!(s.elapsed(now + SECOND), [Command::Abort(0), Command::Stop(stages[1])]);
        assert_eq!(s.ended(0, Ending::Failed("late".into()), now), [], "it is nobody's any more");
        assert_eq!(s.deadline(), Some(now + SECOND * 2), "the next has all of its own time");
        s.ended(1, Ending::Done, now + SECOND);
        s.ended(2, Ending::Done, now + SECOND);
        assert!(s.is_over());
        assert_eq!((s.failed(), s.unfinished()), (None, &["task 0".to_owned()][..]));
    }

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        let (mut s, stages, now) = three_stages();
        let stop = s.ended(1, Ending::Panicked("boom".into()), now);
        assert_eq!(stop, [Command::Stop(stages[0])]);
        s.ended(0, Ending::Failed("because of task 1".into()), now);
        s.ended(2, Ending::Done, now);
        assert!(s.is_over());
        assert_eq!(s.failed(), Some(&TaskFailed::Panic { task: "task 1".into(), why: "boom".into() }));
    }

    #[test]
    fn ending_unasked_is_a_failure_and_failing_while_ending_is_too() {
        let (mut s, _, now) = three_stages();
        s.ended(2, Ending::Done, now);
        assert_eq!(s.failed(), Some(&TaskFailed::Ended { task: "task 2".into() }));

        let (mut s, _, now) = three_stages();
        s.asked(now);
        s.ended(0, Ending::Done, now);
        s.ended(1, Ending::Done, now);
        s.ended(2, Ending::Failed("the disk is full".into()), now);
        assert!(s.is_over());
        assert!(s.failed().is_some_and(|failed| failed.to_string().contains("task 2` failed: the disk")));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Ended(usize, u8),
        Asked,
        Passed(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..12usize, 0..3u8).prop_map(|(key, how)| Event::Ended(key, how)),
            1 => Just(Event::Asked),
            2 => (0..3000u64).prop_map(Event::Passed),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: each stage is stopped once and in order, never before those before it
        /// are empty; nothing is aborted early; the first failure is kept; and once asked it ends within the sum of
        /// the stages' times.
        #[test]
        fn order_and_deadline_hold(
            withins in prop::collection::vec(0..2000u64, 1..5),
            places in prop::collection::vec(0..5usize, 0..12),
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut s = Supervision::default();
            let stages: Vec<StageId> =
                withins.iter().map(|ms| s.stage("stage", Duration::from_millis(*ms))).collect();
            let mut running: BTreeMap<usize, usize> = BTreeMap::new();
            for (key, place) in places.iter().enumerate() {
                let place = place % stages.len();
                s.started(key, stages[place], key.to_string());
                running.insert(key, place);
            }
            let mut now = Instant::now();
            let mut next = 0;
            let (mut began, mut ended) = (None, None);
            let mut entered = now;
            let mut first = None;
            let drain = [Event::Asked].into_iter().chain((0..40).map(|_| Event::Passed(2000)));
            for event in events.into_iter().chain(drain) {
                let was_stopping = s.is_stopping();
                let commands = match event {
                    Event::Ended(key, how) => {
                        let known = running.remove(&key).is_some();
                        let ending = match how {
                            0 => Ending::Done,
                            1 => Ending::Failed("why".into()),
                            _ => Ending::Panicked("why".into()),
                        };
                        if known && first.is_none() && (how != 0 || !was_stopping) {
                            first = Some(key.to_string());
                        }
                        s.ended(key, ending, now)
                    }
                    Event::Asked => s.asked(now),
                    Event::Passed(ms) => {
                        now += Duration::from_millis(ms);
                        // As the shell does: woken at the deadline, not after it.
                        let at = s.deadline().map_or(now, |deadline| deadline.min(now));
                        now = at;
                        s.elapsed(at)
                    }
                };
                for command in commands {
                    match command {
                        Command::Stop(stage) => {
                            prop_assert_eq!(stage.0, next);
                            prop_assert!(running.values().all(|place| *place >= next));
                            began.get_or_insert(now);
                            next += 1;
                            entered = now;
                        }
                        Command::Abort(key) => {
                            prop_assert_eq!(running.remove(&key), Some(next - 1));
                            prop_assert!(now >= entered + Duration::from_millis(withins[next - 1]));
                        }
                    }
                }
                let told = s.failed().map(|failed| match failed {
                    TaskFailed::Error { task, .. } | TaskFailed::Panic { task, .. } => task.clone(),
                    TaskFailed::Ended { task } => task.clone(),
                });
                prop_assert_eq!(&told, &first);
                if s.is_over() && ended.is_none() {
                    ended = Some(now);
                }
            }
            let sum = Duration::from_millis(withins.iter().sum());
            prop_assert!(ended.zip(began).is_some_and(|(ended, began)| ended <= began + sum));
            prop_assert!(s.is_over());
            prop_assert_eq!(next, stages.len());
            prop_assert!(running.is_empty());
        }
    }
}
