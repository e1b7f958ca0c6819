//! `[segmentation]` and `[[flow]]`: which segment may reach which.

use super::fields::{self, Named, free_text, not_empty, ports};
use super::references::{Kind, Reference};
use super::targets::host_set;
use super::{Part, Shared};
use crate::model::{Flow, Segmentation, Severity};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use portolan_common::document::{At, Flaw, Reader};
use portolan_common::names::check_name;
use portolan_common::ports::PortSpec;
use portolan_common::schedule::{MAX_EVERY, MIN_EVERY};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DEFAULT_PORTS: &str = "top-1000,U:53,U:123,U:161";
const DEFAULT_FULL_PORTS: &str = "-";
const DEFAULT_RATE: u32 = 200;
const MAX_RATE: u32 = 100_000;
const ALL: &str = "*";

pub(super) fn read_segmentation(root: &mut Reader<'_>, part: &mut Part) {
    let Some(mut table) = root.table("segmentation") else { return };
    let or_default = |ports: Option<At<PortSpec>>, default: &str| match ports {
        Some(ports) => ports.value,
        None => default.parse().unwrap_or_default(),
    };
    let value = Segmentation {
        every: table.duration("every", MIN_EVERY..=MAX_EVERY).map_or(HOUR, |every| every.value),
        ports: or_default(table.parse("ports"), DEFAULT_PORTS),
        full: table.table("full").and_then(|mut full| {
            full.require(&["within"]);
            let ports = or_default(full.parse("ports"), DEFAULT_FULL_PORTS);
            let within = full.duration("within", HOUR..=HOUR * 24 * 90)?;
            Some((ports, within.value))
        }),
        max_rate: table.integer("max_rate", 1..=MAX_RATE).map_or(DEFAULT_RATE, |rate| rate.value),
        severity: table.parse("severity").map_or(Severity::Critical, |severity| severity.value),
    };
    part.segmentation = Some(At { value, span: table.span() });
}

pub(super) fn read(root: &mut Reader<'_>, shared: &mut Shared, part: &mut Part) {
    for mut table in root.tables("flow") {
        let name = fields::title(&mut table);
        let value = flow(&mut table, shared, &mut part.references);
        part.flows.extend(name.map(|name| Named { name, value }));
    }
}

fn flow(table: &mut Reader<'_>, shared: &mut Shared, references: &mut Vec<Reference>) -> Flow {
    table.require(&["from", "to"]);
    let from = ends(table, "from", false, references);
    let to = ends(table, "to", true, references);
    let except = ends(table, "except", false, references);
    if !except.is_empty() && !from.iter().any(|end| end == ALL) {
        let flaw = Flaw::new("`except` has a meaning with from = [\"*\"] only");
        fields::mistake_at(table, "except", flaw);
    }
    judge_allow(table, &to);
    Flow {
        from,
        except,
        from_hosts: host_set(table, "from_hosts", shared),
        to,
        to_hosts: host_set(table, "to_hosts", shared),
        allow: ports(table, "allow").value,
        reason: free_text(table, "reason"),
        owner: free_text(table, "owner"),
        approver: free_text(table, "approver"),
        expires: expires(table, shared),
    }
}

/// Segments, `*`, and where a flow may lead to them also services.
fn ends(
    table: &mut Reader<'_>,
    key: &'static str,
    services: bool,
    references: &mut Vec<Reference>,
) -> Vec<String> {
    let ends = table.parse_all(key, |text| end(text, key, services)).unwrap_or_default();
    not_empty(table, key, &ends);
    for end in &ends {
        match end.strip_prefix("service:") {
            Some(service) => references.push(Reference::new(Kind::Service, service, end.span.clone())),
            None if end.value == ALL => {}
            None => references.push(Reference::new(Kind::Segment, end, end.span.clone())),
        }
    }
    ends.into_iter().map(|end| end.value).collect()
}

fn end(text: &str, key: &str, services: bool) -> Result<String, Flaw> {
    if text == ALL && key != "except" {
        return Ok(text.to_owned());
    }
    if let Some(segment) = text.strip_prefix("segment:") {
        return Err(Flaw::new("flows name segments without a prefix").hint(format!("write \"{segment}\"")));
    }
    match text.strip_prefix("service:") {
        Some(service) if services => check_name("service", service)?,
        Some(_) => return Err(Flaw::new("a service can only stand in `to`")),
        None => check_name("segment", text)?,
    }
    Ok(text.to_owned())
}

/// A service brings its own ports, a segment has none.
fn judge_allow(table: &mut Reader<'_>, to: &[String]) {
    let only_services = !to.is_empty() && to.iter().all(|end| end.starts_with("service:"));
    match table.raw("allow").map(|value| value.span()) {
        None if !only_services => table.require(&["allow"]),
        Some(span) if only_services => {
            let flaw = Flaw::new("a service brings its own ports").hint("leave out `allow`");
            table.mistake(span, flaw);
        }
        _ => {}
    }
}

/// The end of the day that `expires` names.
fn expires(table: &mut Reader<'_>, shared: &mut Shared) -> Option<Timestamp> {
    let zone = fields::timezone(table, shared).unwrap_or_else(|| shared.timezone.clone());
    let zone = TimeZone::get(&zone).unwrap_or(TimeZone::UTC);
    let now = shared.now;
    let end = table.parse_with("expires", |text| {
        let end = text
            .parse::<Date>()
            .ok()
            .filter(|_| text.len() == 10)
            .and_then(|day| Some(day.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp()));
        match end {
            None => Err(Flaw::new("not a day").hint("such as 2027-06-30")),
            Some(end) if end <= now => {
                let flaw = Flaw::new("this exception has expired");
                Err(flaw.hint("take the flow out, or have it approved again and give it a later end"))
            }
            Some(end) => Ok(end),
        }
    });
    end.map(|end| end.value)
}
