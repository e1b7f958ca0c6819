//! The pace of one host against simulated hosts: a discrete-event simulation of a scan of its UDP ports.

use super::Pacing;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How a host limits its ICMP errors.
#[derive(Clone, Debug)]
enum Limiter {
    /// As Linux: tokens of `interval`, at most `burst` of them kept.
    Bucket { interval: Duration, burst: u32 },
    /// As BSD: so many in each second.
    Window { per_second: u32 },
    /// None.
    Unlimited,
    /// The host sends no errors.
    Mute,
}

/// A limiter at work; times count from the start of the scan.
struct Host {
    limiter: Limiter,
    credit: Duration,
    credited: Duration,
    window: u64,
    used: u32,
}

impl Host {
    fn new(limiter: Limiter) -> Self {
        let credit = full(&limiter);
        Self { limiter, credit, credited: Duration::ZERO, window: 0, used: 0 }
    }

    /// Another limit holds from now on. A bucket keeps its time, as Linux does it; what takes the place of a mute host
    /// begins empty, and what takes the place of another kind of host is another host, with a full bucket.
    fn change(&mut self, limiter: Limiter, at: Duration) {
        self.credit = match self.limiter {
            Limiter::Bucket { .. } => self.credit.min(full(&limiter)),
            Limiter::Mute => Duration::ZERO,
            _ => full(&limiter),
        };
        (self.limiter, self.credited) = (limiter, self.credited.max(at));
    }

    /// Whether a closed port says so at this time.
    fn allows(&mut self, at: Duration) -> bool {
        match self.limiter {
            Limiter::Bucket { interval, burst } => {
                self.credit = (self.credit + (at - self.credited)).min(interval * burst);
                self.credited = at;
                let allowed = self.credit >= interval;
                if allowed {
                    self.credit -= interval;
                }
                allowed
            }
            Limiter::Window { per_second } => {
                if self.window != at.as_secs() {
                    (self.window, self.used) = (at.as_secs(), 0);
                }
                self.used += 1;
                self.used <= per_second
            }
            Limiter::Unlimited => true,
            Limiter::Mute => false,
        }
    }
}

fn full(limiter: &Limiter) -> Duration {
    match limiter {
        Limiter::Bucket { interval, burst } => *interval * *burst,
        _ => Duration::ZERO,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Open,
    Closed,
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize, Instant),
    Datagram(usize, Instant),
    Unreachable(usize),
    Timeout(usize, Instant),
}

#[derive(Clone, Debug)]
struct Scene {
    limiter: Limiter,
    /// Another limiter from some time on.
    later: Option<(Duration, Limiter)>,
    open: usize,
    closed: usize,
    silent: usize,
    round_trip: Duration,
    /// How long an answer is waited for, three round trips at least.
    timeout: Duration,
    /// Of packets each way.
    loss: f64,
    /// Silences that count before a port is called open|filtered.
    attempts: u32,
    seed: u64,
}

impl Scene {
    fn new(limiter: Limiter, open: usize, closed: usize, silent: usize) -> Self {
        let round_trip = Duration::from_micros(300);
        Self {
            limiter,
            later: None,
            open,
            closed,
            silent,
            round_trip,
            timeout: 100 * MS,
            loss: 0.0,
            attempts: 4,
            seed: 1,
        }
    }
}

/// What a scan came to.
#[derive(Debug)]
struct Result {
    /// When the last open port was found, the last closed one proved, and everything decided.
    open: Duration,
    closed: Duration,
    end: Duration,
    /// Closed or open ports that were called open|filtered.
    wrong: usize,
    /// Ports that were not decided within the time.
    undecided: usize,
    probes: usize,
    limited: bool,
    interval: Option<Duration>,
}

