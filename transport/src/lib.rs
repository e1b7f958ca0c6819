//! How a client reaches the server, for satellite and console alike: one outbound TCP connection, TLS 1.3 under the
//! deployment's own root, a client certificate, optionally an HTTP proxy. Also the files that hold identities.
//!
//! It knows nothing of the messages that travel over the channel.

pub mod context;
pub mod dial;
pub mod files;
pub mod identity;
pub mod pin;
pub mod tls;
