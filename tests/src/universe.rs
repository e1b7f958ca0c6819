//! Isolation: a lab test runs its own test binary again, for itself alone, in fresh namespaces.
//!
//! The copy lives in new network, mount and process namespaces (and, for an unprivileged user, a user namespace in which
//! it is root), with an empty /run of its own. So tests run side by side without seeing one another, `ip netns add` works
//! without privileges, nothing touches the machine's own network, and when the copy ends, however it ends, the kernel
//! takes every process, namespace, interface and temporary file of it away.
//!
//! The outer test waits a bounded time, passes the inner one's `SKIPPED:` lines on, and fails with its output.

use std::any::type_name_of_val;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::lab::Lab;
use crate::wait::try_wait_for;

/// Set in the copy, to the network namespace that it must *not* be in.
const OUTER_NETWORK: &str = "PORTOLAN_LAB_OUTER_NETWORK";
/// How long one lab test may take in all, in seconds; overrides [`LIMIT`].
const LIMIT_VARIABLE: &str = "PORTOLAN_LAB_LIMIT";
/// How long one lab test may take in all.
const LIMIT: Duration = Duration::from_secs(300);
/// What counts a test as skipped; the harness may have begun the line already.
const SKIPPED: &str = "SKIPPED: ";
/// What a test measured, to be shown also when it passes.
const FIGURE: &str = "FIGURE: ";
/// The user that root becomes to try the lab without privileges.
const NOBODY: &str = "65534";

/// Who makes the universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Current,
    /// Nobody, if root runs the tests; whoever runs them otherwise.
    Unprivileged,
}

/// The libtest path of the test function that `marker` is nested in.
pub fn test_path<F>(marker: F) -> &'static str {
    let full = type_name_of_val(&marker);
    std::mem::forget(marker);
    let inside_crate = full.split_once("::").map_or(full, |(_, rest)| rest);
    let test = inside_crate.rsplit_once("::").map_or(inside_crate, |(test, _)| test);
    test.trim_end_matches("::{{closure}}")
}

/// Runs `body` in a universe of its own; use it through [`in_lab!`](crate::in_lab).
#[track_caller]
pub fn run(test: &str, user: User, body: impl FnOnce(&Lab)) {
    run_within(limit(), test, user, body);
}

/// The same for a test that may take this long.
#[track_caller]
pub fn run_within(limit: Duration, test: &str, user: User, body: impl FnOnce(&Lab)) {
    match std::env::var(OUTER_NETWORK) {
        Ok(outer) => {
            prepare(&outer);
            thread::spawn(move || {
                thread::sleep(limit.saturating_sub(Duration::from_secs(5)));
                autopsy();
                std::process::exit(101);
            });
            let outcome = catch_unwind(AssertUnwindSafe(|| body(&Lab::new())));
            if let Err(panic) = outcome {
                autopsy();
                resume_unwind(panic);
            }
        }
        Err(_) => run_outside(limit, test, user),
    }
}

/// Runs a whole program, which is no test, in a universe of its own, without a limit.
pub fn run_program(body: impl FnOnce(&Lab)) -> ExitCode {
    if let Ok(outer) = std::env::var(OUTER_NETWORK) {
        prepare(&outer);
        body(&Lab::new());
        return ExitCode::SUCCESS;
    }
    let prefix = unshare_prefix(false);
    let mut command = command_of(&prefix);
    command.arg(std::env::current_exe().expect("this program has a path")).env(OUTER_NETWORK, network());
    match probe(&prefix).map(|()| command.status()) {
        Ok(Ok(status)) if status.success() => ExitCode::SUCCESS,
        outcome => {
            eprintln!("in the lab: {outcome:?}");
            ExitCode::FAILURE
        }
    }
}

/// Whether this process is the copy in a universe of its own.
pub fn is_inside() -> bool {
    std::env::var_os(OUTER_NETWORK).is_some()
}

/// Says aloud that this test is skipped, and why; use it through [`skip!`](crate::skip).
pub fn announce_skip(reason: &str) {
    // Not `eprintln!`: the test harness would swallow it.
    let _ = writeln!(std::io::stderr(), "{SKIPPED}{reason}");
}

/// Tells what a test measured; use it through [`figure!`](crate::figure).
pub fn announce_figure(figure: &str) {
    let _ = writeln!(std::io::stderr(), "{FIGURE}{figure}");
}

// === outside ===

