//! Pages for people: one file a command.

pub mod history;
pub mod ports;
pub mod satellite;
pub mod scan;
pub mod scans;
pub mod status;
