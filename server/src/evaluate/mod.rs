//! Evaluation: from what vantage points see to what holds of every check. Pure: no I/O, no clock; `now` is an argument
//! and only ever grows.
//!
//! For each (check, address, protocol, port) there is one state machine, `ok → pending → firing → ok`, and `unknown`
//! while there is no evidence that counts. [`Evaluator`] holds them all and tells every [`Transition`].

mod spec;
mod transition;

pub use spec::{BaselinePorts, CheckSpec};
pub use transition::{Expected, Key, Sight, State, Transition};
