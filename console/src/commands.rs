//! From the command line to the server and back: one file a command.

mod alert;
mod baseline;
mod change;
mod changes;
mod check;
mod history;
mod policy;
mod ports;
mod satellite;
mod scan;
mod scans;
mod shell;
mod silence;
mod status;

use crate::cli::{Cli, Command, Global};
use crate::errors::{ConsoleError, Exit};
use crate::interrupts::Interrupts;
use crate::output::Format;
use crate::session::{self, Client};
use tokio::runtime;
use tonic::{Response, Status};

/// Does what was typed.
///
/// # Errors
/// Whatever kept it from being done.
pub fn run(cli: Cli) -> Result<Exit, ConsoleError> {
    let Cli { global, command } = cli;
    match command {
        Command::Satellite(command) => satellite::run(command, &global),
        Command::Scan(args) => scan::run(args, &global),
        Command::Scans(args) => scans::run(&args, &global),
        Command::Ports(args) => ports::run(args, &global),
        Command::History(args) => history::run(&args, &global),
        Command::Changes(args) => changes::run(&args, &global),
        Command::Policy(command) => policy::run(&command, &global),
        Command::Check(command) => check::run(&command, &global),
        Command::Baseline(command) => baseline::run(&command, &global),
        Command::Alert(command) => alert::run(command, &global),
        Command::Silence(command) => silence::run(&command, &global),
        Command::Change(command) => change::run(&command, &global),
        Command::Status => status::run(&global),
        Command::Completions { shell } => {
            global.no_format("completions")?;
            shell::completions(shell)
        }
        Command::Man { dir } => {
            global.no_format("man")?;
            shell::man(&dir)
        }
    }
}

/// Runs a conversation with the server to its end; `work` gets the watch over Ctrl-C, which by default ends it all.
fn converse<T, F>(work: impl FnOnce(Interrupts) -> F) -> Result<T, ConsoleError>
where
    F: Future<Output = Result<T, ConsoleError>>,
{
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(ConsoleError::Startup)?;
    let result = runtime.block_on(work(Interrupts::watch()));
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    result
}

/// One question with one answer; `action` is a verb with its object, for errors.
fn ask_once<T>(
    global: &Global,
    action: impl Into<String>,
    question: impl AsyncFnOnce(&mut Client) -> Result<Response<T>, Status>,
) -> Result<T, ConsoleError> {
    converse(async |_| {
        let mut client = session::open(&global.context).await?;
        Ok(question(&mut client).await.map_err(ConsoleError::call(action))?.into_inner())
    })
}

impl Global {
    /// The format for a command that has these.
    fn format(&self, allowed: &[Format], command: &str) -> Result<Format, ConsoleError> {
        Format::choose(self.output, allowed, command)
    }

    /// For a command whose output is none of a result's forms.
    fn no_format(&self, command: &str) -> Result<(), ConsoleError> {
        self.output.map_or(Ok(()), |_| Format::choose(self.output, &[], command).map(drop))
    }
}
