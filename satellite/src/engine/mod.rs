//! The scan engine: probes what the scope guard permits and tells what it saw, host by host, while it runs.
//!
//! There are two ways in: [`sweep`], once over many hosts and ports, and [`Standing`], a look at one host whenever it is
//! asked for. Behind them stand two ways of probing, `connect` and `packet`, each with logic that decides what to probe
//! when (pure, every `now` an argument) and a thin layer of sockets; `udp` knows what to send to UDP ports. What they share stands beside them: limits, order, verdicts, what was covered.
//! Nothing here talks to the server, and nothing here probes an address that is not a
//! [`PermittedTarget`](portolan_common::scope::PermittedTarget).

use arc_swap::ArcSwap;
use jiff::Zoned;
use limits::{Lease, PacketLease};
use packet::Wires;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSpec;
use portolan_common::scope::Guard;
use portolan_common::targets::ResolvedTargets;
use portolan_packet::Families;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

mod both;
mod bucket;
mod connect;
mod errors;
mod lanes;
mod ledger;
mod limits;
mod method;
mod packet;
mod permutation;
mod port_list;
mod roster;
mod rtt;
mod schedule;
mod slots;
mod standing;
#[cfg(test)]
mod tests;
mod udp;
mod verdict;
mod wall;

pub use limits::SharedLimits;
use method::why_not_raw;
pub use method::{Method, MethodError, capabilities};
pub use standing::{Look, Looked, MAX_PORTS, Standing};

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

/// What a sweep, or the prober of single looks, shares with everything else that runs in the satellite.
#[derive(Clone)]
pub struct EngineContext {
    /// The scope guard; when a new one is stored, what runs asks it before its next probe.
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
    /// The methods that were used: `connect`, `syn`, `udp` or `syn, udp`.
    pub method: String,
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
            method: String::new(),
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
    let why_not_raw = why_not_raw();
    let choice = match request.method.choose(&request.ports, why_not_raw.as_deref()) {
        Ok(choice) => choice,
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
    if choice.both {
        if addresses > both::MAX_ADDRESSES {
            return SweepSummary::failed(format!(
                "without CAP_NET_RAW ({}), TCP and UDP ports of more than {} addresses are two scans",
                why_not_raw.as_deref().unwrap_or_default(),
                both::MAX_ADDRESSES
            ));
        }
        let summary = both::run(request, context, events, control).await;
        return SweepSummary { method_reason: choice.reason, ..summary };
    }
    // A future that is dropped takes its thread with it.
    let control = Control { cancel: control.cancel.child_token(), ..control };
    let _guard = control.cancel.clone().drop_guard();
    let (done, result) = oneshot::channel();
    let sender = events.clone();
    let discover = match request.discover {
        Discovery::Auto => request.targets.has_ranges,
        Discovery::On => true,
        Discovery::Off => false,
    };
    let mut notes = Vec::new();
    if discover && !choice.raw && (request.discover == Discovery::On || request.method != Method::Connect) {
        notes.push(format!(
            "every address was probed: finding out who is there needs CAP_NET_RAW ({})",
            why_not_raw.as_deref().unwrap_or("the method connect does without")
        ));
    }
    let by = choice.clone();
    let thread = std::thread::Builder::new().name("sweep".to_owned()).spawn(move || {
        let (ended, _wires) = if by.connect {
            (by_connect(request, &context, &sender, &control), None)
        } else {
            by_packets(request, by.raw, discover && by.raw, &context, &sender, &control)
        };
        // The sockets are closed last, since the kernel takes its time over packet sockets: nobody waits for that.
        drop(sender);
        // Nobody listens when the future was dropped.
        let _ = done.send(ended);
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
        method: choice.text.to_owned(),
        method_reason: choice.reason,
        notes,
    }
}

/// What is left of a sweep when it is over.
#[derive(Debug, Default)]
struct End {
    /// Finished hosts that nobody took yet.
    finished: VecDeque<HostObservation>,
    progress: Progress,
    /// Finished hosts of which something answered.
    hosts_up: u64,
    refusals: Vec<Refusal>,
    refusals_dropped: u64,
    coverage: Vec<(AddressSet, PortSpec)>,
}

fn by_connect(
    request: SweepRequest,
    context: &EngineContext,
    events: &mpsc::Sender<SweepEvent>,
    control: &Control,
) -> (Outcome, End) {
    let plan = connect::Plan {
        targets: request.targets,
        ports: request.ports,
        gentle: request.gentle,
        max_rate: request.max_rate,
        max_rate_per_host: request.max_rate_per_host,
        seed: rand::random(),
    };
    let lease = Lease::new(Arc::clone(&context.limits));
    let guard = context.guard.load_full();
    let mut scheduler = connect::Scheduler::new(plan, guard, lease, Instant::now(), Zoned::now());
    let outcome = connect::run(&mut scheduler, context, events, control);
    (outcome, scheduler.close())
}

fn by_packets(
    request: SweepRequest,
    raw: bool,
    discover: bool,
    context: &EngineContext,
    events: &mpsc::Sender<SweepEvent>,
    control: &Control,
) -> ((Outcome, End), Option<Wires>) {
    let v4 = request.targets.addresses.ranges().any(|range| range.first().is_ipv4());
    let v6 = request.targets.addresses.ranges().any(|range| range.last().is_ipv6());
    let raw = raw.then_some(Families { v4, v6 });
    let mut wires = match Wires::open(raw, !request.ports.udp.is_empty(), request.gentle) {
        Ok(wires) => wires,
        Err(error) => {
            let why = format!("cannot open the sockets to scan with: {error}");
            return ((Outcome::Failed(why), End::default()), None);
        }
    };
    let plan = packet::Plan {
        targets: request.targets,
        ports: request.ports,
        gentle: request.gentle,
        discover,
        max_rate: request.max_rate,
        max_rate_per_host: request.max_rate_per_host,
        udp_budget: request.udp_budget,
        seed: rand::random(),
    };
    let lease = PacketLease::new(Arc::clone(&context.limits));
    let guard = context.guard.load_full();
    let mut scheduler = packet::Scheduler::new(plan, guard, lease, Instant::now(), Zoned::now());
    let outcome = packet::run(&mut scheduler, &mut wires, context, events, control);
    ((outcome, scheduler.close()), Some(wires))
}

/// What one sweep may be asked for: all of IPv4 and as much again.
const MAX_ADDRESSES: u128 = 1 << 33;
