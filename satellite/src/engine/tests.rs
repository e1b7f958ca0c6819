//! The engine against real sockets, on this host's loopback alone.

use super::*;
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::scope::Scope;
use portolan_common::targets;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub(super) const EVERYTHING: &str = "[scope]\nallow = [\"0.0.0.0/0\", \"::/0\"]\n";

pub(super) fn guard(scope: &str) -> Guard {
    Guard::new(Scope::from_toml("satellite.toml", scope).unwrap())
}

pub(super) fn context(scope: &str, limits: SharedLimits) -> EngineContext {
    EngineContext { guard: Arc::new(ArcSwap::from_pointee(guard(scope))), limits: Arc::new(limits) }
}

pub(super) fn request(target: &str, ports: &str) -> SweepRequest {
    let targets = targets::parse_all(&[target.to_owned()], &[]).unwrap().resolve(&BTreeMap::new());
    SweepRequest {
        targets,
        ports: ports.parse().unwrap(),
        method: Method::Connect,
        gentle: false,
        discover: Discovery::Auto,
        udp_budget: None,
        max_rate: None,
        max_rate_per_host: None,
    }
}

fn unpaused(cancel: CancellationToken) -> Control {
    Control { cancel, pause: watch::channel(false).1 }
}

/// Runs a sweep; `on_host` hears of each host as it comes.
async fn run(
    request: SweepRequest,
    context: EngineContext,
    cancel: CancellationToken,
    mut on_host: impl FnMut(&HostObservation),
) -> (SweepSummary, Vec<HostObservation>, Vec<Progress>) {
    let (sender, mut receiver) = mpsc::channel(16);
    let sweeping = sweep(request, context, sender, unpaused(cancel));
    let listening = async {
        let (mut hosts, mut progress) = (Vec::new(), Vec::new());
        while let Some(event) = receiver.recv().await {
            match event {
                SweepEvent::Host(host) => {
                    on_host(&host);
                    hosts.push(host);
                }
                SweepEvent::Progress(now) => progress.push(now),
            }
        }
        (hosts, progress)
    };
    let (summary, (hosts, progress)) = tokio::join!(sweeping, listening);
    (summary, hosts, progress)
}

pub(super) async fn simply(
    target: &str,
    ports: &str,
    limits: SharedLimits,
) -> (SweepSummary, Vec<HostObservation>) {
    let (summary, hosts, _) =
        run(request(target, ports), context(EVERYTHING, limits), CancellationToken::new(), |_| {}).await;
    (summary, hosts)
}

/// Ports below the ephemeral ones, so that nothing else on this host takes them meanwhile.
pub(super) fn listen(address: &str) -> (TcpListener, u16) {
    let address: IpAddr = address.parse().unwrap();
    for port in (20_000 + (std::process::id() % 1000) as u16 * 10)..32_000 {
        if let Ok(listener) = TcpListener::bind((address, port)) {
            return (listener, port);
        }
    }
    panic!("no port to listen on");
}

#[tokio::test]
async fn open_and_closed_over_both_families() {
    for address in ["127.0.0.21", "::1"] {
        if TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).is_err() {
            // A host without IPv6.
            continue;
        }
        let (_listener, port) = listen(address);
        let ports = format!("1-1000,{port}");
        let (summary, hosts) = simply(address, &ports, SharedLimits::with_budget(500)).await;
        assert_eq!(summary.outcome, Outcome::Complete);
        assert_eq!((summary.method, summary.hosts_up, summary.hosts_total), ("connect".to_owned(), 1, 1));
        assert_eq!(summary.method_reason, "asked for");
        assert!(summary.probes_sent >= 1001);
        assert_eq!(summary.coverage.len(), 1);
        let host = &hosts[0];
        assert!(host.up);
        assert_eq!(host.state_of(Protocol::Tcp, port), Some((PortState::Open, Reason::SynAck)));
        assert!((1..100_000).contains(&host.detail_of(Protocol::Tcp, port).unwrap().rtt_us));
        assert_eq!(host.runs.iter().map(|run| run.ports.len()).sum::<usize>(), 1001);
        assert!(host.runs.iter().all(|run| run.state != PortState::Filtered), "{:?}", host.runs);
    }
}

/// Listening TCP ports of this host, by the kernel's own word.
fn listening() -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let mut fields = line.split_whitespace();
            let (local, state) = (fields.nth(1).unwrap(), fields.nth(1).unwrap());
            if state == "0A" {
                ports.insert(u16::from_str_radix(local.rsplit(':').next().unwrap(), 16).unwrap());
            }
        }
    }
    ports
}

