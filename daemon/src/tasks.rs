//! The list of a program's tasks: does what [`Supervision`] decides.

use crate::caught::caught;
use crate::group::Group;
use crate::supervision::{Command, Ending, StageId, Supervision, TaskFailed, TaskKey};
use std::error::Error;
use std::time::{Duration, Instant};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// What a task fails with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How an end that was asked for went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// What had to be aborted, in that order.
    pub unfinished: Vec<String>,
}

/// A program's tasks, named and in stages. The stages are declared in the order in which they are stopped; each has
/// its own time to end, and what has not ended by then is aborted and named in the log. The first task that fails,
/// panics, or ends although nobody asked it to, ends all the others.
///
/// Dropped before it ran, it aborts what was spawned.
pub struct Tasks {
    running: JoinSet<(TaskKey, Ending)>,
    handles: Vec<AbortHandle>,
    stops: Vec<CancellationToken>,
    supervision: Supervision,
    shutdown: CancellationToken,
}

impl Tasks {
    /// An empty list, ended when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            running: JoinSet::new(),
            handles: Vec::new(),
            stops: Vec::new(),
            supervision: Supervision::default(),
            shutdown,
        }
    }

    /// Declares the next stage: stopped after those before it have ended, and given `within` to end.
    pub fn stage(&mut self, name: &'static str, within: Duration) -> StageId {
        self.stops.push(CancellationToken::new());
        self.supervision.stage(name, within)
    }

    /// The token that is cancelled when a stage is asked to end.
    pub fn stop(&self, stage: StageId) -> CancellationToken {
        // A stage of another list has no token here; one that nobody cancels would keep a task for ever.
        self.stops.get(stage.0).cloned().unwrap_or_else(|| {
            let cancelled = CancellationToken::new();
            cancelled.cancel();
            cancelled
        })
    }

    /// Starts a task, which is to run until its token is cancelled, and then to end by itself.
    pub fn spawn<F, T>(&mut self, stage: StageId, name: impl Into<String>, task: F)
    where
        F: FnOnce(CancellationToken) -> T,
        T: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let key = self.handles.len();
        let future = task(self.stop(stage));
        self.supervision.started(key, stage, name.into());
        self.handles.push(self.running.spawn(async move {
            let ending = match caught(future).await {
                Ok(Ok(())) => Ending::Done,
                Ok(Err(error)) => Ending::Failed(chain(error.as_ref())),
                Err(words) => Ending::Panicked(words),
            };
            (key, ending)
        }));
    }

    /// Adds a group of tasks that come and go, such as connections. The stage ends when all of them have.
    pub fn group(&mut self, stage: StageId, name: &'static str) -> Group {
        let group = Group::new(name, self.stop(stage));
        let drain = group.clone().drain();
        self.spawn(stage, name, |_| drain);
        group
    }

    /// Runs until the end is asked for or a task fails, then ends everything, stage by stage.
    ///
    /// # Errors
    /// [`TaskFailed`] names the first task that failed.
    pub async fn run(mut self) -> Result<Stopped, TaskFailed> {
        while !self.supervision.is_over() {
            let deadline = self.supervision.deadline();
            let commands = tokio::select! {
                // A failure that is already there comes before the wish to end.
                biased;
                Some(joined) = self.running.join_next() => match joined {
                    Ok((key, ending)) => self.ended(key, ending),
                    // Only an aborted task ends without a word, and that one is not waited for.
                    Err(_) => continue,
                },
                () = self.shutdown.cancelled(), if !self.supervision.is_stopping() => {
                    tracing::info!("shutting down");
                    self.supervision.asked(now())
                }
                () = sleep_until(deadline), if deadline.is_some() => self.elapsed(),
            };
            for command in commands {
                self.obey(command);
            }
        }
        match self.supervision.failed() {
            Some(failed) => Err(failed.clone()),
            None => Ok(Stopped { unfinished: self.supervision.unfinished().to_vec() }),
        }
    }

    fn ended(&mut self, key: TaskKey, ending: Ending) -> Vec<Command> {
        let (stopping, had_failed) = (self.supervision.is_stopping(), self.supervision.failed().is_some());
        let later = match &ending {
            Ending::Failed(why) | Ending::Panicked(why) if had_failed => Some(why.clone()),
            _ => None,
        };
        let commands = self.supervision.ended(key, ending, now());
        match self.supervision.failed() {
            Some(failed) if !had_failed && stopping => tracing::error!("{failed}"),
            Some(failed) if !had_failed => tracing::error!("{failed}; shutting down"),
            _ => {}
        }
        if let Some(why) = later {
            tracing::error!(why, "another task failed while everything was ending");
        }
        commands
    }

    fn elapsed(&mut self) -> Vec<Command> {
        let stage = self.supervision.stopping();
        let known = self.supervision.unfinished().len();
        let commands = self.supervision.elapsed(now());
        if let Some((stage, within)) = stage.map(|stage| self.supervision.describe(stage)) {
            for task in self.supervision.unfinished().iter().skip(known) {
                tracing::warn!(task, stage, ?within, "did not end in time and was aborted");
            }
        }
        commands
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Stop(stage) => {
                tracing::debug!(stage = self.supervision.describe(stage).0, "stopping");
                self.stop(stage).cancel();
            }
            Command::Abort(key) => {
                if let Some(handle) = self.handles.get(key) {
                    handle.abort();
                }
            }
        }
    }
}

/// tokio's clock, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// An error and its causes in one line; a cause that the words above already tell is not told twice.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests;
