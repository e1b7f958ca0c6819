//! The scan benchmark: Portolan and other scanners in turn, in one run, over a lab whose every answer is known; times,
//! processor time, memory and mistakes beside what was promised. docs/benchmarks.md has the results.
//!
//! `cargo build --release --workspace --bins && cargo run -p portolan-scan-bench -- [--row NAME]… [--runs N]`, as root.
//! Everything happens in namespaces of its own, which vanish with it. Nothing fails here but what cannot be measured: a
//! figure depends on the machine, so it is read by people.

mod contest;
mod lab;
mod measure;
mod portolan;
mod ports;
mod report;
mod rows;
mod services;
mod tools;
mod verdicts;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::contest::Sample;
use crate::lab::Lab;
use crate::portolan::Portolan;
use crate::report::{Outcome, Summary};
use crate::rows::{Peer, Row};

/// Set in the copy that runs inside the universe.
const INSIDE: &str = "PORTOLAN_SCAN_BENCH_INSIDE";
/// Where the copy works: in its own /run.
const WORK: &str = "/run/scan-bench";

/// Measures Portolan's scans beside other scanners.
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Cli {
    /// Only these rows of the table; `--row list` prints them.
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// How often each runs; medians count. Slow peers run once.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where the three binaries of Portolan are.
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    portolan: PathBuf,
    /// Which other scanners take part.
    #[arg(long, value_enum, default_value_t = Peers::All)]
    peers: Peers,
    /// Only those other scanners whose name contains this, as the report has it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    peer: String,
    /// The method of Portolan's TCP scans, in place of each row's own.
    #[arg(long)]
    method: Option<String>,
    /// `max_rate` of the satellite's scope, in packets a second; Portolan's default when not given.
    #[arg(long)]
    max_rate: Option<u32>,
    /// Also writes the result to a file, as tables in Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(subcommand)]
    tool: Option<Tool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peers {
    /// None: Portolan alone.
    None,
    /// Those that take seconds.
    Fast,
    /// All, with those that take minutes.
    All,
}

/// What the benchmark starts inside the lab.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Tool {
    #[command(hide = true)]
    Raw(tools::raw::Raw),
    #[command(hide = true)]
    Delay(tools::delay::Delay),
    #[command(hide = true)]
    Listen(tools::listen::Listen),
    #[command(hide = true)]
    Flows(tools::flows::Flows),
    #[command(hide = true)]
    Forget,
    #[command(hide = true)]
    Udp(tools::udp::Udp),
    #[command(hide = true)]
    Watch(tools::watch::Watch),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match &cli.tool {
        Some(Tool::Raw(raw)) => tools::raw::run(raw),
        Some(Tool::Delay(delay)) => tools::delay::run(delay),
        Some(Tool::Listen(listen)) => tools::listen::run(listen),
        Some(Tool::Flows(flows)) => tools::flows::run(flows),
        Some(Tool::Forget) => tools::forget::run(),
        Some(Tool::Udp(udp)) => tools::udp::run(udp),
        Some(Tool::Watch(watch)) => tools::watch::run(watch),
        None => bench(cli),
    }
}

fn bench(cli: Cli) -> Result<()> {
    let all = rows::all();
    if cli.rows.iter().any(|name| name == "list") {
        for row in all {
            println!("{:<12} {}", row.name, row.title);
        }
        return Ok(());
    }
    for name in &cli.rows {
        ensure!(all.iter().any(|row| row.name == name), "there is no row `{name}`: see --row list");
    }
    ensure!(cli.runs > 0, "--runs 0 measures nothing");
    let wanted = |row: &Row| cli.rows.is_empty() || cli.rows.iter().any(|name| name == row.name);
    let rows: Vec<Row> = all.into_iter().filter(wanted).collect();
    match std::env::var_os(INSIDE) {
        None => enter(),
        Some(outer) => {
            ensure!(network()?.as_os_str() != outer, "still in the machine's own network: refused");
            inside(&cli, rows)
        }
    }
}

/// Becomes the same program in namespaces of its own; they end with it.
fn enter() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "packet sockets and namespaces need root: run it as root");
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ]);
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, network()?);
    Err(command.exec()).context("run unshare (package util-linux)")
}

fn network() -> Result<PathBuf> {
    fs::read_link("/proc/self/ns/net").context("read /proc/self/ns/net")
}

fn inside(cli: &Cli, rows: Vec<Row>) -> Result<()> {
    let binaries = fs::canonicalize(&cli.portolan).with_context(|| {
        format!(
            "{} is not there: build Portolan, or name its directory by --portolan",
            cli.portolan.display()
        )
    })?;
    // Before /run is covered: a relative path or a symbolic link may lead through it.
    let markdown = cli.markdown.as_ref().map(std::path::absolute).transpose()?;
    lab::checked(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    lab::checked(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    fs::create_dir_all(WORK)?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard)?;
    }
    let mut lab = Lab::build(Path::new(WORK)).context("build the lab")?;
    let portolan = Portolan::start(&binaries, Path::new(WORK), cli.max_rate).context("start Portolan")?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg")?;
    println!(
        "on {cores} cores, load {}, medians of {} runs",
        load.split(' ').next().unwrap_or("?"),
        cli.runs
    );

    let mut outcomes = Vec::new();
    for row in rows {
        let outcome = run_row(cli, &mut lab, &portolan, row)?;
        print!("{}", report::text(&outcome));
        outcomes.push(outcome);
    }
    let verdicts = || outcomes.iter().flat_map(|outcome| &outcome.verdicts);
    let missed = verdicts().filter(|verdict| verdict.outcome != "ok").count();
    println!("\n{missed} of {} limits not reached", verdicts().count());
    if let Some(file) = markdown {
        fs::write(&file, report::markdown(&outcomes)).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn run_row(cli: &Cli, lab: &mut Lab, portolan: &Portolan, row: Row) -> Result<Outcome> {
    let slow = |peer: &Peer| matches!(peer, Peer::Nmap { slow: true, .. });
    let takes_part = |peer: &&Peer| {
        let wanted = match cli.peers {
            Peers::None => false,
            Peers::Fast => !slow(peer),
            Peers::All => true,
        };
        wanted && peer.to_string().contains(&cli.peer)
    };
    let mut peers: Vec<(Peer, Vec<Sample>)> =
        row.peers.iter().filter(takes_part).map(|peer| (*peer, Vec::new())).collect();
    let mut ours = Vec::new();
    // In turns, so that whatever else the machine does hits all.
    for run in 0..cli.runs {
        for (peer, samples) in &mut peers {
            if run > 0 && (slow(peer) || samples.is_empty()) {
                continue;
            }
            lab.set(&row.way)?;
            match contest::peer(lab, &row, *peer).with_context(|| format!("{peer} on row {}", row.name))? {
                Ok(sample) => samples.push(sample),
                Err(why) => eprintln!("SKIPPED: {peer} on row {}: {why}", row.name),
            }
        }
        lab.set(&row.way)?;
        ours.push(contest::portolan(lab, &row, portolan, cli.method.as_deref())?);
    }
    let peers: Vec<(Peer, Summary)> = peers
        .into_iter()
        .filter_map(|(peer, samples)| Some((peer, Summary::of(peer.to_string(), &samples)?)))
        .collect();
    let ours = Summary::of("portolan".into(), &ours).context("no run")?;
    Ok(Outcome::new(row, peers, ours))
}