#[tokio::test]
async fn a_probe_that_meets_itself_is_not_an_open_port() {
    for _ in 0..5 {
        let before = listening();
        let (summary, hosts) = simply("127.0.0.1", "32768-60999", SharedLimits::with_budget(1000)).await;
        assert_eq!(summary.outcome, Outcome::Complete);
        let after = listening();
        for port in hosts[0].ports_in(Protocol::Tcp, PortState::Open).iter() {
            assert!(before.contains(&port) || after.contains(&port), "nobody listens on {port}");
        }
    }
}

/// A listener that answers nobody, its queue being full, and its port.
pub(super) fn deaf(address: Ipv4Addr) -> (TcpListener, Vec<TcpStream>, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let (taken, port) = listen(&address.to_string());
    drop(taken);
    socket.bind(&SocketAddr::from((address, port)).into()).unwrap();
    socket.listen(0).unwrap();
    let at = if address.is_unspecified() { Ipv4Addr::LOCALHOST } else { address };
    let fill = || TcpStream::connect_timeout(&SocketAddr::from((at, port)), Duration::from_millis(200)).ok();
    let streams = (0..4).map_while(|_| fill()).collect();
    (socket.into(), streams, port)
}

#[tokio::test]
async fn silence_is_believed_after_four_probes() {
    let (_listener, _streams, port) = deaf(Ipv4Addr::new(127, 0, 0, 22));
    let (summary, hosts) = simply("127.0.0.22", &format!("{port},1"), SharedLimits::with_budget(100)).await;
    assert_eq!(hosts[0].state_of(Protocol::Tcp, port), Some((PortState::Filtered, Reason::NoResponse)));
    assert_eq!(hosts[0].state_of(Protocol::Tcp, 1), Some((PortState::Closed, Reason::ConnRefused)));
    // What the kernel resends while a late answer may come counts too.
    assert!((1 + 4..=1 + 4 + 4).contains(&summary.probes_sent), "{}", summary.probes_sent);
}

#[tokio::test]
async fn few_descriptors_are_enough() {
    let (_listener, port) = listen("127.0.0.23");
    let ports = format!("1-3000,{port}");
    let (summary, hosts) = simply("127.0.0.23", &ports, SharedLimits::with_budget(2)).await;
    assert_eq!(summary.outcome, Outcome::Complete);
    assert!(hosts[0].ports_in(Protocol::Tcp, PortState::Open).contains(port));
    assert_eq!(hosts[0].runs.iter().map(|run| run.ports.len()).sum::<usize>(), 3001);
    assert!(hosts[0].ports_in(Protocol::Tcp, PortState::Filtered).is_empty());
}

#[tokio::test]
async fn running_out_of_descriptors_is_not_a_result() {
    // In a process of its own, whose limit it is: the test runs itself again.
    if std::env::var_os("PORTOLAN_FEW_DESCRIPTORS").is_some() {
        return with_64_descriptors().await;
    }
    let test = std::env::current_exe().unwrap();
    let child = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64 && exec \"$0\" --exact engine::tests::running_out_of_descriptors_is_not_a_result --nocapture",
        ])
        .arg(test)
        .env("PORTOLAN_FEW_DESCRIPTORS", "1")
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), child).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

async fn with_64_descriptors() {
    let (_listener, _streams, port) = deaf(Ipv4Addr::UNSPECIFIED);
    // Silent ports hold their sockets: all at once would take 200. The budget is made to know nothing of the limit.
    let ports = format!("1,{port}");
    let (summary, hosts) = simply("127.5.0.1-200", &ports, SharedLimits::with_budget(8000)).await;
    assert_eq!((summary.outcome, hosts.len()), (Outcome::Complete, 200));
    for host in hosts {
        assert_eq!(host.state_of(Protocol::Tcp, port), Some((PortState::Filtered, Reason::NoResponse)));
        assert_eq!(host.state_of(Protocol::Tcp, 1), Some((PortState::Closed, Reason::ConnRefused)));
    }
    assert!(
        (200 * (1 + 4)..=200 * (1 + 8)).contains(&summary.probes_sent),
        "what did not leave is not counted"
    );
    assert!(SharedLimits::new().budget() <= 16);
}

