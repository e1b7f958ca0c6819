//! What many parts of a policy have: names, labels, times, ports.

use super::Shared;
use super::references::{Kind, Reference};
use crate::matcher::is_label_name;
use crate::model::From;
use jiff::tz::TimeZone;
use portolan_common::document::{At, Flaw, Reader, closest};
use portolan_common::names::check_name;
use portolan_common::ports::PortSpec;
use portolan_common::schedule::{Cron, MAX_EVERY, Window};
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest free text, such as a description, in characters.
const MAX_FREE_TEXT: usize = 1000;
/// The longest name that may have any characters.
const MAX_TITLE: usize = 100;

/// Something with a name of its own.
pub(super) struct Named<T> {
    pub(super) name: At<String>,
    pub(super) value: T,
}

/// The `name`, which must be there. One that cannot be given is noted and given all the same, so that what refers to
/// it is not a second mistake.
pub(super) fn name(table: &mut Reader<'_>, kind: &str) -> Option<At<String>> {
    table.require(&["name"]);
    let name = table.string("name")?;
    judge_name(table, kind, &name);
    Some(name)
}

pub(super) fn judge_name(table: &Reader<'_>, kind: &str, name: &At<String>) {
    if let Err(error) = check_name(kind, name) {
        table.flaw(name.span.clone(), error);
    }
}

/// A `name` of any characters, which must be there.
pub(super) fn title(table: &mut Reader<'_>) -> Option<At<String>> {
    table.require(&["name"]);
    let name = table.string("name")?;
    if name.trim().is_empty() || name.chars().count() > MAX_TITLE || name.contains(char::is_control) {
        let flaw = Flaw::new("a name has 1 to 100 characters on one line");
        table.mistake(name.span.clone(), flaw);
    }
    Some(name)
}

/// Text for people; empty when the key is absent.
pub(super) fn free_text(table: &mut Reader<'_>, key: &'static str) -> String {
    let Some(text) = table.string(key) else { return String::new() };
    if text.chars().count() > MAX_FREE_TEXT {
        table.mistake(
            text.span.clone(),
            Flaw::new(format!("`{key}` is longer than {MAX_FREE_TEXT} characters")),
        );
    }
    text.value
}

/// A table of labels and their values. `taken` are names that it cannot have.
pub(super) fn labels(table: &mut Reader<'_>, key: &'static str, taken: &[&str]) -> BTreeMap<String, String> {
    let pairs = table.string_map(key).unwrap_or_default();
    for (name, value) in &pairs {
        if !is_label_name(name) {
            let flaw = Flaw::new("not a label's name").hint("a letter or `_`, then letters, digits and `_`");
            table.mistake(name.span.clone(), flaw);
        } else if taken.contains(&name.as_str()) {
            let flaw = Flaw::new(format!("every alert has a label `{}` of its own", name.value));
            table.mistake(name.span.clone(), flaw.hint(format!("other names than {}", taken.join(", "))));
        }
        if value.chars().count() > MAX_FREE_TEXT {
            let flaw = Flaw::new(format!("a label's value has at most {MAX_FREE_TEXT} characters"));
            table.mistake(value.span.clone(), flaw);
        }
    }
    pairs.into_iter().map(|(name, value)| (name.value, value.value)).collect()
}

/// A port list; empty when the key is absent or wrong.
pub(super) fn ports(table: &mut Reader<'_>, key: &'static str) -> At<PortSpec> {
    table.parse(key).unwrap_or_else(|| At { value: PortSpec::default(), span: table.span() })
}

pub(super) fn default_timezone() -> String {
    "UTC".to_owned()
}

/// The `timezone`, if it is one.
pub(super) fn timezone(table: &mut Reader<'_>, shared: &mut Shared) -> Option<String> {
    let zone = table.parse_with("timezone", |name| {
        if TimeZone::get(name).is_ok() {
            return Ok(name.to_owned());
        }
        let hint = suggested_zone(name, shared)
            .map_or("an IANA name, such as Europe/Berlin or UTC".to_owned(), |zone| {
                format!("did you mean {zone}?")
            });
        Err(Flaw::new("no such time zone").hint(hint))
    });
    zone.map(|zone| zone.value)
}

