//! The command line of `portolan-server`.

use crate::backup::BackupError;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, NameError, split_name};
use crate::doctor::DoctorError;
use crate::run::RunError;
use crate::{backup, doctor, init, run};
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use nix::sys::stat::{Mode, umask};
use portolan_daemon::signals::{self, INTERRUPTED};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The central server of Portolan: satellites stream in, operators ask, the store remembers.
#[derive(Debug, Parser)]
#[command(name = "portolan-server", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new server: certificate authority, server certificate, store, first operator
    #[command(after_help = "Example:\n  portolan-server init --data-dir /var/lib/portolan-server \
                            --name portolan.example.com --name 10.0.0.5")]
    Init {
        /// Where everything is kept; made with mode 0700
        #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-server")]
        data_dir: PathBuf,
        /// Where satellites and consoles find the server; repeat for several (port 8443 when none is given)
        #[arg(long = "name", value_name = "HOST[:PORT]", required = true, value_parser = server_name)]
        names: Vec<String>,
        /// Write the first operator's context to this file instead of this user's configuration
        #[arg(long, value_name = "FILE")]
        admin_out: Option<PathBuf>,
    },
    /// Run the server
    Run {
        /// As given to `init`
        #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-server")]
        data_dir: PathBuf,
        /// The one address and port for satellites, consoles and browsers
        #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:8443")]
        listen: SocketAddr,
        /// Settings; /etc/portolan/server.toml is read when it exists
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Back up the whole server into one file, while it runs or while it does not
    #[command(after_help = "Examples:\n  portolan-server backup /backup/portolan-$(date +%F)\n  \
                            portolan-server backup - | ssh vault 'cat > portolan.backup'\n\n\
                            The file holds the certificate authority's private key: keep it as safe as the server.")]
    Backup {
        /// Where to; `-` is the standard output
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// As given to `init`
        #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-server")]
        data_dir: PathBuf,
        /// Overwrite FILE
        #[arg(long)]
        force: bool,
    },
    /// Put a backup back
    #[command(
        after_help = "Examples:\n  portolan-server restore portolan.backup --data-dir /var/lib/portolan-server\n  \
                            portolan-server restore /var/lib/portolan-server/exports/store.export --store-only"
    )]
    Restore {
        /// What `backup` wrote, or an export
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where to; it must hold no server, unless only the store is put back
        #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-server")]
        data_dir: PathBuf,
        /// Put only the store back, into the server that the backup was made of; the old store is kept
        #[arg(long)]
        store_only: bool,
    },
    /// Look for damage in a server that is stopped, and repair it
    Doctor {
        /// As given to `init`
        #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-server")]
        data_dir: PathBuf,
        /// Repair what can be; nothing is deleted, what is replaced is kept
        #[arg(long)]
        repair: bool,
        /// How to print what was found
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Issue another operator's certificate, or a new one for one that expired
    #[command(after_help = "Example:\n  portolan-server admin --name alice --admin-out alice.toml\n  \
                            (on alice's machine: portolan --context alice.toml status)")]
    Admin {
        /// As given to `init`
        #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-server")]
        data_dir: PathBuf,
        /// Whom the certificate names
        #[arg(long, default_value = "admin")]
        name: String,
        /// The context file to write; this user's default context otherwise
        #[arg(long, value_name = "FILE")]
        admin_out: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

fn server_name(text: &str) -> Result<String, NameError> {
    split_name(text).map(|_| text.to_owned())
}

const CONFIG: &str = "/etc/portolan/server.toml";
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// How long blocking threads may hold up the end of the process.
const LINGER: Duration = Duration::from_secs(1);

/// The exit code of a command that did what it was to do, and could not save everything.
const VIOLATED: u8 = 3;

/// Does what the command line says; returns the exit code.
///
/// # Errors
/// Whatever failed, in words for the operator.
pub fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    quieten_the_engine();
    // For the files that libraries write; ours set their mode themselves.
    umask(Mode::from_bits_truncate(0o077));
    match cli.command {
        Command::Init { data_dir, names, admin_out } => {
            let made = init::init(&DataDir::new(&data_dir), &names, admin_out.as_deref(), Timestamp::now())
                .context("cannot initialise a server")?;
            println!("Initialised deployment {} in {}", made.deployment, data_dir.display());
            println!("Clients will look for it at {}", made.dial_addresses.join(", "));
            println!("Operator context written to {}", made.context.display());
            println!();
            println!("Next: portolan-server run --data-dir {}", data_dir.display());
        }
        Command::Admin { data_dir, name, admin_out } => {
            anyhow::ensure!(
                !name.is_empty() && name.len() <= 64 && !name.chars().any(char::is_control),
                "an operator's name has 1 to 64 printable characters"
            );
            let made = init::admin(&DataDir::new(&data_dir), &name, admin_out.as_deref(), Timestamp::now())
                .context("cannot issue an operator's certificate")?;
            println!("Operator context for {name} written to {}", made.context.display());
            println!("Valid until {:.0}", made.expires);
        }
        Command::Backup { file, data_dir, force } => make_backup(&DataDir::new(&data_dir), &file, force)?,
        Command::Restore { file, data_dir, store_only } => {
            restore(&DataDir::new(&data_dir), &file, store_only)?;
        }
        Command::Doctor { data_dir, repair, output } => {
            return examine(&DataDir::new(&data_dir), repair, output);
        }
        Command::Run { data_dir, listen, config } => serve(DataDir::new(&data_dir), listen, config)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code of a command that failed.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let interrupted = matches!(error.downcast_ref(), Some(BackupError::Interrupted))
        || matches!(error.downcast_ref(), Some(DoctorError::Interrupted));
    match u8::try_from(INTERRUPTED) {
        Ok(code) if interrupted => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    }
}

/// sled panics on some kinds of damage. The store catches that and says what it means, in words.
fn quieten_the_engine() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let in_file = panic.location().is_some_and(|location| is_of_the_engine(location.file()));
        let in_thread = std::thread::current().name().is_some_and(|name| name.starts_with("sled"));
        if in_file || in_thread {
            tracing::debug!(%panic, "the store's engine gave up");
        } else {
            usual(panic);
        }
    }));
}