/// Scans the host: every undecided port has a probe in flight or waits for its turn, for an hour at most.
fn scan(scene: &Scene) -> Result {
    let start = Instant::now();
    let mut random = SmallRng::seed_from_u64(scene.seed);
    let mut ports =
        [vec![Port::Open; scene.open], vec![Port::Closed; scene.closed], vec![Port::Silent; scene.silent]]
            .concat();
    for i in (1..ports.len()).rev() {
        ports.swap(i, random.random_range(0..=i));
    }
    let mut host = Host::new(scene.limiter.clone());
    let mut later = scene.later.clone();
    let mut pacing = Pacing::new();
    let (mut decided, mut silences) = (vec![false; ports.len()], vec![0; ports.len()]);
    let mut latest = vec![None; ports.len()];
    let mut turn: VecDeque<usize> = (0..ports.len()).collect();
    let mut events = BinaryHeap::new();
    let timeout = (scene.round_trip * 3).max(scene.timeout);
    let mut result = Result {
        open: Duration::ZERO,
        closed: Duration::ZERO,
        end: Duration::ZERO,
        wrong: 0,
        undecided: 0,
        probes: 0,
        limited: false,
        interval: None,
    };
    let (mut now, mut free) = (start, start);
    loop {
        while turn.front().is_some_and(|port| decided[*port]) {
            turn.pop_front();
        }
        let send = (!turn.is_empty()).then(|| pacing.next_at(now).max(free));
        let event = events.peek().map(|Reverse((at, _))| *at);
        now = match (send, event) {
            (None, None) => break,
            (send, event) => send.into_iter().chain(event).min().unwrap().max(now),
        };
        if now - start > 3600 * SECOND {
            break;
        }
        if event != Some(now) {
            let Some(port) = turn.pop_front() else { continue };
            pacing.sent(now);
            result.probes += 1;
            latest[port] = Some(now);
            // The scan's own rate.
            free = now + MS / 2;
            events.push(Reverse((now + timeout, Event::Timeout(port, now))));
            if !random.random_bool(scene.loss) {
                events.push(Reverse((now + scene.round_trip / 2, Event::Arrives(port, now))));
            }
            continue;
        }
        let Some(Reverse((_, event))) = events.pop() else { continue };
        let since = now - start;
        match event {
            Event::Arrives(port, sent) => {
                if let Some((at, limiter)) = later.take_if(|(at, _)| *at <= since) {
                    host.change(limiter, at);
                }
                let answer = match ports[port] {
                    Port::Open => Some(Event::Datagram(port, sent)),
                    Port::Closed if host.allows(since) => Some(Event::Unreachable(port)),
                    _ => None,
                };
                if let Some(answer) = answer.filter(|_| !random.random_bool(scene.loss)) {
                    events.push(Reverse((now + scene.round_trip / 2, answer)));
                }
            }
            Event::Datagram(port, sent) => {
                pacing.answered(sent);
                decided[port] = true;
                result.open = since;
            }
            Event::Unreachable(port) => {
                pacing.unreachable(latest[port].unwrap(), now);
                decided[port] = true;
                result.closed = since;
            }
            Event::Timeout(port, sent) if !decided[port] => {
                pacing.silent(now);
                if pacing.proves_silence(sent) {
                    silences[port] += 1;
                }
                if silences[port] >= scene.attempts {
                    decided[port] = true;
                    result.wrong += usize::from(ports[port] != Port::Silent);
                } else {
                    turn.push_back(port);
                }
            }
            Event::Timeout(..) => (),
        }
        if decided.iter().all(|decided| *decided) {
            break;
        }
    }
    result.end = now - start;
    result.undecided = decided.iter().filter(|decided| !**decided).count();
    (result.limited, result.interval) = (pacing.is_limited(), pacing.interval());
    result
}

const LINUX: Limiter = Limiter::Bucket { interval: SECOND, burst: 6 };
const BSD: Limiter = Limiter::Window { per_second: 200 };

#[test]
fn a_linux_host_is_proved_closed_as_fast_as_it_lets() {
    let result = scan(&Scene::new(LINUX, 6, 94, 0));
    eprintln!("Linux, 6 open and 94 closed: {result:?}");
    assert!(result.open < 100 * MS && result.wrong == 0 && result.undecided == 0);
    assert!((87 * SECOND..93 * SECOND).contains(&result.closed), "the limit is 88 s");
    assert!(result.limited);
    let off = result.interval.unwrap().abs_diff(SECOND);
    assert!(off < 30 * MS, "{off:?} off");
    assert!(result.probes < 700, "{} probes", result.probes);
}

#[test]
fn laxer_limits_are_used_up_too() {
    let result = scan(&Scene::new(BSD, 6, 94, 0));
    eprintln!("200 in each second, 94 closed: {result:?}");
    assert!(result.end < SECOND && !result.limited && result.wrong == 0);
    let fast = Limiter::Bucket { interval: 5 * MS, burst: 6 };
    let result = scan(&Scene::new(fast, 6, 94, 0));
    eprintln!("one each 5 ms, 94 closed: {result:?}");
    assert!(result.end < SECOND * 3 / 2 && result.wrong == 0);
    let result = scan(&Scene::new(BSD, 0, 1000, 0));
    eprintln!("200 in each second, 1,000 closed: {result:?}");
    assert!(result.end < 6 * SECOND && result.probes < 3000 && result.wrong == 0 && result.undecided == 0);
}

#[test]
fn an_unlimited_host_is_not_slowed_down() {
    let result = scan(&Scene::new(Limiter::Unlimited, 6, 990, 4));
    eprintln!("no limit, 990 closed, 4 silent: {result:?}");
    assert!(result.closed < SECOND && result.end < 4 * SECOND && result.wrong == 0);
}

