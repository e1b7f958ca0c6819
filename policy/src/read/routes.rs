//! `[[route]]`: what goes to whom.

use super::Part;
use super::fields::{labels, not_empty};
use super::references::{Kind, Reference};
use crate::matcher::is_label_name;
use crate::model::Route;
use portolan_common::document::{Flaw, Reader};
use std::time::Duration;

/// The most routes of a file.
const MAX_ROUTES: usize = 1000;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// As Alertmanager: every alert stands for itself.
const BY_EVERYTHING: &str = "...";

pub(super) fn read(root: &mut Reader<'_>, part: &mut Part) {
    for (i, mut table) in root.tables("route").into_iter().enumerate() {
        if i == MAX_ROUTES {
            table.mistake(
                table.span(),
                Flaw::new(format!("there are more than {MAX_ROUTES} routes in this file")),
            );
        }
        let route = route(&mut table, &mut part.references);
        part.routes.push(route);
    }
}

fn route(table: &mut Reader<'_>, references: &mut Vec<Reference>) -> Route {
    let matches = labels(table, "match", &[]);
    table.require(&["to"]);
    let mut to = receivers(table, references);
    table.duration("repeat", SECOND * 60..=DAY * 30);
    table.duration("group_wait", Duration::ZERO..=DAY);
    table.duration("group_interval", SECOND..=DAY);
    table.boolean("continue");
    table.parse_all("group_by", |text| match is_label_name(text) || text == BY_EVERYTHING {
        true => Ok(()),
        false => Err(Flaw::new("not a label's name").hint("such as check or team, or \"...\" for all")),
    });
    for mut step in table.tables("escalate") {
        step.require(&["after", "to"]);
        step.duration("after", SECOND..=DAY * 30);
        to.extend(receivers(&mut step, references));
    }
    to.sort_unstable();
    to.dedup();
    Route { matches, to, text: table.to_inline() }
}

fn receivers(table: &mut Reader<'_>, references: &mut Vec<Reference>) -> Vec<String> {
    let to = table.strings("to").unwrap_or_default();
    not_empty(table, "to", &to);
    references.extend(to.iter().map(|name| Reference::new(Kind::Receiver, name, name.span.clone())));
    to.into_iter().map(|name| name.value).collect()
}