fn is_of_the_engine(file: &str) -> bool {
    Path::new(file).components().any(|part| part.as_os_str().to_string_lossy().starts_with("sled-"))
}

/// A runtime that listens for signals: each of them, SIGHUP too, asks the command to end and tidy up.
fn interruptible() -> anyhow::Result<(tokio::runtime::Runtime, CancellationToken)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = CancellationToken::new();
    let hangup = Arc::new(Notify::new());
    runtime.block_on(async { signals::listen(stop.clone(), Some(hangup.clone())) })?;
    let stopped = stop.clone();
    runtime.spawn(async move {
        hangup.notified().await;
        stopped.cancel();
        // As of the other signals, a second one insists.
        hangup.notified().await;
        std::process::exit(INTERRUPTED);
    });
    Ok((runtime, stop))
}

fn serve(data: DataDir, listen: SocketAddr, config: Option<PathBuf>) -> anyhow::Result<()> {
    let config = read_config(config)?;
    // Said before the port is taken: the more basic mistake first.
    data.deployment().map_err(advise_init).context("cannot run the server")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
                "cannot listen on {listen}: the port is in use; choose another with --listen ADDR:PORT, or see who \
                 has it: ss -ltnp 'sport = :{}'",
                listen.port()
            ),
            _ => anyhow::anyhow!("cannot listen on {listen}: {error}"),
        })?;
        let shutdown = CancellationToken::new();
        let reload = Arc::new(Notify::new());
        signals::listen(shutdown.clone(), Some(reload.clone())).context("cannot run the server")?;
        run::run(data, config, listener, shutdown, reload).await.map_err(|error| {
            let error = match error {
                RunError::Store(error) => RunError::Store(error.plainly()),
                error => error,
            };
            let what =
                if matches!(error, RunError::Task(_)) { "the server stopped" } else { "cannot run the server" };
            anyhow::Error::new(error).context(what)
        })
    });
    // A reader of the store may still sit on a blocking thread; it has nothing to say to anybody.
    runtime.shutdown_timeout(LINGER);
    result
}

/// Only whoever wants to run a server may want a new one.
fn advise_init(error: DataDirError) -> anyhow::Error {
    match &error {
        DataDirError::NotInitialised(path) => anyhow::anyhow!(
            "{error}, or make a new server: `portolan-server init --data-dir {} --name HOST`",
            path.display()
        ),
        _ => error.into(),
    }
}

fn make_backup(data: &DataDir, file: &Path, force: bool) -> anyhow::Result<()> {
    let (runtime, stop) = interruptible().context("cannot make a backup")?;
    let to_file = (file != Path::new("-")).then_some(file);
    let made = backup::backup(data, to_file, force, &runtime, &stop).context("cannot make a backup")?;
    let contents = made.contents;
    let whether = if made.while_running { "while the server ran" } else { "while no server ran" };
    let mut words = format!(
        "Backed up deployment {} {whether}: {} entries up to commit {}, {} files, {} bytes\n",
        contents.deployment,
        contents.entries,
        contents.sums.commit,
        contents.files.len(),
        contents.bytes
    );
    match to_file {
        Some(file) => {
            words += &format!("Written to {} and read back: it is whole and adds up\n", file.display())
        }
        None => {
            words += "Written to the standard output; every frame and the SHA-256 were right on the way\n"
        }
    }
    words +=
        "It holds the certificate authority's private key: whoever has it can be this server. Keep it safe.";
    if to_file.is_some() {
        println!("{words}");
    } else {
        eprintln!("{words}");
    }
    Ok(())
}

