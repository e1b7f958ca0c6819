//! Where the hosts come from that a scheduler probes, and who hears what becomes of them.

use super::host::HostSweep;
use crate::engine::roster::Admitted;
use crate::engine::wall::Wall;
use jiff::Timestamp;
use portolan_common::ports::PortSpec;
use portolan_common::scope::{Guard, Refused};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Instant;

/// What comes next.
#[derive(Debug)]
pub(in crate::engine) enum Turn<T> {
    /// A host to begin with, and what its intake wants to know of it later.
    Host(Admitted, T),
    /// A host that the scope refuses, which was asked for so many ports.
    Refused(u64),
    /// One that does not begin now.
    Passed,
    /// None at the moment.
    Later,
    /// None ever again.
    End,
}

/// A source of hosts.
pub(in crate::engine) trait Intake: Debug {
    /// What it attaches to a host that it hands out.
    type Tag: Debug;

    /// Whether ports of a host that this one never had a way to are called filtered by that. Otherwise such a host is
    /// left unfinished: no probe left, so nothing was seen.
    const NO_WAY_IS_A_RESULT: bool;

    /// The next host, which the guard was asked about.
    fn next(&mut self, guard: &Guard, wall: &Wall, now: Instant) -> Turn<Self::Tag>;

    /// The ports that are asked of a host.
    fn asked<'a>(&'a self, tag: &'a Self::Tag) -> &'a PortSpec;

    /// A changed scope, or the end of hours, took ports from a host under way.
    fn narrowed(&mut self, tag: &mut Self::Tag, address: IpAddr, refused: &[Refused]);

    /// A host came to its end; `false` when nothing was settled of it before the scope refused it.
    fn finished(&mut self, tag: Self::Tag, host: &HostSweep, observed_at: Timestamp) -> bool;

    /// A host is left unfinished, since no connection to it could be opened: by this error.
    fn unfinished(&mut self, tag: Self::Tag, address: IpAddr, errno: i32);
}
