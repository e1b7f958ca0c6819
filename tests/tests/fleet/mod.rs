//! A fleet of light satellites, for the test and the benchmark of how many one server can serve: each has its own
//! certificate, address, connection and ledger, and behaves on the wire as the real one does, without a spool's disk, a
//! scan engine or a process.

mod link;
mod roster;
mod satellite;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan_tests::chance::Chance;
use portolan_tests::client::{Pattern, now_ms};
use portolan_tests::deployment::{Deployment, PORT};
use portolan_tests::wait::wait_until;
use rustls::pki_types::ServerName;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use self::satellite::Light;

/// Sequences after which a satellite goes on to other addresses.
const ROUND: u64 = 1_200;
/// Their times begin this long ago, so that none of them lies in the future.
const PAST_MS: i64 = 20 * 24 * 3600 * 1000;
/// Between two looks at the whole fleet.
const LOOK: Duration = Duration::from_millis(50);

/// The fleet, alive until it is dropped.
pub struct Fleet {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
}

/// What all satellites share.
struct Shared {
    satellites: Vec<Light>,
    server: SocketAddr,
    /// What the server's certificate must name.
    name: ServerName<'static>,
    /// Changes when all connections are to break.
    cut: watch::Sender<u64>,
    /// How often a satellite has something new to tell on average; `None`: never.
    news: watch::Sender<Option<Duration>>,
    /// From a record's sending to its ack, of those that had no backlog.
    latencies: Mutex<Vec<Duration>>,
}

/// How a fleet came back after a break.
#[derive(Clone, Copy, Debug, Default)]
pub struct Return {
    /// When the last one heard Welcome again; `None`: not in time.
    pub all_back: Option<Duration>,
    /// When, besides, all was acked that they had before or gathered while they were away.
    pub drained: Option<Duration>,
    /// How many were not back when the time was over.
    pub away: usize,
    /// How many had something unacked then.
    pub behind: usize,
}

impl Fleet {
    /// Enrols so many satellites at an initialised server that does not run, and starts nobody yet.
    #[track_caller]
    pub fn enrol(deployment: &Deployment, count: u16) -> Self {
        let members = roster::enrol(&deployment.data_dir(), count);
        let base_ms = now_ms() - PAST_MS;
        let satellites = members
            .into_iter()
            .zip(1..)
            .map(|(tls, number)| {
                // 250 addresses a network: 127.0.1.1 to 127.0.250.250.
                let [network, host] = [(number - 1) / 250 + 1, (number - 1) % 250 + 1];
                let byte = |n: u16| u8::try_from(n).expect("at most 62,500 satellites");
                let source = Ipv4Addr::new(127, 0, byte(network), byte(host));
                Light::new(source, tls, Pattern { satellite: number, base_ms, round: ROUND })
            })
            .collect();
        let name = ServerName::from(deployment.server_host().v4());
        let server = (Ipv4Addr::LOCALHOST, PORT).into();
        let (cut, news) = (watch::Sender::new(0), watch::Sender::new(None));
        let latencies = Mutex::default();
        Self { runtime: None, shared: Arc::new(Shared { satellites, server, name, cut, news, latencies }) }
    }

    /// Lets all connect, each at a random time within `spread`.
    #[track_caller]
    pub fn start(&mut self, deployment: &Deployment, chance: &Chance, spread: Duration) {
        // Threads stay in the network of the one that made them.
        let runtime = deployment.server_host().inside(|| {
            Builder::new_multi_thread().worker_threads(2).thread_name("fleet").enable_all().build()
        });
        let runtime = runtime.expect("threads");
        for number in 0..self.len() {
            let mut chance = chance.branch(&number.to_string());
            let shared = self.shared.clone();
            runtime.spawn(async move {
                tokio::time::sleep(chance.up_to(spread)).await;
                satellite::live(shared, number, chance).await;
            });
        }
        self.runtime = Some(runtime);
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.shared.satellites.len()
    }

    /// How often each has a record to tell while it is connected, on average.
    pub fn set_news(&self, every: Option<Duration>) {
        self.shared.news.send_replace(every);
    }

    /// Breaks every connection that stands.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Every so-manieth gathers so many records while its next break lasts.
    pub fn gather(&self, every: usize, records: u64) {
        self.shared.satellites.iter().step_by(every).for_each(|satellite| satellite.gather(records));
    }

    /// A new life of the server begins; see [`portolan_tests::client::Ledger::begin_life`].
    pub fn begin_life(&self) {
        self.shared.satellites.iter().for_each(Light::begin_life);
    }

    /// Watches, in a thread of its own, until all are back from a break at `since` and have delivered what they had.
    pub fn watch_return(&self, since: Instant, limit: Duration) -> JoinHandle<Return> {
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            let mut seen = Return::default();
            loop {
                seen.away = shared.satellites.iter().filter(|satellite| !satellite.is_back(since)).count();
                seen.behind = shared.satellites.iter().filter(|satellite| satellite.is_behind()).count();
                if seen.away == 0 {
                    seen.all_back.get_or_insert(since.elapsed());
                    if seen.behind == 0 {
                        seen.drained = Some(since.elapsed());
                    }
                }
                if seen.drained.is_some() || since.elapsed() > limit {
                    return seen;
                }
                std::thread::sleep(LOOK);
            }
        })
    }

    /// Takes the times from sending to ack that were measured since the last call.
    pub fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Attempts to connect that failed so far, and what the last of some said.
    pub fn failures(&self) -> (u64, Vec<String>) {
        let failed = self.shared.satellites.iter().map(Light::failures).sum();
        let mut words: Vec<_> = self.shared.satellites.iter().filter_map(Light::last_failure).collect();
        words.sort();
        words.dedup();
        words.truncate(5);
        (failed, words)
    }

    /// Records acked in all.
    pub fn acked(&self) -> u64 {
        self.shared.satellites.iter().map(Light::acked).sum()
    }

    /// Nobody sees anything new any more; waits until everybody is connected and all that there is is acked.
    #[track_caller]
    pub fn settle(&self, limit: Duration) {
        self.set_news(None);
        // Whoever saw something at this very moment has told it by the second look.
        let mut before = None;
        wait_until("everything to be acked", limit, || {
            std::thread::sleep(LOOK * 10);
            let settled = self.shared.satellites.iter().all(Light::is_settled);
            let now = settled.then(|| self.acked());
            std::mem::replace(&mut before, now) == now && settled
        });
    }

    /// Fails when the server ever said what cannot be true.
    #[track_caller]
    pub fn check(&self) {
        self.shared.satellites.iter().for_each(Light::check);
    }

    /// With nothing under way: fails unless the running server counted every record of its life once, and unless the
    /// history that some satellites' records make is there, every change once. Needs curl, and `metrics = "anyone"`.
    #[track_caller]
    pub fn audit(&self, deployment: &Deployment, chance: &mut Chance, some: usize) {
        self.check();
        let counted: u64 = self.shared.satellites.iter().map(Light::counted_in_life).sum();
        assert_eq!(deployment.metric("portolan_records_total"), counted, "records counted in this life");
        for name in ["portolan_records_missing_total", "portolan_hosts_malformed_total"] {
            assert_eq!(deployment.metric(name), 0, "{name}");
        }
        for _ in 0..some {
            chance.pick(&self.shared.satellites).audit(deployment, chance);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