fn restore(data: &DataDir, file: &Path, store_only: bool) -> anyhow::Result<()> {
    let (_runtime, stop) = interruptible().context("cannot restore")?;
    let restored =
        backup::restore(file, data, store_only, Timestamp::now(), &stop).context("cannot restore")?;
    let contents = restored.contents;
    println!(
        "Restored {} of deployment {} to {}: {} entries up to commit {}, as of {:.0}",
        if store_only { "the store" } else { "the server" },
        contents.deployment,
        data.path().display(),
        contents.entries,
        contents.sums.commit,
        contents.created_at
    );
    if let Some(kept) = restored.replaced {
        println!("The store that was there is kept as {}", kept.display());
    }
    if let Some(why) = restored.without_certificate {
        println!(
            "The server's own certificate was left out ({why}); the server makes a new one when it starts"
        );
    }
    println!("Satellites send again what they kept since then (72 h by default); nothing is counted twice.");
    println!("{}", words_on_revocations(&contents.created_at, restored.had_revocations));
    println!();
    println!("Next: portolan-server run --data-dir {}", data.path().display());
    Ok(())
}

/// Who is trusted now.
fn words_on_revocations(as_of: &Timestamp, had_revocations: bool) -> String {
    let registry = format!("Satellites, tokens and revocations are those of {as_of:.0}");
    if had_revocations {
        return format!("{registry}; the revocations in the revocations.log that was here hold as well.");
    }
    format!(
        "{registry}. CAUTION: a satellite that was revoked after that is trusted again. Revoke it again once the server \
         runs; or, before it does, copy the old server's revocations.log over the one here, if that still exists."
    )
}

fn examine(data: &DataDir, repair: bool, output: Output) -> anyhow::Result<ExitCode> {
    // sled panics on some kinds of damage, wherever; what that means is in the report.
    std::panic::set_hook(Box::new(|panic| tracing::debug!(%panic, "a panic while looking at damage")));
    let (_runtime, stop) = interruptible().context("cannot examine the server")?;
    let report = doctor::run(data, repair, Timestamp::now(), &stop).context("cannot examine the server")?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => {
            for words in &report.repaired {
                println!("repaired  {words}");
            }
            for finding in &report.findings {
                let mark = match (finding.ok, finding.examined) {
                    (true, _) => "ok     ",
                    (false, true) => "WRONG  ",
                    (false, false) => "unknown",
                };
                let todo =
                    if finding.todo.is_empty() { String::new() } else { format!("; {}", finding.todo) };
                println!("{mark}  {}: {}{todo}", finding.subject, finding.found);
            }
            for (number, words) in report.would.iter().enumerate() {
                if number == 0 {
                    println!("\nWith --repair the store would be built anew:");
                }
                println!("  {words}");
            }
            if report.well && !report.repaired.is_empty() {
                println!("\nNext: portolan-server run --data-dir {}", data.path().display());
            }
        }
    }
    anyhow::ensure!(report.well, "not all is well with {}; see above", data.path().display());
    if report.lost {
        eprintln!("warning: not everything could be saved; see above (exit code {VIOLATED})");
        return Ok(ExitCode::from(VIOLATED));
    }
    Ok(ExitCode::SUCCESS)
}

fn read_config(path: Option<PathBuf>) -> anyhow::Result<Config> {
    let path = match path {
        Some(path) => path,
        None if Path::new(CONFIG).exists() => PathBuf::from(CONFIG),
        None => return Ok(Config::default()),
    };
    let text = portolan_transport::files::read_text(&path, MAX_CONFIG_BYTES)?;
    Config::from_toml(&path.display().to_string(), &text)
        .map_err(|mistakes| anyhow::anyhow!("the settings have mistakes\n{mistakes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_of_the_engine_are_quiet() {
        assert!(is_of_the_engine(
            "/home/a/.cargo/registry/src/index.crates.io-1/sled-0.34.7/src/pagecache/mod.rs"
        ));
        assert!(!is_of_the_engine("server/src/store/writer.rs"));
    }

    #[test]
    fn an_interrupted_command_ends_with_130_and_any_other_failure_with_1() {
        let of = |error: anyhow::Error| format!("{:?}", exit_code(&error.context("cannot")));
        assert_eq!(of(BackupError::Interrupted.into()), format!("{:?}", ExitCode::from(130)));
        assert_eq!(of(DoctorError::Interrupted.into()), format!("{:?}", ExitCode::from(130)));
        assert_eq!(of(anyhow::anyhow!("no")), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn init_is_advised_to_whoever_runs_and_a_restore_says_who_is_trusted_again() {
        let nothing = DataDirError::NotInitialised("/x".into());
        assert!(!nothing.to_string().contains("init"), "{nothing}");
        assert!(advise_init(nothing).to_string().contains("init --data-dir /x"));
        let words = words_on_revocations(&Timestamp::UNIX_EPOCH, false);
        assert!(words.contains("1970-01-01") && words.contains("trusted again"), "{words}");
        assert!(!words_on_revocations(&Timestamp::UNIX_EPOCH, true).contains("trusted again"));
    }
}
