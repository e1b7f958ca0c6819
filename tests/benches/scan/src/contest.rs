//! One scanner on one row: started, timed, read and judged.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::{self, Guard, HOST, Lab, ROUTER_MAC, SCANNER, UDP_OPEN, installed, nft, on, on_own};
use crate::measure::{self, Run};
use crate::portolan::Portolan;
use crate::ports;
use crate::rows::{Hosts, Peer, Row};
use crate::verdicts::{Score, Verdicts};

/// A slow peer is given up after this.
const PATIENCE: Duration = Duration::from_secs(420);
/// masscan waits this many seconds for late answers.
const MASSCAN_WAIT: &str = "2";

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds of the whole command.
    pub wall: f64,
    /// Seconds of the sweep itself, where the scanner tells them.
    pub sweep: Option<f64>,
    /// Processor seconds: of a peer's process, of Portolan's satellite.
    pub cpu: f64,
    /// Peak memory in MB: of a peer's process, of Portolan's satellite above its idle size.
    pub peak_mb: f64,
    /// How far it was right.
    pub score: Score,
    /// Connections of somebody else through the firewall: opened and refused.
    pub neighbour: Option<(u64, u64)>,
    /// Milliseconds on the wire from the first probe to the last service's first answer, and how many services
    /// answered.
    pub heard: Option<(f64, usize)>,
    /// Reasons of what was left undecided.
    pub undecided: Vec<(String, usize)>,
    /// It did not come to its end.
    pub failed: bool,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// What goes on beside a scan: somebody else's connections, a look at the wire.
struct Beside {
    neighbour: Option<Guard>,
    watch: Option<Guard>,
    drops: u64,
    lost: u64,
}

/// Runs a peer; nothing when it cannot take part here, with the reason.
pub fn peer(lab: &Lab, row: &Row, peer: Peer) -> Result<Result<Sample, String>> {
    let out = lab.work().join("peer.list");
    let _ = fs::remove_file(&out);
    let command = match command(row, peer, &out)? {
        Ok(command) => command,
        Err(why) => return Ok(Err(why)),
    };
    let beside = Beside::start(lab, row)?;
    let trickle = match peer {
        Peer::Masscan(_) => Some(masscan_needs()?),
        _ => None,
    };
    let run = measure::run(command, lab.work(), PATIENCE);
    drop(trickle);
    if matches!(peer, Peer::Masscan(_)) {
        nft("scanner", "flush ruleset")?;
    }
    let run = run?;
    let asked = row.asked()?;
    let told = fs::read_to_string(&out).unwrap_or_default();
    let verdicts = match (&run.failure, peer) {
        (Some(_), Peer::Nmap { .. }) => Verdicts::default(),
        (_, Peer::Nmap { .. }) => Verdicts::from_nmap(&told, &asked)?,
        (_, Peer::Raw(_) | Peer::PacedRaw(_)) => Verdicts::from_list(&told, false),
        (_, Peer::Masscan(_)) => Verdicts::from_list(&told, true),
        (_, Peer::Rustscan(_)) => Verdicts::from_rustscan(&run.stdout)?,
    };
    let mut sample = beside.end(lab, row, &run, &verdicts)?;
    if let (Peer::Raw(_) | Peer::PacedRaw(_), None) = (peer, &run.failure) {
        let said: Value = serde_json::from_str(run.stdout.trim()).context("read what the raw sender said")?;
        // Writing its list is not part of the limit.
        sample.wall = said["seconds"].as_f64().context("the raw sender told no time")?;
        if said["lost_in_ring"] != 0 {
            sample.notes.push(format!("{} answers lost in its ring", said["lost_in_ring"]));
        }
    }
    Ok(Ok(sample))
}

