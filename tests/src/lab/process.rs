//! Programs that run in the lab: bounded, recorded, and gone when their guard is.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{try_wait_for, wait_until};

/// How long a program that is run to its end may take, unless said otherwise.
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// Where the output of processes is kept.
const RECORDS: &str = "/run/lab/records";
/// Also searched for programs: Debian keeps daemons there, and an ordinary user's PATH does not.
const SYSTEM_DIRECTORIES: &str = "/usr/local/sbin:/usr/sbin:/sbin";
/// Not passed on: the lab has no way out, and a proxy in the environment would be tried.
const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A program to be run, with a host to run on.
#[derive(Debug)]
pub struct Program {
    command: Command,
    name: String,
    stdin: Option<String>,
    limit: Duration,
}

impl Program {
    /// A program on no host: in the universe's own network, which is empty.
    pub fn new(program: &str) -> Self {
        Self::on("lab", Vec::new(), program)
    }

    /// A program behind a prefix of words that put it on a host.
    pub(super) fn on(host: &str, prefix: Vec<String>, program: &str) -> Self {
        let mut words = prefix.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:{SYSTEM_DIRECTORIES}")).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        for proxy in PROXIES {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        let base = Path::new(program).file_name().map_or(program.into(), OsStr::to_string_lossy);
        Self { command, name: format!("{host}-{base}"), stdin: None, limit: RUN_LIMIT }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Feeds it this text; otherwise it reads nothing.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// How long [`Program::run`] lets it run.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(mut self) -> Process {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        fs::create_dir_all(RECORDS).expect("a directory below /run");
        let record = |kind: &str| Path::new(RECORDS).join(format!("{number:04}-{}.{kind}", self.name));
        let (stdout, stderr) = (record("out"), record("err"));
        self.command.stdout(File::create(&stdout).expect("a file below /run"));
        self.command.stderr(File::create(&stderr).expect("a file below /run"));
        self.command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let line = line_of(&self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("run {line}: {error}"));
        if let (Some(text), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A program that ends without reading is judged by what it says, not here.
            let _ = pipe.write_all(text.as_bytes());
        }
        Process { child, line, stdout, stderr, status: None }
    }

    /// Runs it to its end, which must come within the limit.
    #[track_caller]
    pub fn run(self) -> Finished {
        let limit = self.limit;
        self.spawn().wait(limit)
    }
}

/// A running program. Dropping it kills it, by its id alone.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its process id in this universe.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        text_of(&self.stdout)
    }

    /// Its standard output, to be read on while it writes.
    #[track_caller]
    pub fn open_stdout(&self) -> File {
        File::open(&self.stdout).expect("a file below /run")
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        text_of(&self.stderr)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child");
        }
        self.status.is_none()
    }

    /// Sends a signal to it and to nothing else.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        assert!(
            self.is_running(),
            "no process to send {signal} to, it ended: {}\n{}",
            self.line,
            self.stderr()
        );
        let id = Pid::from_raw(i32::try_from(self.id()).expect("a process id"));
        kill(id, signal).unwrap_or_else(|error| panic!("send {signal} to {}: {error}", self.line));
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Finished {
        let ended = try_wait_for(limit, || (!self.is_running()).then_some(()));
        assert!(ended.is_some(), "still running after {limit:?}: {}\n{}", self.line, self.stderr());
        let status = self.status.expect("it ended");
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).expect("a code or a signal");
        Finished { code, stdout: self.stdout(), stderr: self.stderr(), line: self.line.clone() }
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    #[track_caller]
    pub fn stop(mut self, limit: Duration) -> Finished {
        self.signal(Signal::SIGTERM);
        self.wait(limit)
    }

    /// Ends it at once, as a crash would (SIGKILL).
    pub fn crash(mut self) {
        self.end();
    }

    /// Waits until its standard error has said `fragment`; fails at once when it ends before that.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, fragment: &str, limit: Duration) {
        let line = self.line.clone();
        wait_until(&format!("`{fragment}` from {line}"), limit, || {
            let running = self.is_running();
            let said = self.stderr();
            assert!(running || said.contains(fragment), "ended without `{fragment}`: {line}\n{said}");
            said.contains(fragment)
        });
    }

    fn end(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program that has ended, and what it left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code, or 128 and the signal that ended it, as a shell counts.
    pub code: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    line: String,
}

impl Finished {
    /// Fails unless it ended with this code, and without a panic.
    #[track_caller]
    pub fn code_is(&self, expected: i32) -> &Self {
        self.no_panic();
        assert_eq!(self.code, expected, "exit code of\n{self}");
        self
    }

    /// Fails unless it succeeded.
    #[track_caller]
    pub fn ok(&self) -> &Self {
        self.code_is(0)
    }

    /// Fails unless standard error says at least one of these, whatever the case.
    #[track_caller]
    pub fn says(&self, any_of: &[&str]) -> &Self {
        let said = self.stderr.to_lowercase();
        let found = any_of.iter().any(|fragment| said.contains(&fragment.to_lowercase()));
        assert!(found, "none of {any_of:?} in the standard error of\n{self}");
        self
    }

    /// Fails when standard error says this, whatever the case.
    #[track_caller]
    pub fn never_says(&self, fragment: &str) -> &Self {
        let said = format!("{}{}", self.stdout, self.stderr).to_lowercase();
        assert!(!said.contains(&fragment.to_lowercase()), "`{fragment}` in the output of\n{self}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{self}"))
    }

    #[track_caller]
    fn no_panic(&self) {
        assert!(!self.stderr.contains("panicked at"), "it panicked:\n{self}");
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}   (exit code {})", self.line, self.code)?;
        write!(f, "stdout: {}\nstderr: {}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub fn run_ok(program: Program) -> Finished {
    let finished = program.run();
    finished.ok();
    finished
}

/// Where a program is installed, if it is.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = format!("{}:{SYSTEM_DIRECTORIES}", std::env::var("PATH").unwrap_or_default());
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|candidate| candidate.is_file())
}

pub(super) fn last_words() -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(RECORDS) else { return Vec::new() };
    let mut records: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    records.sort();
    let errors = records.iter().filter(|path| path.extension() == Some(OsStr::new("err")));
    let tail = |path: &PathBuf| {
        let text = text_of(path);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(40)..].join("\n");
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        (name.unwrap_or_default(), last)
    };
    errors.map(tail).filter(|(_, tail)| !tail.is_empty()).collect()
}

fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
