//! The lab: segments full of hosts around one router with a firewall.
//!
//! ```text
//!  office 10.99.1.0/24 ──┐
//!  dmz    10.99.2.0/24 ──┤ router (a bridge a segment, address .1, nftables between them)
//!  server 10.99.3.0/24 ──┘
//! ```
//!
//! Every segment also has the IPv6 network fd00:99:N::/64. A host is a network namespace with one interface, the
//! addresses .10, .11, … (::10, ::11, …) and the router as its gateway. Hosts of one segment talk directly.
//!
//! Limits: packets cross the router on the sender's processor, so the wire has no rate of its own; loss is nftables' die
//! (it also hits retransmissions alike); delay comes from [`Lab::delay`] with limits of its own. ICMP rate limits are
//! switched off everywhere, since a rejection that the kernel swallowed would look like silence.

mod delay;
mod disk;
mod fault;
mod firewall;
mod host;
mod listener;
mod middlebox;
mod process;
mod proxy;
mod services;
mod tap;
mod tunnel;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

pub use self::disk::SmallDisk;
pub use self::fault::{Direction, Fault, FaultProxy, Kind};
pub use self::firewall::{Firewall, Place, PortMatch, any, icmp, tcp, udp};
pub use self::host::Host;
pub use self::listener::Listener;
pub use self::middlebox::Middlebox;
pub use self::process::{Finished, Process, Program, find_program, run_ok};
pub use self::proxy::Proxy;
pub use self::services::{dnsmasq, echo_udp, nginx, redis, sshd};
pub use self::tap::{Syn, Tap};

use self::delay::DelayBox;

/// Where everything of a universe lives: below its own /run.
const HOME: &str = "/run/lab";
/// The router's namespace.
const ROUTER: &str = "router";

/// A lab under construction or in use. All methods take `&self`: a test changes the network while it runs.
#[derive(Debug)]
pub struct Lab {
    router: Host,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    segments: Vec<Segment>,
    firewall: Firewall,
    delays: Vec<DelayBox>,
    middleboxes: usize,
    tunnels: usize,
    links: usize,
}

/// A way of its own from a host to a network; see [`Lab::second_link`].
#[derive(Debug)]
pub struct SecondLink {
    host: Host,
    network: String,
    gateway: String,
}

impl SecondLink {
    /// Takes the interface up, with its route.
    #[track_caller]
    pub fn up(&self) {
        run_ok(self.host.command("ip").args(["link", "set", "eth1", "up"]));
        run_ok(self.host.command("ip").args(["route", "add", &self.network, "via", &self.gateway]));
    }

    /// Takes the interface down; the kernel forgets its routes.
    #[track_caller]
    pub fn down(&self) {
        run_ok(self.host.command("ip").args(["link", "set", "eth1", "down"]));
    }
}

/// A network of the lab.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Also the name of its bridge in the router.
    pub name: String,
    /// 10.99.N.0/24.
    pub v4: Ipv4Net,
    /// fd00:99:N::/64.
    pub v6: Ipv6Net,
    hosts: u8,
}

impl Lab {
    /// A router with no segment yet. Only [`universe`](crate::universe) makes labs.
    pub(crate) fn new() -> Self {
        fs::create_dir_all(HOME).expect("a directory below /run");
        add_namespace(ROUTER);
        let router = Host::new(ROUTER, "", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        router.sysctl("net.ipv4.ip_forward", "1");
        router.sysctl("net.ipv6.conf.all.forwarding", "1");
        // Where the kernel has it, the firewall would otherwise judge traffic within a segment too.
        for family in ["iptables", "ip6tables"] {
            router.sysctl_if_known(&format!("net.bridge.bridge-nf-call-{family}"), "0");
        }
        Self { router, state: Mutex::default() }
    }

    /// A directory of the lab's own; gone with the test.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = Path::new(HOME).join("dirs").join(name);
        fs::create_dir_all(&path).expect("a directory below /run");
        path
    }

