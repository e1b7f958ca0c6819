//! What is looked at again, and when. A port that changes is a doubt: it is looked at again after 1 s, 2 s, 4 s, …
//! until it was seen so often enough in a row to be believed, or went back. No I/O, and every `now` is an argument.

use portolan_common::expectation::{Expectation, ExpectedPorts, Judgement};
use portolan_common::observation::{HostObservation, PortState};
use portolan_common::ports::PortSpec;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long until a change is looked at again for the first time; each time after it twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// What decides when a change is believed.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What is expected.
    pub ports: &'a ExpectedPorts,
    /// Observations in a row that make a fault, and of a port without expectation a change either way; from 1.
    pub confirm: u32,
    /// Observations in a row that end a fault; from 1.
    pub recover: u32,
}

/// What one check knows of its addresses. Of an address where everything is as it should be it keeps nothing.
#[derive(Debug, Default)]
pub struct Memory {
    hosts: HashMap<IpAddr, Past>,
}

/// What was seen of one address. A port is *off* when it is not as expected or, where nothing is expected, open.
#[derive(Debug, Default)]
struct Past {
    /// Ports that are believed to be off.
    off: PortSpec,
    /// Ports without expectation that were seen at all; before that they are neither off nor on.
    seen: PortSpec,
    /// What speaks against what is believed. Disjoint.
    doubts: Vec<Doubt>,
    /// Looks since the last doubt arose.
    looks: u32,
    /// When the next look is due.
    due: Option<Instant>,
}

/// Ports that were all seen the other way, equally often in a row.
#[derive(Debug)]
struct Doubt {
    ports: PortSpec,
    off: bool,
    seen: u32,
}

/// What an observation brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// It has to do with a change: whoever judges it should know soon.
    pub urgent: bool,
    /// When to look again, if that is new.
    pub look_at: Option<Instant>,
}

impl Rules<'_> {
    fn needed(&self, off: bool, ports_watched: bool) -> u32 {
        if off || ports_watched { self.confirm } else { self.recover }
    }

    /// The ports of a host that are off, or those that are not.
    fn part(&self, host: &HostObservation, off: bool) -> PortSpec {
        let mut part = PortSpec::default();
        let mut add = |protocol, ports| part = part.union(&PortSpec::only(protocol, ports));
        for run in &host.runs {
            let wanted = if off { Judgement::Mismatch } else { Judgement::Match };
            for (expected, expectation) in [
                (&self.ports.open, Expectation::Open),
                (&self.ports.closed, Expectation::Closed),
                (&self.ports.blocked, Expectation::Blocked),
            ] {
                if expectation.judge(run.state) == wanted {
                    add(run.protocol, expected.of(run.protocol).intersection(&run.ports));
                }
            }
            let watched = self.ports.watch.of(run.protocol);
            if !watched.is_empty()
                && run.state != PortState::OpenFiltered
                && (run.state == PortState::Open) == off
            {
                add(run.protocol, watched.intersection(&run.ports));
            }
        }
        part
    }
}

impl Memory {
    /// Takes note of what was seen of a host.
    pub fn observe(
        &mut self,
        rules: Rules<'_>,
        host: &HostObservation,
        every: Duration,
        now: Instant,
    ) -> Noted {
        let off = rules.part(host, true);
        if off.is_empty() && rules.ports.watch.is_empty() && !self.hosts.contains_key(&host.address) {
            return Noted::default();
        }
        let on = rules.part(host, false);
        let past = self.hosts.entry(host.address).or_default();
        let noted = past.observe(rules, &off, &on, every, now);
        if past.is_empty() {
            self.hosts.remove(&host.address);
        }
        noted
    }

    /// The ports to look at, if this is the look that was planned; it counts as begun.
    pub fn begin(&mut self, address: IpAddr, planned: Instant) -> Option<PortSpec> {
        let past = self.hosts.get_mut(&address)?;
        if past.due != Some(planned) || past.doubts.is_empty() {
            return None;
        }
        past.due = None;
        past.looks = past.looks.saturating_add(1);
        Some(past.doubted())
    }

    /// A look ended, whatever it brought. When the next one is due, if it left doubts; the interval brings the rest, so
    /// none that would come later than `every`.
    pub fn ended(&mut self, address: IpAddr, every: Duration, now: Instant) -> Option<Instant> {
        let past = self.hosts.get_mut(&address)?;
        if past.doubts.is_empty() || past.due.is_some() {
            return None;
        }
        past.plan(every, now)
    }

