//! The scan engine: probes what the scope guard permits and tells what it saw, host by host, while it runs.
//!
//! [`sweep`] is the only way in. Behind it stand the logic that decides what to probe when (pure, every `now` an
//! argument) and a thin layer of sockets; a further method is a further prober behind the same logic.
//! Nothing here talks to the server, and nothing here probes an address that is not a
//! [`PermittedTarget`](portolan_common::scope::PermittedTarget).

use arc_swap::ArcSwap;
use jiff::Zoned;
use limits::Lease;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::scope::Guard;
use portolan_common::targets::ResolvedTargets;
use scheduler::{Plan, Scheduler};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

mod bucket;
mod connect;
mod drive;
mod errors;
mod flights;
mod host;
mod lanes;
mod ledger;
mod limits;
mod method;
mod permutation;
mod roster;
mod rtt;
mod schedule;
mod scheduler;
mod slots;
#[cfg(test)]
mod tests;
mod verdict;
mod window;

pub use limits::SharedLimits;
pub use method::{Method, MethodError};

/// One sweep: these addresses on these ports, once.
#[derive(Clone, Debug)]
pub struct SweepRequest {
    /// The addresses, names already resolved, exclusions already taken away.
    pub targets: ResolvedTargets,
    /// The ports.
    pub ports: PortSpec,
    /// How to probe.
    pub method: Method,
    /// At most 200 probes a second and 20 in flight for each network path (a /24 or /64).
    pub gentle: bool,
    /// Whether to find out first which hosts are there.
    pub discover: Discovery,
    /// How long UDP ports may be asked again because their host limits its ICMP errors; `None`: as long as it takes.
    pub udp_budget: Option<Duration>,
    /// Packets a second of this sweep, beside the limits that all sweeps share; `None`: no further limit.
    pub max_rate: Option<u32>,
    /// Packets a second to each host; `None`: no further limit.
    pub max_rate_per_host: Option<u32>,
}

/// Whether a sweep first finds out which hosts are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// For networks and ranges, where this host allows it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: every address is probed on every port.
    Off,
}

/// How a sweep that runs is steered from outside.
#[derive(Clone, Debug)]
pub struct Control {
    /// Ends it.
    pub cancel: CancellationToken,
    /// While true, nothing is sent and answers are taken; a closed channel leaves it as it last was.
    pub pause: watch::Receiver<bool>,
}

/// What a sweep shares with everything else that runs in the satellite.
#[derive(Clone)]
pub struct EngineContext {
    /// The scope guard; when a new one is stored, running sweeps ask it before their next probe.
    pub guard: Arc<ArcSwap<Guard>>,
    /// The satellite-wide budgets of probes and descriptors: one value for the whole process.
    pub limits: Arc<SharedLimits>,
}

/// What a sweep tells while it runs.
#[derive(Clone, Debug)]
pub enum SweepEvent {
    /// A host is finished. Every finished host comes exactly once, in no particular order.
    Host(HostObservation),
    /// How far it is; at most four times a second and once at the end, left out while the receiver is busy.
    Progress(Progress),
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Hosts finished.
    pub hosts_done: u64,
    /// Hosts that the scope permits.
    pub hosts_total: u64,
    /// (host, port) pairs decided.
    pub ports_done: u64,
    /// (host, port) pairs to decide.
    pub ports_total: u64,
    /// Open ports found.
    pub open_found: u64,
    /// Probes sent, retransmissions included.
    pub probes_sent: u64,
    /// It sends nothing until it is resumed.
    pub paused: bool,
}

/// How a sweep ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that the scope permits was scanned to the end.
    Complete,
    /// It was cancelled; what was finished until then stands.
    Cancelled,
    /// It could not begin or go on, and why, in words for the operator; what was finished until then stands.
    Failed(String),
}

/// Addresses, or ports of them, that the scope did not permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where.
    pub addresses: AddressRange,
    /// The ports refused; `None`: all that were asked.
    pub ports: Option<PortSpec>,
    /// The rule of the scope that says so.
    pub rule: String,
}

