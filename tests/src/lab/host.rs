//! A host of the lab: a network namespace, the addresses in it, and what runs there.

use std::fmt;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};

use super::ROUTER;
use super::listener::Listener;
use super::process::{Program, run_ok};

/// A host. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    segment: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    names: Mutex<Option<PathBuf>>,
}

impl Host {
    /// A handle to a namespace that exists.
    pub(super) fn new(name: &str, segment: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        let (name, segment) = (name.to_owned(), segment.to_owned());
        Self { inner: Arc::new(Inner { name, segment, v4, v6, names: Mutex::default() }) }
    }

    /// The host's, and its namespace's, name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The name of the segment that it stands in.
    pub fn segment(&self) -> &str {
        &self.inner.segment
    }

    /// Its first IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.inner.v4.into()
    }

    /// Its first IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.inner.v6.into()
    }

    /// Its first IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4(), port)
    }

    /// Gives it one more address in its segment's networks.
    #[track_caller]
    pub fn add_address(&self, address: IpAddr) {
        let command = self.command("ip");
        run_ok(match address {
            IpAddr::V4(v4) => command.args(["address", "add", &format!("{v4}/24"), "dev", "eth0"]),
            IpAddr::V6(v6) => command.args(["address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]),
        });
    }

    /// Makes it answer for every address of a network, `10.99.9.0/24` or `fd00:99:9::/120`, and the router send them to
    /// it. The network must be none of the lab's segments.
    #[track_caller]
    pub fn answers_for(&self, network: &str) {
        let network: IpNet = network.parse().unwrap_or_else(|_| panic!("`{network}` is no network"));
        let (family, via) = match network {
            IpNet::V4(_) => ("-4", self.v4()),
            IpNet::V6(_) => ("-6", self.v6()),
        };
        let (network, via) = (network.to_string(), via.to_string());
        run_ok(self.command("ip").args([family, "route", "add", "local", &network, "dev", "lo"]));
        let router = Program::new("ip").args(["-n", ROUTER, family, "route", "add", &network, "via", &via]);
        run_ok(router);
    }

    /// Switches the kernel's limit of ICMP errors on, as Linux has it by default (one a second for each peer, after a
    /// burst of six), or off, as hosts of the lab have it otherwise. The burst counts from when the host first answered a peer; after a
    /// time without limit it takes six seconds to fill up.
    #[track_caller]
    pub fn icmp_rate_limit(&self, on: bool) {
        let millis = if on { "1000" } else { "0" };
        self.sysctl("net.ipv4.icmp_ratelimit", millis);
        self.sysctl("net.ipv6.icmp.ratelimit", millis);
    }

    /// What /etc/hosts says on this host from now on, also to programs that run already.
    pub fn set_names(&self, names: &[(&str, IpAddr)]) {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, address) in names {
            text.push_str(&format!("{address} {name}\n"));
        }
        let path = PathBuf::from(format!("/run/lab/{}.hosts", self.name()));
        // Written in place: bind mounts of running programs follow the file, not its name.
        fs::write(&path, text).expect("a file below /run");
        *self.inner.names.lock().unwrap() = Some(path);
    }

    /// A program that will run on this host. Its process id is the program's own, not a wrapper's.
    pub fn command(&self, program: &str) -> Program {
        let mut prefix =
            vec![String::from("nsenter"), format!("--net=/run/netns/{}", self.name()), "--".into()];
        if let Some(names) = &*self.inner.names.lock().unwrap() {
            prefix.extend(
                ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c"].map(String::from),
            );
            prefix.push(String::from("mount --bind \"$0\" /etc/hosts && exec \"$@\""));
            prefix.push(names.display().to_string());
        }
        Program::on(self.name(), prefix, program)
    }

    /// Sets a kernel parameter of this host's network.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        self.try_sysctl(key, value).unwrap_or_else(|error| panic!("set {key} to {value}: {error}"));
    }

    /// The same, when this kernel has the parameter.
    #[track_caller]
    pub(super) fn sysctl_if_known(&self, key: &str, value: &str) {
        match self.try_sysctl(key, value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("set {key} to {value}: {error}")
            }
            _ => {}
        }
    }

    fn try_sysctl(&self, key: &str, value: &str) -> std::io::Result<()> {
        self.inside(|| fs::write(format!("/proc/sys/{}", key.replace('.', "/")), value))
    }

    /// Listens on these TCP ports, on every address of both families, accepting and holding what comes.
    #[track_caller]
    pub fn listen(&self, ports: &[u16]) -> Listener {
        Listener::start(self, ports)
    }

    /// Runs `work` in a thread of this process that sees this host's network.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread to this host's network, for good.
    pub(super) fn enter(&self) {
        let path = format!("/run/netns/{}", self.name());
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("open {path}: {error}"));
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("enter {path}: {error}"));
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name(), self.v4(), self.v6())
    }
}
