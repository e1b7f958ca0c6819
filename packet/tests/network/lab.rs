//! Two network namespaces with a cable between them, each the home of one thread.
//!
//! A namespace here has no name: it lives as long as its thread, and takes its interfaces away with it.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The addresses of the near end.
pub const NEAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1))];
/// The addresses of the far end.
pub const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2))];

type Job = Box<dyn FnOnce() + Send>;

/// The far namespace.
pub struct Far {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Far {
    /// Runs `job` there and waits for its result.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = channel();
        let job = Box::new(move || drop(sender.send(panic::catch_unwind(AssertUnwindSafe(job)))));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => panic::resume_unwind(panic),
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a test in the near namespace: interface `near`, addresses [`NEAR`]. The far one has `far` and [`FAR`].
///
/// Says so and does nothing where namespaces cannot be made.
pub fn in_pair(test: impl FnOnce(&Far) + Send + 'static) {
    let near = thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no network namespace can be made here: {errno}");
            return;
        }
        let (ready, far_thread) = channel();
        let (jobs, todo): (_, Receiver<Job>) = channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid()).unwrap();
            todo.iter().for_each(|job| job());
        });
        let far = Far { jobs: Some(jobs), thread: Some(thread) };
        let far_thread = far_thread.recv().unwrap();
        // No duplicate address detection, for which each test would wait a second or two.
        let no_dad = || sysctl("ipv6/conf/default/accept_dad", "0");
        no_dad();
        far.run(no_dad);
        ip(&format!("link add near type veth peer name far netns {far_thread}"));
        set_up("near", NEAR);
        far.run(|| set_up("far", FAR));
        // The kernel brings a new link up in its own time, and drops what is sent before.
        wait_for("link", || is_up("near").then_some(()));
        wait_for("link", || far.run(|| is_up("far")).then_some(()));
        test(&far);
    });
    if let Err(panic) = near.join() {
        panic::resume_unwind(panic);
    }
}

fn set_up(interface: &str, addresses: [IpAddr; 2]) {
    ip("link set lo up");
    ip(&format!("addr add {}/24 dev {interface}", addresses[0]));
    ip(&format!("addr add {}/64 dev {interface} nodad", addresses[1]));
    ip(&format!("link set {interface} up"));
}

fn is_up(interface: &str) -> bool {
    show("link", interface).contains("state UP") && !show("address", interface).contains("tentative")
}

/// What ip(8) says of an interface of this thread's namespace.
fn show(what: &str, interface: &str) -> String {
    let output = Command::new("ip").args(["-o", what, "show", "dev", interface]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Runs ip(8) in this thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sets a sysctl of this thread's namespace.
pub fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

/// The index of an interface of this thread's namespace.
pub fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

/// The link-layer address of an interface of this thread's namespace.
pub fn mac(interface: &str) -> [u8; 6] {
    let text = show("link", interface);
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let octets: Vec<u8> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

/// Asks until there is an answer, for ten seconds.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "no {what} within 10 s");
        thread::sleep(Duration::from_millis(1));
    }
}
