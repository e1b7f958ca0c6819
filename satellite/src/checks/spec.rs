//! A check as the assignment has it, read and checked once. A mistake fails that check alone.

use crate::engine::Method;
use jiff::Timestamp;
use portolan_common::expectation::ExpectedPorts;
use portolan_common::names::check_name;
use portolan_common::ports::{PortSet, PortSpec};
use portolan_common::schedule::{Cron, MAX_EVERY, MIN_EVERY, Schedule, Window};
use portolan_common::targets::{self, ResolvedTargets, Targets};
use portolan_proto::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Addresses that one check may come to.
pub const MAX_ADDRESSES: u128 = 1 << 16;
/// The most observations in a row that a check may ask for.
const MAX_IN_A_ROW: u32 = 100;
/// The most TCP ports of an address that are looked at one by one; of more it is a sweep.
const MAX_LOOK_PORTS: usize = 256;
/// The shortest blackout.
const MIN_WINDOW: Duration = Duration::from_secs(60);

/// What a check does here.
#[derive(Debug)]
pub struct Spec {
    /// Where.
    pub targets: Where,
    /// On which ports, and what is expected of them.
    pub ports: ExpectedPorts,
    /// How long it is from one time to the next.
    pub every: Duration,
    /// Observations in a row that make a fault: 1 to 100.
    pub confirm: u32,
    /// Observations in a row that end one: 1 to 100.
    pub recover: u32,
    /// How.
    pub method: Method,
}

/// The targets of a check.
#[derive(Debug)]
pub enum Where {
    /// The same whenever it runs.
    Fixed(Arc<ResolvedTargets>),
    /// Some are names, which are looked up each time.
    Named {
        /// With the names.
        targets: Box<Targets>,
        /// The names, ascending.
        names: Vec<String>,
    },
}

/// How ports of an address are looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// One by one.
    pub look: PortSet,
    /// By sweeps: each protocol by its own, so that the quicker one does not wait for the other.
    pub sweeps: Vec<(PortSpec, Method)>,
}

impl Spec {
    /// Reads it, and when it runs; `now` says how far apart the times of a cron expression are.
    ///
    /// # Errors
    /// What is wrong with it, in words for the operator.
    pub fn read(wire: &v1::CheckAssignment, now: Timestamp) -> Result<(Self, Schedule), String> {
        check_name("check", &wire.name).map_err(|error| error.to_string())?;
        let targets = targets::parse_all(&wire.targets, &wire.exclude)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let names: Vec<String> = targets.names().into_iter().collect();
        let targets = if names.is_empty() {
            Where::Fixed(Arc::new(targets.resolve(&BTreeMap::new())))
        } else {
            Where::Named { targets: Box::new(targets), names }
        };
        let ports = ExpectedPorts {
            open: ports("open", &wire.open)?,
            closed: ports("closed", &wire.closed)?,
            blocked: ports("blocked", &wire.blocked)?,
            watch: ports("watch", &wire.watch)?,
        };
        if ports.all().is_empty() {
            return Err("it names no ports".to_owned());
        }
        let parts = [&ports.open, &ports.closed, &ports.blocked, &ports.watch];
        if parts.iter().map(|part| part.len()).sum::<usize>() != ports.all().len() {
            return Err("a port stands in two of open, closed, blocked and watch".to_owned());
        }
        let schedule = schedule(wire)?;
        let method = if wire.method.is_empty() { "auto" } else { &wire.method };
        let spec = Self {
            targets,
            ports,
            every: schedule.interval(now),
            confirm: in_a_row("confirm", wire.confirm)?,
            recover: in_a_row("recover", wire.recover)?,
            method: method.parse().map_err(|error| format!("{error}"))?,
        };
        Ok((spec, schedule))
    }

    /// How these of its ports are looked at.
    pub fn ways(&self, ports: &PortSpec) -> Ways {
        let mut ways = Ways::default();
        if !ports.tcp.is_empty() {
            if self.method != Method::Syn && ports.tcp.len() <= MAX_LOOK_PORTS {
                ways.look = ports.tcp.clone();
            } else {
                let method = if self.method == Method::Udp { Method::Auto } else { self.method };
                let tcp = PortSpec { tcp: ports.tcp.clone(), udp: PortSet::default() };
                ways.sweeps.push((tcp, method));
            }
        }
        if !ports.udp.is_empty() {
            let udp = PortSpec { tcp: PortSet::default(), udp: ports.udp.clone() };
            ways.sweeps.push((udp, Method::Udp));
        }
        ways
    }
}

fn ports(key: &str, text: &str) -> Result<PortSpec, String> {
    if text.is_empty() {
        return Ok(PortSpec::default());
    }
    text.parse().map_err(|error| format!("{key}: {error}"))
}

