//! The whole server in this process: how it ends, and what a panic takes with it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod backup;
mod deployment;
mod end;
mod mishaps;
mod panics;
mod policy;
mod tap;