#[test]
fn a_mute_host_is_not_limited() {
    let result = scan(&Scene::new(Limiter::Mute, 6, 0, 94));
    eprintln!("no errors at all, 94 silent: {result:?}");
    assert!(!result.limited && result.interval.is_none() && result.end < 2 * SECOND);
}

#[test]
fn silent_ports_cost_no_tokens() {
    let result = scan(&Scene::new(LINUX, 0, 20, 980));
    eprintln!("Linux, 20 closed and 980 silent: {result:?}");
    assert!(result.wrong == 0 && result.undecided == 0);
    assert!(result.end < 55 * SECOND);
    let result = scan(&Scene::new(LINUX, 0, 30, 20_000));
    eprintln!("Linux, 30 closed and 20,000 silent: {result:?}");
    assert!(result.wrong == 0 && result.undecided == 0 && result.end < 300 * SECOND);
    let result = scan(&Scene::new(LINUX, 0, 6, 994));
    eprintln!("Linux, 6 closed and 994 silent: {result:?}");
    assert!(result.wrong == 0 && result.end < 30 * SECOND);
}

#[test]
fn a_limit_that_changes_is_followed() {
    let scene = Scene::new(LINUX, 0, 94, 0);
    let laxer = scan(&Scene { later: Some((10 * SECOND, BSD)), ..scene });
    eprintln!("Linux, 200 in each second after 10 s: {laxer:?}");
    assert!(laxer.wrong == 0 && laxer.end < 18 * SECOND);
    let fast = Limiter::Bucket { interval: 5 * MS, burst: 6 };
    let scene = Scene { later: Some((SECOND / 5, LINUX)), ..Scene::new(fast, 0, 94, 6) };
    let stricter = scan(&scene);
    eprintln!("one each 5 ms, Linux after 0.2 s: {stricter:?}");
    assert!(stricter.wrong == 0 && stricter.undecided == 0 && stricter.probes < 2000);
}

#[test]
fn a_bucket_drained_before_is_no_silence() {
    // The scan before this one left nothing: simulated by a limit that begins anew, and empty.
    let scene = Scene { later: Some((MS / 10, LINUX)), ..Scene::new(Limiter::Mute, 0, 60, 0) };
    let result = scan(&scene);
    eprintln!("Linux, bucket empty at the start: {result:?}");
    assert_eq!((result.wrong, result.undecided), (0, 0));
}

/// Up to an error every so many milliseconds.
fn limiters(slowest: u32) -> impl Strategy<Value = Limiter> {
    prop_oneof![
        (1..=slowest, 1u32..=12).prop_map(|(ms, burst)| Limiter::Bucket { interval: MS * ms, burst }),
        (1u32..=1000).prop_map(|per_second| Limiter::Window { per_second }),
        Just(Limiter::Unlimited),
        Just(LINUX),
    ]
}

proptest! {
    #[test]
    fn no_closed_port_is_called_silent(
        limiter in limiters(2000),
        later in prop::option::of((0u32..60_000, limiters(2000))),
        open in 0usize..8, closed in 0usize..150, silent in 0usize..150,
        round_trip in 100u32..400_000,
        seed: u64,
    ) {
        let later = later.map(|(ms, limiter)| (MS * ms, limiter));
        let round_trip = Duration::from_micros(round_trip.into());
        let scene = Scene { later, round_trip, seed, ..Scene::new(limiter, open, closed, silent) };
        let result = scan(&scene);
        prop_assert_eq!((result.wrong, result.undecided), (0, 0), "{:?}", result);
    }

    #[test]
    fn nor_when_packets_are_lost(
        limiter in limiters(1100),
        open in 0usize..8, closed in 0usize..100, silent in 0usize..100,
        round_trip in 100u32..400_000,
        loss in 0.0..0.03,
        seed: u64,
    ) {
        let round_trip = Duration::from_micros(round_trip.into());
        let scene = Scene { round_trip, seed, loss, attempts: 8, timeout: SECOND / 2, ..Scene::new(limiter, open, closed, silent) };
        let result = scan(&scene);
        prop_assert_eq!((result.wrong, result.undecided), (0, 0), "{:?}", result);
    }

    #[test]
    fn a_constant_limit_is_used_up_within_a_few_percent(
        ms in 5u32..=1000, burst in 2u32..=10, closed in 30usize..150, round_trip in 100u32..100_000, seed: u64,
    ) {
        let interval = MS * ms;
        let round_trip = Duration::from_micros(round_trip.into());
        let scene = Scene { round_trip, seed, ..Scene::new(Limiter::Bucket { interval, burst }, 0, closed, 0) };
        let result = scan(&scene);
        let limit = interval * (closed as u32).saturating_sub(burst);
        prop_assert!(result.end < limit * 21 / 20 + 5 * SECOND / 2, "{:?} for {:?}", result, limit);
    }
}
