//! The typed getters over one table of a file.

use super::{Flaw, MAX_FILE, Mistakes, closest, duration_text, parse_duration, parse_size, size_text, tree};
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Deref, Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands in its file, for what is found wrong with it later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the file.
    pub span: Range<usize>,
}

impl<T> At<T> {
    /// The same place with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), span: self.span }
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// One of a list that takes both strings and tables.
pub enum Item<'a> {
    /// A string.
    Text(At<String>),
    /// A table.
    Table(Reader<'a>),
}

/// What all readers of one file share.
struct Sink {
    mistakes: RefCell<Mistakes>,
    /// Lines with broken syntax, ascending: what the parser made of them is not judged again.
    broken_lines: Vec<usize>,
}

/// One table of a file. Getters note what is wrong; when the reader goes out of scope, the keys that nothing asked
/// for are noted as unknown. So ask for every key before deciding anything.
pub struct Reader<'a> {
    table: &'a DeTable<'a>,
    /// Its header, or the whole of an inline table; empty for the top of the file.
    span: Range<usize>,
    /// As an operator would call it, such as `scope` or `check[2]`; empty for the top of the file.
    path: String,
    known: Vec<&'static str>,
    open: bool,
    sink: &'a Sink,
}

pub(super) fn read_root<T>(
    mut mistakes: Mistakes,
    source: &str,
    body: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> (Option<T>, Mistakes) {
    if source.len() > MAX_FILE {
        let flaw = Flaw::new(format!("the file is {} bytes long", source.len()));
        mistakes.add(0..0, flaw.hint(format!("{} MiB is the limit", MAX_FILE >> 20)));
        return (None, mistakes);
    }
    let (root, errors) = DeTable::parse_recoverable(source);
    let mut broken_lines = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        broken_lines.push(mistakes.line_of(span.start));
        mistakes.add(span, error.message());
    }
    broken_lines.sort_unstable();
    let sink = Sink { mistakes: RefCell::new(mistakes), broken_lines };
    let value = {
        let mut reader = Reader::new(root.get_ref(), 0..0, String::new(), &sink);
        body(&mut reader)
    };
    (value, sink.mistakes.into_inner())
}

impl<'a> Reader<'a> {
    fn new(table: &'a DeTable<'a>, span: Range<usize>, path: String, sink: &'a Sink) -> Self {
        Self { table, span, path, known: Vec::new(), open: false, sink }
    }

    /// Where the table is: its header, or the whole of an inline table.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// What an operator would call the table, such as `scope` or `check[2]`; empty for the top of the file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether all of the file could be parsed. Otherwise whatever seems to be missing in it may be there and unread.
    pub fn is_whole(&self) -> bool {
        self.sink.broken_lines.is_empty()
    }

