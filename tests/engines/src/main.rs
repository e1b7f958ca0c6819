//! Trials of embedded storage engines, by which the satellite's spool and the server's store were chosen: what they
//! lose, what they take, how fast they are. Figures come out as JSON, one document a trial.

mod child;
mod figures;
mod full;
mod ingest;
mod kills;
mod power;
mod process;
mod rate;
mod record;
mod spool;

use clap::{Args, Parser, Subcommand};
use spool::Engine;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Puts storage engines on trial.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Debug, Subcommand)]
enum Trial {
    /// As a satellite's spool: records by sequence, trimmed behind a window.
    #[command(subcommand)]
    Spool(SpoolTrial),
    /// As the server's store: host records compared or overwritten, a log, a cursor; 256 units a commit.
    Ingest {
        /// Which work.
        work: ingest::Work,
        /// Which engine.
        #[arg(long)]
        engine: ingest::Engine,
        /// Where to work.
        #[arg(long, default_value = "/tmp")]
        dir: PathBuf,
        /// For how long.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Units offered in a second; as fast as it goes when not given.
        #[arg(long)]
        pace: Option<u64>,
    },
    #[command(subcommand, hide = true)]
    Child(child::Child),
}

#[derive(Debug, Args)]
struct Common {
    /// Which engine.
    #[arg(long)]
    engine: Engine,
    /// Where to work: a directory is made in it and removed afterwards, unless something went wrong.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
}

impl Common {
    fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        scratch_in(&self.dir)
    }
}

fn scratch_in(directory: &Path) -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("engines-").tempdir_in(directory)
}

#[derive(Debug, Subcommand)]
enum SpoolTrial {
    /// Kills a writer at random moments, and checks what was acknowledged.
    Kills {
        #[command(flatten)]
        common: Common,
        /// Cuts the power of a loop device instead (root): what was not synced is gone.
        #[arg(long)]
        power: bool,
        /// How many times.
        #[arg(long, default_value_t = 1000)]
        kills: u64,
        /// Ends earlier after so many minutes.
        #[arg(long, default_value_t = 15)]
        minutes: u64,
        /// How many records are kept, of about 6 KB each.
        #[arg(long, default_value_t = 2000)]
        window: u64,
        /// Repeats the moments of an earlier run.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Fills a small tmpfs, in a mount namespace of its own.
    Full {
        #[command(flatten)]
        common: Common,
        /// How many times.
        #[arg(long, default_value_t = 100)]
        cycles: u64,
        /// How large it is; 16 of it are taken by a file that is removed when space is to return.
        #[arg(long, default_value_t = 64)]
        megabytes: u64,
    },
    /// Times durable commits, by size of group and record, beside a bare file.
    Rate {
        #[command(flatten)]
        common: Common,
        /// How long each shape is timed.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Appends and trims for long; memory and disk on the way.
    Steady {
        #[command(flatten)]
        common: Common,
        /// How many records pass through.
        #[arg(long, default_value_t = 200_000)]
        records: u64,
        /// How many are kept.
        #[arg(long, default_value_t = 2000)]
        window: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Trial::Child(child) = &cli.trial {
        return ExitCode::from(child::run(child) as u8);
    }
    match run(cli.trial) {
        Ok(figures) => {
            println!("{figures:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(trial: Trial) -> anyhow::Result<serde_json::Value> {
    match trial {
        Trial::Spool(SpoolTrial::Kills { common, power, kills, minutes, window, seed }) => {
            let scratch = common.scratch()?;
            let plan = kills::Plan { kills, at_most: Duration::from_secs(minutes * 60), window, seed };
            let disk = power.then(|| power::Disk::make(scratch.path())).transpose()?;
            let figures = kills::run(common.engine, plan, scratch.path(), disk.as_ref())?;
            if figures["unopenable"] != 0 || figures["acked_lost"] != 0 {
                eprintln!("kept for a look: {}", scratch.keep().display());
            }
            Ok(figures)
        }
        Trial::Spool(SpoolTrial::Full { common, cycles, megabytes }) => {
            full::run(common.engine, cycles, megabytes, common.scratch()?.path())
        }
        Trial::Spool(SpoolTrial::Rate { common, seconds }) => {
            let scratch = common.scratch()?;
            let mut rows = Vec::new();
            for shape in rate::SHAPES {
                rows.push(rate::bare_file(shape, seconds, scratch.path())?);
                rows.push(rate::commits(common.engine, shape, seconds, scratch.path())?);
            }
            Ok(rows.into())
        }
        Trial::Spool(SpoolTrial::Steady { common, records, window }) => {
            rate::steady(common.engine, records, window, common.scratch()?.path())
        }
        Trial::Ingest { work, engine, dir, seconds, pace } => {
            ingest::run(engine, work, seconds, pace, scratch_in(&dir)?.path())
        }
        Trial::Child(_) => unreachable!("handled before"),
    }
}
