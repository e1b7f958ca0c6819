//! Whatever is not a check, in words.

use super::{Change, Difference, Words, labels};
use crate::model::{Blackout, Flow, Maintenance, Receiver, Route, Segment, Segmentation, Service};
use crate::words::list;
use portolan_common::addresses::AddressSet;
use portolan_common::document::duration_text;
use portolan_common::schedule::Window;

pub(super) fn segment_said(segment: &Segment) -> String {
    let tenant = if segment.tenant == crate::model::DEFAULT_TENANT {
        String::new()
    } else {
        format!(" of tenant {}", segment.tenant)
    };
    match segment.cidrs.is_empty() {
        true => format!("without networks{tenant}"),
        false => format!("{}{tenant}", list(&segment.cidrs)),
    }
}

pub(super) fn segment_changed(old: &Segment, new: &Segment) -> Words {
    let mut words = Words::default();
    words.instead("tenant", &old.tenant, &new.tenant, Clone::clone);
    words.sets("also", "no longer", &old.cidrs, &new.cidrs);
    words.instead("description", &old.description, &new.description, |text| format!("\"{text}\""));
    words.instead("labels", &old.labels, &new.labels, labels);
    words.instead("seen as", &old.seen_as, &new.seen_as, |seen| {
        list(seen.iter().map(|(from, network)| format!("{network} from {from}")))
    });
    words
}

pub(super) fn service_said(service: &Service) -> String {
    format!("{} on {}", service.ports, list(&service.hosts))
}

pub(super) fn service_changed(old: &Service, new: &Service) -> Words {
    let mut words = Words::default();
    words.sets("also", "no longer", &old.hosts, &new.hosts);
    words.instead("ports", &old.ports, &new.ports, ToString::to_string);
    words
}

pub(super) fn segmentation(
    old: Option<&Segmentation>,
    new: Option<&Segmentation>,
    all: &mut Vec<Difference>,
) {
    let (change, words) = match (old, new) {
        (None, None) => return,
        (None, Some(new)) => (Change::Start, segmentation_said(new)),
        (Some(old), None) => (Change::Stop, segmentation_said(old)),
        (Some(old), Some(new)) => match segmentation_changed(old, new).0 {
            words if words.is_empty() => return,
            words => (Change::Change, words.join("; ")),
        },
    };
    all.push(Difference { change, kind: "segmentation", name: String::new(), words });
}

fn segmentation_said(segmentation: &Segmentation) -> String {
    format!("tests every pair every {}", duration_text(segmentation.every))
}

fn segmentation_changed(old: &Segmentation, new: &Segmentation) -> Words {
    let mut words = Words::default();
    words.instead("every", &old.every, &new.every, |every| duration_text(*every));
    if old.ports != new.ports {
        words.say(format!("{} ports instead of {}", new.ports.len(), old.ports.len()));
    }
    words.instead("full:", &old.full, &new.full, |full| {
        full.as_ref().map_or("none".to_owned(), |(ports, within)| {
            format!("{} ports within {}", ports.len(), duration_text(*within))
        })
    });
    words.instead("max_rate", &old.max_rate, &new.max_rate, ToString::to_string);
    words.instead("severity", &old.severity, &new.severity, |severity| severity.as_str().to_owned());
    words
}

pub(super) fn flow_said(flow: &Flow) -> String {
    let hosts = |ends: &[String], hosts: &AddressSet| match hosts.is_empty() {
        true => list(ends),
        false => format!("{} ({})", list(ends), list(hosts.ranges())),
    };
    let allow = if flow.allow.is_empty() { String::new() } else { format!(": {}", flow.allow) };
    format!("{} → {}{allow}", hosts(&flow.from, &flow.from_hosts), hosts(&flow.to, &flow.to_hosts))
}

