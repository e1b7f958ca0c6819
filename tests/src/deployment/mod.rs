//! A Portolan deployment in the lab: the real binaries, driven as an administrator and an operator would.
//!
//! Nothing here knows more than the commands, files and JSON that people script against.

mod alerts;
mod context;
mod openssl;
pub mod policy;
mod satellite;
mod scan;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

pub use self::alerts::{AlertEvent, AlertWatch};
pub use self::context::AdminContext;
pub use self::openssl::{GrpcAnswer, Identity, grpc, pems_below, tls_connection};
pub use self::satellite::Satellite;
pub use self::scan::Scan;

use crate::lab::{Finished, Host, Lab, Process, Program};
use crate::wait::{SOON, wait_until};

/// The port that every server of the lab listens on.
pub const PORT: u16 = 7443;
/// How long a daemon may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A server, and the operator's console beside it. Satellites are made from it.
pub struct Deployment {
    server_host: Host,
    directory: PathBuf,
    server: RefCell<Option<Process>>,
}

impl Deployment {
    /// A place for a server: host `server` in segment `server`. Nothing is initialised yet.
    #[track_caller]
    pub fn new(lab: &Lab) -> Self {
        let host = lab.host("server", "server");
        Self::on(lab, &host, "portolan")
    }

    /// A place for a server on a host of the test's, with its files below the lab's directory `name`.
    #[track_caller]
    pub fn on(lab: &Lab, host: &Host, name: &str) -> Self {
        for (binary, path) in binaries() {
            assert!(
                path.exists(),
                "{binary} is not at {}: run `cargo build --workspace --bins`",
                path.display()
            );
        }
        Self { server_host: host.clone(), directory: lab.directory(name), server: RefCell::default() }
    }

    /// An initialised, running server.
    #[track_caller]
    pub fn up(lab: &Lab) -> Self {
        let deployment = Self::new(lab);
        deployment.init().ok();
        deployment.start();
        deployment
    }

    // === the server ===

    /// `portolan-server init` with every name and address of its host.
    #[track_caller]
    pub fn init(&self) -> Finished {
        self.init_command().run()
    }

    /// The same, to be changed or run by the test.
    pub fn init_command(&self) -> Program {
        let v4 = format!("{}:{PORT}", self.server_host.v4());
        let v6 = format!("[{}]:{PORT}", self.server_host.v6());
        let program = self.server_program().arg("init").arg("--data-dir").arg(self.data_dir());
        program.args(["--name", &v4, "--name", &v6]).arg("--admin-out").arg(self.admin_file())
    }

    /// `portolan-server run`, to be changed or run by the test.
    pub fn run_command(&self) -> Program {
        let program = self.server_program().arg("run").arg("--data-dir").arg(self.data_dir());
        program.args(["--listen", &format!("[::]:{PORT}")])
    }

    /// `portolan-server` with a home of its own.
    pub fn server_program(&self) -> Program {
        at_home(self.server_host.command(&path_of("portolan-server")), &self.directory.join("server-home"))
    }

    /// Writes a configuration file for [`Deployment::start_with`]; returns the arguments that name it.
    pub fn config(&self, toml: &str) -> [String; 2] {
        let file = self.directory.join("server.toml");
        fs::write(&file, toml).expect("a file below /run");
        ["--config".into(), file.display().to_string()]
    }

    /// Starts the server and waits until it answers the console.
    #[track_caller]
    pub fn start(&self) {
        self.start_with::<&str>(&[]);
    }

    /// The same with further arguments to `run`.
    #[track_caller]
    pub fn start_with<S: AsRef<str>>(&self, more: &[S]) {
        let mut server = self.run_command().args(more.iter().map(AsRef::as_ref)).spawn();
        wait_until("the server to answer `portolan status`", SOON, || {
            assert!(server.is_running(), "the server ended:\n{}{}", server.stdout(), server.stderr());
            self.console(&["status"]).code == 0
        });
        *self.server.borrow_mut() = Some(server);
    }

    /// Asks the server to end, and waits.
    #[track_caller]
    pub fn stop(&self) -> Finished {
        let server = self.server.borrow_mut().take().expect("the server runs");
        server.stop(STOP_LIMIT)
    }

    /// Kills the server as a power cut would.
    #[track_caller]
    pub fn crash(&self) {
        self.server.borrow_mut().take().expect("the server runs").crash();
    }

    /// What the server said on standard error so far.
    #[track_caller]
    pub fn server_log(&self) -> String {
        self.server.borrow().as_ref().expect("the server runs").stderr()
    }

    /// The process id of the server.
    #[track_caller]
    pub fn server_id(&self) -> u32 {
        self.server.borrow().as_ref().expect("the server runs").id()
    }

    /// The host that the server runs on.
    pub fn server_host(&self) -> &Host {
        &self.server_host
    }

    /// `HOST:PORT` of the server.
    pub fn address(&self) -> String {
        self.server_host.at(PORT).to_string()
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Everything below here is this deployment's.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `GET` of one of the server's own pages as nobody, with curl: the HTTP status and the text. Needs
    /// [`need!("curl")`](crate::need).
    #[track_caller]
    pub fn get(&self, path: &str) -> (String, String) {
        let curl = self.server_host.command("curl").args(["--silent", "--insecure", "--max-time", "20"]);
        let url = format!("https://{}{path}", self.address());
        let said = curl.args(["--write-out", "\n%{http_code}", &url]).run().stdout;
        let (text, code) = said.rsplit_once('\n').unwrap_or_default();
        (code.to_owned(), text.to_owned())
    }

    /// One number of `/metrics`, which the server's configuration must open to anyone.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = line.and_then(|value| value.parse().ok());
        number.unwrap_or_else(|| panic!("no number {name} in:\n{text}"))
    }

