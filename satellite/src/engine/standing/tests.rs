//! Single looks with real sockets, on this host's loopback alone.

use super::*;
use crate::engine::SharedLimits;
use crate::engine::tests::{EVERYTHING, context, deaf, guard, listen, simply};
use portolan_common::observation::{PortState, Protocol, Reason};
use portolan_common::ports::PortSpec;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;
use tokio::task::JoinSet;

fn look(address: &str, ports: &str) -> Look {
    Look {
        target: address.to_owned(),
        address: address.parse().unwrap(),
        ports: ports.parse::<PortSpec>().unwrap().tcp,
    }
}

fn standing(scope: &str, budget: usize) -> (Standing, EngineContext, CancellationToken) {
    let (context, cancel) = (context(scope, SharedLimits::with_budget(budget)), CancellationToken::new());
    (Standing::start(context.clone(), cancel.clone()).unwrap(), context, cancel)
}

#[tokio::test]
async fn a_look_sees_what_a_sweep_sees() {
    let (standing, ..) = standing(EVERYTHING, 500);
    for address in ["127.0.0.61", "::1"] {
        if TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).is_err() {
            // A host without IPv6.
            continue;
        }
        let (_listener, port) = listen(address);
        let ports = format!("1-100,{port}");
        let Looked::Host(seen) = standing.look(look(address, &ports)).await else { panic!("a host") };
        let (_, swept) = simply(address, &ports, SharedLimits::with_budget(500)).await;
        assert_eq!((&seen.target, seen.address), (&address.to_owned(), address.parse().unwrap()));
        assert_eq!(seen.runs, swept[0].runs);
        assert!(seen.up && seen.unscanned.is_empty());
        assert_eq!(seen.state_of(Protocol::Tcp, port), Some((PortState::Open, Reason::SynAck)));
        assert!((1..100_000).contains(&seen.detail_of(Protocol::Tcp, port).unwrap().rtt_us));
    }
    let (_listener, _streams, port) = deaf(Ipv4Addr::new(127, 0, 0, 62));
    let ports = format!("1,{port}");
    let Looked::Host(seen) = standing.look(look("127.0.0.62", &ports)).await else { panic!("a host") };
    let (_, swept) = simply("127.0.0.62", &ports, SharedLimits::with_budget(500)).await;
    assert_eq!(seen.runs, swept[0].runs);
    assert_eq!(seen.state_of(Protocol::Tcp, port), Some((PortState::Filtered, Reason::NoResponse)));
}

#[tokio::test]
async fn what_the_scope_refuses_is_told_and_not_probed() {
    let scope = "[scope]\nallow = [\"127.0.0.0/24\"]\ndeny = [\"127.0.0.64\"]\nports = \"1-100\"\n";
    let (standing, ..) = standing(scope, 100);
    let Looked::Host(seen) = standing.look(look("127.0.0.63", "50-149")).await else { panic!("a host") };
    assert_eq!(seen.ports_in(Protocol::Tcp, PortState::Closed).to_string(), "50-100");
    assert_eq!(seen.unscanned.to_string(), "101-149");
    let refused = async |address, ports| match standing.look(look(address, ports)).await {
        Looked::Refused(refusals) => {
            assert_eq!(refusals.len(), 1, "{refusals:?}");
            assert_eq!(refusals[0].addresses.to_string(), address);
            assert_eq!(refusals[0].ports, None);
            refusals[0].rule.clone()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("127.0.0.64", "50").await, "deny 127.0.0.64/32");
    assert!(refused("127.0.1.1", "50").await.starts_with("allow"));
    assert_eq!(refused("127.0.0.63", "101,102").await, "ports 1-100");
}

#[tokio::test]
async fn a_look_without_ports_or_with_too_many_says_so() {
    let (standing, ..) = standing(EVERYTHING, 100);
    for ports in ["", "1-1025"] {
        let ports = if ports.is_empty() { PortSet::default() } else { look("127.0.0.1", ports).ports };
        let asked = Look { ports, ..look("127.0.0.1", "1") };
        let Looked::Failed(why) = standing.look(asked).await else { panic!("it failed") };
        assert!(why.contains("127.0.0.1") && why.contains("1 to 1024"), "{why}");
    }
    assert!(matches!(standing.look(look("127.0.0.1", "1-1024")).await, Looked::Host(_)));
}

/// How many connections of this host are on their way to an address, by the kernel's own word.
fn on_the_way_to(address: Ipv4Addr) -> usize {
    let remote = format!("{:08X}:", u32::from_ne_bytes(address.octets()));
    let is_syn_sent = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next().is_some_and(|field| field.starts_with(&remote)) && fields.next() == Some("02")
    };
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(is_syn_sent).count()
}

/// Waits for a condition, for two seconds at most.
async fn soon(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within two seconds: {what}");
}

