//! What a check looks at: literal targets and the sources of more.

use super::fields::{not_empty, url};
use super::{MAX_ADDRESSES, Shared};
use crate::model::TargetSource;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::document::{At, Flaw, Item, Reader};
use portolan_common::targets::{MAX_RANGES_TOTAL, Target, TargetSpec};
use std::path::{Component, Path};
use std::time::Duration;

/// How often a source is asked when it is not said.
const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
const SHORTEST_REFRESH: Duration = Duration::from_secs(10);
const LONGEST_REFRESH: Duration = Duration::from_secs(86_400);
/// The longest file name or URL, in bytes.
const MAX_LOCATION: usize = 2000;
const SUCH_AS: &str = "[\"10.99.2.10\", \"10.99.2.32/30\", { file_sd = \"web/*.json\" }]";

/// The targets and exclusions of a check.
pub(super) fn read(table: &mut Reader<'_>, shared: &mut Shared) -> (Vec<TargetSource>, Vec<String>) {
    table.require(&["targets"]);
    let mut texts = Vec::new();
    let mut sources = Vec::new();
    if let Some(items) = table.items("targets", SUCH_AS) {
        for item in items {
            match item {
                Item::Text(text) => texts.push(text),
                Item::Table(mut source) => sources.extend(read_source(&mut source)),
            }
        }
        not_empty(table, "targets", &texts);
    }
    let exclude = table.strings("exclude").unwrap_or_default();
    let specs = literals(table, texts, shared);
    let exclude = literals(table, exclude, shared);
    judge_size(table, &specs, &exclude, sources.is_empty());
    let literals = specs.into_iter().map(|spec| TargetSource::Literal(spec.text));
    (literals.chain(sources).collect(), exclude.into_iter().map(|spec| spec.text).collect())
}

/// Reads targets in nmap's syntax. What all targets of a policy come to is bounded.
pub(super) fn literals(table: &Reader<'_>, texts: Vec<At<String>>, shared: &mut Shared) -> Vec<TargetSpec> {
    let mut specs = Vec::new();
    for text in texts {
        if shared.ranges > MAX_RANGES_TOTAL {
            break;
        }
        match text.parse::<TargetSpec>() {
            Ok(spec) => {
                shared.ranges += ranges_of(&spec);
                if shared.ranges > MAX_RANGES_TOTAL {
                    let flaw = "with this target the policy comes to too many separate address ranges";
                    let hint = format!("{MAX_RANGES_TOTAL} are the limit, all targets together");
                    table.mistake(text.span, Flaw::new(flaw).hint(hint));
                }
                specs.push(spec);
            }
            Err(mut error) => {
                // What is typed at a command line is written here.
                error.hint = error.hint.replace("ports are given with -p", "ports have keys of their own");
                table.flaw(text.span, error);
            }
        }
    }
    specs
}

fn ranges_of(spec: &TargetSpec) -> usize {
    match &spec.target {
        Target::Addresses(set) => set.range_count(),
        Target::Name(_) => 1,
    }
}

/// The addresses among the targets.
fn addresses(specs: &[TargetSpec]) -> AddressSet {
    let sets = specs.iter().filter_map(|spec| match &spec.target {
        Target::Addresses(set) => Some(set.ranges()),
        Target::Name(_) => None,
    });
    sets.flatten().collect::<AddressSet>()
}

/// Notes targets that come to too many addresses, or to none.
fn judge_size(table: &mut Reader<'_>, specs: &[TargetSpec], exclude: &[TargetSpec], only: bool) {
    let Some(span) = table.raw("targets").map(|value| value.span()) else { return };
    let (all, excluded) = (addresses(specs), addresses(exclude));
    let left = if excluded.is_empty() { all.clone() } else { all.difference(&excluded) };
    let only_addresses = only && specs.iter().all(|spec| matches!(spec.target, Target::Addresses(_)));
    if left.len() > MAX_ADDRESSES {
        let count = match left.len() {
            u128::MAX => "too many".to_owned(),
            count => count.to_string(),
        };
        let flaw = Flaw::new(format!("the targets come to {count} addresses"));
        table.mistake(
            span,
            flaw.hint(format!("{MAX_ADDRESSES} are the limit of a check: name less, or make several")),
        );
    } else if left.is_empty() && !all.is_empty() && only_addresses {
        table.mistake(span, Flaw::new("`exclude` leaves nothing of the targets"));
    }
}

/// `{ file_sd = "…" }` or `{ http_sd = "…" }`.
fn read_source(table: &mut Reader<'_>) -> Option<TargetSource> {
    let file = table.parse_with("file_sd", file_name);
    let url = table.parse_with("http_sd", |text| {
        url(text, &["http", "https"], "such as https://cmdb.example.com/web.json")
    });
    let refresh =
        table.duration("refresh", SHORTEST_REFRESH..=LONGEST_REFRESH).map_or(DEFAULT_REFRESH, |d| d.value);
    match (table.has("file_sd"), table.has("http_sd")) {
        (true, true) => {
            table.mistake(table.span(), Flaw::new("a source is either a file or a URL").hint("make it two"));
            None
        }
        (true, false) => Some(TargetSource::FileSd { file: file?.value, refresh }),
        (false, true) => Some(TargetSource::HttpSd { url: url?.value, refresh }),
        (false, false) => {
            let flaw = Flaw::new("a source is neither a file nor a URL");
            let hint = "{ file_sd = \"web/*.json\" } or { http_sd = \"https://…\" }";
            table.mistake(table.span(), flaw.hint(hint));
            None
        }
    }
}

/// A file below the server's directory of sources.
fn file_name(text: &str) -> Result<String, Flaw> {
    let hint = "relative to the server's directory of sources, such as web/*.json";
    let plain = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
    if text.is_empty() || text.len() > MAX_LOCATION || text.contains(char::is_control) {
        return Err(Flaw::new("not the name of a file").hint(hint));
    }
    if !plain || text.contains('\\') {
        return Err(Flaw::new("the file would lie outside of the directory of sources").hint(hint));
    }
    Ok(text.to_owned())
}

/// Ranges of addresses of all targets in nmap's syntax; names are left out.
pub(super) fn host_set(table: &mut Reader<'_>, key: &'static str, shared: &mut Shared) -> AddressSet {
    let texts = table.strings(key).unwrap_or_default();
    let spans: Vec<_> = texts.iter().map(|text| text.span.clone()).collect();
    not_empty(table, key, &texts);
    let mut ranges: Vec<AddressRange> = Vec::new();
    for (text, span) in texts.into_iter().zip(spans) {
        for spec in literals(table, vec![text], shared) {
            match spec.target {
                Target::Addresses(set) => ranges.extend(set.ranges()),
                Target::Name(_) => {
                    let flaw = Flaw::new("a flow is between addresses: a name has no place here");
                    table.mistake(span.clone(), flaw.hint("write its addresses"));
                }
            }
        }
    }
    ranges.into_iter().collect()
}
