//! One check: its targets, and what it comes to over all of them.

use super::plan::Plan;
use super::scene::{Moment, Scene};
use super::target::{Target, Totals};
use super::vantage::Look;
use super::{CheckSpec, Counts, State, Transition};
use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses of one check that are followed; satellites do not look at more than half as many.
const MAX_TARGETS: usize = 1 << 17;
/// Those of them for each name, over all names: a satellite says where names lead, and must not say so without end.
const MAX_PER_NAME: usize = 256;

/// The targets that are there by name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named {
    targets: usize,
    expectations: u64,
}

impl Named {
    fn add(&mut self, plan: &Plan, address: IpAddr) {
        self.targets += 1;
        self.expectations += plan.expectations_at(address) as u64;
    }
}

/// See the module.
pub(super) struct Check {
    pub plan: Plan,
    /// Those that were looked at. Boxed: most checks have few.
    pub targets: BTreeMap<IpAddr, Box<Target>>,
    /// Of all targets that were looked at.
    pub totals: Totals,
    /// Expectations in all.
    expectations: u64,
    pub named: Named,
    /// When each vantage point last found an address under each name. A name without any is not there.
    found: HashMap<String, HashMap<SatelliteId, Timestamp>>,
    /// Targets that are there by name, and that no vantage point lately looked at.
    lost: BTreeSet<IpAddr>,
    pub state: State,
    pub since: Timestamp,
}

