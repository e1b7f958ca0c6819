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

/// The largest message of the console's service, and of what a satellite is sent, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The largest message that a satellite sends, in bytes: a full batch and some room.
pub const MAX_UPLINK_BYTES: usize = 1280 * 1024;
