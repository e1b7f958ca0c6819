//! The lab: four network namespaces in a universe of their own.
//!
//! ```text
//!  scanner 10.99.1.2 ──┐
//!                      ├── router (nftables; delay between its two ends) ── target 10.99.2.0/24, fd00:99:2::/120
//!  neighbour 10.99.4.2 ┘
//! ```
//!
//! The target answers for every address of its networks by a local route, and has a listener on [`OPEN`]. Packets cross
//! router and target on the sender's processor, so the wire has no rate of its own and loses nothing by itself; delay is
//! the work of two TUN devices, loss that of nftables' die.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::services;

/// What is listened on at every address of the target.
pub const OPEN: &str = "22,80,443,3306,5432,6379,8080,9200";
/// The scanner's address.
pub const SCANNER: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 2);
/// The one host of the rows about one host.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 7);
/// The same over IPv6.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 2, 0, 0, 0, 0, 7);
/// The router's hardware address on the scanner's link, for those who make frames of their own.
pub const ROUTER_MAC: &str = "02:00:00:99:01:01";
/// The UDP services of [`HOST`].
pub const UDP_OPEN: &str = "53,69,123,161,3478,11211";
/// How long Linux's burst of ICMP errors takes to be whole again: six, one a second.
const ICMP_BURST: Duration = Duration::from_secs(7);
/// How long a program of the lab may take to be ready.
const READY: Duration = Duration::from_secs(10);

const NAMESPACES: [&str; 4] = ["scanner", "neighbour", "router", "target"];
const LINKS: &str = "
scanner link add s0 type veth peer name r0 address 02:00:00:99:01:01 netns router
neighbour link add n0 type veth peer name r2 netns router
router link add r1 type veth peer name t0 netns target
scanner addr add 10.99.1.2/24 dev s0
scanner addr add fd00:99:1::2/64 dev s0 nodad
neighbour addr add 10.99.4.2/24 dev n0
router addr add 10.99.1.1/24 dev r0
router addr add fd00:99:1::1/64 dev r0 nodad
router addr add 10.99.4.1/24 dev r2
router addr add 10.99.3.1/24 dev r1
router addr add fd00:99:3::1/64 dev r1 nodad
target addr add 10.99.3.2/24 dev t0
target addr add fd00:99:3::2/64 dev t0 nodad
scanner link set s0 up
neighbour link set n0 up
router link set r0 up
router link set r1 up
router link set r2 up
target link set t0 up
scanner route add default via 10.99.1.1
scanner -6 route add default via fd00:99:1::1
neighbour route add default via 10.99.4.1
target route add default via 10.99.3.1
target -6 route add default via fd00:99:3::1
router route add 10.99.2.0/24 via 10.99.3.2
router -6 route add fd00:99:2::/120 via fd00:99:3::2
target route add local 10.99.2.0/24 dev lo
target -6 route add local fd00:99:2::/120 dev lo
target addr add 10.99.2.7/32 dev lo
";

/// What lies between scanner and target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Rules of the router, tried first.
    pub rules: &'static [&'static str],
    /// Rules of the target itself: behind the firewall.
    pub behind: &'static [&'static str],
    /// How much longer a round trip takes, in milliseconds.
    pub delay: u64,
    /// Percent of the packets that are lost, each way.
    pub loss: u8,
    /// The router tracks connections, and drops what belongs to none and opens none.
    pub stateful: bool,
    /// New connections beyond this many at a time are dropped.
    pub flows: Option<u32>,
    /// The UDP services run on [`HOST`] (some listen on TCP too), and the target limits its ICMP errors as Linux does by
    /// default: one a second for each peer, after a burst of six.
    pub udp: bool,
}

/// The lab, up and running. Everything ends with it.
#[derive(Debug)]
pub struct Lab {
    work: PathBuf,
    way: Option<Way>,
    delay: Option<Guard>,
    udp: Vec<Guard>,
    _listener: Guard,
}

