//! Tasks that come and go while the program runs, such as connections: a failure or panic in one is its own affair.

use crate::caught::caught;
use crate::tasks::BoxError;
use std::fmt::Display;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks in a [`crate::Tasks`] list. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    name: &'static str,
    members: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Group {
    pub(crate) fn new(name: &'static str, stop: CancellationToken) -> Self {
        Self { name, members: TaskTracker::new(), stop, cut: CancellationToken::new() }
    }

    /// Cancelled when the group is asked to end; whether a member cares is its own affair.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// How many members run.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Starts a member. A panic in it is logged with `label`, and ends it alone. It is dropped wherever it waits when
    /// the group did not end in time.
    pub fn spawn<F>(&self, label: impl Display + Send + 'static, member: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (group, cut) = (self.name, self.cut.clone());
        self.members.spawn(async move {
            // Caught outside: a panic while a member is dropped counts as well.
            if let Err(why) = caught(cut.run_until_cancelled(member)).await {
                tracing::error!(group, member = %label, why, "panicked; it ended alone");
            }
        });
    }

    /// The group's own task in the list: ends when the last member has. Aborted, it takes the members with it.
    pub(crate) async fn drain(self) -> Result<(), BoxError> {
        let _cut = Cut(self.clone());
        self.stop.cancelled().await;
        self.members.close();
        self.members.wait().await;
        Ok(())
    }
}

/// Drops the members that are left.
struct Cut(Group);

impl Drop for Cut {
    fn drop(&mut self) {
        let Group { name, members, cut, .. } = &self.0;
        if !members.is_empty() {
            tracing::warn!(group = name, left = members.len(), "cut off");
        }
        cut.cancel();
    }
}