fn in_a_row(key: &str, count: u32) -> Result<u32, String> {
    if (1..=MAX_IN_A_ROW).contains(&count) {
        Ok(count)
    } else {
        Err(format!("{key} is {count}, and not from 1 to {MAX_IN_A_ROW}"))
    }
}

fn schedule(wire: &v1::CheckAssignment) -> Result<Schedule, String> {
    if wire.every_ms == 0 {
        return cron("cron", &wire.cron, &wire.timezone).map(Schedule::Cron);
    }
    let every = Duration::from_millis(wire.every_ms);
    if (MIN_EVERY..=MAX_EVERY).contains(&every) {
        Ok(Schedule::Every(every))
    } else {
        Err(format!("its interval of {} ms is not from 1 s to 30 d", wire.every_ms))
    }
}

fn cron(key: &str, text: &str, timezone: &str) -> Result<Cron, String> {
    let timezone = if timezone.is_empty() { "UTC" } else { timezone };
    Cron::new(text, timezone).map_err(|flaw| format!("{key} `{text}` ({timezone}): {}", flaw.message))
}

/// Reads when nothing may be sent.
///
/// # Errors
/// What is wrong with the first that cannot be read, in words for the operator.
pub fn read_windows(wire: &[v1::Window]) -> Result<Vec<Window>, String> {
    wire.iter()
        .map(|window| {
            let lasts = Duration::from_millis(window.lasts_ms);
            if !(MIN_WINDOW..=MAX_EVERY).contains(&lasts) {
                return Err(format!("a blackout of {} ms is not from 1 min to 30 d", window.lasts_ms));
            }
            Ok(Window { cron: cron("the blackout's cron", &window.cron, &window.timezone)?, lasts })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::CheckAssignment {
        v1::CheckAssignment {
            name: "shop".into(),
            targets: vec!["10.0.0.0/30".into()],
            open: "443,U:53".into(),
            closed: "1000-1999".into(),
            every_ms: 1000,
            confirm: 1,
            recover: 2,
            ..v1::CheckAssignment::default()
        }
    }

    #[test]
    fn each_protocol_goes_its_own_way() {
        let (spec, _) = Spec::read(&wire(), Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(&spec.targets, Where::Fixed(targets) if targets.addresses.len() == 4));
        let udp = ("U:53".parse().unwrap(), Method::Udp);
        let few = spec.ways(&spec.ports.open);
        assert_eq!((few.look.to_string().as_str(), few.sweeps), ("443", vec![udp.clone()]));
        let many = spec.ways(&spec.ports.all());
        assert!(many.look.is_empty(), "too many to look at one by one");
        assert_eq!(many.sweeps, [("443,1000-1999".parse().unwrap(), Method::Auto), udp]);
        let syn = v1::CheckAssignment { method: "syn".into(), ..wire() };
        let (syn, _) = Spec::read(&syn, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(syn.ways(&"443".parse().unwrap()).sweeps, [("443".parse().unwrap(), Method::Syn)]);
        let named = v1::CheckAssignment { exclude: vec!["printer.example".into()], ..wire() };
        let (named, _) = Spec::read(&named, Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(named.targets, Where::Named { names, .. } if names == ["printer.example"]));
    }

    #[test]
    fn mistakes_are_told() {
        let mistakes: [(v1::CheckAssignment, &str); 10] = [
            (v1::CheckAssignment { name: "A b".into(), ..wire() }, "check name"),
            (v1::CheckAssignment { targets: vec!["10.0.0.300".into()], ..wire() }, "10.0.0.300"),
            (v1::CheckAssignment { open: "99999".into(), ..wire() }, "open: "),
            (v1::CheckAssignment { open: String::new(), closed: String::new(), ..wire() }, "no ports"),
            (v1::CheckAssignment { blocked: "443".into(), ..wire() }, "stands in two"),
            (v1::CheckAssignment { every_ms: 999, ..wire() }, "999 ms"),
            (v1::CheckAssignment { every_ms: 0, cron: "0 2".into(), ..wire() }, "`0 2` (UTC)"),
            (v1::CheckAssignment { confirm: 0, ..wire() }, "confirm is 0"),
            (v1::CheckAssignment { recover: 101, ..wire() }, "recover is 101"),
            (v1::CheckAssignment { method: "telepathy".into(), ..wire() }, "telepathy"),
        ];
        for (wire, message) in mistakes {
            let told = Spec::read(&wire, Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(told.contains(message), "{told}");
        }
        let window =
            |cron: &str, lasts_ms| v1::Window { cron: cron.into(), timezone: String::new(), lasts_ms };
        assert_eq!(read_windows(&[window("0 2 * * *", 60_000)]).unwrap().len(), 1);
        assert!(read_windows(&[window("0 2 * * *", 1)]).unwrap_err().contains("1 ms"));
        assert!(read_windows(&[window("0 25 * * *", 60_000)]).unwrap_err().contains("blackout"));
    }
}
