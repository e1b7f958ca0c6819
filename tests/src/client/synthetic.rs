//! A satellite that a test can check: it speaks the uplink as the real one does, keeps a [`Ledger`] of what it sent and
//! what was acked, and comes back at once whenever the connection ends.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use portolan_proto::v1::{
    self, uplink_client::UplinkClient, uplink_down::Message as Down, uplink_up::Message as Up,
};
use portolan_transport::dial::Dialer;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::dialer_of;
use super::ledger::{Breach, Ledger};
use super::messages::{hello, now_ms};
use super::pattern::Pattern;
use crate::deployment::{Deployment, Satellite};
use crate::lab::Host;

/// The pause before it comes back. Real satellites take longer; a test that kills a server hundreds of times cannot.
const COME_BACK: Duration = Duration::from_millis(25);
/// How long the server may take to say Welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Messages that wait for the connection.
const OUTBOUND: usize = 16;

/// Threads for synthetic satellites, in the network of one host. Dropping it ends them.
pub struct Fleet {
    runtime: Option<Runtime>,
}

/// One synthetic satellite, running.
pub struct Synthetic {
    shared: Arc<Shared>,
    pattern: Pattern,
    name: String,
}

struct Shared {
    state: Mutex<State>,
    /// Something about the state changed.
    changed: Condvar,
    /// There may be something to send.
    wake: Notify,
}

struct State {
    ledger: Ledger,
    breach: Option<Breach>,
    connections: u64,
    goodbyes: u64,
    /// Why the last connection ended.
    last_end: String,
    last_ack: Instant,
}

