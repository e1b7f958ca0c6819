//! `portolan silence`.

use super::values;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum SilenceCommand {
    /// Keep the alerts that match from paging; they stay in the list and in the history
    #[command(after_help = "\
Examples:
  portolan silence add check=shop-front --for 2h -m 'new switch in rack 4'
  portolan silence add team=shop 'port=~80|443' --from 2026-03-01T22:00 --until 2026-03-02T02:00 -m 'release night'")]
    Add(SilenceArgs),
    /// The silences that hold or will
    #[command(after_help = "\
Examples:
  portolan silence list
  portolan silence list --expired -o json")]
    List {
        /// Also those that are over
        #[arg(long)]
        expired: bool,
    },
    /// End a silence now
    #[command(after_help = "\
Example:
  portolan silence expire 01a1f82d")]
    Expire {
        /// The silence's id, or the beginning of it: 4 characters at least, as many as tell it from the others
        #[arg(value_name = "ID", value_parser = values::id_of("a silence"))]
        id: String,
    },
}

#[derive(Debug, Args)]
pub struct SilenceArgs {
    /// What the alerts' labels must be: name=value, !=, =~, !~; all must hold
    #[arg(value_name = "MATCHER", required = true, value_parser = values::matcher)]
    pub matchers: Vec<String>,
    /// How long it holds: 30m, 2h, 3d
    #[arg(
        long = "for",
        value_name = "DURATION",
        required_unless_present = "until",
        conflicts_with = "until",
        value_parser = values::some_time
    )]
    pub lasts: Option<Duration>,
    /// When it ends; without an offset by your own clock
    #[arg(long, value_name = "T", value_parser = values::point)]
    pub until: Option<Timestamp>,
    /// When it begins, now by default
    #[arg(long, value_name = "T", value_parser = values::point)]
    pub from: Option<Timestamp>,
    /// Why, at most 1,000 characters
    #[arg(short, long, value_name = "REASON", value_parser = values::comment)]
    pub message: String,
}
