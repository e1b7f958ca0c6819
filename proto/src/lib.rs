//! Portolan's wire format: the generated code of package `portolan.v1`, conversions between wire and domain types,
//! and the join token's text form.

/// The generated messages and services.
#[allow(missing_docs, clippy::all, unused_qualifications, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("portolan.v1");
}

pub mod batch;
pub mod codec;
pub mod convert;
pub mod token;

/// The encoded `FileDescriptorSet` of every .proto file, for tests that walk all services.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The largest message of the console's service, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The largest assignment that a satellite is sent, in bytes; only to those that say that they run checks.
pub const MAX_ASSIGNMENT_BYTES: usize = 16 * 1024 * 1024;

/// The largest message that a satellite takes, in bytes: an assignment and what is around it.
pub const MAX_DOWNLINK_BYTES: usize = MAX_ASSIGNMENT_BYTES + 1024;

/// The largest message that a satellite sends, in bytes: a full batch and some room.
pub const MAX_UPLINK_BYTES: usize = 1280 * 1024;