#[track_caller]
fn run_outside(limit: Duration, test: &str, user: User) {
    let drop_root = user == User::Unprivileged && geteuid().is_root();
    let shelter = drop_root.then(readable_copy);
    let binary = match &shelter {
        Some(shelter) => shelter.path().join("test"),
        None => std::env::current_exe().expect("this test binary has a path"),
    };
    let prefix = unshare_prefix(drop_root);
    if let Err(why) = probe(&prefix) {
        announce_skip(&format!("{test}: this kernel or container forbids namespaces: {why}"));
        return;
    }

    let mut output = tempfile::NamedTempFile::new().expect("a temporary file for the test's output");
    let mut command = command_of(&prefix);
    command.arg(&binary).args([test, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"]);
    command.env(OUTER_NETWORK, network()).env_remove("RUST_TEST_THREADS").stdin(Stdio::null());
    if let Some(shelter) = &shelter {
        command.env("PORTOLAN_BIN_DIR", shelter.path()).current_dir("/");
    }
    // One open file for both, so that the lines keep their order.
    command.stdout(output.as_file().try_clone().expect("a descriptor"));
    command.stderr(output.as_file().try_clone().expect("a descriptor"));
    let status = finish(command, limit);

    let said = read_from_start(output.as_file_mut());
    for reason in said.lines().filter_map(|line| Some(line.split_once(SKIPPED)?.1)) {
        announce_skip(&format!("{test}: {reason}"));
    }
    for figure in said.lines().filter_map(|line| Some(line.split_once(FIGURE)?.1)) {
        announce_figure(figure);
    }
    match status {
        Some(status) if status.success() && said.contains("1 passed") => {}
        Some(status) if status.success() => panic!("`{test}` was not found in its own binary:\n{said}"),
        Some(status) => panic!("in the lab ({status}):\n{}", without_harness(&said)),
        None => panic!("still running after {limit:?}, killed:\n{}", without_harness(&said)),
    }
}

/// The command line that enters fresh namespaces; when it dies, everything in them does.
fn unshare_prefix(drop_root: bool) -> Vec<&'static str> {
    let mut words = vec![];
    if drop_root {
        words.extend(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
    }
    words.extend(["setpriv", "--pdeathsig", "KILL", "--", "unshare"]);
    if drop_root || !geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend(["--net", "--mount", "--propagation", "private"]);
    words.extend(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    words
}

fn command_of(prefix: &[&str]) -> Command {
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]);
    command
}

/// Whether namespaces can be had at all, tried with a program that does nothing.
fn probe(prefix: &[&str]) -> Result<(), String> {
    match command_of(prefix).args(["mount", "-t", "tmpfs", "tmpfs", "/run"]).current_dir("/").output() {
        Ok(tried) if tried.status.success() => Ok(()),
        Ok(tried) => Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(error) => Err(format!("cannot run {}: {error}", prefix[0])),
    }
}

/// Waits at most `limit`; nothing when the process had to be killed.
fn finish(mut command: Command, limit: Duration) -> Option<ExitStatus> {
    let mut child = command.spawn().expect("probed a moment ago");
    let status = try_wait_for(limit, || child.try_wait().expect("our own child"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// This binary and Portolan's, where everyone may read them: the checkout need not be.
fn readable_copy() -> tempfile::TempDir {
    let shelter = tempfile::Builder::new().prefix("portolan-lab-").tempdir().expect("a temporary directory");
    fs::set_permissions(shelter.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    let copy = |from: &Path, name: &str| {
        let to = shelter.path().join(name);
        fs::copy(from, &to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("our own file");
    };
    copy(&std::env::current_exe().expect("this test binary has a path"), "test");
    for (name, path) in crate::deployment::binaries() {
        if path.exists() {
            copy(&path, name);
        }
    }
    shelter
}

fn limit() -> Duration {
    let set = std::env::var(LIMIT_VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
    set.map_or(LIMIT, Duration::from_secs)
}

fn read_from_start(file: &mut File) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("our own temporary file");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The inner harness's own lines would be counted as a second test run.
fn without_harness(said: &str) -> String {
    let noise = |line: &&str| {
        !(line.starts_with("test result:") || line.starts_with("running 1 test") || line.is_empty())
    };
    said.lines().filter(noise).map(|line| format!("  | {line}\n")).collect()
}

// === inside ===

/// For a failure: the last words of every process that the test started.
fn autopsy() {
    for (name, tail) in crate::lab::last_words() {
        let _ = writeln!(std::io::stderr(), "--- {name} said last:\n{tail}");
    }
}

fn network() -> String {
    fs::read_link("/proc/self/ns/net")
        .map(|link| link.to_string_lossy().into_owned())
        .expect("/proc is mounted")
}

/// An empty /run, no names but localhost, loopback up, and as many descriptors as may be had.
fn prepare(outer: &str) {
    assert_ne!(network(), outer, "the lab was asked to run in the machine's own network: refused");
    // The link, if any, is read before /run hides what it points to.
    let resolver = resolved("/etc/resolv.conf");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .expect("mount a tmpfs on /run");
    let names = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n";
    cover(Path::new("/etc/hosts"), "hosts", names);
    // Nobody listens there, so a lookup fails at once instead of leaving the lab or timing out.
    cover(&resolver, "resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    let up =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("run ip (package iproute2)");
    assert!(up.success(), "ip link set lo up: {up}");
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

fn resolved(path: &str) -> PathBuf {
    match fs::read_link(path) {
        Ok(target) => Path::new("/etc").join(target),
        Err(_) => PathBuf::from(path),
    }
}

/// Puts a file of the lab's over a system file, for this universe only.
fn cover(path: &Path, name: &str, content: &str) {
    let own = Path::new("/run").join(name);
    fs::write(&own, content).expect("write below /run");
    if !path.exists() {
        // A link into the old /run can be made good; a file that the system does not have is not missed.
        let Some(parent) = path.parent().filter(|parent| parent.starts_with("/run")) else { return };
        fs::create_dir_all(parent).and_then(|()| File::create(path)).expect("write below /run");
    }
    mount(Some(&own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("bind {} over {}: {error}", own.display(), path.display()));
}
