//! The desired state of each satellite, from the compiled checks: one message for all of it, and a digest by which a
//! change is known. What a check asks is the same for all of its satellites, so it is made once. Pure.

use crate::pki::authority::sha256;
use crate::store::SatelliteRecord;
use portolan_common::schedule::{Schedule, Window};
use portolan_policy::CompiledCheck;
use portolan_proto::{MAX_ASSIGNMENT_BYTES, v1};
use prost::Message as _;
use std::collections::HashMap;

/// The heartbeat that an assignment asks for.
const HEARTBEAT_SECONDS: u32 = 5;
/// Bytes of an assignment beside its checks and blackouts: names of satellite, segment and tenant.
const REST_BYTES: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Assignments {
    /// Ascending by name.
    checks: Vec<Prepared>,
    /// By the satellite's name: positions in `checks`.
    of: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Prepared {
    message: v1::CheckAssignment,
    digest: [u8; 32],
    bytes: usize,
}

/// What is to be in force on one satellite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// Ascending by name.
    pub checks: Vec<v1::CheckAssignment>,
    /// When nothing may be sent for them.
    pub blackouts: Vec<v1::Window>,
}

impl Assignments {
    /// Prepares what `checks` ask. One that is paused or that has no targets asks nothing.
    pub fn new(checks: &[CompiledCheck]) -> Self {
        let mut assignments = Self::default();
        for check in checks.iter().filter(|check| !check.paused && !check.targets.is_empty()) {
            let message = message(check);
            let encoded = message.encode_to_vec();
            for satellite in &check.satellites {
                match assignments.of.get_mut(satellite) {
                    Some(positions) => positions.push(assignments.checks.len()),
                    None => {
                        assignments.of.insert(satellite.clone(), vec![assignments.checks.len()]);
                    }
                }
            }
            // Tag and length come with it.
            let bytes = encoded.len() + 6;
            assignments.checks.push(Prepared { message, digest: sha256(&encoded), bytes });
        }
        assignments
    }

    fn checks_of(&self, satellite: &str) -> impl Iterator<Item = &Prepared> {
        let positions = self.of.get(satellite).map_or(&[][..], Vec::as_slice);
        positions.iter().filter_map(|position| self.checks.get(*position))
    }

    /// By what a change of a satellite's content is known. Empty: it has nothing to do.
    pub fn digest(&self, satellite: &str, blackouts: &[Window]) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.checks_of(satellite).flat_map(|check| check.digest).collect();
        // Where there is nothing to do, there is nothing to leave.
        if bytes.is_empty() {
            return bytes;
        }
        for blackout in blackouts {
            bytes.extend(window(blackout).encode_length_delimited_to_vec());
        }
        sha256(&bytes).to_vec()
    }

    /// A satellite's content.
    pub fn content(&self, satellite: &str, blackouts: &[Window]) -> Content {
        let checks: Vec<_> = self.checks_of(satellite).map(|check| check.message.clone()).collect();
        let blackouts = if checks.is_empty() { Vec::new() } else { blackouts.iter().map(window).collect() };
        Content { checks, blackouts }
    }

    /// Whether a satellite has anything to do.
    pub fn has_checks(&self, satellite: &str) -> bool {
        self.of.contains_key(satellite)
    }

    /// How many bytes a satellite would be sent.
    pub fn bytes(&self, satellite: &str) -> usize {
        self.checks_of(satellite).map(|check| check.bytes).sum::<usize>() + REST_BYTES
    }

    /// Whether a satellite can be sent its content at all.
    pub fn fits(&self, satellite: &str) -> bool {
        self.bytes(satellite) <= MAX_ASSIGNMENT_BYTES
    }

    /// The satellites whose content is too large to be sent, each with its bytes, ascending by name.
    pub fn too_large(&self) -> Vec<(&str, usize)> {
        let mut large: Vec<_> = self
            .of
            .keys()
            .filter(|satellite| !self.fits(satellite))
            .map(|satellite| (satellite.as_str(), self.bytes(satellite)))
            .collect();
        large.sort_unstable();
        large
    }
}

/// The whole message for a satellite.
pub fn assignment(record: &SatelliteRecord, content: Content) -> v1::Assignment {
    v1::Assignment {
        revision: record.assignment_revision,
        satellite_name: record.name.clone(),
        segment: record.segment.clone(),
        tenant: record.tenant.clone(),
        heartbeat_seconds: HEARTBEAT_SECONDS,
        checks: content.checks,
        blackouts: content.blackouts,
    }
}

