//! Whose address space a check looks at, and which networks cannot be told apart.

use super::checks::CheckDraft;
use super::segments::Claim;
use super::whole::{Place, place};
use crate::model::{DEFAULT_TENANT, From, Segment};
use ipnet::IpNet;
use portolan_common::document::{Flaw, Mistakes};
use std::collections::{BTreeMap, HashMap};

/// The tenant of a check: the one it names, or that of the segments it looks from.
pub(super) fn of_check(
    draft: &CheckDraft,
    segments: &BTreeMap<String, Segment>,
    report: &mut Mistakes,
) -> String {
    let mut known = draft.tenant.as_ref().map(|tenant| (tenant.value.clone(), "the check".to_owned()));
    for from in &draft.from {
        let From::Segment(name) = &from.value else { continue };
        let Some(segment) = segments.get(name) else { continue };
        match &known {
            None => known = Some((segment.tenant.clone(), format!("segment `{name}`"))),
            Some((tenant, _)) if *tenant == segment.tenant => {}
            Some((tenant, whose)) => {
                let flaw =
                    format!("segment `{name}` is of tenant `{}`, {whose} of `{tenant}`", segment.tenant);
                let hint = "a check looks at the addresses of one tenant: make it one check for each";
                report.add(from.span.clone(), Flaw::new(flaw).hint(hint));
            }
        }
    }
    known.map_or(DEFAULT_TENANT.to_owned(), |(tenant, _)| tenant)
}

/// Notes networks that two segments of a tenant have, or one twice. Networks that lie in one another are fine: the
/// smaller one decides. That they cross is impossible.
pub(super) fn judge_claims(claims: &mut [(usize, Claim)], reports: &mut [Mistakes]) {
    let mut first: HashMap<(&str, IpNet), (&str, Place)> = HashMap::new();
    // Segments come by name, and the later line is the one to blame.
    claims.sort_by_key(|(file, claim)| (*file, claim.network.span.start));
    for (file, claim) in claims.iter() {
        let key = (claim.tenant.as_str(), claim.network.value);
        let Some((segment, earlier)) = first.get(&key) else {
            first.insert(key, (&claim.segment, Place { file: *file, at: claim.network.span.start }));
            continue;
        };
        let network = claim.network.value;
        let flaw = if *segment == claim.segment {
            format!("segment `{segment}` has {network} twice")
        } else {
            format!("{network} is a network of segment `{segment}`, too")
        };
        let hint = format!(
            "the other one is at {}; networks may lie in one another, not be equal",
            place(reports, earlier)
        );
        if let Some(report) = reports.get_mut(*file) {
            report.add(claim.network.span.clone(), Flaw::new(flaw).hint(hint));
        }
    }
}