    /// The segment of this name, made when it does not exist yet.
    #[track_caller]
    pub fn segment(&self, name: &str) -> Segment {
        let mut state = self.state.lock().unwrap();
        if let Some(segment) = state.segments.iter().find(|segment| segment.name == name) {
            return segment.clone();
        }
        let number = u8::try_from(state.segments.len() + 1).expect("fewer than 255 segments");
        assert!(name.len() <= 15, "`{name}` is too long for an interface name");
        let segment = Segment {
            name: name.to_owned(),
            v4: Ipv4Net::new(Ipv4Addr::new(10, 99, number, 0), 24).unwrap(),
            v6: format!("fd00:99:{number}::/64").parse().unwrap(),
            hosts: 0,
        };
        run_ok(self.ip(&["link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0"]));
        run_ok(self.ip(&["address", "add", &format!("{}/24", segment.gateway4()), "dev", name]));
        run_ok(self.ip(&["address", "add", &format!("{}/64", segment.gateway6()), "dev", name, "nodad"]));
        run_ok(self.ip(&["link", "set", name, "up"]));
        state.segments.push(segment.clone());
        segment
    }

    /// The segments that were made so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.state.lock().unwrap().segments.clone()
    }

    /// A new host in a segment (which is made when it does not exist yet).
    #[track_caller]
    pub fn host(&self, segment: &str, name: &str) -> Host {
        let segment = self.segment(segment);
        let index = {
            let mut state = self.state.lock().unwrap();
            let known = state.segments.iter_mut().find(|known| known.name == segment.name).unwrap();
            known.hosts += 1;
            known.hosts
        };
        let (v4, v6) = segment.address(index + 9);
        add_namespace(name);
        let host = Host::new(name, &segment.name, v4, v6);
        // The name of the router's end is never used but must be unique in the router.
        let far = format!("h{}-{index}", segment.v4.network().octets()[2]);
        run_ok(self.ip(&["link", "add", &far, "type", "veth", "peer", "name", "eth0", "netns", name]));
        run_ok(self.ip(&["link", "set", &far, "master", &segment.name, "up"]));
        host.add_address(v4.into());
        host.add_address(v6.into());
        run_ok(host.command("ip").args(["link", "set", "eth0", "up"]));
        run_ok(host.command("ip").args(["route", "add", "default", "via", &segment.gateway4().to_string()]));
        run_ok(host.command("ip").args([
            "-6",
            "route",
            "add",
            "default",
            "via",
            &segment.gateway6().to_string(),
        ]));
        host
    }

    /// The router, to look around in: counters, conntrack, a shell.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// Puts these rules in force, in place of those before, in one transaction. Connections survive unless a rule
    /// stops their packets.
    #[track_caller]
    pub fn firewall(&self, rules: &Firewall) {
        let mut state = self.state.lock().unwrap();
        state.firewall = rules.clone();
        self.load_firewall(&state);
    }

    /// How many packets a counter of the firewall ([`Firewall::count`]) has seen since the rules were put in force.
    #[track_caller]
    pub fn packets(&self, counter: &str) -> u64 {
        let listed =
            run_ok(self.router.command("nft").args(["-j", "list", "counter", "inet", "lab", counter]));
        let document: serde_json::Value = serde_json::from_str(&listed.stdout).expect("nft -j prints JSON");
        let found =
            document["nftables"].as_array().and_then(|objects| objects.iter().find_map(|o| o.get("counter")));
        found.and_then(|found| found["packets"].as_u64()).unwrap_or_else(|| panic!("no counter {counter}"))
    }

    /// Delays every packet that leaves this segment, so that round trips from it take `delay` longer. Returns why not
    /// when the machine has no usable TUN device (an unprivileged user often may not open it).
    #[track_caller]
    pub fn delay(&self, segment: &str, delay: Duration) -> Result<(), String> {
        let segment = self.segment(segment);
        let mut state = self.state.lock().unwrap();
        let number = state.delays.len() + 1;
        let delay_box = DelayBox::start(&self.router, &segment, number, delay)?;
        state.delays.push(delay_box);
        self.load_firewall(&state);
        Ok(())
    }

    /// Puts a device behind the router that answers for a whole network, `10.99.9.0/24`, which must be none of the lab's
    /// segments. Returns why not when the machine has no usable TUN device.
    #[track_caller]
    pub fn middlebox(&self, kind: Middlebox, network: &str) -> Result<(), String> {
        let network = network.parse().unwrap_or_else(|_| panic!("`{network}` is no network"));
        let mut state = self.state.lock().unwrap();
        state.middleboxes += 1;
        middlebox::start(&self.router, kind, network, state.middleboxes)
    }

    /// Watches every IPv4 SYN that passes the router; see [`Tap`]. What `answer` makes of one is sent at once, as if it
    /// came from wherever it says.
    #[track_caller]
    pub fn tap(&self, answer: impl FnMut(&Syn) -> Vec<Vec<u8>> + Send + 'static) -> Tap {
        Tap::start(&self.router, answer)
    }

    /// Adds a second way from a host to the router: interface `eth1` with `10.98.N.2`, the router at `10.98.N.1`. The
    /// network goes there, and nowhere at all while the interface is down.
    #[track_caller]
    pub fn second_link(&self, host: &Host, network: &str) -> SecondLink {
        let mut state = self.state.lock().unwrap();
        state.links += 1;
        let (number, far) = (state.links, format!("second{}", state.links));
        run_ok(self.ip(&["link", "add", &far, "type", "veth", "peer", "name", "eth1", "netns", host.name()]));
        run_ok(self.ip(&["address", "add", &format!("10.98.{number}.1/24"), "dev", &far]));
        run_ok(self.ip(&["link", "set", &far, "up"]));
        let ip = |words: &[&str]| run_ok(host.command("ip").args(words.iter().copied()));
        ip(&["address", "add", &format!("10.98.{number}.2/24"), "dev", "eth1"]);
        ip(&["route", "add", "unreachable", network, "metric", "4000"]);
        let gateway = format!("10.98.{number}.1");
        let link = SecondLink { host: host.clone(), network: network.to_owned(), gateway };
        link.up();
        link
    }

    /// Takes a host off Ethernet: all that it sends outside its segment and all that is sent to it goes through a TUN
    /// interface, `tun0`. Returns why not when the machine has no usable TUN device.
    #[track_caller]
    pub fn tunnel(&self, host: &Host) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.tunnels += 1;
        tunnel::start(&self.router, host, state.tunnels)
    }

    fn ip(&self, args: &[&str]) -> Program {
        self.router.command("ip").args(args.iter().copied())
    }

    #[track_caller]
    fn load_firewall(&self, state: &State) {
        if state.firewall.has_syn_proxy() {
            // The client's second packet must not look like a connection picked up in the middle.
            self.router.sysctl_if_known("net.netfilter.nf_conntrack_tcp_loose", "0");
        }
        let rules = state.firewall.ruleset(&state.segments, &state.delays);
        run_ok(self.router.command("nft").args(["-f", "-"]).stdin(rules));
    }
}

