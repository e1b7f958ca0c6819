//! The standing checks: what this satellite was assigned to look at, again and again, with or without a server.
//!
//! `spec` reads what the assignment says; `schedule`, `blackout` and `reobserve` decide when what is looked at, and
//! know no socket and no clock; `runner` does it, by what `outside` offers; `report` brings what was seen into the
//! spool, and `status` how a check fares.

pub mod blackout;
pub mod names;
pub mod outside;
pub mod reobserve;
pub mod report;
pub mod runner;
pub mod schedule;
pub mod spec;
pub mod status;

use crate::spool::Spool;
use outside::Outside;
use portolan_common::names::MAX_NAME;
use portolan_proto::v1;
use runner::Runner;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Reports on their way to the spool.
const REPORTS: usize = 1024;
/// Checks that may wait to be run beside their schedule.
const MAX_ORDERED: usize = 1 << 16;

/// Where the checks are told what to do. What came last counts; nobody waits.
#[derive(Debug, Default)]
pub struct Orders {
    waiting: Mutex<Waiting>,
    bell: Notify,
    /// In a blackout.
    dark: watch::Sender<bool>,
}

/// What was ordered since it was last asked for.
#[derive(Debug, Default)]
pub struct Waiting {
    /// The whole desired state.
    pub assignment: Option<v1::Assignment>,
    /// Checks to run now.
    pub run: BTreeSet<String>,
}

impl Orders {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new assignment.
    pub fn assign(&self, assignment: v1::Assignment) {
        self.waiting().assignment = Some(assignment);
        self.bell.notify_one();
    }

    /// Checks to be run now, beside their schedule; names that no check has are passed over.
    pub fn run(&self, names: Vec<String>) {
        let mut waiting = self.waiting();
        for name in names.into_iter().filter(|name| name.len() <= MAX_NAME) {
            if waiting.run.len() >= MAX_ORDERED {
                tracing::warn!(
                    "more than {MAX_ORDERED} checks are to run now: the others wait for their turn"
                );
                break;
            }
            waiting.run.insert(name);
        }
        self.bell.notify_one();
    }

    /// Whether a blackout keeps everything from being sent, now and whenever that changes.
    pub fn darkness(&self) -> watch::Receiver<bool> {
        self.dark.subscribe()
    }

    /// Says whether it does.
    pub(super) fn darken(&self, dark: bool) {
        self.dark.send_if_modified(|known| std::mem::replace(known, dark) != dark);
    }

    /// Waits until there is something. Whoever stops waiting loses nothing.
    pub async fn next(&self) -> Waiting {
        loop {
            let waiting = std::mem::take(&mut *self.waiting());
            if waiting.assignment.is_some() || !waiting.run.is_empty() {
                return waiting;
            }
            self.bell.notified().await;
        }
    }
}

/// Runs the checks that are ordered, until `stop`; then what was seen is in the spool's queue.
pub async fn run(orders: Arc<Orders>, outside: impl Outside, spool: Arc<Spool>, stop: CancellationToken) {
    let (sender, receiver) = mpsc::channel(REPORTS);
    let runner = Runner::new(outside, sender);
    tokio::join!(runner.run(&orders, &stop), report::carry(receiver, &spool));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::outside::Engine;
    use crate::engine::{EngineContext, SharedLimits, Standing};
    use crate::spool::disk::Disk;
    use crate::spool::{Clock, SpoolSettings};
    use arc_swap::ArcSwap;
    use portolan_common::observation::{HostObservation, PortState, Protocol};
    use portolan_common::scope::{Guard, Scope};
    use std::time::{Duration, Instant};

    /// With the real prober, resolver and spool.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_port_that_closes_is_in_the_spool_a_second_later() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let scope = Scope::allowing(&["127.0.0.0/8".parse().unwrap()]);
        let context = EngineContext {
            guard: Arc::new(ArcSwap::from_pointee(Guard::new(scope))),
            limits: Arc::new(SharedLimits::new()),
        };
        let standing = Standing::start(context.clone(), CancellationToken::new()).unwrap();
        let clock = Clock::system();
        let spool = Spool::open_on(Arc::new(Disk::default()), SpoolSettings::default(), clock).unwrap();
        let spool = Arc::new(spool);
        let (orders, stop) = (Arc::new(Orders::default()), CancellationToken::new());
        orders.assign(v1::Assignment {
            revision: 1,
            checks: vec![v1::CheckAssignment {
                name: "shop".into(),
                targets: vec!["localhost".into(), "127.0.0.2".into()],
                open: port.to_string(),
                every_ms: 1000,
                confirm: 1,
                recover: 1,
                ..v1::CheckAssignment::default()
            }],
            ..v1::Assignment::default()
        });
        let running = tokio::spawn(run(orders, Engine { context, standing }, spool.clone(), stop.clone()));
        spool.opened().await;
        spool.hello();
        assert!(spool.welcome(0, Some(u32::MAX)).await);
        // The state of localhost's port, when it is told next, and the names of what is told beside.
        let next = async || loop {
            let record = tokio::time::timeout(Duration::from_secs(60), spool.next()).await.unwrap();
            spool.ack(record.sequence);
            let Some(v1::record::Body::Observations(hosts)) = record.body else { continue };
            for host in portolan_proto::batch::hosts(&hosts) {
                let host = HostObservation::try_from(&host.unwrap()).unwrap();
                if host.target == "localhost" {
                    return host.state_of(Protocol::Tcp, port).unwrap().0;
                }
            }
        };
        assert_eq!(next().await, PortState::Open);
        drop(listener);
        let closed = Instant::now();
        while next().await != PortState::Closed {
            assert!(closed.elapsed() < Duration::from_secs(30), "it is not seen");
        }
        // One interval and a little; the machine may be busy.
        assert!(closed.elapsed() < Duration::from_secs(5), "{:?}", closed.elapsed());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    }
}
