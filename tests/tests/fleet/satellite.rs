//! One light satellite: hello, records as credit allows, heartbeats, and back again after a break when the real one
//! would be.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_proto::v1::{self, record::Body, uplink_down::Message as Down, uplink_up::Message as Up};
use portolan_proto::{batch, v1::UplinkUp};
use portolan_satellite::uplink::backoff::{Backoff, spread};
use portolan_tests::chance::Chance;
use portolan_tests::client::{Breach, Change, Ledger, Pattern, now_ms};
use portolan_tests::deployment::Deployment;
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};

use super::Shared;
use super::link::{self, Link};
use super::roster::name_of;

/// As the real satellite has them.
const HEARTBEAT: Duration = Duration::from_secs(5);
const STOOD: Duration = Duration::from_secs(30);
const OUTBOUND: usize = 64;
/// Its desired state is revision 1 from the start.
const REVISION: u64 = 1;

/// One satellite.
pub(super) struct Light {
    source: Ipv4Addr,
    tls: Arc<ClientConfig>,
    pattern: Pattern,
    state: Mutex<State>,
    /// There may be something to send.
    wake: Notify,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    breach: Option<Breach>,
    /// When it last heard Welcome, while the connection stands.
    welcomed: Option<Instant>,
    /// It gathers so many records in its next break.
    gathers: u64,
    /// What it had when its last connection ended.
    due: u64,
    /// Sent on this connection and not acked.
    on_their_way: VecDeque<(u64, Instant)>,
    failures: u64,
    last_failure: Option<String>,
}

impl Light {
    pub(super) fn new(source: Ipv4Addr, tls: Arc<ClientConfig>, pattern: Pattern) -> Self {
        Self { source, tls, pattern, state: Mutex::default(), wake: Notify::new() }
    }

    pub(super) fn gather(&self, records: u64) {
        self.lock().gathers = records;
    }

    pub(super) fn begin_life(&self) {
        self.lock().ledger.begin_life();
    }

    pub(super) fn is_back(&self, since: Instant) -> bool {
        self.lock().welcomed.is_some_and(|welcomed| welcomed > since)
    }

    pub(super) fn is_behind(&self) -> bool {
        let state = self.lock();
        state.ledger.acked() < state.due
    }

    pub(super) fn is_settled(&self) -> bool {
        let state = self.lock();
        state.welcomed.is_some() && state.ledger.acked() == state.ledger.last()
    }

    pub(super) fn acked(&self) -> u64 {
        self.lock().ledger.acked()
    }

    pub(super) fn failures(&self) -> u64 {
        self.lock().failures
    }

    pub(super) fn last_failure(&self) -> Option<String> {
        self.lock().last_failure.clone()
    }

    #[track_caller]
    pub(super) fn check(&self) {
        let breach = self.lock().breach;
        assert!(breach.is_none(), "{}: {breach:?}", self.name());
    }

    #[track_caller]
    pub(super) fn counted_in_life(&self) -> u64 {
        let state = self.lock();
        let before =
            state.ledger.greeted_with().unwrap_or_else(|| panic!("{} has not connected", self.name()));
        state.ledger.acked() - before
    }

    /// Fails unless history tells every change of one of its hosts once.
    #[track_caller]
    pub(super) fn audit(&self, deployment: &Deployment, chance: &mut Chance) {
        let counted = self.acked();
        let (round, host) = (self.pattern.round_of(counted.max(1)), chance.below(Pattern::hosts().end));
        let told = deployment.history(&self.pattern.address(round, host).to_string());
        let told: Vec<Change> = told
            .iter()
            .map(|json| {
                assert_eq!(json["satellite"], self.name(), "{json}");
                let at =
                    json["at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time");
                let port = json["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
                Change { at_ms: at.as_millisecond(), port, opened: json["to"] == "open" }
            })
            .collect();
        self.pattern.compare(round, host, counted, &told);
    }

    fn name(&self) -> String {
        name_of(self.pattern.satellite)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self) -> v1::Hello {
        let state = self.lock();
        let epoch = [self.pattern.satellite.to_be_bytes(); 8].concat();
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            epoch: epoch.clone(),
            process: epoch,
            capabilities: vec!["connect".into()],
            assignment_revision: REVISION,
            spool_depth: state.ledger.last() - state.ledger.acked(),
            clock_at_ms: now_ms(),
            acked_sequence: state.ledger.acked(),
            last_sequence: state.ledger.last(),
            ..v1::Hello::default()
        }
    }

    fn heartbeat(&self) -> v1::Heartbeat {
        let state = self.lock();
        v1::Heartbeat {
            clock_at_ms: now_ms(),
            assignment_revision: REVISION,
            spool_depth: state.ledger.last() - state.ledger.acked(),
            ..v1::Heartbeat::default()
        }
    }

    /// One host a record; the pattern's crowds stay at home.
    fn record(&self, sequence: u64) -> v1::Record {
        let mut record = self.pattern.record(sequence);
        if let Some(Body::Observations(bytes)) = &mut record.body {
            let first = batch::encoded_hosts(bytes).next().and_then(Result::ok).map_or(0, <[u8]>::len);
            // Behind its length as a varint.
            bytes.truncate(first + prost::length_delimiter_len(first));
        }
        record
    }