fn message(check: &CompiledCheck) -> v1::CheckAssignment {
    let (every_ms, cron, timezone) = match &check.schedule {
        Schedule::Every(every) => {
            (u64::try_from(every.as_millis()).unwrap_or(u64::MAX), String::new(), String::new())
        }
        Schedule::Cron(cron) => (0, cron.text().to_owned(), cron.timezone().to_owned()),
    };
    v1::CheckAssignment {
        name: check.name.clone(),
        targets: check.targets.clone(),
        exclude: check.exclude.clone(),
        open: check.ports.open.to_string(),
        closed: check.ports.closed.to_string(),
        blocked: check.ports.blocked.to_string(),
        watch: check.ports.watch.to_string(),
        every_ms,
        cron,
        timezone,
        confirm: check.confirm,
        recover: check.recover,
        method: check.method.clone(),
    }
}

fn window(window: &Window) -> v1::Window {
    v1::Window {
        cron: window.cron.text().to_owned(),
        timezone: window.cron.timezone().to_owned(),
        lasts_ms: u64::try_from(window.lasts.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use portolan_common::schedule::Cron;
    use std::time::Duration;

    fn names(content: &Content) -> Vec<&str> {
        content.checks.iter().map(|check| check.name.as_str()).collect()
    }

    #[test]
    fn each_satellite_has_its_own_checks() {
        let mut paused = sample::check("c", &["office-1"]);
        paused.paused = true;
        let mut aimless = sample::check("d", &["office-1"]);
        aimless.targets.clear();
        let checks =
            [sample::check("a", &["office-1", "dmz-1"]), sample::check("b", &["dmz-1"]), paused, aimless];
        let assignments = Assignments::new(&checks);
        assert_eq!(names(&assignments.content("office-1", &[])), ["a"]);
        assert_eq!(names(&assignments.content("dmz-1", &[])), ["a", "b"]);
        assert_eq!(assignments.content("nobody", &[]), Content::default());
    }

    #[test]
    fn a_digest_changes_with_the_content_of_its_satellite_alone() {
        let mut checks = [sample::check("a", &["office-1", "dmz-1"]), sample::check("b", &["dmz-1"])];
        let digests = |checks: &[CompiledCheck], blackouts: &[Window]| {
            let assignments = Assignments::new(checks);
            ["office-1", "dmz-1", "nobody"].map(|satellite| assignments.digest(satellite, blackouts))
        };
        let before = digests(&checks, &[]);
        assert!(before[2].is_empty() && before[0].len() == 32);
        checks[1].schedule = Schedule::Cron(Cron::new("0 2 * * *", "Europe/Berlin").unwrap());
        let after = digests(&checks, &[]);
        assert!(before[0] == after[0] && before[1] != after[1]);
        let night = Window { cron: Cron::new("0 2 * * *", "UTC").unwrap(), lasts: Duration::from_secs(3600) };
        let dark = digests(&checks, &[night]);
        assert!(dark[0] != after[0] && dark[1] != after[1]);
        assert!(dark[2].is_empty(), "a satellite with nothing to do has nothing to leave");
        // What is only judged on the server does not concern the satellite.
        checks[0].labels.insert("team".into(), "shop".into());
        assert_eq!(digests(&checks, &[])[0], after[0]);
    }

    #[test]
    fn what_is_said_of_the_size_is_no_less_than_it_is() {
        let checks: Vec<_> = (0..100).map(|n| sample::check(&format!("check-{n}"), &["office-1"])).collect();
        let assignments = Assignments::new(&checks);
        let record = SatelliteRecord { name: "office-1".into(), ..SatelliteRecord::default() };
        let message = assignment(&record, assignments.content("office-1", &[]));
        assert!(assignments.bytes("office-1") >= message.encoded_len());
        assert!(assignments.too_large().is_empty());
        let mut large = sample::check("large", &["office-1"]);
        large.targets = (0..100_000).map(|n| format!("{n}.{}.example", "x".repeat(200))).collect();
        let assignments = Assignments::new(&[large]);
        assert!(matches!(assignments.too_large()[..], [("office-1", 16_777_217..)]));
    }
}