fn suggested_zone(name: &str, shared: &mut Shared) -> Option<String> {
    shared.zones_to_suggest = shared.zones_to_suggest.checked_sub(1)?;
    let known: Vec<_> = jiff::tz::db().available().collect();
    closest(name, known.iter().map(|zone| zone.as_str())).map(str::to_owned)
}

/// The `cron` in its `timezone`.
pub(super) fn cron(table: &mut Reader<'_>, shared: &mut Shared) -> Option<At<Cron>> {
    let zone = timezone(table, shared).unwrap_or_else(|| shared.timezone.clone());
    table.parse_with("cron", |text| Cron::new(text, &zone))
}

/// A window: `cron`, `lasts`, `timezone`. `None` only after a mistake.
pub(super) fn window(table: &mut Reader<'_>, shared: &mut Shared) -> Option<Window> {
    table.require(&["cron", "lasts"]);
    let cron = cron(table, shared);
    let lasts = table.duration("lasts", Duration::from_secs(60)..=MAX_EVERY);
    Some(Window { cron: cron?.value, lasts: lasts?.value })
}

/// The vantage points, which must be there; segments among them are added to the references.
pub(super) fn from(table: &mut Reader<'_>, references: &mut Vec<Reference>) -> Vec<At<From>> {
    table.require(&["from"]);
    let Some(from) = table.parse_all("from", parse_from) else { return Vec::new() };
    not_empty(table, "from", &from);
    for from in &from {
        if let From::Segment(name) = &from.value {
            references.push(Reference::new(Kind::Segment, name, from.span.clone()));
        }
    }
    from
}

fn parse_from(text: &str) -> Result<From, Flaw> {
    let shape = "\"segment:NAME\", \"satellite:NAME\", or \"*\" for every satellite";
    if text == "*" {
        return Ok(From::All);
    }
    let Some((kind, name)) = text.split_once(':') else {
        let flaw = Flaw::new("this does not say whether it is a segment or a satellite");
        return Err(match check_name("segment", text) {
            Ok(()) => flaw.hint(format!("write \"segment:{text}\" or \"satellite:{text}\"")),
            Err(_) => flaw.hint(shape),
        });
    };
    let made: fn(String) -> From = match kind {
        "segment" => From::Segment,
        "satellite" => From::Satellite,
        _ => {
            let hint = closest(kind, ["segment", "satellite"])
                .map_or(shape.to_owned(), |meant| format!("did you mean \"{meant}:{name}\"?"));
            return Err(Flaw::new("neither a segment nor a satellite").hint(hint));
        }
    };
    check_name(kind, name)?;
    Ok(made(name.to_owned()))
}

/// Notes a list that is there and has nothing in it. What was left out of it as wrong has been noted already.
pub(super) fn not_empty<T>(table: &mut Reader<'_>, key: &'static str, read: &[T]) {
    if let Some(value) = table.raw(key)
        && read.is_empty()
        && value.get_ref().as_array().is_some_and(|items| items.is_empty())
    {
        let span = value.span();
        table.mistake(span, Flaw::new(format!("`{key}` is empty")));
    }
}

/// A URL with a host and one of these schemes.
pub(super) fn url(text: &str, schemes: &[&str], such_as: &str) -> Result<String, Flaw> {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return Err(Flaw::new("not a URL").hint(such_as));
    };
    if uri.scheme_str().is_none_or(|scheme| !schemes.contains(&scheme)) {
        let schemes: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        return Err(Flaw::new(format!("the URL does not begin with {}", schemes.join(" or "))).hint(such_as));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(Flaw::new("the URL names no host").hint(such_as));
    }
    Ok(text.to_owned())
}

/// Notes a mistake about the value of a key that is there.
pub(super) fn mistake_at(table: &mut Reader<'_>, key: &'static str, flaw: Flaw) {
    if let Some(value) = table.raw(key) {
        table.mistake(value.span(), flaw);
    }
}
