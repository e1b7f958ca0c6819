//! Single looks: what 20,000 a minute cost, how many a second there can be, and what it costs to do nothing.
//!
//! `cargo bench -p portolan-satellite --bench standing`. Loopback only: one listener answers for all of 127.0.0.0/8.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run has no figure")]

use arc_swap::ArcSwap;
use portolan_common::observation::{PortState, Protocol};
use portolan_common::ports::PortSet;
use portolan_common::scope::{Guard, Scope};
use portolan_common::targets;
use portolan_satellite::engine::{
    Control, Discovery, EngineContext, Look, Looked, Method, SharedLimits, Standing, SweepRequest, sweep,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The thread of the listener, whose time is not counted.
const OTHERS: &str = "listener";

/// Networks and hosts of each that are looked at in turn.
const NETWORKS: u32 = 50;
const HOSTS: u32 = 20;

fn main() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let accept = move || while listener.accept().is_ok() {};
    std::thread::Builder::new().name(OTHERS.to_owned()).spawn(accept).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(measure(port));
}

async fn measure(port: u16) {
    let scope = Scope { max_rate: 20_000, ..Scope::allowing(&["127.0.0.0/8".parse().unwrap()]) };
    let context = EngineContext {
        guard: Arc::new(ArcSwap::from_pointee(Guard::new(scope))),
        limits: Arc::new(SharedLimits::new()),
    };
    let standing = Standing::start(context.clone(), CancellationToken::new()).unwrap();
    let look = |n: u32, port: u16| {
        let address = IpAddr::from([127, 0, (n % NETWORKS) as u8, (n / NETWORKS % HOSTS) as u8 + 1]);
        let (standing, ports) = (standing.clone(), PortSet::single(port));
        async move { standing.look(Look { target: address.to_string(), address, ports }).await }
    };
    println!("resident at the beginning: {} KiB", resident_kib());

    paced("20,000 looks a minute", 333, 10, |n| look(n, port), port).await;
    paced("1,000 looks a second", 1000, 10, |n| look(n, port), port).await;
    let (cpu, began) = (busy(), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("nothing to do: {:.3} % of a core", percent(busy() - cpu, began.elapsed()));

    // Silent ports, waited for: their listener's queue is full.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
    deaf.listen(0).unwrap();
    let silent = deaf.local_addr().unwrap().as_socket().unwrap().port();
    let fill = SocketAddr::from((Ipv4Addr::LOCALHOST, silent));
    let _full: Vec<_> =
        (0..4).map_while(|_| TcpStream::connect_timeout(&fill, Duration::from_millis(200)).ok()).collect();
    let (cpu, began, mut looks) = (busy(), Instant::now(), JoinSet::new());
    for n in 0..1000 {
        looks.spawn(look(n, silent));
    }
    assert!(looks.join_all().await.into_iter().all(|looked| state(looked, silent) == PortState::Filtered));
    let took = began.elapsed();
    println!(
        "1,000 silent ports at once: {:.1} s, {:.2} % of a core",
        took.as_secs_f64(),
        percent(busy() - cpu, took)
    );

    // As many as the gentle rates of the paths let through: 50 paths, 200 a second each.
    let (cpu, began) = (busy(), Instant::now());
    let mut callers = JoinSet::new();
    for caller in 0..200 {
        let looks: Vec<_> = (0..250).map(|n| look(caller + 200 * n, port)).collect();
        callers.spawn(async move {
            for look in looks {
                assert!(is_open(look.await, port));
            }
        });
    }
    callers.join_all().await;
    println!(
        "50,000 looks, 200 at once: {:.0} a second, {:.1} us of a core each, resident {} KiB",
        50_000.0 / began.elapsed().as_secs_f64(),
        (busy() - cpu).as_secs_f64() * 1e6 / 50_000.0,
        resident_kib()
    );

    // Beside a scan that takes all the rate that the scope allows.
    let targets = targets::parse_all(&["127.1.0.0/16".to_owned()], &[]).unwrap().resolve(&BTreeMap::new());
    let request = SweepRequest {
        targets,
        ports: "1-1000".parse().unwrap(),
        method: Method::Connect,
        gentle: false,
        discover: Discovery::Off,
        udp_budget: None,
        max_rate: None,
        max_rate_per_host: None,
    };
    let (events, mut heard) = mpsc::channel(64);
    let control = Control { cancel: CancellationToken::new(), pause: watch::channel(false).1 };
    let sweeping = tokio::spawn(sweep(request, context, events, control.clone()));
    tokio::spawn(async move { while heard.recv().await.is_some() {} });
    paced("1,000 looks a second beside a scan", 1000, 5, |n| look(n, port), port).await;
    control.cancel.cancel();
    let probes = sweeping.await.unwrap().probes_sent;
    println!("(the scan sent {probes} probes)");
}

/// Takes so many looks a second for so many seconds.
async fn paced<F: Future<Output = Looked> + Send + 'static>(
    what: &str,
    rate: u32,
    seconds: u32,
    look: impl Fn(u32) -> F,
    port: u16,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (cpu, began) = (busy(), Instant::now());
    let mut looks = JoinSet::new();
    let mut took = Vec::new();
    for n in 0..rate * seconds {
        ticks.tick().await;
        let look = look(n);
        looks.spawn(async move {
            let began = Instant::now();
            (look.await, began.elapsed())
        });
        while let Some(Ok((looked, time))) = looks.try_join_next() {
            assert!(is_open(looked, port));
            took.push(time);
        }
    }
    while let Some(Ok((looked, time))) = looks.join_next().await {
        assert!(is_open(looked, port));
        took.push(time);
    }
    let cpu = busy() - cpu;
    took.sort_unstable();
    println!(
        "{what}: {:.2} % of a core, {:.1} us each; a look took {:.0} us, 99 % under {:.0} us; resident {} KiB",
        percent(cpu, began.elapsed()),
        cpu.as_secs_f64() * 1e6 / took.len() as f64,
        took[took.len() / 2].as_secs_f64() * 1e6,
        took[took.len() * 99 / 100].as_secs_f64() * 1e6,
        resident_kib()
    );
}

fn state(looked: Looked, port: u16) -> PortState {
    match looked {
        Looked::Host(host) => host.state_of(Protocol::Tcp, port).unwrap().0,
        other => panic!("{other:?}"),
    }
}

fn is_open(looked: Looked, port: u16) -> bool {
    state(looked, port) == PortState::Open
}

fn percent(cpu: Duration, wall: Duration) -> f64 {
    cpu.as_secs_f64() * 100.0 / wall.as_secs_f64()
}

/// The processor's time of this process so far, but for the listener's thread.
fn busy() -> Duration {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        // A thread may end meanwhile.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        let Ok(times) = std::fs::read_to_string(path.join("schedstat")) else { continue };
        if name.trim() != OTHERS {
            nanos += times.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        }
    }
    Duration::from_nanos(nanos)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
