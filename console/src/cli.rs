//! The command line: what can be typed, and the help that explains it.

mod alert;
mod baseline;
mod change;
mod check;
mod expectation;
mod policy;
mod silence;
#[cfg(test)]
mod tests;
mod values;

use crate::output::Format;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use std::time::Duration;

pub use alert::{AckArgs, AlertCommand, AlertListArgs, CommentArgs, WatchArgs};
pub use baseline::{AcceptArgs, BaselineCommand};
pub use change::{ChangeCommand, ChangesArgs, OpenArgs};
pub use check::{CheckCommand, CheckListArgs};
pub use expectation::Expected;
pub use policy::{ApplyArgs, ExportArgs, PolicyCheckArgs, PolicyCommand, RollbackArgs};
pub use silence::{SilenceArgs, SilenceCommand};
pub use values::{HostPort, Since};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The operator's console of Portolan: ask satellites what they see from where they stand.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, styles = STYLES, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  portolan satellite add office-1 --segment office     a join token for a new satellite
  portolan scan 10.99.2.0/24 -p 22,80,443 --from office-1
  portolan ports --segment office                      what is known to be open
  portolan history 10.99.2.10:443 --since 7d           when it changed
  portolan policy apply --dry-run policy.toml          what a policy would change and send
  portolan check show shop-front                       what is expected, and how it is
  portolan alert watch                                 what goes wrong, as it happens

Exit codes: 0 done, 1 error, 2 usage, 3 done but expectations are violated (with --dry-run: something would change),
4 done in part, 130 interrupted.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Accepted anywhere on the line.
#[derive(Debug, Args)]
pub struct Global {
    /// How to print the result; which of them make sense depends on the command
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    #[arg(
        help = "How to print the result: table, json, jsonl, yaml; lists also csv, scans also nmap-xml, grepable"
    )]
    #[arg(help_heading = "Global options")]
    pub output: Option<Format>,
    /// Which server, and as whom: a context's name or file
    #[arg(long, global = true, value_name = "NAME|FILE", env = "PORTOLAN_CONTEXT", value_hint = ValueHint::FilePath)]
    #[arg(default_value = portolan_transport::context::DEFAULT, help_heading = "Global options")]
    pub context: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add, list and remove satellites
    #[command(subcommand)]
    Satellite(SatelliteCommand),
    /// Scan now, from one or more satellites
    Scan(ScanArgs),
    /// The scans that run now; pause, resume or cancel one
    Scans(ScansArgs),
    /// What is known of ports: the state each satellite last saw
    Ports(PortsArgs),
    /// Every change of a host's ports, by vantage point
    History(HistoryArgs),
    /// Every change of every host's ports, by vantage point
    Changes(ChangesArgs),
    /// What is wanted: check, apply and compare policies, and their history
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// The standing checks: how they are; run, pause and resume one
    #[command(subcommand)]
    Check(CheckCommand),
    /// What was open when a check's baseline was taken, and what differs now
    #[command(subcommand)]
    Baseline(BaselineCommand),
    /// What is not as expected: list, watch, acknowledge
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Keep alerts from paging for a time, with a reason
    #[command(subcommand)]
    Silence(SilenceCommand),
    /// Announce changes, so that exactly these do not page
    #[command(subcommand)]
    Change(ChangeCommand),
    /// Whether the server is well, at a glance
    #[command(after_help = "\
Examples:
  portolan status
  portolan status -o json | jq .satellites.offline")]
    Status,
    /// Print a shell's completion script
    #[command(after_help = "\
Examples:
  portolan completions bash > ~/.local/share/bash-completion/completions/portolan
  portolan completions zsh  > ~/.zfunc/_portolan
  portolan completions fish > ~/.config/fish/completions/portolan.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages into a directory
    #[command(after_help = "\
Example:
  portolan man ~/.local/share/man/man1 && man portolan-scan")]
    Man {
        /// Made if it is not there
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Subcommand)]
pub enum SatelliteCommand {
    /// Register a satellite and print the token with which it joins
    #[command(after_help = "\
The token is valid once and for a limited time. The segment exists from then on.

Examples:
  portolan satellite add office-1 --segment office
  portolan satellite add plant-1 --segment plant --scope 10.99.7.0/24 --ttl 24h
  token=$(portolan satellite add ci --segment lab -o json | jq -r .token)")]
    Add(AddArgs),
    /// All satellites and how they are
    #[command(after_help = "\
Examples:
  portolan satellite list
  portolan satellite list -o json | jq -r '.[] | select(.status == \"offline\") | .name'")]
    List,
    /// One satellite in detail
    Show(SatelliteName),
    /// End a satellite's connection and refuse its certificates from now on
    Revoke(SatelliteName),
    /// Forget a satellite that is revoked or never joined; what it saw stays in the history
    Remove(SatelliteName),
}