#[tokio::test]
async fn a_cancelled_sweep_stops_and_tells_what_is_finished() {
    let cancel = CancellationToken::new();
    let context = context(EVERYTHING, SharedLimits::with_budget(500));
    let asked = std::cell::Cell::new(None);
    let (summary, hosts, _) = run(request("127.1.0.0/16", "1-500"), context, cancel.clone(), |_| {
        if asked.get().is_none() {
            asked.set(Some(Instant::now()));
            cancel.cancel();
        }
    })
    .await;
    let took = asked.get().unwrap().elapsed();
    assert_eq!(summary.outcome, Outcome::Cancelled);
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert!((1..1000).contains(&hosts.len()), "{}", hosts.len());
    let covered: u128 = summary.coverage.iter().map(|(addresses, _)| addresses.len()).sum();
    assert_eq!(covered, hosts.len() as u128);
    assert!(hosts.iter().all(|host| summary.coverage[0].0.contains(host.address)));
    assert_eq!(summary.hosts_total, 65_536);
}

#[tokio::test]
async fn a_receiver_that_is_gone_or_slow_is_noticed() {
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let context_1 = context(EVERYTHING, SharedLimits::with_budget(100));
    let summary =
        sweep(request("127.2.0.0/16", "1-100"), context_1, sender, unpaused(CancellationToken::new())).await;
    assert_eq!(summary.outcome, Outcome::Cancelled);

    // Slow: everything arrives all the same.
    let context_2 = context(EVERYTHING, SharedLimits::with_budget(100));
    let (summary, hosts, _) =
        run(request("127.2.0.0/25", "1-5"), context_2, CancellationToken::new(), |_| {
            std::thread::sleep(Duration::from_millis(1));
        })
        .await;
    assert_eq!((summary.outcome, hosts.len()), (Outcome::Complete, 128));
}

#[tokio::test]
async fn what_the_scope_refuses_is_told_and_not_probed() {
    let scope = "[scope]\nallow = [\"127.0.0.0/24\"]\ndeny = [\"127.0.0.41\"]\nports = \"1-100\"\n";
    let context = context(scope, SharedLimits::with_budget(100));
    let (summary, hosts, _) =
        run(request("127.0.0-1.40-42", "50-149"), context, CancellationToken::new(), |_| {}).await;
    assert_eq!(summary.outcome, Outcome::Complete);
    let probed: BTreeSet<String> = hosts.iter().map(|host| host.address.to_string()).collect();
    assert_eq!(probed, BTreeSet::from(["127.0.0.40".to_owned(), "127.0.0.42".to_owned()]));
    assert!(hosts.iter().all(|host| host.unscanned.to_string() == "101-149"));
    let told: Vec<String> = summary
        .refusals
        .iter()
        .map(|r| {
            format!(
                "{} {} {}",
                r.addresses,
                r.ports.as_ref().map(PortSpec::to_string).unwrap_or_default(),
                r.rule
            )
        })
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told.contains(&"127.0.0.41  deny 127.0.0.41/32".to_owned()), "{told:?}");
    assert!(told.iter().any(|text| text.starts_with("127.0.1.40-127.0.1.42  allow")), "{told:?}");
    assert!(told.contains(&"127.0.0.40 101-149 ports 1-100".to_owned()), "{told:?}");
    assert_eq!(summary.coverage.len(), 1);
    assert_eq!(summary.coverage[0].1.to_string(), "50-100");
}

#[tokio::test]
async fn a_new_scope_holds_for_running_sweeps() {
    let context = context(EVERYTHING, SharedLimits::with_budget(500));
    let shared = context.guard.clone();
    let mut narrowed = false;
    let (summary, hosts, _) =
        run(request("127.3.0.0/23", "1-1000"), context, CancellationToken::new(), |_| {
            if !std::mem::replace(&mut narrowed, true) {
                shared.store(Arc::new(guard("[scope]\nallow = [\"127.3.0.0/24\"]\n")));
            }
        })
        .await;
    assert_eq!(summary.outcome, Outcome::Complete);
    assert!((256..512).contains(&hosts.len()), "{}", hosts.len());
    let refused: u128 = summary
        .refusals
        .iter()
        .filter(|r| r.ports.is_none())
        .map(|r| AddressSet::from(r.addresses).len())
        .sum();
    assert!(refused > 0 && refused as usize + hosts.len() >= 512, "{refused} and {}", hosts.len());
    assert!(summary.refusals.iter().all(|r| r.rule.starts_with("allow")));
}

#[tokio::test]
async fn what_cannot_begin_says_why() {
    let begin = async |targets: &str, ports: &str| {
        let (summary, hosts) = simply(targets, ports, SharedLimits::with_budget(10)).await;
        assert!(hosts.is_empty() && summary.probes_sent == 0);
        let Outcome::Failed(why) = summary.outcome else { panic!("{:?}", summary.outcome) };
        why
    };
    assert!(begin("127.0.0.1", "T:1,U:53").await.contains("UDP ports (53) cannot be scanned"));
    assert!(begin("fd00::/64", "22").await.contains("scan in parts"));
}