impl Fleet {
    /// Threads on a host.
    #[track_caller]
    pub fn on(host: &Host) -> Self {
        // Threads stay in the network of the one that made them.
        let runtime = host.inside(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
        Self { runtime: Some(runtime.expect("threads")) }
    }

    /// Lets a synthetic satellite take the place of an enrolled one, at the port that its server listens on. It connects
    /// at once and says nothing before it is given a goal. `pause` lies between two records.
    #[track_caller]
    pub fn start(
        &self,
        deployment: &Deployment,
        place: &Satellite,
        pattern: Pattern,
        pause: Duration,
    ) -> Synthetic {
        let dialer = dialer_of(deployment, Some(&place.identity()));
        self.start_at(dialer, place.name(), pattern, pause)
    }

    /// The same through another port of the server's host.
    #[track_caller]
    pub fn start_through(
        &self,
        port: u16,
        deployment: &Deployment,
        place: &Satellite,
        pattern: Pattern,
        pause: Duration,
    ) -> Synthetic {
        let mut dialer = dialer_of(deployment, Some(&place.identity()));
        dialer.servers = vec![deployment.server_host().at(port).to_string()];
        self.start_at(dialer, place.name(), pattern, pause)
    }

    fn start_at(&self, dialer: Dialer, name: &str, pattern: Pattern, pause: Duration) -> Synthetic {
        let state = State {
            ledger: Ledger::new(),
            breach: None,
            connections: 0,
            goodbyes: 0,
            last_end: String::new(),
            last_ack: Instant::now(),
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), wake: Notify::new() });
        let life = Life { shared: shared.clone(), dialer, pattern, pause };
        if let Some(runtime) = &self.runtime {
            runtime.spawn(life.run());
        }
        Synthetic { shared, pattern, name: name.to_owned() }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Synthetic {
    /// The name of the satellite whose place it takes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// What it knows now.
    pub fn ledger(&self) -> Ledger {
        self.shared.lock().ledger.clone()
    }

    /// Connections on which the server said Welcome.
    pub fn connections(&self) -> u64 {
        self.shared.lock().connections
    }

    /// Times that the server said Goodbye.
    pub fn goodbyes(&self) -> u64 {
        self.shared.lock().goodbyes
    }

    /// Why its last connection ended, or was not made.
    pub fn last_end(&self) -> String {
        self.shared.lock().last_end.clone()
    }

    /// How long ago the server last acked something new.
    pub fn since_ack(&self) -> Duration {
        self.shared.lock().last_ack.elapsed()
    }

    /// Fails when the server ever said what cannot be true.
    #[track_caller]
    pub fn check(&self) {
        let breach = self.shared.lock().breach;
        assert!(breach.is_none(), "{}: {:?}", self.name, breach);
    }

    /// Sends without end.
    pub fn send_on(&self) {
        self.change(|ledger| ledger.set_goal(u64::MAX));
    }

    /// Sends so many more.
    pub fn send_more(&self, records: u64) {
        self.change(|ledger| ledger.set_goal(ledger.sent() + records));
    }

    /// Begins nothing new; what was sent and is not acked is still delivered.
    pub fn stop_growing(&self) {
        self.change(Ledger::stop_growing);
    }

    /// A new life of the server begins; see [`Ledger::greeted_with`].
    pub fn begin_life(&self) {
        self.change(Ledger::begin_life);
    }

    /// Waits until what it knows is so; `false` when it does not become so in time. Ends early on a breach.
    pub fn wait_until(&self, limit: Duration, holds: impl Fn(&Ledger) -> bool) -> bool {
        let state = self.shared.lock();
        let waits = |state: &mut State| !holds(&state.ledger) && state.breach.is_none();
        let waited = self.shared.changed.wait_timeout_while(state, limit, waits);
        waited.map(|(state, _)| holds(&state.ledger)).unwrap_or(false)
    }

    /// Waits until all that was sent and shall be sent is acked; fails when it is not in time. Returns the last
    /// sequence.
    #[track_caller]
    pub fn drain(&self, limit: Duration) -> u64 {
        let drained = self.wait_until(limit, |ledger| ledger.acked() == ledger.sent() && !ledger.has_more());
        self.check();
        let ledger = self.ledger();
        assert!(
            drained,
            "{}: {} of {} acked after {limit:?}; its last connection ended: {}",
            self.name,
            ledger.acked(),
            ledger.sent(),
            self.last_end()
        );
        ledger.acked()
    }

    fn change(&self, change: impl FnOnce(&mut Ledger)) {
        change(&mut self.shared.lock().ledger);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn note(&self, change: impl FnOnce(&mut State) -> Result<(), Breach>) {
        let mut state = self.lock();
        if let Err(breach) = change(&mut state) {
            state.breach.get_or_insert(breach);
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// The task.
struct Life {
    shared: Arc<Shared>,
    dialer: Dialer,
    pattern: Pattern,
    pause: Duration,
}

impl Life {
    async fn run(self) {
        loop {
            let end = match self.connection().await {
                Ok(()) => "the server closed it".to_owned(),
                Err(why) => why,
            };
            self.shared.note(|state| {
                state.last_end = end;
                Ok(())
            });
            tokio::time::sleep(COME_BACK).await;
        }
    }

    async fn connection(&self) -> Result<(), String> {
        let channel = self.dialer.connect().await.map_err(|error| error.to_string())?;
        let (up, outbound) = mpsc::channel(OUTBOUND);
        let known = self.shared.lock().ledger.clone();
        let epoch = u8::try_from(self.pattern.satellite % 250).unwrap_or_default() + 1;
        let hello = v1::Hello {
            acked_sequence: known.acked(),
            last_sequence: known.sent(),
            spool_depth: known.sent() - known.acked(),
            ..hello(epoch)
        };
        let _room = up.try_send(message(Up::Hello(hello)));
        let mut client = UplinkClient::new(channel);
        let greeted = tokio::time::timeout(WELCOME, async {
            let mut down = client.connect(ReceiverStream::new(outbound)).await?.into_inner();
            let first = down.message().await?;
            Ok::<_, tonic::Status>((down, first))
        });
        let (mut down, first) =
            greeted.await.map_err(|_| "no Welcome".to_owned())?.map_err(|status| status.to_string())?;
        let Some(v1::UplinkDown { message: Some(Down::Welcome(welcome)) }) = first else {
            return Err(format!("no Welcome but {first:?}"));
        };
        self.shared.note(|state| {
            state.connections += 1;
            state.ledger.welcome(&welcome)
        });
        self.converse(&up, &mut down).await
    }

    async fn converse(
        &self,
        up: &mpsc::Sender<v1::UplinkUp>,
        down: &mut Streaming<v1::UplinkDown>,
    ) -> Result<(), String> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut not_before = tokio::time::Instant::now();
        loop {
            tokio::select! {
                received = down.message() => match received.map_err(|status| status.to_string())? {
                    Some(v1::UplinkDown { message: Some(message) }) => self.hear(&message),
                    Some(_) => {}
                    None => return Ok(()),
                },
                sent = self.send_next(up, not_before) => {
                    sent?;
                    not_before = tokio::time::Instant::now() + self.pause;
                }
                _ = heartbeat.tick() => {
                    let depth = { let state = self.shared.lock(); state.ledger.sent() - state.ledger.acked() };
                    let beat = v1::Heartbeat { clock_at_ms: now_ms(), spool_depth: depth, ..v1::Heartbeat::default() };
                    let _lost_when_full = up.try_send(message(Up::Heartbeat(beat)));
                }
            }
        }
    }

    /// Waits for room first, then for something to send: giving a sequence out and sending it is one step, so that
    /// nothing is lost when another branch comes first.
    async fn send_next(
        &self,
        up: &mpsc::Sender<v1::UplinkUp>,
        not_before: tokio::time::Instant,
    ) -> Result<(), String> {
        tokio::time::sleep_until(not_before).await;
        let room = up.reserve().await.map_err(|_| "it was closed".to_owned())?;
        loop {
            let woken = self.shared.wake.notified();
            let next = self.shared.lock().ledger.next_to_send();
            if let Some(sequence) = next {
                room.send(message(Up::Record(self.pattern.record(sequence))));
                self.shared.changed.notify_all();
                return Ok(());
            }
            woken.await;
        }
    }

    fn hear(&self, message: &Down) {
        match message {
            Down::Ack(ack) => self.shared.note(|state| {
                if ack.sequence > state.ledger.acked() {
                    state.last_ack = Instant::now();
                }
                state.ledger.ack(ack.sequence)
            }),
            Down::Credit(credit) => self.shared.note(|state| {
                state.ledger.set_credit(credit.records);
                Ok(())
            }),
            Down::Goodbye(_) => self.shared.note(|state| {
                state.goodbyes += 1;
                Ok(())
            }),
            _ => {}
        }
        self.shared.wake.notify_one();
    }
}

fn message(message: Up) -> v1::UplinkUp {
    v1::UplinkUp { message: Some(message) }
}