impl Check {
    pub(super) fn new(spec: CheckSpec, now: Timestamp) -> Self {
        let plan = Plan::new(spec);
        Self {
            expectations: plan.expectations(),
            plan,
            targets: BTreeMap::new(),
            totals: Totals::default(),
            named: Named::default(),
            found: HashMap::new(),
            lost: BTreeSet::new(),
            state: State::Unknown,
            since: now,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let seen = self.totals.counts;
        let known = seen.ok + seen.pending + seen.firing;
        let all = self.expectations.saturating_add(self.named.expectations).saturating_add(self.unfound());
        Counts { unknown: all.saturating_sub(known), ..seen }
    }

    /// Expectations of names that no vantage point found an address under: one address each, as far as anybody knows.
    fn unfound(&self) -> u64 {
        let names = self.plan.spec.names.len().saturating_sub(self.found.len());
        names.saturating_mul(self.plan.expectations_of_name()) as u64
    }

    pub(super) fn scene<'a>(&'a self, address: IpAddr, moment: Moment<'a>) -> Scene<'a> {
        Scene { plan: &self.plan, address, moment }
    }

    /// Notes since when its worst state is the worst.
    pub(super) fn date(&mut self, at: Timestamp) {
        let state = self.counts().worst();
        if state != self.state {
            (self.state, self.since) = (state, at);
        }
    }

    /// Takes a look; whether there was news in it. `room` is how many machines there may be more.
    pub(super) fn note(&mut self, address: IpAddr, look: &Look<'_>, moment: Moment<'_>, room: usize) -> bool {
        let Some(name) = self.plan.covers(address, &look.host.target) else { return false };
        let known = self.targets.get(&address).and_then(|target| target.vantage(look.satellite));
        let known = known.map(|vantage| vantage.evidence.seen_by(look.order)).unwrap_or_default();
        let judged = self.plan.judge(look.satellite, look.host, address, &known);
        let is_full = self.targets.len() >= MAX_TARGETS
            || (name.is_some() && self.named.targets / MAX_PER_NAME >= self.plan.spec.names.len());
        if judged.is_empty() || (is_full && !self.targets.contains_key(&address)) {
            return false;
        }
        self.found_under(look);
        let scene = Scene { plan: &self.plan, address, moment };
        let target = enter(&mut self.targets, &mut self.named, &scene, name);
        target.note(&scene, look, &judged, room);
        true
    }

    /// Notes that a name leads to an address.
    fn found_under(&mut self, look: &Look<'_>) {
        let name = &look.host.target;
        if self.plan.spec.names.contains(name) {
            let found = match self.found.get_mut(name) {
                Some(found) => found,
                None => self.found.entry(name.clone()).or_default(),
            };
            let at = found.entry(look.satellite).or_insert(look.at);
            *at = look.at.max(*at);
        }
    }

    /// Looks at a target anew; when to do so again.
    pub(super) fn evaluate(
        &mut self,
        address: IpAddr,
        moment: Moment<'_>,
        out: &mut Vec<Transition>,
    ) -> Option<Timestamp> {
        let scene = Scene { plan: &self.plan, address, moment };
        let target = self.targets.get_mut(&address)?;
        let before = target.totals;
        target.evaluate(&scene, out);
        self.totals = self.totals + target.totals - before;
        let fresh = target.vantages.iter().any(|vantage| scene.is_fresh_vantage(vantage));
        if target.name.is_some() && !fresh {
            self.lost.insert(address);
        } else {
            self.lost.remove(&address);
        }
        target.deadline(&scene)
    }

    /// Gives up addresses that their name no longer leads to: every vantage point that looked at them lately found
    /// others under the name. Of a name that is not looked up nothing is given up.
    pub(super) fn drop_moved(&mut self, moment: Moment<'_>, out: &mut Vec<Transition>) {
        for address in self.lost.clone() {
            let moved = self.targets.get(&address).is_some_and(|target| {
                let scene = self.scene(address, moment);
                let found = target.name.as_deref().and_then(|name| self.found.get(name));
                target.vantages.iter().all(|vantage| {
                    let at = found.and_then(|found| found.get(&vantage.satellite));
                    at.is_some_and(|at| scene.is_fresh(vantage.satellite, *at))
                })
            });
            if moved {
                self.remove(address, moment, out);
            }
        }
    }

    /// Ends all of a target.
    fn remove(&mut self, address: IpAddr, moment: Moment<'_>, out: &mut Vec<Transition>) {
        if let Some(mut target) = self.targets.remove(&address) {
            target.end_all(&self.scene(address, moment), out);
            self.totals = self.totals - target.totals;
            if target.name.is_some() {
                let expectations = self.plan.expectations_at(address) as u64;
                self.named.expectations = self.named.expectations.saturating_sub(expectations);
                self.named.targets = self.named.targets.saturating_sub(1);
            }
        }
        self.lost.remove(&address);
    }

    /// The check is not there any more.
    pub(super) fn end(mut self, moment: Moment<'_>, out: &mut Vec<Transition>) {
        while let Some((address, _)) = self.targets.first_key_value() {
            self.remove(*address, moment, out);
        }
    }

    /// Expects something else from now on. What is expected as before keeps what is known of it.
    pub(super) fn respec(&mut self, spec: CheckSpec, moment: Moment<'_>, out: &mut Vec<Transition>) {
        let before = std::mem::replace(&mut self.plan, Plan::new(spec));
        let spec = &self.plan.spec;
        self.found.retain(|name, found| {
            found.retain(|satellite, _| spec.satellites.contains(satellite));
            spec.names.contains(name) && !found.is_empty()
        });
        (self.named, self.totals) = (Named::default(), Totals::default());
        self.expectations = self.plan.expectations();
        let plan = &self.plan;
        self.targets.retain(|address, target| {
            let address = *address;
            // What ends is told in the words of what was expected.
            let old = Scene { plan: &before, address, moment };
            let covered = plan.covers(address, target.name.as_deref().unwrap_or_default());
            let Some(named) = covered.map(|name| name.is_some()) else {
                target.end_all(&old, out);
                return false;
            };
            target.end_ports(&old, &plan.differs_from(&before, address), out);
            if !plan.judges_hosts() {
                target.end_host(&old, out);
            }
            if named {
                self.named.add(plan, address);
            } else {
                target.name = None;
            }
            target.keep_vantages(|satellite| plan.spec.satellites.contains(&satellite));
            target.count(&Scene { plan, ..old });
            self.totals = self.totals + target.totals;
            true
        });
        self.lost.retain(|address| self.targets.contains_key(address));
    }
}

/// The target at an address, found under a name or for itself.
pub(super) fn enter<'a>(
    targets: &'a mut BTreeMap<IpAddr, Box<Target>>,
    named: &mut Named,
    scene: &Scene<'_>,
    name: Option<&str>,
) -> &'a mut Target {
    let target = targets.entry(scene.address).or_insert_with(|| {
        if name.is_some() {
            named.add(scene.plan, scene.address);
        }
        Box::default()
    });
    if target.name.as_deref() != name {
        target.name = name.map(Arc::from);
    }
    target
}