/// Runs Portolan.
pub fn portolan(lab: &Lab, row: &Row, portolan: &Portolan, method: Option<&str>) -> Result<Sample> {
    let beside = Beside::start(lab, row)?;
    let ports = if row.udp { format!("U:{}", row.ports) } else { row.ports.to_owned() };
    let flags = row.flags(method);
    let mut total: Option<(Run, Option<f64>)> = None;
    let mut notes = Vec::new();
    let mut verdicts = Verdicts::default();
    for _ in 0..row.times {
        let scan = portolan.scan(row.target(), &ports, &flags, lab.work(), PATIENCE)?;
        if notes.is_empty() {
            notes.extend(scan.method.map(|method| format!("method {method}")));
            if !scan.left_out.is_empty() {
                notes.push(format!("does not know {}", scan.left_out.join(" ")));
            }
        }
        verdicts = match &scan.document {
            Value::Null => Verdicts::default(),
            document => Verdicts::from_portolan(document)?,
        };
        total = Some(match total {
            None => (scan.run, scan.sweep),
            Some((before, sweep)) => (
                Run {
                    wall: before.wall + scan.run.wall,
                    cpu: before.cpu + scan.run.cpu,
                    peak_mb: before.peak_mb.max(scan.run.peak_mb),
                    failure: before.failure.or(scan.run.failure),
                    stdout: String::new(),
                },
                sweep.zip(scan.sweep).map(|(one, other)| one + other),
            ),
        });
    }
    let (run, sweep) = total.context("a row of no scan")?;
    let mut sample = beside.end(lab, row, &run, &verdicts)?;
    sample.sweep = sweep;
    notes.append(&mut sample.notes);
    Ok(Sample { notes, ..sample })
}

impl Beside {
    fn start(lab: &Lab, row: &Row) -> Result<Self> {
        let work = lab.work();
        let neighbour =
            row.neighbour.then(|| lab::tool("neighbour", &["flows", "--to", "10.99.2.1:22"], work, false));
        let target = HOST.to_string();
        let words = ["watch", "--interface", "r0", "--target", &target, "--ports", UDP_OPEN];
        let watch = row.udp.then(|| lab::tool("router", &words, work, true));
        Ok(Self {
            neighbour: neighbour.transpose()?,
            watch: watch.transpose()?,
            drops: measure::backlog_drops()?,
            lost: lab.lost_in_delay()?,
        })
    }

    fn end(self, lab: &Lab, row: &Row, run: &Run, verdicts: &Verdicts) -> Result<Sample> {
        let mut notes = Vec::from_iter(run.failure.clone());
        let drops = measure::backlog_drops()?.saturating_sub(self.drops);
        if drops > 0 {
            notes.push(format!("{drops} packets lost in the kernel's input queues"));
        }
        let lost = lab.lost_in_delay()?.saturating_sub(self.lost);
        if lost > 0 {
            notes.push(format!("{lost} packets lost because the delay was full"));
        }
        let neighbour = self.neighbour.map(|tool| lab::result_of(tool, "flows", "neighbour", lab.work()));
        let neighbour = neighbour.transpose()?.map(|said| {
            let count = |key: &str| said[key].as_u64().unwrap_or_default();
            (count("opened"), count("refused"))
        });
        let watch = self.watch.map(|tool| lab::result_of(tool, "watch", "router", lab.work()));
        let heard = watch.transpose()?.map(|said| {
            let millis = said["millis"].as_object().into_iter().flatten();
            let millis: Vec<f64> = millis.filter_map(|(_, millis)| millis.as_f64()).collect();
            (millis.iter().copied().fold(0.0, f64::max), millis.len())
        });
        let score = verdicts.judge(&row.addresses(), &row.asked()?, row.truth()?);
        Ok(Sample {
            wall: run.wall,
            sweep: None,
            cpu: run.cpu,
            peak_mb: run.peak_mb,
            score,
            neighbour,
            heard,
            undecided: verdicts.undecided.clone().into_iter().collect(),
            failed: run.failure.is_some(),
            notes,
        })
    }
}