/// What remains to be said when a sweep is over.
#[derive(Clone, Debug)]
pub struct SweepSummary {
    /// How it ended.
    pub outcome: Outcome,
    /// Finished hosts of which something answered.
    pub hosts_up: u64,
    /// Hosts that the scope permits, finished or not.
    pub hosts_total: u64,
    /// Probes sent, retransmissions included.
    pub probes_sent: u64,
    /// What was refused, by rule and ascending: at most [`MAX_REFUSALS`].
    pub refusals: Vec<Refusal>,
    /// Refusals beyond those.
    pub refusals_dropped: u64,
    /// What was covered to the end: finished hosts only, with the ports that were probed there.
    pub coverage: Vec<(AddressSet, PortSpec)>,
    /// The method that was used; never [`Method::Auto`].
    pub method: Method,
    /// Why that method, such as `asked for`.
    pub method_reason: String,
    /// What else an operator should know, a sentence each.
    pub notes: Vec<String>,
}

impl SweepSummary {
    /// Of a sweep that could not begin.
    fn failed(why: String) -> Self {
        Self {
            outcome: Outcome::Failed(why),
            hosts_up: 0,
            hosts_total: 0,
            probes_sent: 0,
            refusals: Vec::new(),
            refusals_dropped: 0,
            coverage: Vec::new(),
            method: Method::Connect,
            method_reason: String::new(),
            notes: Vec::new(),
        }
    }
}

/// How many refusals a summary names.
pub const MAX_REFUSALS: usize = 1000;

/// Runs one sweep to its end. Finished hosts arrive through `events` while it runs, the last of them before this
/// returns; a closed `events` or a dropped future counts as cancelled. After a cancellation no probe is sent (within
/// milliseconds), and hosts not finished are not reported.
pub async fn sweep(
    request: SweepRequest,
    context: EngineContext,
    events: mpsc::Sender<SweepEvent>,
    control: Control,
) -> SweepSummary {
    let (method, method_reason) = match request.method.choose(&request.ports) {
        Ok((method, reason)) => (method, reason.to_owned()),
        Err(error) => return SweepSummary::failed(error.to_string()),
    };
    if request.ports.is_empty() {
        return SweepSummary::failed("there are no ports to scan".to_owned());
    }
    let addresses = request.targets.addresses.len();
    if addresses > MAX_ADDRESSES {
        return SweepSummary::failed(format!(
            "{addresses} addresses are more than one scan takes ({MAX_ADDRESSES}); scan in parts"
        ));
    }
    // A future that is dropped takes its thread with it.
    let cancel = control.cancel.child_token();
    let _guard = cancel.clone().drop_guard();
    let (done, result) = oneshot::channel();
    let sender = events.clone();
    let thread = std::thread::Builder::new().name("sweep".to_owned()).spawn(move || {
        let plan = Plan {
            targets: request.targets,
            ports: request.ports,
            gentle: request.gentle,
            seed: rand::random(),
        };
        let lease = Lease::new(Arc::clone(&context.limits));
        let guard = context.guard.load_full();
        let mut scheduler = Scheduler::new(plan, guard, lease, Instant::now(), Zoned::now());
        let outcome = drive::run(&mut scheduler, &context, &sender, &cancel);
        // Nobody listens when the future was dropped.
        let _ = done.send((outcome, scheduler.close()));
    });
    if let Err(error) = thread {
        return SweepSummary::failed(format!("cannot start a thread for the scan: {error}"));
    }
    let Ok((outcome, end)) = result.await else {
        return SweepSummary::failed("the scan engine stopped unexpectedly; the log says why".to_owned());
    };
    for host in end.finished {
        if events.send(SweepEvent::Host(host)).await.is_err() {
            break;
        }
    }
    let _ = events.try_send(SweepEvent::Progress(end.progress));
    SweepSummary {
        outcome,
        hosts_up: end.hosts_up,
        hosts_total: end.progress.hosts_total,
        probes_sent: end.progress.probes_sent,
        refusals: end.refusals,
        refusals_dropped: end.refusals_dropped,
        coverage: end.coverage,
        method,
        method_reason,
        notes: Vec::new(),
    }
}

/// What one sweep may be asked for: all of IPv4 and as much again.
const MAX_ADDRESSES: u128 = 1 << 33;