pub(super) fn flow_changed(old: &Flow, new: &Flow) -> Words {
    let mut words = Words::default();
    words.sets("also from", "no longer from", &old.from, &new.from);
    words.sets("except", "no longer except", &old.except, &new.except);
    words.sets("also to", "no longer to", &old.to, &new.to);
    let hosts = |hosts: &AddressSet| if hosts.is_empty() { "all".to_owned() } else { list(hosts.ranges()) };
    words.instead("from hosts", &old.from_hosts, &new.from_hosts, hosts);
    words.instead("to hosts", &old.to_hosts, &new.to_hosts, hosts);
    words.instead("allows", &old.allow, &new.allow, ToString::to_string);
    let quoted = |text: &String| if text.is_empty() { String::new() } else { format!("\"{text}\"") };
    words.instead("reason", &old.reason, &new.reason, quoted);
    words.instead("owner", &old.owner, &new.owner, quoted);
    words.instead("approver", &old.approver, &new.approver, quoted);
    words.instead("ends", &old.expires, &new.expires, |end| {
        end.map_or("never".to_owned(), |end| end.to_string())
    });
    words
}

/// Without the paths of its URLs, which may be secrets.
pub(super) fn receiver_said(receiver: &Receiver) -> String {
    let mut said = String::new();
    for (i, part) in receiver.text.split("://").enumerate() {
        if i == 0 {
            said.push_str(part);
            continue;
        }
        let end = part.find(['"', '\'', ' ']).unwrap_or(part.len());
        let (url, after) = part.split_at(end);
        let host = url.find(['/', '?', '#']).map_or(url, |at| url.split_at(at).0);
        let cut = if host.len() + 1 < url.len() { "/…" } else { url.split_at(host.len()).1 };
        said.push_str(&format!("://{host}{cut}{after}"));
    }
    format!("{} {said}", receiver.kind)
}

pub(super) fn receiver_changed(old: &Receiver, new: &Receiver) -> Words {
    let mut words = Words::default();
    let (before, after) = (receiver_said(old), receiver_said(new));
    match old != new && before == after {
        true => words.say(format!("{after} with another path in a URL")),
        false => words.instead("", &before, &after, Clone::clone),
    }
    words
}

/// Routes have no names: each is what it says. Their order counts.
pub(super) fn routes(old: &[Route], new: &[Route], all: &mut Vec<Difference>) {
    let first = all.len();
    let mut unmatched: Vec<&Route> = old.iter().collect();
    let mut push = |change, route: &Route| {
        let (name, words) = (route.to.join(","), route.text.clone());
        all.push(Difference { change, kind: "route", name, words });
    };
    for route in new {
        match unmatched.iter().position(|other| *other == route) {
            Some(at) => {
                unmatched.remove(at);
            }
            None => push(Change::Start, route),
        }
    }
    for route in unmatched {
        push(Change::Stop, route);
    }
    if all.len() == first && old != new {
        let words = "in another order, which decides who is told".to_owned();
        all.push(Difference { change: Change::Change, kind: "route", name: String::new(), words });
    }
}

pub(super) fn maintenance_said(maintenance: &Maintenance) -> String {
    format!("{} for {}", window_said(&maintenance.window), matched(maintenance))
}

fn matched(maintenance: &Maintenance) -> String {
    if maintenance.matches.is_empty() { "everything".to_owned() } else { labels(&maintenance.matches) }
}

pub(super) fn maintenance_changed(old: &Maintenance, new: &Maintenance) -> Words {
    let mut words = Words::default();
    words.instead("", &old.window, &new.window, window_said);
    let (before, after) = (matched(old), matched(new));
    words.instead("for", &before, &after, Clone::clone);
    words
}

pub(super) fn blackout_said(blackout: &Blackout) -> String {
    format!("{} for {}", window_said(&blackout.window), list(&blackout.from))
}

pub(super) fn blackout_changed(old: &Blackout, new: &Blackout) -> Words {
    let mut words = Words::default();
    words.instead("", &old.window, &new.window, window_said);
    words.sets("also for", "no longer for", &old.from, &new.from);
    words
}

fn window_said(window: &Window) -> String {
    format!("at {} for {}", window.cron, duration_text(window.lasts))
}
