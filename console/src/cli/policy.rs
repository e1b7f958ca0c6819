//! `portolan policy`.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say everything that is wrong with a policy, what is missing, and what applying it would change and send
    #[command(after_help = "\
Exit code 1 when there are mistakes. Warnings do not keep a policy from being applied.

Examples:
  portolan policy check policy.toml
  portolan policy check policy/ --offline
  portolan policy check policy/ -o json | jq .scope_changes")]
    Check(PolicyCheckArgs),
    /// Make a policy the one in force, unless it has mistakes
    #[command(after_help = "\
With --dry-run: exit code 3 when something would change, 0 when nothing would.

Examples:
  portolan policy apply policy/ -m 'NET-112: payment API'
  portolan policy apply policy/ --dry-run
  portolan policy apply policy/ --based-on 12     only if version 12 is still in force")]
    Apply(ApplyArgs),
    /// What applying a policy would start, stop and change; exit code 3 if anything
    #[command(after_help = "\
Example:
  portolan policy diff policy/")]
    Diff(PolicyFiles),
    /// The policy in force, or an earlier one, as it was applied
    #[command(after_help = "\
Examples:
  portolan policy show
  portolan policy show --version 11")]
    Show(PolicyVersion),
    /// Every version: when, by whom, why, what it changed
    #[command(after_help = "\
Example:
  portolan policy history")]
    History,
    /// Write the files of the policy in force, or of an earlier one, into a directory
    #[command(after_help = "\
Examples:
  portolan policy export policy/
  portolan policy export --version 11 /tmp/before")]
    Export(ExportArgs),
    /// Apply the files of an earlier version once more, as a new one
    #[command(after_help = "\
Examples:
  portolan policy rollback 11 --dry-run
  portolan policy rollback 11 -m 'the new check was wrong'")]
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
pub struct PolicyFiles {
    /// Files, directories (their *.toml), or `-` for stdin; all of them are one policy
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PolicyCheckArgs {
    #[command(flatten)]
    pub files: PolicyFiles,
    /// Only look for mistakes; ask no server
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub files: PolicyFiles,
    #[command(flatten)]
    pub how: HowToApply,
    /// Only if this version is still the one in force; 0: there is none
    #[arg(long, value_name = "N")]
    pub based_on: Option<u64>,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The version
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: u64,
    #[command(flatten)]
    pub how: HowToApply,
}

#[derive(Debug, Args)]
pub struct HowToApply {
    /// Why, for the history; at most 1,000 characters
    #[arg(short, long, value_parser = super::values::comment)]
    pub message: Option<String>,
    /// Only say what it would change and send
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct PolicyVersion {
    /// Which version; the one in force without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub which: PolicyVersion,
    /// Made if it is not there
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Overwrite files that are there
    #[arg(long)]
    pub force: bool,
}
