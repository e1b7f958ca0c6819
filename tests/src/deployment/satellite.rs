//! A satellite of a deployment: its files, its process, its scope.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use super::openssl::{Identity, pems_below};
use super::{PORT, STOP_LIMIT, at_home, path_of};
use crate::lab::{Finished, Host, Process, Program, run_ok};

/// A satellite on a host. It ends with the test, or when dropped.
pub struct Satellite {
    host: Host,
    name: String,
    directory: PathBuf,
    process: RefCell<Option<Process>>,
}

impl Satellite {
    pub(super) fn new(host: &Host, name: &str, directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("a directory below /run");
        Self { host: host.clone(), name: name.to_owned(), directory, process: RefCell::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host that it stands on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// `portolan-satellite enroll TOKEN`.
    #[track_caller]
    pub fn enroll(&self, token: &str) -> Finished {
        self.enroll_command(token).run()
    }

    /// The same, to be run by the test.
    pub fn enroll_command(&self, token: &str) -> Program {
        self.program().args(["enroll", token, "--data-dir"]).arg(self.data_dir())
    }

    /// `portolan-satellite run`, to be run by the test.
    pub fn run_command(&self) -> Program {
        self.program().args(["run", "--data-dir"]).arg(self.data_dir())
    }

    /// Starts it. It is online when [`Deployment::wait_for_status`](super::Deployment::wait_for_status) says so.
    #[track_caller]
    pub fn start(&self) {
        *self.process.borrow_mut() = Some(self.run_command().spawn());
    }

    /// Starts it with fewer rights, by `setpriv` with these options. Needs [`need!("setpriv")`](crate::need).
    #[track_caller]
    pub fn start_with_rights(&self, options: &[&str]) {
        // A copy, since the other user may not be let into the directory where it was built.
        let own = self.directory.join("portolan-satellite");
        fs::copy(path_of("portolan-satellite"), &own).expect("a file below /run");
        let program = self.host.command("setpriv").args(options).arg("--").arg(own);
        let program = at_home(program, &self.directory.join("home"));
        let program = program.args(["run", "--data-dir"]).arg(self.data_dir());
        *self.process.borrow_mut() = Some(program.spawn());
    }

    /// Makes a user the owner of all its files.
    #[track_caller]
    pub fn give_to(&self, user: &str) {
        run_ok(Program::new("chown").args(["-R", user]).arg(&self.directory));
    }

    /// Asks it to end, and waits.
    #[track_caller]
    pub fn stop(&self) -> Finished {
        self.process.borrow_mut().take().expect("the satellite runs").stop(STOP_LIMIT)
    }

    /// Kills it as a power cut would.
    #[track_caller]
    pub fn crash(&self) {
        self.process.borrow_mut().take().expect("the satellite runs").crash();
    }

    /// Its process id.
    #[track_caller]
    pub fn id(&self) -> u32 {
        self.process.borrow().as_ref().expect("the satellite runs").id()
    }

    /// Whether its process runs.
    #[track_caller]
    pub fn is_running(&self) -> bool {
        self.process.borrow_mut().as_mut().expect("the satellite was started").is_running()
    }

    /// What it said on standard error since its start.
    #[track_caller]
    pub fn log(&self) -> String {
        self.process.borrow().as_ref().expect("the satellite was started").stderr()
    }

    /// Its own configuration file, with the scope.
    pub fn config_file(&self) -> PathBuf {
        self.data_dir().join("satellite.toml")
    }

    /// Writes its configuration file, as its administrator.
    pub fn write_config(&self, toml: &str) {
        fs::write(self.config_file(), toml).expect("a file below /run");
    }

    /// Makes it dial another port of the server's host from its next start on: whatever stands there is between them.
    #[track_caller]
    pub fn dial_port(&self, port: u16) {
        let file = self.data_dir().join("enrollment.json");
        let text = fs::read_to_string(&file).expect("it is enrolled");
        let changed = text.replace(&format!(":{PORT}\""), &format!(":{port}\""));
        assert_ne!(text, changed, "no server at port {PORT} in {text}");
        fs::write(file, changed).expect("a file below /run");
    }

    /// Its certificate and key, found below its data directory wherever they lie.
    #[track_caller]
    pub fn identity(&self) -> Identity {
        Identity::leaf_of(&pems_below(&self.data_dir()))
    }

    fn program(&self) -> Program {
        at_home(self.host.command(&path_of("portolan-satellite")), &self.directory.join("home"))
    }
}
