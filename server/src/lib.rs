//! Portolan's server: satellites stream in, operators ask, the store remembers.
//!
//! One listener serves everybody ([`listener`]); who the peer's certificate says it is picks the services that it can
//! reach at all ([`authorization`]). Observations are acked only after a durable commit ([`store`]).

pub mod alerts;
pub mod authorization;
pub mod backup;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod data_dir;
pub mod doctor;
pub mod enrollment;
pub mod evaluate;
pub mod evaluation;
pub mod export;
pub mod http;
pub mod init;
pub mod listener;
pub mod metrics;
pub mod peer;
pub mod pki;
pub mod policies;
pub mod problems;
pub mod registry;
pub mod revocations;
pub mod run;
pub mod scans;
pub mod store;
pub mod uplink;
