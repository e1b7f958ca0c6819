//! `portolan check`.

use super::values;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// The checks of the policy in force, and how they are
    #[command(after_help = "\
With --firing or --not-ok: exit code 3 while it lists any.

Examples:
  portolan check list
  portolan check list -o json | jq -r '.[] | select(.state == \"unknown\") | .name'")]
    List(CheckListArgs),
    /// One check: what it expects, from where it looks, what it saw
    #[command(after_help = "\
Example:
  portolan check show shop-front")]
    Show(CheckName),
    /// Have a check's satellites look now
    #[command(after_help = "\
Waits until every one of them has looked, 60 s at most. Exit code 3 when the check is not as expected, 4 when a
satellite could not look.

Examples:
  portolan check run shop-front
  portolan check run shop-front --no-wait")]
    Run(RunArgs),
    /// Look no more for a check until it is resumed; its state stays as it is
    Pause(CheckName),
    /// Go on with a check that was paused
    Resume(CheckName),
}

#[derive(Debug, Args)]
pub struct CheckName {
    /// The check's name
    #[arg(value_parser = values::name_of("check"))]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct CheckListArgs {
    /// Only those that fire
    #[arg(long)]
    pub firing: bool,
    /// Only those that are not ok: firing, pending, unknown
    #[arg(long, conflicts_with = "firing")]
    pub not_ok: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub check: CheckName,
    /// Only order it
    #[arg(long)]
    pub no_wait: bool,
}
