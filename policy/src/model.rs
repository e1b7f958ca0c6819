//! The policy as it was written, read and found right. Names are identity: whatever has one is found by it, and its
//! place in the file means nothing.

use ipnet::IpNet;
use jiff::Timestamp;
use portolan_common::addresses::AddressSet;
use portolan_common::document::duration_text;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::schedule::{Schedule, Window};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The tenant of whatever names none.
pub const DEFAULT_TENANT: &str = "default";

/// Everything that is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// By name, over all tenants.
    pub segments: BTreeMap<String, Segment>,
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// By name.
    pub checks: BTreeMap<String, Check>,
    /// What is tested between segments; not acted upon yet.
    pub segmentation: Option<Segmentation>,
    /// By name; not acted upon yet.
    pub flows: BTreeMap<String, Flow>,
    /// By name; not acted upon yet.
    pub receivers: BTreeMap<String, Receiver>,
    /// In their order, which counts; not acted upon yet.
    pub routes: Vec<Route>,
    /// By name.
    pub maintenance: BTreeMap<String, Maintenance>,
    /// By name.
    pub blackouts: BTreeMap<String, Blackout>,
}

/// A named part of a tenant's address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whose address space.
    pub tenant: String,
    /// Its networks.
    pub cidrs: Vec<IpNet>,
    /// For people.
    pub description: String,
    /// For people and matchers.
    pub labels: BTreeMap<String, String>,
    /// How its addresses look from another segment: that segment's name, the network.
    pub seen_as: BTreeMap<String, IpNet>,
}

/// Hosts that many may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Targets in nmap's syntax.
    pub hosts: Vec<String>,
    /// Its ports.
    pub ports: portolan_common::ports::PortSpec,
}

/// From where something is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum From {
    /// Every satellite of the tenant: `*`.
    All,
    /// Every satellite there: `segment:NAME`.
    Segment(String),
    /// One: `satellite:NAME`.
    Satellite(String),
}

/// As a policy has it.
impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Segment(name) => write!(f, "segment:{name}"),
            Self::Satellite(name) => write!(f, "satellite:{name}"),
        }
    }
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetSource {
    /// An address, a network, a range, or a name that is resolved at the satellite, as written.
    Literal(String),
    /// A Prometheus `file_sd` file on the server, in its directory of sources: a file name, perhaps with `*`.
    FileSd {
        /// Relative to that directory.
        file: String,
        /// How often it is read again.
        refresh: Duration,
    },
    /// A Prometheus `http_sd` endpoint that the server asks.
    HttpSd {
        /// `http://` or `https://`.
        url: String,
        /// How often it is asked again.
        refresh: Duration,
    },
}

/// A literal as it is written; `file_sd web/*.json every 1m`.
impl fmt::Display for TargetSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::FileSd { file, refresh } => write!(f, "file_sd {file} every {}", duration_text(*refresh)),
            Self::HttpSd { url, refresh } => write!(f, "http_sd {url} every {}", duration_text(*refresh)),
        }
    }
}

/// A standing expectation.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whose address space.
    pub tenant: String,
    /// The vantage points; at least one.
    pub from: Vec<From>,
    /// What is looked at; at least one.
    pub targets: Vec<TargetSource>,
    /// What is left out, in nmap's syntax.
    pub exclude: Vec<String>,
    /// What is expected; with `exclusive`, `closed` has every other TCP port.
    pub ports: ExpectedPorts,
    /// Every TCP port that is not expected open or blocked must be closed.
    pub exclusive: bool,
    /// When it runs.
    pub schedule: Schedule,
    /// Observations in a row that make a fault: 1 to 100.
    pub confirm: u32,
    /// Observations in a row that end one: 1 to 100.
    pub recover: u32,
    /// How many vantage points it takes.
    pub quorum: Quorums,
    /// By expectation.
    pub severity: Severities,
    /// Beside the project's own; none of them has the name of one of those.
    pub labels: BTreeMap<String, String>,
    /// Checks whose alerts hold back this one's.
    pub depend_on: Vec<String>,
    /// How to probe: `auto`, `connect`, `syn` or `udp`.
    pub method: String,
    /// What must stand behind open ports; not acted upon yet.
    pub services: Vec<ServiceStep>,
}

