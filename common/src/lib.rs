//! The vocabulary that satellite, server and console share. Pure: no I/O, no clock, no randomness.

pub mod addresses;
pub mod document;
pub mod expectation;
pub mod ids;
pub mod names;
pub mod observation;
pub mod ports;
pub mod schedule;
pub mod scope;
pub mod services;
pub mod targets;
