//! The command line of `portolan-server`.

use crate::config::Config;
use crate::data_dir::{DataDir, NameError, split_name};
use crate::run::RunError;
use crate::{init, run};
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use nix::sys::stat::{Mode, umask};
use portolan_daemon::signals;
use std::net::SocketAddr;
use std::path::PathBuf;
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

fn server_name(text: &str) -> Result<String, NameError> {
    split_name(text).map(|_| text.to_owned())
}

const CONFIG: &str = "/etc/portolan/server.toml";
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// How long blocking threads may hold up the end of the process.
const LINGER: Duration = Duration::from_secs(1);

/// Does what the command line says.
///
/// # Errors
/// Whatever failed, in words for the operator.
pub fn execute(cli: Cli) -> anyhow::Result<()> {
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
            Ok(())
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
            Ok(())
        }
        Command::Run { data_dir, listen, config } => serve(DataDir::new(&data_dir), listen, config),
    }
}

fn serve(data: DataDir, listen: SocketAddr, config: Option<PathBuf>) -> anyhow::Result<()> {
    let config = read_config(config)?;
    // Said before the port is taken: the more basic mistake first.
    data.deployment().context("cannot run the server")?;
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
            let what =
                if matches!(error, RunError::Task(_)) { "the server stopped" } else { "cannot run the server" };
            anyhow::Error::new(error).context(what)
        })
    });
    // A reader of the store may still sit on a blocking thread; it has nothing to say to anybody.
    runtime.shutdown_timeout(LINGER);
    result
}

fn read_config(path: Option<PathBuf>) -> anyhow::Result<Config> {
    let path = match path {
        Some(path) => path,
        None if std::path::Path::new(CONFIG).exists() => PathBuf::from(CONFIG),
        None => return Ok(Config::default()),
    };
    let text = portolan_transport::files::read_text(&path, MAX_CONFIG_BYTES)?;
    Config::from_toml(&path.display().to_string(), &text)
        .map_err(|mistakes| anyhow::anyhow!("the settings have mistakes\n{mistakes}"))
}
