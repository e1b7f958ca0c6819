//! Portolan in the lab: server, satellite and console as an operator runs them, on the scanner's host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::lab::{Guard, checked, on};
use crate::measure::{self, Run};

const NAME: &str = "here";
/// How long server and satellite may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// A running deployment.
#[derive(Debug)]
pub struct Portolan {
    binaries: PathBuf,
    context: PathBuf,
    _server: Guard,
    satellite: Guard,
    /// The satellite's resident size before its first scan, in MB.
    idle_mb: f64,
    help: String,
}

/// A scan, and what it cost.
#[derive(Debug)]
pub struct Scan {
    /// The console's command: its whole time; the satellite's processor time and peak above idle.
    pub run: Run,
    /// Seconds from `started_at` to `finished_at`.
    pub sweep: Option<f64>,
    /// What the console printed.
    pub document: Value,
    /// Which method the satellite says it used.
    pub method: Option<String>,
    /// Flags that this version does not know, and that were left out.
    pub left_out: Vec<String>,
}

impl Portolan {
    /// Starts it from the binaries in a directory. `max_rate` goes into the satellite's scope, if given.
    pub fn start(binaries: &Path, work: &Path, max_rate: Option<u32>) -> Result<Self> {
        for name in ["portolan-server", "portolan-satellite", "portolan"] {
            let path = binaries.join(name);
            ensure!(
                path.exists(),
                "{} is not there: build it, or name its directory by --portolan",
                path.display()
            );
        }
        let daemon = |name: &str, args: &[&str]| -> Result<Guard> {
            let mut command = on("scanner", binaries.join(name));
            let log = File::create(work.join(format!("{name}.log")))?;
            command.args(args).stdout(log.try_clone()?).stderr(log).env("HOME", work).current_dir(work);
            Ok(Guard(command.spawn().with_context(|| format!("start {name}"))?))
        };
        let context = work.join("admin.toml");
        let init = ["init", "--data-dir", "server", "--name", "127.0.0.1:7443", "--admin-out", "admin.toml"];
        checked(on("scanner", binaries.join("portolan-server")).args(init).current_dir(work))?;
        let server =
            daemon("portolan-server", &["run", "--data-dir", "server", "--listen", "127.0.0.1:7443"])?;
        let console = || console(binaries, &context);
        wait("the server to answer", || Ok(checked(console().arg("status")).is_ok()))?;
        let scope = "10.99.0.0/16,fd00:99::/32";
        let added = checked(console().args([
            "satellite",
            "add",
            NAME,
            "--segment",
            "lab",
            "--scope",
            scope,
            "-o",
            "json",
        ]))?;
        let added: Value = serde_json::from_str(&added)?;
        let token = added["token"].as_str().context("`satellite add` printed no token")?;
        let enroll = ["enroll", token, "--data-dir", "satellite"];
        checked(on("scanner", binaries.join("portolan-satellite")).args(enroll).current_dir(work))?;
        if let Some(rate) = max_rate {
            let file = work.join("satellite/satellite.toml");
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let lines = text.lines().filter(|line| !line.starts_with("max_rate"));
            let with_rate = |line: &str| match line.trim() {
                "[scope]" => format!("[scope]\nmax_rate = {rate}\n"),
                _ => format!("{line}\n"),
            };
            fs::write(&file, lines.map(with_rate).collect::<String>())?;
        }
        let satellite = daemon("portolan-satellite", &["run", "--data-dir", "satellite"])?;
        wait("the satellite to be online", || {
            let list = checked(console().args(["satellite", "list", "-o", "json"]))?;
            let list: Value = serde_json::from_str(&list)?;
            Ok(list[0]["status"] == "online")
        })?;
        let help = checked(console().args(["scan", "--help"]))?;
        let idle_mb = measure::status_mb(satellite.0.id(), "VmRSS")?;
        Ok(Self { binaries: binaries.to_owned(), context, _server: server, satellite, idle_mb, help })
    }

    /// `portolan scan`, as the table of rows wants it.
    pub fn scan(
        &self,
        target: &str,
        ports: &str,
        flags: &[String],
        work: &Path,
        limit: Duration,
    ) -> Result<Scan> {
        let (mut words, mut left_out) = (Vec::new(), Vec::new());
        let mut rest = flags.iter().peekable();
        while let Some(flag) = rest.next() {
            let known = self.help.contains(flag.as_str());
            let list = if known { &mut words } else { &mut left_out };
            list.push(flag.clone());
            while let Some(value) = rest.next_if(|word| !word.starts_with("--")) {
                list.push(value.clone());
            }
        }
        let process = self.satellite.0.id();
        ensure!(
            measure::is_running(process),
            "the satellite has ended; its last words:\n{}",
            fs::read_to_string(work.join("portolan-satellite.log")).unwrap_or_default()
        );
        measure::reset_peak(process)?;
        let before = measure::cpu_of(process)?;
        let mut command = console(&self.binaries, &self.context);
        command.args(["scan", target, "-p", ports, "--from", NAME, "-o", "json"]).args(words);
        let mut run = measure::run(command, work, limit)?;
        run.cpu = measure::cpu_of(process)? - before;
        run.peak_mb = (measure::status_mb(process, "VmHWM")? - self.idle_mb).max(0.0);
        let document: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
        let satellite = &document["satellites"][0];
        if run.failure.is_none() && satellite["complete"] != true {
            run.failure = Some(format!("not complete: {}", satellite["error"]));
        }
        let time = |key: &str| document[key].as_str()?.parse::<Timestamp>().ok();
        let sweep = time("started_at").zip(time("finished_at"));
        let sweep = sweep.map(|(start, end)| end.duration_since(start).as_secs_f64());
        let method = satellite["method"].as_str().map(String::from);
        Ok(Scan { run, sweep, document, method, left_out })
    }
}

fn console(binaries: &Path, context: &Path) -> Command {
    let mut command = on("scanner", binaries.join("portolan"));
    command.arg("--context").arg(context);
    command
}

fn wait(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + READY;
    loop {
        if ready()? {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("waited {READY:?} for {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