#[tokio::test]
async fn progress_is_told_now_and_then() {
    let scope = format!("{EVERYTHING}max_rate = 2000\n");
    let context = context(&scope, SharedLimits::with_budget(100));
    let started = Instant::now();
    let (summary, _, progress) =
        run(request("127.4.0.0/30", "1-500"), context, CancellationToken::new(), |_| {}).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(950), "2,000 probes at 2,000 a second took {took:?}");
    assert_eq!(summary.probes_sent, 2000);
    assert!((2..=2 + took.as_millis() as usize / 250).contains(&progress.len()), "{}", progress.len());
    let last = progress.last().unwrap();
    assert_eq!((last.hosts_done, last.hosts_total, last.ports_done, last.ports_total), (4, 4, 2000, 2000));
}

#[tokio::test]
async fn a_pause_holds_the_probes_until_it_is_over() {
    let (pause, paused) = watch::channel(true);
    let control = Control { cancel: CancellationToken::new(), pause: paused };
    let (sender, mut receiver) = mpsc::channel(1024);
    let context = context(EVERYTHING, SharedLimits::with_budget(100));
    let sweeping = tokio::spawn(sweep(request("127.2.0.0/25", "1-5"), context, sender, control));
    for _ in 0..2 {
        let SweepEvent::Progress(progress) = receiver.recv().await.unwrap() else { panic!("a host") };
        assert!(progress.paused && progress.probes_sent == 0, "{progress:?}");
    }
    pause.send_replace(false);
    let (mut hosts, mut last) = (0, Progress::default());
    while let Some(event) = receiver.recv().await {
        match event {
            SweepEvent::Host(_) => hosts += 1,
            SweepEvent::Progress(progress) => last = progress,
        }
    }
    assert_eq!(sweeping.await.unwrap().outcome, Outcome::Complete);
    assert!((hosts, last.paused, last.hosts_done) == (128, false, 128), "{hosts} {last:?}");
}

#[tokio::test]
async fn a_sweep_is_cancelled_while_it_is_paused() {
    let (_pause, paused) = watch::channel(true);
    let control = Control { cancel: CancellationToken::new(), pause: paused };
    let (cancel, (sender, mut receiver)) = (control.cancel.clone(), mpsc::channel(16));
    let context = context(EVERYTHING, SharedLimits::with_budget(100));
    let sweeping = tokio::spawn(sweep(request("127.2.0.0/25", "1-5"), context, sender, control));
    receiver.recv().await.unwrap();
    cancel.cancel();
    let summary = sweeping.await.unwrap();
    assert_eq!((summary.outcome, summary.probes_sent), (Outcome::Cancelled, 0));
}

/// Without CAP_NET_RAW, TCP and UDP ports are probed one after the other, and told together.
#[tokio::test]
async fn both_protocols_without_privileges() {
    let (_listener, port) = listen("127.0.0.23");
    let service = std::net::UdpSocket::bind("127.0.0.23:0").unwrap();
    service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let open = service.local_addr().unwrap().port();
    let closed = if open == 1 { 2 } else { 1 };
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        if let Ok((_, peer)) = service.recv_from(&mut buffer) {
            let _ = service.send_to(b"here", peer);
        }
        service
    });
    let ports = format!("T:{port},U:{open},U:{closed}");
    let (sender, mut receiver) = mpsc::channel(64);
    let context = context(EVERYTHING, SharedLimits::with_budget(100));
    let sweeping =
        both::run(request("127.0.0.23", &ports), context, sender, unpaused(CancellationToken::new()));
    let listening = async {
        let mut hosts = Vec::new();
        while let Some(event) = receiver.recv().await {
            if let SweepEvent::Host(host) = event {
                hosts.push(host);
            }
        }
        hosts
    };
    let (summary, hosts) = tokio::join!(sweeping, listening);
    answering.join().unwrap();
    assert_eq!(summary.outcome, Outcome::Complete);
    assert_eq!((summary.method.as_str(), summary.hosts_up, summary.hosts_total), ("connect, udp", 1, 1));
    assert_eq!(hosts.len(), 1, "each host once");
    let host = &hosts[0];
    assert_eq!(host.state_of(Protocol::Tcp, port), Some((PortState::Open, Reason::SynAck)));
    assert_eq!(host.state_of(Protocol::Udp, open), Some((PortState::Open, Reason::UdpResponse)));
    assert_eq!(host.state_of(Protocol::Udp, closed), Some((PortState::Closed, Reason::PortUnreach)));
    assert_eq!(summary.coverage.len(), 2);
}
