//! The command line of `portolan-satellite`.

use crate::data_dir::DataDir;
use crate::enroll::{self, EnrollError, ScopeOrigin, parse_proxy};
use crate::run::{self, RunError};
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use portolan_daemon::signals;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Portolan's satellite: scans from inside a segment and streams what it sees to the server.
#[derive(Debug, Parser)]
#[command(name = "portolan-satellite", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Exchange a join token for an identity; `portolan satellite add` prints the token
    Enroll {
        /// The join token, `ptl1_…`; `-` reads it from standard input, where no process list shows it
        token: String,
        #[command(flatten)]
        place: Place,
        /// Reach the server through this HTTP proxy, now and later
        #[arg(long, value_name = "http://[USER:PASSWORD@]HOST:PORT", value_parser = proxy_url)]
        proxy: Option<String>,
    },
    /// Run the satellite
    Run {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Where identity and state are kept; made with mode 0700
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan-satellite")]
    data_dir: PathBuf,
    /// The administrator's file with the scope [default: satellite.toml in the data directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    fn resolve(self) -> (DataDir, PathBuf) {
        let data = DataDir::new(&self.data_dir);
        let config = self.config.unwrap_or_else(|| data.default_config_file());
        (data, config)
    }
}

fn proxy_url(text: &str) -> Result<String, EnrollError> {
    parse_proxy(text).map(|_| text.to_owned())
}

/// How long blocking threads may hold up the end of the process.
const LINGER: Duration = Duration::from_millis(500);

/// Does what the command line says.
///
/// # Errors
/// Whatever failed, in words for the administrator.
pub fn execute(cli: Cli) -> anyhow::Result<()> {
    // For the files that libraries write; ours set their mode themselves.
    umask(Mode::from_bits_truncate(0o077));
    match cli.command {
        Command::Enroll { token, place, proxy } => enroll(token, place, proxy.as_deref()),
        Command::Run { place } => run(place),
    }
}

fn enroll(token: String, place: Place, proxy: Option<&str>) -> anyhow::Result<()> {
    let token = if token == "-" {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).context("cannot read the token from standard input")?;
        text
    } else {
        token
    };
    let shown_dir = place.data_dir.display().to_string();
    let shown_config =
        place.config.as_ref().map_or_else(String::new, |file| format!(" --config {}", file.display()));
    let (data, config) = place.resolve();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enrolled = runtime.block_on(enroll::enroll(&token, &data, &config, proxy)).context("cannot enrol")?;
    let origin = match enrolled.origin {
        ScopeOrigin::File => "from the file that stood there",
        ScopeOrigin::Token => "as the join token proposes",
        ScopeOrigin::Policy => "the networks that the policy knows",
        ScopeOrigin::Connected => "the networks that this machine is connected to",
    };
    let tenant = if enrolled.tenant == "default" {
        String::new()
    } else {
        format!(" of tenant `{}`", enrolled.tenant)
    };
    println!("Enrolled as `{}` in segment `{}`{tenant}.", enrolled.name, enrolled.segment);
    println!();
    println!("Scope, {origin}; only an edit of {} changes it:", config.display());
    let text = enrolled.scope.to_toml();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        println!("  {line}");
    }
    println!();
    println!("Next: portolan-satellite run --data-dir {shown_dir}{shown_config}");
    Ok(())
}

fn run(place: Place) -> anyhow::Result<()> {
    let (data, config) = place.resolve();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        signals::listen(shutdown.clone(), None).context("cannot run the satellite")?;
        run::run(data, config, shutdown).await.map_err(|error| {
            let started = matches!(error, RunError::Task(_));
            let what = if started { "the satellite stopped" } else { "cannot run the satellite" };
            anyhow::Error::new(error).context(what)
        })
    });
    // A name may still be looked up on a blocking thread; nobody waits for it any more.
    runtime.shutdown_timeout(LINGER);
    result
}
