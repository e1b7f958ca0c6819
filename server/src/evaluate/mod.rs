//! Evaluation: from what vantage points see to what holds of every check. Pure: no I/O, no clock; `now` is an argument
//! and only ever grows.
//!
//! For each (check, address, protocol, port) there is one state machine, `ok → pending → firing → ok`, and `unknown`
//! while there is no evidence that counts. [`Evaluator`] holds them all and tells every [`Transition`]:
//!
//! - Looks of one vantage point are taken in the order in which it made them; what is not newer than what is known of a
//!   port says nothing about it. Evidence counts for three intervals, and while the satellite is connected.
//! - Each vantage point confirms a fault, and its end, by looks in a row (`tally`); how many vantage points it takes
//!   is the quorum's (`quorum`); what is told of that, the machine's (`machine`). A fault ends by evidence to the
//!   contrary, or when it is not expected any more (`gone`), never because evidence vanished.
//! - What an outage held back is judged with the freshness of its own time, so that it fires and resolves in sequence;
//!   the next tick then sees with the present's.
//! - When a check is looked at, all of what it knows of the address is evaluated; `tick` sees to all where time alone
//!   made a difference.
//! - What is as it should be costs nothing beyond one record of the look that saw it (`target`, `evidence`).

mod check;
mod evaluator;
mod evidence;
mod flaps;
mod index;
mod listing;
mod machine;
mod plan;
mod quorum;
mod restore;
mod scene;
mod spec;
mod tally;
mod target;
#[cfg(test)]
mod tests;
mod transition;
mod vantage;
mod view;

pub use evaluator::{Evaluator, Sighting};
pub use spec::{BaselinePorts, CheckSpec};
pub use transition::{Expected, Key, Sight, State, Transition};
pub use view::{Counts, PortsLooked, Saved, Standing, Summary, VantageSummary};