    fn broke(&self, why: String, welcomed: bool) {
        let mut state = self.lock();
        state.welcomed = None;
        state.on_their_way.clear();
        if welcomed {
            let gathered = std::mem::take(&mut state.gathers);
            let last = state.ledger.last() + gathered;
            state.ledger.set_goal(last);
            state.due = last;
        } else {
            state.failures += 1;
            state.last_failure = Some(why);
        }
    }

    fn greeted(&self, welcome: &v1::Welcome) {
        let mut state = self.lock();
        if let Err(breach) = state.ledger.welcome(welcome) {
            state.breach.get_or_insert(breach);
        }
        state.welcomed = Some(Instant::now());
    }

    fn hear(&self, shared: &Shared, message: &Down) {
        let mut state = self.lock();
        match message {
            Down::Ack(ack) => {
                if let Err(breach) = state.ledger.ack(ack.sequence) {
                    state.breach.get_or_insert(breach);
                }
                let news = state.ledger.acked() > state.due;
                while let Some((_, sent)) = state.on_their_way.pop_front_if(|(n, _)| *n <= ack.sequence) {
                    if news {
                        let mut latencies = shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
                        latencies.push(sent.elapsed());
                    }
                }
            }
            Down::Credit(credit) => state.ledger.set_credit(credit.records),
            _ => {}
        }
        drop(state);
        self.wake.notify_one();
    }

    /// There is something new to tell.
    fn see(&self) {
        let mut state = self.lock();
        let last = state.ledger.last() + 1;
        state.ledger.set_goal(last);
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for room first, then for something to send: giving a sequence out and sending it is one step.
    async fn send_next(&self, up: &mpsc::Sender<UplinkUp>) -> Result<(), String> {
        let room = up.reserve().await.map_err(|_| "it was closed".to_owned())?;
        loop {
            let woken = self.wake.notified();
            let next = {
                let mut state = self.lock();
                let next = state.ledger.next_to_send();
                state.on_their_way.extend(next.map(|sequence| (sequence, Instant::now())));
                next
            };
            if let Some(sequence) = next {
                room.send(message(Up::Record(self.record(sequence))));
                return Ok(());
            }
            woken.await;
        }
    }
}

/// A satellite's whole life.
pub(super) async fn live(shared: Arc<Shared>, number: usize, mut chance: Chance) {
    let satellite = &shared.satellites[number];
    let mut cut = shared.cut.subscribe();
    let mut backoff = Backoff::default();
    let mut asked = Duration::ZERO;
    loop {
        cut.mark_unchanged();
        let began = Instant::now();
        let mut welcomed = false;
        let ended = tokio::select! {
            ended = connection(&shared, satellite, &mut chance, &mut welcomed, &mut asked) => ended,
            _ = cut.changed() => Err("cut".to_owned()),
        };
        satellite.broke(ended.err().unwrap_or_else(|| "the server closed it".into()), welcomed);
        if began.elapsed() > STOOD {
            backoff.reset();
        }
        let mut pause = backoff.next(false, fraction(&mut chance));
        if welcomed {
            pause += spread(asked, fraction(&mut chance));
        }
        tokio::time::sleep(pause).await;
    }
}

async fn connection(
    shared: &Shared,
    satellite: &Light,
    chance: &mut Chance,
    welcomed: &mut bool,
    asked: &mut Duration,
) -> Result<(), String> {
    let (up, outbound) = mpsc::channel(OUTBOUND);
    // The channel is new and has room.
    let _ = up.try_send(message(Up::Hello(satellite.hello())));
    let mut link =
        link::open(satellite.source, shared.server, shared.name.clone(), satellite.tls.clone(), outbound)
            .await?;
    let Some(Down::Welcome(welcome)) = &link.first.message else {
        return Err(format!("no Welcome but {:?}", link.first));
    };
    *welcomed = true;
    *asked = Duration::from_millis(welcome.reconnect_spread_ms.into());
    satellite.greeted(welcome);
    converse(shared, satellite, chance, &up, &mut link).await
}

async fn converse(
    shared: &Shared,
    satellite: &Light,
    chance: &mut Chance,
    up: &mpsc::Sender<UplinkUp>,
    link: &mut Link,
) -> Result<(), String> {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pace = shared.news.subscribe();
    loop {
        // Anything up to twice the average; drawn anew whenever something else comes between would never come.
        let every = *pace.borrow_and_update();
        let next_news = every.map(|every| tokio::time::Instant::now() + chance.up_to(every * 2));
        loop {
            tokio::select! {
                received = link.down.message() => match received.map_err(|status| status.to_string())? {
                    Some(v1::UplinkDown { message: Some(message) }) => satellite.hear(shared, &message),
                    Some(_) => {}
                    None => return Ok(()),
                },
                sent = satellite.send_next(up) => sent?,
                _ = heartbeat.tick() => {
                    // Where there is no room, records are on their way and say as much.
                    let _ = up.try_send(message(Up::Heartbeat(satellite.heartbeat())));
                }
                () = at(next_news) => {
                    satellite.see();
                    break;
                }
                _ = pace.changed() => break,
            }
        }
    }
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Uniform in 0..1.
fn fraction(chance: &mut Chance) -> f64 {
    chance.below(1 << 20) as f64 / f64::from(1 << 20)
}

fn message(message: Up) -> UplinkUp {
    UplinkUp { message: Some(message) }
}