#[derive(Debug, Args)]
pub struct SatelliteName {
    /// The satellite's name
    pub name: String,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to call it: lower-case letters, digits, `-`, `_`, `.`
    #[arg(value_parser = values::name_of("satellite"))]
    pub name: String,
    /// The segment it stands in
    #[arg(long, value_parser = values::name_of("segment"))]
    pub segment: String,
    /// The tenant whose address space that is
    #[arg(long, default_value = "default", value_parser = values::name_of("tenant"))]
    pub tenant: String,
    /// Networks to propose as its scope; the satellite's own file decides
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = values::network)]
    pub scope: Vec<String>,
    /// How long the token can be used: 1m to 30d
    #[arg(long, default_value = "1h", value_parser = values::ttl)]
    pub ttl: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Targets: 10.0.0.1, 10.0.0.0/24, 10.0.0-3.1-254, 10.0.0.1-10.0.0.9, fd00::/120, shop.internal.
Names are looked up by each satellite. Ports: 22,80,8000-8100, T:443,U:53, - for all, top-100, U:top-50, ssh.

Examples:
  portolan scan 10.99.2.0/24 --from office-1
  portolan scan shop.internal -p 443 --from office-1,dmz-1     does it look alike from both?
  portolan scan 10.99.2.10 -p- --from pci-1 -o json > evidence.json
  portolan scan 10.99.2.10 -p 53,161 --method udp --udp-budget 30s --from office-1
  portolan scan 10.99.0.0/16 -p 22 --max-rate 500 --max-rate-per-host 5 --from office-1
  portolan scan --input-list hosts.txt --exclude 10.99.2.66 -p top-100 --from office-1 --gentle")]
pub struct ScanArgs {
    /// Addresses, networks, ranges, host names
    #[arg(value_name = "TARGET", required_unless_present = "input_list")]
    pub targets: Vec<String>,
    /// Which ports; without it top-1000, and U:top-100 with `--method udp`
    #[arg(short, long, allow_hyphen_values = true)]
    pub ports: Option<String>,
    /// The satellites to look from
    #[arg(long, required = true, value_name = "SAT,…", value_delimiter = ',')]
    pub from: Vec<String>,
    /// How to probe; `auto` takes the best that the satellite can do
    #[arg(long, value_enum, default_value = "auto")]
    pub method: Method,
    /// List every port, not only the open ones
    #[arg(long)]
    pub all: bool,
    /// Go easy on the path: at most 200 probes a second and 20 at a time to each network
    #[arg(long)]
    pub gentle: bool,
    /// Find out first which hosts are there, and probe the ports of those alone; the default for networks and ranges
    #[arg(long, conflicts_with = "no_discover")]
    pub discover: bool,
    /// Probe every address, whether it seems to be there or not
    #[arg(long)]
    pub no_discover: bool,
    /// How long to wait for UDP ports whose host limits its ICMP errors: 30s, 5m, up to 24h; what is silent then is
    /// `open|filtered` (icmp-rate-limited). Without it: as long as it takes
    #[arg(long, value_name = "DURATION", value_parser = values::udp_budget)]
    pub udp_budget: Option<Duration>,
    /// At most so many packets a second from each satellite, for this scan
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rate: Option<u32>,
    /// At most so many packets a second to each host, from each satellite
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rate_per_host: Option<u32>,
    /// Targets to leave out; may be given several times
    #[arg(long, value_name = "TARGET,…")]
    pub exclude: Vec<String>,
    /// A file with more targets, separated by white space, `#` begins a comment; `-` reads stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub input_list: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The best that the satellite can do
    Auto,
    /// Complete TCP connections; needs no privileges
    Connect,
    /// Half-open TCP; needs raw sockets on the satellite
    Syn,
    /// UDP; ports without `T:` or `U:` count as UDP
    Udp,
}

impl Method {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Connect => "connect",
            Self::Syn => "syn",
            Self::Udp => "udp",
        }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  portolan scans
  portolan scans pause 01a1f82d
  portolan scans -o json | jq -r '.[] | select(.paused) | .scan_id'")]
pub struct ScansArgs {
    #[command(subcommand)]
    pub command: Option<ScansCommand>,
}

#[derive(Debug, Subcommand)]
pub enum ScansCommand {
    /// Send nothing more for a scan until it is resumed; answers still count
    Pause(RunningScan),
    /// Go on with a scan that was paused
    Resume(RunningScan),
    /// End a scan; what was seen until then stays
    Cancel(RunningScan),
}

#[derive(Debug, Args)]
pub struct RunningScan {
    /// The scan's id, or the beginning of it: 4 characters at least, as many as tell it from the others
    #[arg(value_name = "ID", value_parser = values::id_of("scan"))]
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan ports
  portolan ports --segment pci --all
  portolan ports --host 10.99.2.0/24 -o csv > inventory.csv")]
pub struct PortsArgs {
    /// Only as seen from this segment
    #[arg(long)]
    pub segment: Option<String>,
    /// Only this host: an address, a network, or the name it was scanned by
    #[arg(long)]
    pub host: Option<String>,
    /// Also closed and filtered ports
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan history 10.99.2.10
  portolan history 10.99.2.10:443 --since 24h
  portolan history '[fd00:99::10]:443' --since 2026-03-01T00:00:00Z -o json")]
pub struct HistoryArgs {
    /// An address or name, perhaps with a port; IPv6 with a port in brackets
    #[arg(value_name = "HOST[:PORT]", value_parser = values::host_port)]
    pub host: HostPort,
    /// Only what happened since: a duration back (24h, 7d) or a time (2026-03-01T12:00:00Z)
    #[arg(long, value_name = "T", value_parser = values::since)]
    pub since: Option<Since>,
}