impl Segment {
    /// The router's address here.
    pub fn gateway4(&self) -> Ipv4Addr {
        self.address(1).0
    }

    /// The router's IPv6 address here.
    pub fn gateway6(&self) -> Ipv6Addr {
        self.address(1).1
    }

    /// The addresses with a last number; the IPv6 one shows the same digits, `.10` and `::10`.
    pub fn address(&self, number: u8) -> (Ipv4Addr, Ipv6Addr) {
        let [a, b, c, _] = self.v4.network().octets();
        let digits =
            u16::from_str_radix(&number.to_string(), 16).expect("decimal digits are hexadecimal ones");
        let mut words = self.v6.network().segments();
        words[7] = digits;
        (Ipv4Addr::new(a, b, c, number), Ipv6Addr::from(words))
    }
}

/// The last lines of every process's standard error, by name: for the report of a failure.
pub fn last_words() -> Vec<(String, String)> {
    process::last_words()
}

#[track_caller]
fn add_namespace(name: &str) {
    run_ok(Program::new("ip").args(["netns", "add", name]));
    let quiet = [
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv6.icmp.ratelimit", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv6.conf.all.accept_dad", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv6.conf.default.accept_ra", "0"),
    ];
    let host = Host::new(name, "", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    run_ok(host.command("ip").args(["link", "set", "lo", "up"]));
    for (key, value) in quiet {
        host.sysctl(key, value);
    }
}
