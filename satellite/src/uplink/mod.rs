//! Uplink: the one stream to the server. [`session`] runs one connection after the other; what goes over it waits in
//! the spool until the server has it.

pub mod backoff;
mod session;

pub use session::{Uplink, UplinkError};
