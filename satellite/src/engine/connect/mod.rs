//! Probing by the kernel's own TCP connections, which need no privilege.
//!
//! [`scheduler`] decides (pure, every `now` an argument), from what [`host`] knows of each host, [`window`] of each
//! path and [`flights`] of the probes on their way; [`prober`] is the thin layer of sockets. The hosts come from an
//! [`intake`]: of a sweep from its [`itinerary`], of single [`looks`] as they are asked for. [`drive`] runs a sweep,
//! [`attend`] takes the looks.

mod attend;
mod drive;
mod flights;
mod host;
mod intake;
mod itinerary;
mod looks;
mod prober;
mod scheduler;
mod window;

pub(super) use attend::attend;
pub(super) use drive::run;
pub(super) use looks::{Caller, Order};
pub(super) use prober::{ConnectProber, own_addresses};
pub(super) use scheduler::{Plan, Scheduler};
