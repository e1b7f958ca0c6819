//! What is known of one check while it is assigned.

use crate::checks::names::Answers;
use crate::checks::reobserve::{Memory, Rules};
use crate::checks::spec::{MAX_ADDRESSES, Spec, Where};
use crate::checks::status::{Facts, Findings, Outcome, status};
use crate::engine::Refusal;
use crate::resolve::Unresolved;
use portolan_common::addresses::AddressSet;
use portolan_common::ports::PortSet;
use portolan_common::scope::Guard;
use portolan_common::targets::ResolvedTargets;
use portolan_proto::v1;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub struct Check {
    name: String,
    pub spec: Spec,
    pub memory: Memory,
    /// What its targets come to; `None` before it first ran.
    pub aim: Option<Arc<Aim>>,
    pub round: Option<Box<Round>>,
    /// What came of the last round.
    outcome: Outcome,
    /// In milliseconds; 0: it holds its interval.
    interval_ms: u64,
    /// Something of it changed since it was told.
    news: bool,
}

/// What the targets of a check come to.
pub struct Aim {
    pub targets: Arc<ResolvedTargets>,
    pub unresolved: Vec<Unresolved>,
    /// What the scope permits; `None`: all of it.
    permitted: Option<Box<AddressSet>>,
    /// What it refuses, whatever the port.
    refused: Vec<Refusal>,
    /// Which scope that was.
    scope: u64,
}

/// A check that runs.
#[derive(Default)]
pub struct Round {
    /// The next address to look at, and the one after the last.
    pub next: u128,
    pub end: u128,
    /// The ports to look at.
    pub ports: PortSet,
    /// It stands in the queue of those that have something to look at.
    pub queued: bool,
    /// Looks under way.
    pub looks: usize,
    /// Sweeps under way, and those that wait.
    pub sweeps: usize,
    /// A blackout cut it off.
    pub cut: bool,
    pub findings: Findings,
}

impl Round {
    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.next >= self.end && self.looks == 0 && self.sweeps == 0
    }
}

impl Aim {
    fn new(targets: Arc<ResolvedTargets>, unresolved: Vec<Unresolved>, guard: &Guard, scope: u64) -> Self {
        let (permitted, refused) = guard.allowed(&targets.addresses);
        let refused: Vec<Refusal> = refused
            .into_iter()
            .flat_map(|(addresses, rule)| {
                let ranges: Vec<_> = addresses.ranges().collect();
                ranges.into_iter().map(move |addresses| Refusal {
                    addresses,
                    ports: None,
                    rule: rule.clone(),
                })
            })
            .collect();
        let permitted = (!refused.is_empty()).then(|| Box::new(permitted));
        Self { targets, unresolved, permitted, refused, scope }
    }

    /// The addresses to look at.
    pub fn permitted(&self) -> &AddressSet {
        self.permitted.as_deref().unwrap_or(&self.targets.addresses)
    }

    /// What the scope refuses, whatever the port.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Why it must not be probed, if so.
    pub fn flaw(&self) -> Option<String> {
        let excluded = &self.targets.unresolved_excludes;
        if !excluded.is_empty() {
            // Whoever excludes a fragile device must not find it probed because the resolver was away.
            return Some(format!(
                "what is excluded does not resolve here ({}), so nothing is looked at: exclude addresses instead",
                excluded.join(", ")
            ));
        }
        let addresses = self.targets.addresses.len();
        (addresses > MAX_ADDRESSES).then(|| {
            format!(
                "{addresses} addresses are more than one check takes ({MAX_ADDRESSES}): split it into several"
            )
        })
    }
}

impl Check {
    pub fn new(name: &str, spec: Spec) -> Self {
        Self {
            name: name.to_owned(),
            spec,
            memory: Memory::default(),
            aim: None,
            round: None,
            outcome: Outcome::default(),
            interval_ms: 0,
            news: true,
        }
    }

    /// The names among its targets.
    pub fn names(&self) -> &[String] {
        match &self.spec.targets {
            Where::Fixed(_) => &[],
            Where::Named { names, .. } => names,
        }
    }

    /// How long it is from one run to the next where it takes so many intervals.
    pub fn real_interval(&self, takes: Option<u32>) -> Duration {
        self.spec.every.saturating_mul(takes.unwrap_or(1))
    }

    /// Finds out what the targets come to, given what the names stand for.
    pub fn take_aim(&mut self, (lookup, unresolved): Answers, guard: &Guard, scope: u64) -> Arc<Aim> {
        let known = self.aim.as_ref().filter(|aim| aim.scope == scope);
        let targets = match (&self.spec.targets, known) {
            (Where::Fixed(_), Some(known)) => return known.clone(),
            (Where::Fixed(targets), None) => targets.clone(),
            (Where::Named { targets, .. }, _) => Arc::new((**targets).clone().resolve(&lookup)),
        };
        if let Some(known) = known.filter(|known| known.targets == targets && known.unresolved == unresolved)
        {
            return known.clone();
        }
        let aim = Arc::new(Aim::new(targets, unresolved, guard, scope));
        self.memory.retain(|address| aim.permitted().contains(address));
        self.news = true;
        self.aim = Some(aim.clone());
        aim
    }

    /// A round goes on that takes a while: of a check that ran never before, what came up so far is told.
    pub fn note_beginning(&mut self) {
        if let Some(round) = self.round.as_ref().filter(|_| self.outcome == Outcome::default()) {
            self.outcome = round.findings.clone().outcome();
        }
    }

    /// Takes note of how a round ended and of the interval that it really has.
    pub fn note(&mut self, findings: Findings, takes: Option<u32>) {
        let outcome = findings.outcome();
        let interval = takes.map_or(Duration::ZERO, |takes| self.real_interval(Some(takes)));
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.news |= outcome != self.outcome || interval_ms != self.interval_ms;
        (self.outcome, self.interval_ms) = (outcome, interval_ms);
    }

    /// How it fares, if that is not told yet.
    pub fn news(&mut self, revision: u64, at_ms: i64) -> Option<v1::CheckStatus> {
        let aim = self.aim.as_ref()?;
        std::mem::take(&mut self.news).then(|| {
            status(Facts {
                check: &self.name,
                revision,
                at_ms,
                addresses: &aim.targets.addresses,
                unresolved: &aim.unresolved,
                interval_ms: self.interval_ms,
                outcome: &self.outcome,
            })
        })
    }
}

impl Spec {
    /// What is judged by.
    pub fn rules(&self) -> Rules<'_> {
        Rules { ports: &self.ports, confirm: self.confirm, recover: self.recover }
    }
}
