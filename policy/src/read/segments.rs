//! `[segment.NAME]` and `[service.NAME]`: where things are.

use super::fields::{Named, free_text, judge_name, labels, not_empty, ports};
use super::references::{Kind, Reference};
use super::{Part, Shared, targets};
use crate::model::{DEFAULT_TENANT, Segment, Service};
use ipnet::IpNet;
use portolan_common::addresses::parse_network;
use portolan_common::document::{At, Reader};
use portolan_common::names::check_name;

/// A network that a segment says is its own.
pub(super) struct Claim {
    pub(super) tenant: String,
    pub(super) segment: String,
    pub(super) network: At<IpNet>,
}

pub(super) fn read(root: &mut Reader<'_>, part: &mut Part) {
    for (name, mut table) in root.named_tables("segment") {
        judge_name(&table, "segment", &name);
        let value = segment(&mut table, &name, part);
        part.segments.push(Named { name, value });
    }
}

fn segment(table: &mut Reader<'_>, name: &str, part: &mut Part) -> Segment {
    table.require(&["cidrs"]);
    let tenant = tenant(table).map_or(DEFAULT_TENANT.to_owned(), |tenant| tenant.value);
    let cidrs = table.parse_all("cidrs", parse_network).unwrap_or_default();
    let mut seen_as = Vec::new();
    for (from, network) in table.string_map("seen_as").unwrap_or_default() {
        part.references.push(Reference::new(Kind::Segment, &from, from.span.clone()));
        match parse_network(&network) {
            Ok(network) => seen_as.push((from.value, network)),
            Err(error) => table.flaw(network.span, error),
        }
    }
    let segment = Segment {
        description: free_text(table, "description"),
        labels: labels(table, "labels", &[]),
        seen_as: seen_as.into_iter().collect(),
        cidrs: cidrs.iter().map(|network| network.value).collect(),
        tenant,
    };
    part.claims.extend(cidrs.into_iter().map(|network| Claim {
        tenant: segment.tenant.clone(),
        segment: name.to_owned(),
        network,
    }));
    segment
}

/// The `tenant`, if one is named.
pub(super) fn tenant(table: &mut Reader<'_>) -> Option<At<String>> {
    table.parse_with("tenant", |text| check_name("tenant", text).map(|()| text.to_owned()))
}

pub(super) fn read_services(root: &mut Reader<'_>, shared: &mut Shared, part: &mut Part) {
    for (name, mut table) in root.named_tables("service") {
        judge_name(&table, "service", &name);
        table.require(&["hosts", "ports"]);
        let hosts = table.strings("hosts").unwrap_or_default();
        not_empty(&mut table, "hosts", &hosts);
        let hosts = targets::literals(&table, hosts, shared);
        let value = Service {
            hosts: hosts.into_iter().map(|host| host.text).collect(),
            ports: ports(&mut table, "ports").value,
        };
        part.services.push(Named { name, value });
    }
}
