//! Pages for people: one file a command.

pub mod alert;
pub mod baseline;
pub mod change;
pub mod check;
mod evidence;
pub mod history;
pub mod policy;
pub mod ports;
pub mod satellite;
pub mod scan;
pub mod scans;
pub mod silence;
pub mod status;
