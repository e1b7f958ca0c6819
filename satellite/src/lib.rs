//! Portolan's satellite: the agent inside a segment. It dials out, scans what its local scope file permits, and
//! streams what it sees; nothing ever connects to it.

pub mod assignment;
pub mod checks;
pub mod cli;
pub mod config;
pub mod data_dir;
pub mod engine;
pub mod enroll;
pub mod interfaces;
pub mod resolve;
pub mod run;
pub mod scans;
pub mod scope_watch;
mod shown;
pub mod spool;
pub mod uplink;
