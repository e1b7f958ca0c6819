//! JSON, JSON lines, YAML.

use super::Format;
use super::text::{is_dangerous, printable};
use crate::document::Row;
use serde::Serialize;
use serde::ser::Error as _;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use std::cell::Cell;
use std::io::{self, Write};

/// One document. For a table or CSV the caller has other means: they come out as JSON.
pub fn write_one(out: &mut impl Write, format: Format, document: &impl Serialize) -> io::Result<()> {
    match format {
        Format::Jsonl => json_line(out, document),
        Format::Yaml => out.write_all(yaml(document)?.as_bytes()),
        _ => {
            document.serialize(&mut Serializer::with_formatter(&mut *out, Tame(PrettyFormatter::new())))?;
            out.write_all(b"\n")
        }
    }
}

/// A list: one JSON or YAML document, a line an item, or a row an item.
pub fn write_list<T: Serialize + Row>(
    out: &mut impl Write,
    format: Format,
    items: impl Iterator<Item = T>,
) -> io::Result<()> {
    match format {
        Format::Jsonl => items.into_iter().try_for_each(|item| json_line(out, &item)),
        Format::Csv => super::csv::write(out, T::HEADER, items.map(|item| item.cells())),
        _ => write_one(out, format, &Lazy(Cell::new(Some(items)))),
    }
}

/// One line of JSON lines.
pub fn json_line(out: &mut impl Write, item: &impl Serialize) -> io::Result<()> {
    item.serialize(&mut Serializer::with_formatter(&mut *out, Tame(CompactFormatter)))?;
    out.write_all(b"\n")
}

/// JSON as it is, but for characters that could play tricks on a terminal: those are written as escapes, which mean the
/// same to every reader of JSON. What satellites and names on the network say ends up here.
struct Tame<F>(F);

macro_rules! like_inner {
    ($($method:ident $(($($name:ident: $type:ty),+))?),+ $(,)?) => {
        $(fn $method<W: ?Sized + Write>(&mut self, out: &mut W $(, $($name: $type),+)?) -> io::Result<()> {
            self.0.$method(out $(, $($name),+)?)
        })+
    };
}

impl<F: Formatter> Formatter for Tame<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(is_dangerous) {
            let dangerous = piece.chars().next_back().filter(|c| is_dangerous(*c));
            let Some(last) = dangerous else {
                out.write_all(piece.as_bytes())?;
                continue;
            };
            out.write_all(&piece.as_bytes()[..piece.len() - last.len_utf8()])?;
            for unit in last.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    like_inner!(
        begin_array,
        end_array,
        begin_array_value(first: bool),
        end_array_value,
        begin_object,
        end_object,
        begin_object_key(first: bool),
        end_object_key,
        begin_object_value,
        end_object_value,
    );
}

/// YAML has no formatter to hook into: the text is tamed first, as it is for people.
fn yaml(document: &impl Serialize) -> io::Result<String> {
    let mut document = serde_json::to_value(document)?;
    tame(&mut document);
    let mut text = serde_saphyr::to_string(&document).map_err(io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn tame(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = printable(text).into_owned(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(tame),
        serde_json::Value::Object(entries) => entries.values_mut().for_each(tame),
        _ => {}
    }
}

/// A list that is made while it is written, so that a large one is never whole in memory.
struct Lazy<I>(Cell<Option<I>>);

impl<T: Serialize, I: Iterator<Item = T>> Serialize for Lazy<I> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.0.take().ok_or_else(|| S::Error::custom("a list that was written before"))?;
        serializer.collect_seq(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::scan::ScanDocument;
    use crate::scan_result::fixture::one_vantage;

    #[derive(Serialize)]
    struct Item(&'static str);

    impl Row for Item {
        const HEADER: &'static [&'static str] = &["text"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned()]
        }
    }

    fn list(format: Format, items: &[&'static str]) -> String {
        let mut out = Vec::new();
        write_list(&mut out, format, items.iter().map(|text| Item(text))).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_could_trick_a_terminal_is_escaped_and_reads_back() {
        let evil = "a\u{9b}31mb\u{202e}c\u{e0041}\u{1b}[0m\"é";
        let json = list(Format::Json, &[evil]);
        assert!(!json.chars().any(|c| c != '\n' && is_dangerous(c)), "{json:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [evil]);
        let yaml = list(Format::Yaml, &[evil]);
        assert!(!yaml.chars().any(|c| c != '\n' && is_dangerous(c)), "{yaml:?}");
    }

    #[test]
    fn lists_in_every_form() {
        assert_eq!(list(Format::Json, &["a", "b"]), "[\n  \"a\",\n  \"b\"\n]\n");
        assert_eq!(list(Format::Json, &[]), "[]\n");
        assert_eq!(list(Format::Jsonl, &["a", "b"]), "\"a\"\n\"b\"\n");
        assert_eq!(list(Format::Jsonl, &[]), "");
        assert_eq!(list(Format::Csv, &["a", "b,c"]), "text\na\n\"b,c\"\n");
        assert_eq!(list(Format::Csv, &[]), "text\n");
        assert_eq!(list(Format::Yaml, &["a", "22"]), "- a\n- \"22\"\n");
        assert_eq!(list(Format::Yaml, &[]), "[]\n");
    }

    #[test]
    fn a_scan_as_yaml_keeps_its_texts_texts() {
        let scan = one_vantage();
        let mut out = Vec::new();
        write_one(&mut out, Format::Yaml, &ScanDocument::new(&scan, false)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("scan_id: 01890a5d-ac96-774b-bcce-b302099a8057\n"), "{text}");
        assert!(text.contains("      filtered: \"1024\"\n"), "{text}");
        assert!(text.contains("error: null\n"), "{text}");
    }
}
