//! `portolan change`, and `portolan changes`.

use super::expectation::{self, Expected};
use super::values::{self, Since};
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum ChangeCommand {
    /// Announce a change: while it is open, exactly what it expects does not page
    #[command(after_help = "\
What is expected is written FROM->TARGET:PORTS[/udp] STATE: FROM is a segment, a satellite or *, TARGET an address or a
network (IPv6 in brackets), STATE open, closed or filtered. Whatever else happens pages as ever.

Examples:
  portolan change open CHG31337 --expect 'office->10.99.2.10:8443 open' --for 2h -m 'new payment API'
  portolan change open CHG31338 --expect '*->[fd00:99:2::/64]:53/udp closed' --for 30m")]
    Open(OpenArgs),
    /// End a change: look again, and show how it was before and how it is after
    #[command(after_help = "\
Exit code 3 while a check is still violated by a port of the change.

Example:
  portolan change close CHG31337")]
    Close {
        /// The change's name
        #[arg(value_parser = values::change_name)]
        name: String,
    },
    /// The changes that are open
    #[command(after_help = "\
Examples:
  portolan change list
  portolan change list --closed -o json")]
    List(ChangeListArgs),
}

#[derive(Debug, Args)]
pub struct OpenArgs {
    /// What to call it, such as its ticket: 1 to 63 printable characters without spaces
    #[arg(value_parser = values::change_name)]
    pub name: String,
    /// What it will do; may be given several times
    #[arg(long, value_name = "FROM->TARGET:PORTS STATE", required = true, value_parser = expectation::parse)]
    pub expect: Vec<Expected>,
    /// How long it may take: 1m to 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = values::change_length)]
    pub lasts: Duration,
    /// Why, at most 1,000 characters
    #[arg(short, long, value_name = "REASON", value_parser = values::comment)]
    pub message: Option<String>,
}

#[derive(Debug, Args)]
pub struct ChangeListArgs {
    /// Also those that are closed
    #[arg(long)]
    pub closed: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan changes --since 24h
  portolan changes --since 7d --segment pci -o csv > week.csv")]
pub struct ChangesArgs {
    /// Since when: a duration back (24h, 7d) or a time (2026-03-01T12:00:00Z)
    #[arg(long, value_name = "T", value_parser = values::since)]
    pub since: Since,
    /// Only as seen from this segment
    #[arg(long)]
    pub segment: Option<String>,
}