#[tokio::test]
async fn a_look_that_is_given_up_sends_nothing_more() {
    let address = Ipv4Addr::new(127, 0, 0, 65);
    let (_listener, _streams, port) = deaf(address);
    let before = on_the_way_to(address);
    let (standing, ..) = standing(EVERYTHING, 100);
    let looking = standing.look(look("127.0.0.65", &port.to_string()));
    assert!(tokio::time::timeout(Duration::from_millis(100), looking).await.is_err());
    soon("its socket is closed", || on_the_way_to(address) == before).await;
    for _ in 0..40 {
        assert_eq!(on_the_way_to(address), before);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(standing.look(look("127.0.0.65", "1")).await, Looked::Host(_)), "others are taken");
}

#[tokio::test]
async fn a_new_scope_holds_for_looks_under_way() {
    let (_listener, _streams, port) = deaf(Ipv4Addr::new(127, 0, 0, 66));
    let (standing, context, _) = standing(EVERYTHING, 100);
    let began = Instant::now();
    let narrow = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let scope = "[scope]\nallow = [\"127.0.0.0/24\"]\ndeny = [\"127.0.0.66\"]\n";
        context.guard.store(Arc::new(guard(scope)));
    };
    let ports = format!("1,{port}");
    let (closed, silent) = (look("127.0.0.66", &ports), look("127.0.0.66", &port.to_string()));
    let (partly, nothing, ()) = tokio::join!(standing.look(closed), standing.look(silent), narrow);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let Looked::Host(seen) = partly else { panic!("{partly:?}") };
    assert_eq!(seen.ports_in(Protocol::Tcp, PortState::Closed).to_string(), "1");
    assert_eq!(seen.unscanned.to_string(), port.to_string());
    let Looked::Refused(refusals) = nothing else { panic!("{nothing:?}") };
    assert_eq!(refusals[0].rule, "deny 127.0.0.66/32");
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let (standing, context, cancel) = standing(EVERYTHING, 100);
    let other = standing.clone();
    drop(standing);
    assert!(matches!(other.look(look("127.0.0.67", "1")).await, Looked::Host(_)));
    // Whether it was just busy or sleeps for good.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(other);
    // The test's own, and none of the thread.
    soon("the thread is gone", || Arc::strong_count(&context.limits) == 1).await;
    assert!(!cancel.is_cancelled());
}

#[tokio::test]
async fn it_ends_when_it_is_cancelled() {
    let (_listener, _streams, port) = deaf(Ipv4Addr::new(127, 0, 0, 68));
    let (standing, context, cancel) = standing(EVERYTHING, 100);
    let looking = standing.look(look("127.0.0.68", &port.to_string()));
    let cancelling = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    };
    let (looked, ()) = tokio::join!(looking, cancelling);
    assert_eq!(looked, Looked::Failed(ENDED.to_owned()));
    assert_eq!(standing.look(look("127.0.0.68", "1")).await, Looked::Failed(ENDED.to_owned()));
    assert_eq!(standing.ended().await, ENDED);
    soon("the thread is gone", || Arc::strong_count(&context.limits) == 1).await;
}

/// Else the satellite would go on as if nothing were.
#[tokio::test]
async fn a_thread_that_fails_is_noticed() {
    let (standing, ..) = standing(EVERYTHING, 100);
    assert!(tokio::time::timeout(Duration::from_millis(50), standing.ended()).await.is_err());
    // What a panic would drop.
    drop(Closing(Arc::clone(&standing.0.0)));
    assert_eq!(standing.ended().await, BROKEN);
    assert_eq!(standing.look(look("127.0.0.69", "1")).await, Looked::Failed(BROKEN.to_owned()));
}

#[tokio::test]
async fn many_looks_keep_no_descriptors() {
    // In a process of its own that may have few: the test runs itself again.
    if std::env::var_os("PORTOLAN_FEW_DESCRIPTORS").is_some() {
        return many_looks().await;
    }
    let test = std::env::current_exe().unwrap();
    let child = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 100 && exec \"$0\" --exact engine::standing::tests::many_looks_keep_no_descriptors --nocapture",
        ])
        .arg(test)
        .env("PORTOLAN_FEW_DESCRIPTORS", "1")
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), child).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

async fn many_looks() {
    let (listener, port) = listen("0.0.0.0");
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let (standing, context, _) = standing(EVERYTHING, 32);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let ports = format!("1,{port}");
    // Over so many paths that their gentle rates do not matter.
    let nth = |n: usize| look(&format!("127.{}.{}.1", 1 + n % 16, n / 16 % 32), &ports);
    let check = |looked: Looked| {
        let Looked::Host(seen) = looked else { panic!("{looked:?}") };
        assert_eq!(seen.state_of(Protocol::Tcp, port), Some((PortState::Open, Reason::SynAck)));
        assert_eq!(seen.state_of(Protocol::Tcp, 1), Some((PortState::Closed, Reason::ConnRefused)));
    };
    let before = descriptors();
    for n in 0..5000 {
        check(standing.look(nth(n)).await);
    }
    let mut looks = JoinSet::new();
    for n in 0..5000 {
        let (standing, look) = (standing.clone(), nth(n));
        looks.spawn(async move { standing.look(look).await });
    }
    looks.join_all().await.into_iter().for_each(check);
    // Idle sockets are closed when nothing is asked for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(descriptors() <= before, "{} descriptors, {before} before", descriptors());
    drop(standing);
    soon("the thread is gone", || Arc::strong_count(&context.limits) == 1).await;
}
