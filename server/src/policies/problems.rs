//! What is wrong with carrying out the policy, for an operator to know although nobody asked.

use super::{Policies, lock, world};
use portolan_proto::v1;
use portolan_proto::v1::problem::Severity;

/// Sources and satellites that are named at most, of each kind.
const MAX_TOLD: usize = 50;

impl Policies {
    /// Everything that is to be told.
    pub fn problems(&self) -> Vec<v1::Problem> {
        let mut problems = Vec::new();
        let mut tell =
            |severity: Severity, kind: &str, subject: String, message: String, since_at_ms: i64| {
                let (kind, severity) = (kind.to_owned(), severity.into());
                problems.push(v1::Problem { severity, kind, subject, message, since_at_ms });
            };
        if let Some(unreadable) = &*lock(&self.unreadable) {
            let message = format!(
                "version {} of the policy cannot be read, so nothing is judged by it; satellites go on with what they \
                 have. Apply it anew (`portolan policy apply FILE`): {}",
                unreadable.version, unreadable.why
            );
            let since = unreadable.since.as_millisecond();
            tell(Severity::Critical, "policy-unreadable", String::new(), message, since);
        }
        let current = self.current.load_full();
        for (id, failing) in self.sources.failing(&current.policy).into_iter().take(MAX_TOLD) {
            let since = failing.since.as_millisecond();
            tell(Severity::Warning, "source-failed", id.to_string(), failing.why, since);
        }
        for (satellite, bytes) in current.assignments.too_large().into_iter().take(MAX_TOLD) {
            let message = format!(
                "what it is assigned comes to {} MiB, which cannot be sent: it goes on with what it has; give it fewer \
                 checks or targets",
                bytes.div_ceil(1 << 20)
            );
            tell(Severity::Critical, "assignment-too-large", satellite.to_owned(), message, 0);
        }
        let mut is_too_old = 0;
        for record in self.registry.list().iter().filter(|record| record.revoked_at_ms == 0) {
            let live = record.satellite_id().ok().and_then(|id| self.hub.live(id));
            let is_meant = current.assignments.has_checks(&record.name);
            if !is_meant || world::runs_checks(record, live.as_ref()) != Some(false) || is_too_old == MAX_TOLD
            {
                continue;
            }
            is_too_old += 1;
            let version = live.map_or_else(|| record.version.clone(), |live| live.version);
            let message = format!(
                "checks are assigned to it, and its version ({version}) does not run any: update portolan-satellite"
            );
            tell(Severity::Warning, "satellite-too-old", record.name.clone(), message, 0);
        }
        problems
    }
}
