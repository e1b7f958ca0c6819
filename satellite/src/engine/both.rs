//! TCP and UDP ports in one sweep on a host that may not send packets of its own: first connections, then datagrams,
//! and each host is told once, with both.

use super::{
    Control, EngineContext, Method, Outcome, Progress, SweepEvent, SweepRequest, SweepSummary, sweep,
};
use portolan_common::observation::{HostObservation, Protocol};
use portolan_common::ports::PortSpec;
use std::collections::HashMap;
use std::net::IpAddr;
use tokio::sync::mpsc;

/// What such a sweep may be asked for, since the first half of every host is kept until the second is there.
pub(super) const MAX_ADDRESSES: u128 = 1 << 16;

/// Events between the parts and the whole.
const EVENTS: usize = 64;

/// Runs both parts. A host counts as finished when both are.
pub(super) async fn run(
    request: SweepRequest,
    context: EngineContext,
    events: mpsc::Sender<SweepEvent>,
    control: Control,
) -> SweepSummary {
    let part = |protocol, method| {
        let ports = PortSpec::only(protocol, request.ports.of(protocol).clone());
        SweepRequest { ports, method, ..request.clone() }
    };
    let mut halves: HashMap<IpAddr, HostObservation> = HashMap::new();
    let (sender, mut receiver) = mpsc::channel(EVENTS);
    let tcp_part = part(Protocol::Tcp, Method::Connect);
    let udp_ports = request.ports.udp.len() as u64;
    let tcp_sweep = Box::pin(sweep(tcp_part, context.clone(), sender, control.clone()));
    let gather = async {
        while let Some(event) = receiver.recv().await {
            match event {
                SweepEvent::Host(host) => {
                    halves.insert(host.address, host);
                }
                SweepEvent::Progress(progress) => {
                    let ports_total = progress.ports_total + progress.hosts_total * udp_ports;
                    let progress = Progress { hosts_done: 0, ports_total, ..progress };
                    // Left out while the receiver is busy: the next one says more.
                    let _ = events.try_send(SweepEvent::Progress(progress));
                }
            }
            if events.is_closed() {
                control.cancel.cancel();
            }
        }
    };
    let (tcp, ()) = tokio::join!(tcp_sweep, gather);
    if tcp.outcome != Outcome::Complete {
        // No host is finished.
        return SweepSummary { hosts_up: 0, coverage: Vec::new(), ..tcp };
    }
    let tcp_ports: u64 = halves.values().flat_map(|host| &host.runs).map(|run| run.ports.len() as u64).sum();
    let tcp_open = halves.values().map(|host| host.details.len() as u64).sum::<u64>();
    let (sender, mut receiver) = mpsc::channel(EVENTS);
    let udp_sweep = Box::pin(sweep(part(Protocol::Udp, Method::Udp), context, sender, control.clone()));
    let mut hosts_up = 0;
    let join = async {
        while let Some(event) = receiver.recv().await {
            let event = match event {
                SweepEvent::Host(host) => {
                    let host = match halves.remove(&host.address) {
                        Some(half) => joined(half, host),
                        None => host,
                    };
                    hosts_up += u64::from(host.up);
                    SweepEvent::Host(host)
                }
                SweepEvent::Progress(progress) => {
                    let progress = Progress {
                        ports_done: progress.ports_done + tcp_ports,
                        ports_total: progress.ports_total + tcp_ports,
                        open_found: progress.open_found + tcp_open,
                        probes_sent: progress.probes_sent + tcp.probes_sent,
                        ..progress
                    };
                    let _ = events.try_send(SweepEvent::Progress(progress));
                    continue;
                }
            };
            if events.send(event).await.is_err() {
                control.cancel.cancel();
            }
        }
    };
    let (udp, ()) = tokio::join!(udp_sweep, join);
    if udp.outcome == Outcome::Complete {
        // Hosts on which the scope permits no UDP port.
        for host in halves.into_values() {
            hosts_up += u64::from(host.up);
            if events.send(SweepEvent::Host(host)).await.is_err() {
                break;
            }
        }
    }
    let complete = udp.outcome == Outcome::Complete;
    let mut refusals = tcp.refusals;
    refusals.extend(udp.refusals.into_iter().filter(|refusal| refusal.ports.is_some()));
    let mut coverage = if complete { tcp.coverage } else { Vec::new() };
    coverage.extend(udp.coverage);
    SweepSummary {
        outcome: udp.outcome,
        hosts_up,
        hosts_total: tcp.hosts_total.max(udp.hosts_total),
        probes_sent: tcp.probes_sent + udp.probes_sent,
        refusals,
        refusals_dropped: tcp.refusals_dropped + udp.refusals_dropped,
        coverage,
        method: "connect, udp".to_owned(),
        method_reason: tcp.method_reason,
        notes: tcp.notes,
    }
}

/// Both halves of what was seen of a host.
fn joined(tcp: HostObservation, udp: HostObservation) -> HostObservation {
    HostObservation {
        up: tcp.up || udp.up,
        observed_at: udp.observed_at.max(tcp.observed_at),
        runs: tcp.runs.into_iter().chain(udp.runs).collect(),
        details: tcp.details.into_iter().chain(udp.details).collect(),
        unscanned: tcp.unscanned.union(&udp.unscanned),
        suspect: tcp.suspect.or(udp.suspect),
        ..udp
    }
}
