//! The standing checks.

pub mod reobserve;
pub mod schedule;

/// Stub.
#[derive(Debug, Default)]
pub struct Orders;
impl Orders {
    /// x
    pub fn assign(&self, _a: portolan_proto::v1::Assignment) {}
    /// x
    pub fn run(&self, _n: Vec<String>) {}
}
