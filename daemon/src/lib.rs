//! What a long-running program needs: one list of its tasks, ended in a stated order under deadlines ([`Tasks`]), and
//! the signals that end it ([`signals`]).
//!
//! It knows nothing of what the tasks do. What decides ([`supervision`]) is a pure function of state, event and time;
//! [`tasks`] does what it says.

mod caught;
mod group;
pub mod signals;
pub mod supervision;
mod tasks;

pub use group::Group;
pub use supervision::{Ending, StageId, TaskFailed};
pub use tasks::{BoxError, Stopped, Tasks};
