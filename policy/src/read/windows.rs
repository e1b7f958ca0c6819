//! `[[maintenance]]` and `[[blackout]]`: times that come again.

use super::fields::{self, Named, labels};
use super::{Part, Shared};
use crate::model::{Blackout, Maintenance};
use portolan_common::document::Reader;

pub(super) fn read_maintenance(root: &mut Reader<'_>, shared: &mut Shared, part: &mut Part) {
    for mut table in root.tables("maintenance") {
        let name = fields::title(&mut table);
        let matches = labels(&mut table, "match", &[]);
        let window = fields::window(&mut table, shared);
        if let (Some(name), Some(window)) = (name, window) {
            part.maintenance.push(Named { name, value: Maintenance { matches, window } });
        }
    }
}

pub(super) fn read_blackouts(root: &mut Reader<'_>, shared: &mut Shared, part: &mut Part) {
    for mut table in root.tables("blackout") {
        let name = fields::title(&mut table);
        let from = fields::from(&mut table, &mut part.references);
        let window = fields::window(&mut table, shared);
        if let (Some(name), Some(window)) = (name, window) {
            let from = from.into_iter().map(|from| from.value).collect();
            part.blackouts.push(Named { name, value: Blackout { from, window } });
        }
    }
}
