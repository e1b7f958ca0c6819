//! Sweeps by packets of our own: TCP SYNs that the kernel knows nothing of, UDP datagrams, and pings that find out who is
//! there.
//!
//! [`scheduler`] decides (pure, every `now` an argument), from what [`host`] knows of each host and [`pace`] of each
//! path; the rest is the thin layer that sends and receives.

mod discovery;
mod drive;
mod gauge;
mod hops;
mod host;
mod pace;
mod policy;
mod scheduler;
mod suspicion;
mod track;
mod wires;

pub(super) use drive::run;
pub(super) use scheduler::{Plan, Scheduler};
pub(super) use wires::Wires;