/// How many of the vantage points with fresh evidence must see a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quorum {
    /// One.
    Any,
    /// More than half.
    Majority,
    /// Each.
    All,
    /// So many, 1 to 1,000.
    AtLeast(u32),
}

/// The quorum of each expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// Of ports that must be open.
    pub open: Quorum,
    /// Of ports that must be closed.
    pub closed: Quorum,
    /// Of ports that must be blocked.
    pub blocked: Quorum,
}

impl Default for Quorums {
    fn default() -> Self {
        Self { open: Quorum::Majority, closed: Quorum::Any, blocked: Quorum::Any }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Majority => f.write_str("majority"),
            Self::All => f.write_str("all"),
            Self::AtLeast(number) => number.fmt(f),
        }
    }
}

/// How bad a fault is; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth a line.
    Info,
    /// Worth a look.
    Warning,
    /// Worth waking somebody.
    Critical,
}

impl Severity {
    /// The word of the policy file and of labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl FromStr for Severity {
    type Err = portolan_common::document::Flaw;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Info, Self::Warning, Self::Critical].into_iter().find(|s| s.as_str() == text).ok_or_else(
            || portolan_common::document::Flaw::new("no such severity").hint("info, warning or critical"),
        )
    }
}

/// The severity of each expectation's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Severities {
    /// Of ports that must be open.
    pub open: Severity,
    /// Of ports that must be closed.
    pub closed: Severity,
    /// Of ports that must be blocked.
    pub blocked: Severity,
}

impl Default for Severities {
    fn default() -> Self {
        Self { open: Severity::Warning, closed: Severity::Critical, blocked: Severity::Critical }
    }
}

/// What must stand behind an open port; kept for when it is acted upon.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStep {
    /// Its port.
    pub port: u16,
    /// The kind of probe, such as `http` or `tcp`.
    pub probe: String,
    /// The rest, in the file's own words.
    pub text: String,
}

/// What is tested between all segments.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// How often.
    pub every: Duration,
    /// On every pair.
    pub ports: portolan_common::ports::PortSpec,
    /// All of these, spread over that time.
    pub full: Option<(portolan_common::ports::PortSpec, Duration)>,
    /// Packets a second for each pair.
    pub max_rate: u32,
    /// Of a violation.
    pub severity: Severity,
}

/// Which segment may reach which.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Segments, or `*`.
    pub from: Vec<String>,
    /// Segments that `*` does not mean here.
    pub except: Vec<String>,
    /// Only these hosts of them.
    pub from_hosts: AddressSet,
    /// Segments, `service:NAME`, or `*`.
    pub to: Vec<String>,
    /// Only these hosts of them.
    pub to_hosts: AddressSet,
    /// The ports; a service brings its own.
    pub allow: portolan_common::ports::PortSpec,
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub owner: String,
    /// Who agreed.
    pub approver: String,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// Who is told; kept for when it is acted upon.
#[derive(Clone, Debug, PartialEq)]
pub struct Receiver {
    /// `webhook`, `email`, `syslog`, …
    pub kind: String,
    /// The rest, in the file's own words.
    pub text: String,
}

/// What goes to whom; kept for when it is acted upon.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What alerts it takes.
    pub matches: BTreeMap<String, String>,
    /// Receivers, those of escalations included.
    pub to: Vec<String>,
    /// All of it, in the file's own words.
    pub text: String,
}

/// A time in which faults are expected and hold nobody up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// What alerts it holds back: all of these labels.
    pub matches: BTreeMap<String, String>,
    /// When.
    pub window: Window,
}

/// A time in which satellites must not send anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blackout {
    /// Which satellites.
    pub from: Vec<From>,
    /// When.
    pub window: Window,
}
