//! Uplink: the one stream to the server. [`outbox`] keeps what is not acked, [`session`] runs one connection, and this
//! file connects again and again.

pub mod backoff;
pub mod outbox;
mod session;

pub use session::{Uplink, UplinkError};
