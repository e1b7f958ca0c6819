//! `portolan baseline`.

use super::check::CheckName;
use super::values::{self, HostPort};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Record what is open now at a check's targets; what differs from then on fires
    #[command(after_help = "\
Compared are the ports that the check lists under `watch`.

Example:
  portolan baseline take shop-front")]
    Take(CheckName),
    /// What was open when it was taken, and what differs now
    Show(CheckName),
    /// Only what differs now; exit code 3 when anything does
    #[command(after_help = "\
Examples:
  portolan baseline diff shop-front
  portolan baseline diff shop-front -o json | jq -r '.[] | select(.kind == \"new\") | .address'")]
    Diff(CheckName),
    /// Take over how it is now, in all or in part
    #[command(after_help = "\
Examples:
  portolan baseline accept shop-front
  portolan baseline accept shop-front 10.99.2.10:8443 '[fd00:99:2::10]:8443' 10.99.2.11")]
    Accept(AcceptArgs),
}

#[derive(Debug, Args)]
pub struct AcceptArgs {
    #[command(flatten)]
    pub check: CheckName,
    /// Only these hosts or ports: an address, perhaps with a port; IPv6 with a port in brackets
    #[arg(value_name = "HOST[:PORT]", value_parser = values::address_port)]
    pub hosts: Vec<HostPort>,
}