    /// Forgets what is no target any more.
    pub fn retain(&mut self, is_target: impl Fn(IpAddr) -> bool) {
        self.hosts.retain(|address, _| is_target(*address));
    }

    /// Whether something has changed that is not believed yet.
    pub fn has_doubts(&self) -> bool {
        self.hosts.values().any(|past| !past.doubts.is_empty())
    }
}

impl Past {
    fn is_empty(&self) -> bool {
        self.off.is_empty() && self.seen.is_empty() && self.doubts.is_empty()
    }

    fn doubted(&self) -> PortSpec {
        self.doubts.iter().fold(PortSpec::default(), |all, doubt| all.union(&doubt.ports))
    }

    fn plan(&mut self, every: Duration, now: Instant) -> Option<Instant> {
        let wait =
            FIRST.checked_mul(1u32.checked_shl(self.looks).unwrap_or(u32::MAX)).unwrap_or(Duration::MAX);
        self.due = (wait < every).then(|| now + wait);
        self.due
    }

    fn observe(
        &mut self,
        rules: Rules<'_>,
        off: &PortSpec,
        on: &PortSpec,
        every: Duration,
        now: Instant,
    ) -> Noted {
        let watch = &rules.ports.watch;
        let mut urgent = self.weigh(rules, off, on);
        // At first sight a port without expectation is what it is.
        let first = off.union(on).intersection(watch).difference(&self.seen);
        if !first.is_empty() {
            self.off = self.off.union(&off.intersection(&first));
            self.seen = self.seen.union(&first);
        }
        let doubted = self.doubted();
        let new_off = off.difference(&self.off).difference(&doubted);
        let new_on = on.intersection(&self.off).difference(&doubted);
        let mut arose = false;
        for (ports, off) in [(new_off, true), (new_on, false)] {
            for (ports, watched) in [(ports.difference(watch), false), (ports.intersection(watch), true)] {
                if !ports.is_empty() {
                    urgent = true;
                    arose |= self.saw(rules, Doubt { ports, off, seen: 1 }, watched);
                }
            }
        }
        let look_at = if arose {
            self.looks = 0;
            self.plan(every, now)
        } else {
            None
        };
        if self.doubts.is_empty() {
            self.due = None;
        }
        Noted { urgent, look_at }
    }

    /// Holds what was seen against the doubts that there are; whether it has to do with any.
    fn weigh(&mut self, rules: Rules<'_>, off: &PortSpec, on: &PortSpec) -> bool {
        let mut concerned = false;
        for doubt in std::mem::take(&mut self.doubts) {
            let (same, other) = if doubt.off { (off, on) } else { (on, off) };
            let again = doubt.ports.intersection(same);
            let back = doubt.ports.intersection(other);
            concerned |= !again.is_empty() || !back.is_empty();
            let rest = doubt.ports.difference(&again).difference(&back);
            self.doubt(Doubt { ports: rest, ..doubt });
            let watched = again.intersection(&rules.ports.watch);
            for (ports, watched) in [(again.difference(&watched), false), (watched, true)] {
                if !ports.is_empty() {
                    self.saw(
                        rules,
                        Doubt { ports, off: doubt.off, seen: doubt.seen.saturating_add(1) },
                        watched,
                    );
                }
            }
        }
        concerned
    }

    /// Believes what was seen often enough, and doubts the rest on; whether it is a doubt.
    fn saw(&mut self, rules: Rules<'_>, doubt: Doubt, watched: bool) -> bool {
        if doubt.seen >= rules.needed(doubt.off, watched) {
            self.off =
                if doubt.off { self.off.union(&doubt.ports) } else { self.off.difference(&doubt.ports) };
            return false;
        }
        self.doubt(doubt);
        true
    }

    fn doubt(&mut self, doubt: Doubt) {
        match self.doubts.iter_mut().find(|d| (d.off, d.seen) == (doubt.off, doubt.seen)) {
            Some(like) => like.ports = like.ports.union(&doubt.ports),
            None if doubt.ports.is_empty() => {}
            None => self.doubts.push(doubt),
        }
    }
}

#[cfg(test)]
mod tests;