    // === the console ===

    /// Runs `portolan` beside the server as the first admin.
    #[track_caller]
    pub fn console<S: AsRef<str>>(&self, args: &[S]) -> Finished {
        self.console_command(args).run()
    }

    /// The same, to be changed or run by the test.
    pub fn console_command<S: AsRef<str>>(&self, args: &[S]) -> Program {
        self.console_with(&self.admin_file(), args)
    }

    /// `portolan` with another context file.
    pub fn console_with<S: AsRef<str>>(&self, context: &Path, args: &[S]) -> Program {
        let program = self.server_host.command(&path_of("portolan")).arg("--context").arg(context);
        at_home(program, &self.directory.join("operator-home")).args(args.iter().map(AsRef::as_ref))
    }

    /// Runs `portolan … -o json`, which must succeed, and reads what it prints.
    #[track_caller]
    pub fn ask<S: AsRef<str>>(&self, args: &[S]) -> Value {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).chain(["-o", "json"]).collect();
        let finished = self.console(&args);
        finished.ok();
        finished.json()
    }

    /// The file that `init --admin-out` wrote.
    pub fn admin_file(&self) -> PathBuf {
        self.directory.join("admin-context")
    }

    /// The same, taken apart.
    #[track_caller]
    pub fn admin(&self) -> AdminContext {
        AdminContext::read(&self.admin_file())
    }

    /// `portolan scan … -o json`, whatever its exit code.
    #[track_caller]
    pub fn scan<S: AsRef<str>>(&self, args: &[S]) -> Scan {
        let all: Vec<&str> =
            ["scan"].into_iter().chain(args.iter().map(AsRef::as_ref)).chain(["-o", "json"]).collect();
        Scan::new(self.console(&all))
    }

    /// The port state changes of `HOST:PORT` (or of a host), oldest first.
    #[track_caller]
    pub fn history(&self, what: &str) -> Vec<Value> {
        self.ask(&["history", what]).as_array().expect("history is a list").clone()
    }

    // === satellites ===

    /// `portolan satellite add`: a join token.
    #[track_caller]
    pub fn invite(&self, name: &str, segment: &str, more: &[&str]) -> String {
        let mut args = vec!["satellite", "add", name, "--segment", segment];
        args.extend(more);
        let answer = self.ask(&args);
        let token = answer["token"].as_str().unwrap_or_else(|| panic!("no `token` in {answer}"));
        assert!(token.starts_with("ptl1_"), "`{token}` is no join token");
        token.to_owned()
    }

    /// A place for a satellite on a host; not enrolled, not started.
    pub fn satellite_on(&self, host: &Host, name: &str) -> Satellite {
        Satellite::new(host, name, self.directory.join("satellites").join(name))
    }

    /// A satellite that was added, enrolled and started, and is online, with a scope of the whole lab.
    #[track_caller]
    pub fn satellite(&self, host: &Host, name: &str) -> Satellite {
        self.satellite_with_scope(host, name, "10.99.0.0/16,fd00:99::/32,127.0.0.0/8,::1/128")
    }

    /// The same with a scope proposed in the token.
    #[track_caller]
    pub fn satellite_with_scope(&self, host: &Host, name: &str, scope: &str) -> Satellite {
        let satellite = self.enrolled(host, name, &["--scope", scope]);
        satellite.start();
        self.wait_for_status(name, "online");
        satellite
    }

    /// A satellite that was added and enrolled, and is not started: a test may take its place.
    #[track_caller]
    pub fn enrolled(&self, host: &Host, name: &str, more: &[&str]) -> Satellite {
        let token = self.invite(name, host.segment(), more);
        let satellite = self.satellite_on(host, name);
        satellite.enroll(&token).ok();
        satellite
    }

    /// The `status` that `satellite list` gives a satellite.
    #[track_caller]
    pub fn status_of(&self, name: &str) -> String {
        let list = self.ask(&["satellite", "list"]);
        let satellites = list.as_array().expect("satellite list is a list");
        let found = satellites.iter().find(|satellite| satellite["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no satellite `{name}` in {list}"));
        found["status"].as_str().expect("a status").to_owned()
    }

    /// Waits until `satellite list` says so.
    #[track_caller]
    pub fn wait_for_status(&self, name: &str, status: &str) {
        wait_until(&format!("satellite {name} to be {status}"), SOON, || self.status_of(name) == status);
    }
}

/// Portolan's programs and where they are: beside this test's own directory, or in `PORTOLAN_BIN_DIR`.
pub fn binaries() -> [(&'static str, PathBuf); 3] {
    let directory = match std::env::var_os("PORTOLAN_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe().expect("this test binary has a path");
            // target/PROFILE/deps/TEST
            own.ancestors().nth(2).expect("it lies in a target directory").to_owned()
        }
    };
    ["portolan-server", "portolan-satellite", "portolan"].map(|name| (name, directory.join(name)))
}

fn path_of(binary: &str) -> String {
    let all = binaries();
    let (_, path) = all.iter().find(|(name, _)| *name == binary).expect("one of ours");
    path.to_str().expect("a readable path").to_owned()
}

/// Gives a program a home of its own, so that no test reads the files of the person who runs it.
fn at_home(program: Program, home: &Path) -> Program {
    fs::create_dir_all(home).expect("a directory below /run");
    let below = |name: &str| home.join(name);
    program
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", below("config"))
        .env("XDG_DATA_HOME", below("data"))
        .env("XDG_STATE_HOME", below("state"))
        .env("XDG_CACHE_HOME", below("cache"))
}
