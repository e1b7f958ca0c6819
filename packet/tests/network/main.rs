//! The crate against real kernels: network namespaces, a cable between them, real targets at its far end.
#![allow(clippy::unwrap_used, reason = "tests")]

mod figures;
mod lab;
mod probes;
mod ways;
