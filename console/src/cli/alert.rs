//! `portolan alert`.

use super::values::{self, Since};
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// The alerts that are not resolved, newest first
    #[command(after_help = "\
With --firing: exit code 3 while it lists any.

Examples:
  portolan alert list
  portolan alert list team=shop 'severity!=info'
  portolan alert list --firing -o json || page-somebody
  portolan alert list --since 24h -o csv > yesterday.csv")]
    List(AlertListArgs),
    /// One alert with everything that is known of it
    #[command(after_help = "\
Example:
  portolan alert show 01a1f82d")]
    Show(AlertId),
    /// Say that somebody takes care of alerts; it holds until they are resolved
    #[command(after_help = "\
Examples:
  portolan alert ack 01a1f82d -m 'firewall team is on it'
  portolan alert list team=shop -o json | jq -r '.[].id' | xargs portolan alert ack")]
    Ack(AckArgs),
    /// Note something down with an alert
    #[command(after_help = "\
Example:
  portolan alert comment 01a1f82d 'the rule came with NET-112'")]
    Comment(CommentArgs),
    /// The alerts that are not resolved, then what happens to them, as it happens
    #[command(after_help = "\
A connection that breaks is made again; what is not resolved is then listed once more, each as `current`.
Ctrl-C ends it with exit code 130, the end of --for with 0.

Examples:
  portolan alert watch
  portolan alert watch severity=critical --for 1h
  portolan alert watch -o jsonl | jq -r 'select(.kind == \"firing\") | .alert.summary'")]
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
pub struct AlertListArgs {
    /// Only what fires, is not acknowledged and not held back
    #[arg(long, conflicts_with_all = ["all", "since"])]
    pub firing: bool,
    /// Also those that are resolved, as long as they are kept
    #[arg(long, conflicts_with = "since")]
    pub all: bool,
    /// Also those that were resolved since: a duration back (24h, 7d) or a time (2026-03-01T12:00:00Z)
    #[arg(long, value_name = "T", value_parser = values::since)]
    pub since: Option<Since>,
    /// What their labels must be: name=value, !=, =~, !~; all must hold
    #[arg(value_name = "MATCHER", value_parser = values::matcher)]
    pub matchers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AlertId {
    /// The alert's id, or the beginning of it: 4 characters at least, as many as tell it from the others
    #[arg(value_name = "ID", value_parser = values::id_of("an alert"))]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct AckArgs {
    /// The alerts' ids, or the beginnings of them: 4 characters at least
    #[arg(value_name = "ID", required = true, value_parser = values::id_of("an alert"))]
    pub ids: Vec<String>,
    /// Why, or what is being done
    #[arg(short, long, value_name = "COMMENT", value_parser = values::comment)]
    pub message: Option<String>,
}

#[derive(Debug, Args)]
pub struct CommentArgs {
    #[command(flatten)]
    pub alert: AlertId,
    /// What to note down, at most 1,000 characters
    #[arg(value_name = "TEXT", value_parser = values::comment)]
    pub text: String,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// What their labels must be: name=value, !=, =~, !~; all must hold
    #[arg(value_name = "MATCHER", value_parser = values::matcher)]
    pub matchers: Vec<String>,
    /// How long to watch: 30s, 1h; until Ctrl-C without it
    #[arg(long = "for", value_name = "DURATION", value_parser = values::some_time)]
    pub lasts: Option<Duration>,
}