impl Lab {
    /// Builds it, below an empty directory. Needs root in a universe of its own.
    pub fn build(work: &Path) -> Result<Self> {
        for name in NAMESPACES {
            checked(Command::new("ip").args(["netns", "add", name]))?;
            checked(Command::new("ip").args(["-n", name, "link", "set", "lo", "up"]))?;
            sysctl(name, &["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"])?;
        }
        for line in LINKS.lines().filter(|line| !line.is_empty()) {
            let (namespace, words) = line.split_once(' ').unwrap_or((line, ""));
            checked(Command::new("ip").args(["-n", namespace]).args(words.split(' ')))?;
        }
        sysctl("router", &["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        let backlog =
            ["net.core.somaxconn=65535", "net.ipv4.tcp_max_syn_backlog=65535", "net.ipv4.tcp_syncookies=1"];
        sysctl("target", &backlog)?;
        let listener = tool("target", &["listen", "--ports", OPEN], work, true)?;
        let mut lab =
            Self { work: work.to_owned(), way: None, delay: None, udp: Vec::new(), _listener: listener };
        lab.set(&Way::default())?;
        Ok(lab)
    }

    /// Lays another way between scanner and target, and forgets the connections of the last one.
    pub fn set(&mut self, way: &Way) -> Result<()> {
        if self.way.as_ref() != Some(way) {
            self.lay(way)?;
            self.way = Some(way.clone());
        }
        for namespace in ["router", "target"] {
            own("forget", namespace)?;
        }
        if way.udp {
            thread::sleep(ICMP_BURST);
        }
        // The first packet to somebody new waits for ARP, which is no scanner's work.
        for (from, to) in
            [("scanner", "10.99.2.99"), ("neighbour", "10.99.2.99"), ("scanner", "fd00:99:2::99")]
        {
            let _ = on(from, "nmap")
                .args(["-sT", "-n", "-Pn", "-p22"])
                .args(to.contains(':').then_some("-6"))
                .arg(to)
                .output();
        }
        Ok(())
    }

    /// Packets that the delay had no room for since it was laid.
    pub fn lost_in_delay(&self) -> Result<u64> {
        if self.delay.is_none() {
            return Ok(0);
        }
        let said =
            checked(Command::new("ip").args(["-n", "router", "-j", "-s", "link", "show", "dev", "dl0"]))?;
        let said: serde_json::Value = serde_json::from_str(&said).context("read `ip -j -s link`")?;
        said[0]["stats64"]["tx"]["dropped"].as_u64().context("`ip -j -s link` tells no drops of dl0")
    }

    /// Where files of the run go.
    pub fn work(&self) -> &Path {
        &self.work
    }

    fn lay(&mut self, way: &Way) -> Result<()> {
        self.delay = None;
        // Left over from the delay before, if any.
        let _ = Command::new("ip").args(["-n", "router", "rule", "del", "iif", "r0"]).output();
        nft("router", &way.router_rules())?;
        let behind = way.behind.join("\n");
        nft(
            "target",
            &format!(
                "flush ruleset\ntable inet behind {{ chain i {{ type filter hook input priority 0;\n{behind}\n}}\n}}\n"
            ),
        )?;
        let limit = if way.udp { 1000 } else { 0 };
        sysctl("target", &[&format!("net.ipv4.icmp_ratelimit={limit}")])?;
        self.udp = if way.udp { services::start(&self.work)? } else { Vec::new() };
        if way.delay > 0 {
            let millis = way.delay.to_string();
            let words = ["delay", "--from", "dl0", "--to", "dl1", "--millis", &millis];
            self.delay = Some(tool("router", &words, &self.work, false)?);
            for device in ["dl0", "dl1"] {
                let up = || {
                    checked(Command::new("ip").args([
                        "-n",
                        "router",
                        "link",
                        "set",
                        device,
                        "txqueuelen",
                        "100000",
                        "up",
                    ]))
                };
                let end = Instant::now() + READY;
                while up().is_err() && Instant::now() < end {
                    thread::sleep(Duration::from_millis(20));
                }
                up()?;
                sysctl("router", &[&format!("net.ipv4.conf.{device}.rp_filter=0")])?;
            }
            for words in ["route replace default dev dl0 table 100", "rule add iif r0 table 100"] {
                checked(Command::new("ip").args(["-n", "router"]).args(words.split(' ')))?;
            }
        }
        Ok(())
    }
}

impl Way {
    fn router_rules(&self) -> String {
        let mut text = String::from("flush ruleset\ntable inet way {\n");
        if self.delay > 0 {
            // On its way into the delay a packet is not yet on its way: neither tracked nor judged twice.
            text.push_str(
                "chain early { type filter hook prerouting priority raw; iifname \"r0\" notrack; }\n",
            );
        }
        text.push_str("chain forward { type filter hook forward priority 0; policy accept;\n");
        for rule in self.rules {
            text.push_str(&format!("{rule}\n"));
        }
        text.push_str("oifname \"dl0\" accept\n");
        if self.loss > 0 {
            for end in ["r0", "r1"] {
                let lose = format!("numgen random mod 100 < {} drop", self.loss);
                // The neighbour's own link loses nothing, so that what it misses is the firewall's doing.
                text.push_str(&format!("iifname != \"r2\" oifname \"{end}\" {lose}\n"));
            }
        }
        if self.stateful || self.flows.is_some() {
            text.push_str("ct state established,related accept\nct state invalid drop\n");
        }
        if let Some(flows) = self.flows {
            text.push_str(&format!("ct state new ct count over {flows} drop\n"));
        }
        text.push_str("}\n}\n");
        text
    }
}

/// A process of the lab's; killed, by its id, when dropped.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program in a namespace. Its process id is the program's own: nsenter becomes it.
pub fn on(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program).stdin(Stdio::null());
    command
}

/// This program under another name, in a namespace.
pub fn on_own(namespace: &str, words: &[&str]) -> Result<Command> {
    let mut command = on(namespace, std::env::current_exe().context("find this program")?);
    command.args(words);
    Ok(command)
}

/// Runs one of this program's tools to its end.
pub fn own(word: &str, namespace: &str) -> Result<()> {
    checked(&mut on_own(namespace, &[word])?).map(drop)
}

/// Starts one of this program's tools; waits until it says that it listens, if it does.
pub fn tool(namespace: &str, words: &[&str], work: &Path, listens: bool) -> Result<Guard> {
    let said = work.join(format!("{}-{namespace}.out", words[0]));
    let mut command = on_own(namespace, words)?;
    command.stdout(File::create(&said)?).stderr(File::create(said.with_extension("err"))?);
    // Tools that are asked for their result end with their standard input.
    command.stdin(Stdio::piped());
    let mut guard = Guard(command.spawn().with_context(|| format!("start {words:?}"))?);
    let end = Instant::now() + READY;
    while listens && !fs::read_to_string(&said)?.contains("listening") {
        if let Some(status) = guard.0.try_wait()? {
            bail!("{words:?} ended ({status}): {}", fs::read_to_string(said.with_extension("err"))?);
        }
        ensure!(Instant::now() < end, "{words:?} is not ready after {READY:?}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(guard)
}

/// Ends a tool by closing its standard input, and reads the JSON that it prints last.
pub fn result_of(mut tool: Guard, word: &str, namespace: &str, work: &Path) -> Result<serde_json::Value> {
    drop(tool.0.stdin.take());
    let end = Instant::now() + READY;
    while tool.0.try_wait()?.is_none() {
        ensure!(Instant::now() < end, "`{word}` does not end");
        thread::sleep(Duration::from_millis(5));
    }
    let said = fs::read_to_string(work.join(format!("{word}-{namespace}.out")))?;
    let last = said.lines().last().with_context(|| format!("`{word}` said nothing"))?;
    serde_json::from_str(last).with_context(|| format!("read what `{word}` said: {last}"))
}

/// Runs a command that must succeed.
pub fn checked(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        done.status.success(),
        "{command:?}: {}, {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Puts a ruleset in force in a namespace.
pub fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut child = on(namespace, "nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft (package nftables)")?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(rules.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "nft in {namespace}: {}\n{rules}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn sysctl(namespace: &str, settings: &[&str]) -> Result<()> {
    checked(on(namespace, "sysctl").arg("-qw").args(settings)).map(drop)
}

/// Where a program is, if it is installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    let home = std::env::var("HOME").unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let places = format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:{home}/.cargo/bin");
    places.split(':').map(|directory| Path::new(directory).join(name)).find(|candidate| candidate.is_file())
}