/// The command line of a peer, or why it cannot take part.
fn command(row: &Row, peer: Peer, out: &std::path::Path) -> Result<Result<Command, String>> {
    let path = out.display().to_string();
    let found = |name: &str| installed(name).ok_or_else(|| format!("{name} is not installed"));
    let six = matches!(row.hosts, Hosts::One6 | Hosts::Net6);
    Ok(match peer {
        Peer::Raw(_) | Peer::PacedRaw(_) | Peer::Masscan(_) | Peer::Rustscan(_) if six || row.udp => {
            Err(String::from("takes no part in this row"))
        }
        Peer::Raw(passes) => Ok(raw(row, passes, 0, &path)?),
        Peer::PacedRaw(rate) => Ok(raw(row, 4, rate, &path)?),
        Peer::Nmap { flags, .. } => found("nmap").map(|nmap| {
            let mut command = on("scanner", nmap);
            command.args(["-n", "-Pn", "-oX", &path, "-p", row.ports]).args(flags.split(' '));
            if six {
                command.arg("-6");
            }
            command.arg(row.target());
            command
        }),
        Peer::Masscan(rate) => found("masscan").map(|masscan| {
            let mut command = on("scanner", masscan);
            command.args(["-e", "s0", "--adapter-ip", &SCANNER.to_string(), "--router-mac", ROUTER_MAC]);
            command.args([
                "--rate",
                &rate.to_string(),
                "--wait",
                MASSCAN_WAIT,
                "-oL",
                &path,
                "-p",
                row.ports,
            ]);
            // It knows no short form of a range of addresses.
            command.arg(match row.hosts {
                Hosts::One => row.target(),
                _ => "10.99.2.1-10.99.2.254",
            });
            command
        }),
        Peer::Rustscan(tries) => {
            let asked = ports::list(&row.asked()?);
            let addresses: Vec<String> = row.addresses().iter().map(ToString::to_string).collect();
            found("rustscan").map(|rustscan| {
                let mut command = on("scanner", rustscan);
                command.args([
                    "--no-banner",
                    "--no-config",
                    "-g",
                    "--ulimit",
                    "20000",
                    "-b",
                    "15000",
                    "-t",
                    "1500",
                ]);
                command.args(["--tries", &tries.to_string(), "-a", &addresses.join(",")]);
                match row.ports {
                    "1-65535" => command.args(["-r", "1-65535"]),
                    _ => command.args(["-p", &asked]),
                };
                command
            })
        }
    })
}

fn raw(row: &Row, passes: u32, rate: u32, out: &str) -> Result<Command> {
    let (first, last) = match row.hosts {
        Hosts::One => (HOST, HOST),
        _ => (Ipv4Addr::new(10, 99, 2, 1), Ipv4Addr::new(10, 99, 2, 254)),
    };
    // The gap between two passes is for the longest round trip that the row has.
    let gap = 60.max(row.way.delay * 3 / 2);
    let mut command = on_own("scanner", &["raw", "--interface", "s0", "--router", ROUTER_MAC, "--out", out])?;
    command.args(["--source", &SCANNER.to_string(), "--ports", row.ports]);
    command.args(["--first", &first.to_string(), "--last", &last.to_string()]);
    command.args(["--passes", &passes.to_string(), "--rate", &rate.to_string(), "--gap", &gap.to_string()]);
    Ok(command)
}

/// masscan misses what the kernel's own resets end before it has looked, so they are hidden; and it ends only when a
/// packet comes in after its wait is over, so one comes.
fn masscan_needs() -> Result<Guard> {
    let hide = "table inet hide { chain o { type filter hook output priority 0; tcp flags & (rst | ack) == rst drop; }; }";
    nft("scanner", hide)?;
    let mut trickle = on("router", "bash");
    trickle.args(["-c", &format!("while sleep 0.2; do echo >/dev/udp/{SCANNER}/9; done")]);
    Ok(Guard(trickle.spawn().context("start bash")?))
}
