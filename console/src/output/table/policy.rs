//! Policies for people: what is to be said of one, and the versions that there were.

use super::evidence::{ago, when};
use crate::document::policy::{
    DifferenceDocument, InactiveDocument, LoadDocument, PolicyDocument, ReportDocument, ScopeChangeDocument,
    VersionDocument, WarningDocument,
};
use crate::output::View;
use crate::output::columns::{Cell, Columns};
use crate::output::paint::{Paint, styles};
use crate::output::text::{count, grouped, printable};
use portolan_common::document::Mistakes;
use portolan_policy::inactive::is_inactive;
use std::collections::BTreeMap;

/// How many warnings of a kind, inactive parts or pairs are listed; the others are counted.
const MAX_LISTED: usize = 20;

/// How much of a change the history shows, in characters.
const MAX_CHANGE: usize = 20;

/// Whether differences are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tense {
    /// A check, a dry run.
    Would,
    /// It was applied.
    Did,
}

/// Mistakes as compilers print them, for stderr.
pub fn mistakes(files: &[Mistakes], paint: Paint) -> String {
    let mut text = String::new();
    for line in files.iter().flat_map(|file| file.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let line = printable(&line).into_owned();
        match line.strip_prefix("error: ") {
            Some(message) => text.push_str(&format!("{} {message}\n", paint.apply(styles::ERROR, "error:"))),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

/// What there is to say of a policy without mistakes.
pub fn report(report: &ReportDocument<'_>, tense: Tense, view: &View) -> String {
    let mut page = String::new();
    if let Some(differences) = &report.differences {
        page.push_str(&format!("\n{}", self::differences(differences, tense, view)));
    }
    page.push_str(&warnings(report.warnings.as_deref().unwrap_or_default(), view));
    page.push_str(&scope_changes(report.scope_changes.as_deref().unwrap_or_default(), view));
    page.push_str(&inactive(&report.inactive, view));
    if let Some(load) = &report.load {
        page.push_str(&self::load(load, tense, view));
    }
    page
}

/// What would start, stop and change.
pub fn differences(differences: &[DifferenceDocument<'_>], tense: Tense, view: &View) -> String {
    if differences.is_empty() {
        return match tense {
            Tense::Would => "Nothing would change.\n",
            Tense::Did => "Nothing changed.\n",
        }
        .to_owned();
    }
    let mut columns = Columns::new(["", "", "", ""]).indented(2);
    for difference in differences {
        let words = match is_inactive(difference.kind) {
            true => format!("{} (kept, not acted upon yet)", printable(difference.words)),
            false => printable(difference.words).into_owned(),
        };
        let (word, style) = match (difference.change, tense) {
            ("start", Tense::Would) => ("would start", styles::GOOD),
            ("start", Tense::Did) => ("started", styles::GOOD),
            ("stop", Tense::Would) => ("would stop", styles::BAD),
            ("stop", Tense::Did) => ("stopped", styles::BAD),
            (_, Tense::Would) => ("would change", styles::CAUTION),
            (_, Tense::Did) => ("changed", styles::CAUTION),
        };
        columns.row([
            Cell::new(word, style),
            Cell::plain(printable(difference.kind)),
            Cell::new(printable(difference.name), styles::TITLE),
            Cell::plain(words),
        ]);
    }
    // The headings are empty.
    let rows = columns.render(view.paint);
    let rows = rows.strip_prefix('\n').unwrap_or(&rows);
    format!("{}\n{rows}", view.paint.apply(styles::TITLE, &count(differences.len() as u64, "difference")))
}

/// By kind.
fn warnings(warnings: &[WarningDocument<'_>], view: &View) -> String {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for warning in warnings {
        let subject = match warning.subject {
            "" => String::new(),
            subject => format!("{}: ", printable(subject)),
        };
        kinds.entry(warning.kind).or_default().push(format!("{subject}{}", printable(warning.message)));
    }
    if kinds.is_empty() {
        return String::new();
    }
    let mut page = section(&count(warnings.len() as u64, "warning"), view);
    for (kind, texts) in kinds {
        page.push_str(&format!("  {}\n", view.paint.apply(styles::WARNING, &printable(kind))));
        page.push_str(&limited(texts.into_iter(), 4));
    }
    page
}

fn scope_changes(changes: &[ScopeChangeDocument<'_>], view: &View) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let mut page = section("To add to `allow` under [scope], on the satellite's own machine", view);
    for change in changes {
        let networks: Vec<_> =
            change.add.iter().map(|network| format!("\"{}\"", printable(network))).collect();
        page.push_str(&format!("  {}: {}\n", printable(change.satellite), networks.join(", ")));
    }
    page
}

fn inactive(parts: &[InactiveDocument], view: &View) -> String {
    if parts.is_empty() {
        return String::new();
    }
    let texts = parts.iter().map(|part| format!("{}: {}", printable(&part.what), printable(&part.why)));
    section("Understood and kept, not acted upon yet", view) + &limited(texts, 2)
}

fn load(load: &LoadDocument<'_>, tense: Tense, view: &View) -> String {
    let title = match tense {
        Tense::Would => "It would send",
        Tense::Did => "It sends",
    };
    let mut page = section(title, view);
    let Some(busiest) = &load.busiest else { return page + "  nothing\n" };
    let mut columns = Columns::new(["FROM", "TO", "PROBES AN HOUR"]).indented(2);
    for pair in load.pairs.iter().take(MAX_LISTED) {
        columns.row([
            Cell::plain(printable(pair.from)),
            Cell::plain(printable(pair.to)),
            Cell::plain(grouped(pair.probes_per_hour)),
        ]);
    }
    page.push_str(&columns.render(view.paint));
    if let Some(more) = load.pairs.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        page.push_str(&format!("  and {more} more\n"));
    }
    page.push_str(&format!(
        "  The busiest path is from {} to {}: {} probes a second.\n",
        printable(busiest.satellite),
        printable(busiest.network),
        match busiest.probes_per_second {
            rate if rate < 0.1 => "less than 0.1".to_owned(),
            rate => format!("{rate:.1}"),
        }
    ));
    page
}

fn section(title: &str, view: &View) -> String {
    format!("\n{}\n", view.paint.apply(styles::TITLE, title))
}

/// The first few, and how many more.
fn limited(texts: impl ExactSizeIterator<Item = String>, indent: usize) -> String {
    let more = texts.len().saturating_sub(MAX_LISTED);
    let mut page: String = texts.take(MAX_LISTED).map(|text| format!("{:indent$}{text}\n", "")).collect();
    if more > 0 {
        page.push_str(&format!("{:indent$}and {} more: -o json lists all\n", "", grouped(more as u64)));
    }
    page
}

/// A line each.
pub fn history(versions: &[VersionDocument<'_>], view: &View) -> String {
    let mut columns = Columns::new(["VERSION", "APPLIED", "", "AUTHOR", "CHANGES", "MESSAGE"]);
    for version in versions {
        let changes = version.changes.len() as u64 + version.changes_omitted;
        let message = match version.rollback_to {
            Some(earlier) => format!("back to version {earlier}. {}", version.message.unwrap_or_default()),
            None => version.message.unwrap_or_default().to_owned(),
        };
        columns.row([
            Cell::new(version.version.to_string(), styles::TITLE),
            Cell::plain(
                version.applied_at.map(|at| crate::output::time::local(at, &view.zone)).unwrap_or_default(),
            ),
            Cell::quiet(ago(version.applied_at, view)),
            Cell::plain(printable(version.author)),
            Cell::plain(match (version.changes, changes) {
                ([only], 1) => cut(only),
                ([first, ..], n) => format!("{}, and {} more", cut(first), grouped(n - 1)),
                ([], _) => "none".to_owned(),
            }),
            Cell::plain(printable(message.trim_end())),
        ]);
    }
    columns.render(view.paint)
}

/// A change so far as it leaves room beside it on a line of 80 columns.
fn cut(change: &str) -> String {
    let change = printable(change);
    match change.char_indices().nth(MAX_CHANGE) {
        Some((end, _)) => format!("{}…", change.split_at(end).0.trim_end()),
        None => change.into_owned(),
    }
}

/// The files as they were applied, under comments: what comes out can be applied again.
pub fn show(policy: &PolicyDocument<'_>, view: &View) -> String {
    let version = &policy.version;
    let message = version.message.map(|message| format!(": {}", printable(message))).unwrap_or_default();
    let head = format!(
        "# version {}, applied by {} at {}{message}",
        version.version,
        printable(version.author),
        when(version.applied_at, view)
    );
    let mut page = format!("{}\n", view.paint.apply(styles::QUIET, &head));
    for file in &policy.files {
        if policy.files.len() > 1 {
            let name = format!("# ---- {}", printable(file.name));
            page.push_str(&format!("\n{}\n", view.paint.apply(styles::TITLE, &name)));
        }
        for line in file.text.lines() {
            let cells: Vec<_> = line.split('\t').map(printable).collect();
            page.push_str(&format!("{}\n", cells.join("\t")));
        }
    }
    page
}

#[cfg(test)]
mod tests;
