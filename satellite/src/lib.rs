//! (to come)

pub mod engine;
pub mod resolve;