    /// Whether the key is there, whatever its value.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.raw(key).is_some()
    }

    /// Notes every one of the keys that is absent.
    pub fn require(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.note_known(key);
            // After broken syntax the key may be there and unread.
            if self.table.get(*key).is_none() && self.is_whole() {
                let place =
                    if self.path.is_empty() { "the file".to_owned() } else { format!("`{}`", self.path) };
                self.mistake(self.span.clone(), Flaw::new(format!("{place} has no `{key}`")));
            }
        }
    }

    /// Notes a mistake about some bytes of the file.
    pub fn mistake(&self, span: Range<usize>, flaw: impl Into<Flaw>) {
        let mut mistakes = self.sink.mistakes.borrow_mut();
        if self.sink.broken_lines.binary_search(&mistakes.line_of(span.start)).is_err() {
            mistakes.add(span, flaw);
        }
    }

    /// Notes a flaw of a value read from text: where it says which bytes are at fault, these are shown.
    pub fn flaw(&self, span: Range<usize>, flaw: impl Into<Flaw>) {
        let flaw = flaw.into();
        let narrowed = flaw.within.clone().and_then(|within| self.narrow(&span, within));
        self.mistake(narrowed.unwrap_or(span), flaw);
    }

    /// Hides a value of the file in every report.
    pub fn hide(&self, span: Range<usize>) {
        self.sink.mistakes.borrow_mut().hide(span);
    }

    /// A string.
    pub fn string(&mut self, key: &'static str) -> Option<At<String>> {
        let value = self.raw(key)?;
        self.as_string(key, value)
    }

    /// A list of strings.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<At<String>>> {
        let value = self.raw(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let hint = match value.get_ref() {
                DeValue::String(text) => {
                    format!("write {key} = [{:?}]", text.chars().take(60).collect::<String>())
                }
                _ => format!("such as {key} = [\"…\", \"…\"]"),
            };
            self.wrong_type(key, "a list of strings", value, Some(hint));
            return None;
        };
        Some(items.iter().filter_map(|item| self.as_string(key, item)).collect())
    }

    /// A list of strings and tables, mixed as may be; `such_as` shows one of each.
    pub fn items(&mut self, key: &'static str, such_as: &str) -> Option<Vec<Item<'a>>> {
        let value = self.raw(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, "a list", value, Some(format!("such as {such_as}")));
            return None;
        };
        let path = self.child(key);
        let read = |(i, item): (usize, &'a Spanned<DeValue<'a>>)| match item.get_ref() {
            DeValue::String(text) => Some(Item::Text(At { value: text.to_string(), span: item.span() })),
            DeValue::Table(_) => self.as_table(key, format!("{path}[{}]", i + 1), item).map(Item::Table),
            _ => {
                self.wrong_type(
                    key,
                    "a list of strings and tables",
                    item,
                    Some(format!("such as {such_as}")),
                );
                None
            }
        };
        Some(items.iter().enumerate().filter_map(read).collect())
    }

    /// A string that is read further; `T`'s error says what is wrong with it.
    pub fn parse<T>(&mut self, key: &'static str) -> Option<At<T>>
    where
        T: FromStr,
        T::Err: Into<Flaw>,
    {
        self.parse_with(key, |text| text.parse::<T>())
    }

    /// A string that `parse` reads further.
    pub fn parse_with<T, E: Into<Flaw>>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.string(key)?;
        self.parsed(text, parse)
    }

    /// A list of strings that `parse` reads further, one by one; those at fault are noted and left out.
    pub fn parse_all<T, E: Into<Flaw>>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<At<T>>> {
        let texts = self.strings(key)?;
        Some(texts.into_iter().filter_map(|text| self.parsed(text, &parse)).collect())
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        self.parse_with(key, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                Flaw::new(format!("`{key}` has no such value")).hint(format!("one of {}", all.join(", ")))
            })
        })
    }

    /// A whole number within a range.
    pub fn integer<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<At<T>>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        let value = self.raw(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            let range = format!("from {} to {}", range.start(), range.end());
            self.wrong_type(key, &format!("a whole number {range}"), value, None);
            return None;
        };
        let read =
            i64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| T::try_from(n).ok());
        match read {
            Some(number) if range.contains(&number) => Some(At { value: number, span: value.span() }),
            _ => {
                let range = format!("it must be from {} to {}", range.start(), range.end());
                self.mistake(value.span(), Flaw::new(format!("`{key}` is out of range")).hint(range));
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Option<At<bool>> {
        let value = self.raw(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(At { value: *flag, span: value.span() });
        }
        self.wrong_type(key, "true or false", value, None);
        None
    }

    /// A duration within a range, written as [`parse_duration`] reads it: `30s`, `1h30m`, `14d`.
    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
        let value = self.raw(key)?;
        if let DeValue::Integer(number) = value.get_ref() {
            let hint = format!("write {key} = \"{}s\" for seconds", number.as_str());
            self.wrong_type(key, "a string such as \"30s\"", value, Some(hint));
            return None;
        }
        self.parse_with(key, |text| {
            let duration = parse_duration(text)?;
            if range.contains(&duration) {
                return Ok(duration);
            }
            let (shortest, longest) = (duration_text(*range.start()), duration_text(*range.end()));
            Err(Flaw::new(format!("`{key}` is out of range"))
                .hint(format!("it must be from {shortest} to {longest}")))
        })
    }

    /// A size in bytes within a range, written as [`parse_size`] reads it: `64MiB`, `1GiB`.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let value = self.raw(key)?;
        if let DeValue::Integer(number) = value.get_ref() {
            let hint = format!("write {key} = \"{}B\" for bytes", number.as_str());
            self.wrong_type(key, "a string such as \"64MiB\"", value, Some(hint));
            return None;
        }
        self.parse_with(key, |text| {
            let size = parse_size(text)?;
            if range.contains(&size) {
                return Ok(size);
            }
            let (smallest, largest) = (size_text(*range.start()), size_text(*range.end()));
            Err(Flaw::new(format!("`{key}` is out of range"))
                .hint(format!("it must be from {smallest} to {largest}")))
        })
    }

    /// A table: `[key]` or `key = { … }`.
    pub fn table(&mut self, key: &'static str) -> Option<Reader<'a>> {
        let value = self.raw(key)?;
        self.as_table(key, self.child(key), value)
    }

    /// A list of tables: `[[key]]` or `key = [{ … }]`; empty when the key is absent.
    pub fn tables(&mut self, key: &'static str) -> Vec<Reader<'a>> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let hint = format!("begin each with [[{}]]", self.child(key));
            self.wrong_type(key, "a list of tables", value, Some(hint));
            return Vec::new();
        };
        let path = self.child(key);
        let tables = items.iter().enumerate();
        tables.filter_map(|(i, item)| self.as_table(key, format!("{path}[{}]", i + 1), item)).collect()
    }

    /// The tables below a key by their names: `[segment.office]`, `[segment.pci]`; in the order of the names.
    pub fn named_tables(&mut self, key: &'static str) -> Vec<(At<String>, Reader<'a>)> {
        let Some(mut outer) = self.table(key) else { return Vec::new() };
        outer.open = true;
        let mut tables = Vec::new();
        for (name, value) in outer.table {
            let path = outer.child(name.get_ref());
            if let Some(reader) = outer.as_table(name.get_ref(), path, value) {
                tables.push((At { value: name.get_ref().to_string(), span: name.span() }, reader));
            }
        }
        tables
    }

    /// A table of strings under free names: `labels = { team = "shop" }`; in the order of the names.
    pub fn string_map(&mut self, key: &'static str) -> Option<Vec<(At<String>, At<String>)>> {
        let mut outer = self.table(key)?;
        outer.open = true;
        let mut pairs = Vec::new();
        for (name, value) in outer.table {
            if let Some(value) = outer.as_string(name.get_ref(), value) {
                pairs.push((At { value: name.get_ref().to_string(), span: name.span() }, value));
            }
        }
        Some(pairs)
    }

    /// The whole table as one line of TOML: the same for two tables that say the same.
    pub fn to_inline(&self) -> String {
        tree::inline(self.table)
    }

    /// Takes whatever other keys the table has.
    pub fn allow_unknown(&mut self) {
        self.open = true;
    }

    /// Shows every string of the table and of those in it, with the keys that lead to it.
    pub fn each_string(&self, mut see: impl FnMut(&[&str], &At<String>)) {
        tree::each_string(self.table, &mut Vec::new(), &mut |keys, text| see(keys, text));
    }

    /// A value of any type, for keys that take more than one.
    pub fn raw(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.note_known(key);
        self.table.get(key)
    }

    /// Says that a value has the wrong type; `wanted` completes "`key` must be …".
    pub fn wrong_type(&self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>, hint: Option<String>) {
        let article = match value.get_ref().type_str() {
            kind @ ("integer" | "array") => format!("an {kind}"),
            kind => format!("a {kind}"),
        };
        let flaw = Flaw { message: format!("`{key}` must be {wanted}, not {article}"), hint, within: None };
        self.mistake(value.span(), flaw);
    }

    fn note_known(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn parsed<T, E: Into<Flaw>>(
        &self,
        text: At<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        match parse(&text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(error) => {
                self.flaw(text.span, error);
                None
            }
        }
    }

    fn as_string(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<At<String>> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(At { value: text.to_string(), span: value.span() });
        }
        self.wrong_type(key, "a string", value, None);
        None
    }

    fn as_table(&self, key: &str, path: String, value: &'a Spanned<DeValue<'a>>) -> Option<Reader<'a>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Reader::new(table, value.span(), path, self.sink));
        }
        self.wrong_type(key, "a table", value, None);
        None
    }

    /// The place of some bytes of a string's value in the file: known when the string is written on one line without
    /// escapes, so that the two differ by the quote only.
    fn narrow(&self, span: &Range<usize>, within: Range<usize>) -> Option<Range<usize>> {
        let mistakes = self.sink.mistakes.borrow();
        let written = mistakes.source.get(span.clone())?;
        let literal = written.starts_with('\'') && !written.starts_with("'''");
        let basic = written.starts_with('"') && !written.starts_with("\"\"\"") && !written.contains('\\');
        let start = span.start + 1;
        ((literal || basic) && start + within.end < span.end)
            .then(|| start + within.start..start + within.end)
    }

    fn report_unknown(&self) {
        let unknown: Vec<_> = self
            .table
            .keys()
            .filter(|key| !self.known.iter().any(|known| *known == key.get_ref().as_ref()))
            .collect();
        if unknown.is_empty() {
            return;
        }
        let known: Vec<String> = self.known.iter().map(|key| format!("`{key}`")).collect();
        for key in unknown {
            let shown: String = key.get_ref().chars().take(60).flat_map(char::escape_debug).collect();
            let message = match self.path.as_str() {
                "" => format!("unknown key `{shown}`"),
                path => format!("unknown key `{shown}` in `{path}`"),
            };
            let meant = closest(key.get_ref(), self.known.iter().copied());
            let meant = meant.map_or(String::new(), |meant| format!("did you mean `{meant}`? "));
            let hint = (!known.is_empty()).then(|| format!("{meant}the keys here are {}", known.join(", ")));
            self.mistake(key.span(), Flaw { message, hint, within: None });
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if !self.open {
            self.report_unknown();
        }
    }
}
