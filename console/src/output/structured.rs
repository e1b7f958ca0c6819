//! JSON, JSON lines, YAML.

use super::Format;
use crate::document::Row;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use std::cell::Cell;
use std::io::{self, Write};

/// One document. For a table or CSV the caller has other means: they come out as JSON.
pub fn write_one(out: &mut impl Write, format: Format, document: &impl Serialize) -> io::Result<()> {
    match format {
        Format::Jsonl => json_line(out, document),
        Format::Yaml => out.write_all(yaml(document)?.as_bytes()),
        _ => {
            serde_json::to_writer_pretty(&mut *out, document)?;
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
    serde_json::to_writer(&mut *out, item)?;
    out.write_all(b"\n")
}

fn yaml(document: &impl Serialize) -> io::Result<String> {
    let mut text = serde_saphyr::to_string(document).map_err(io::Error::other)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A list that is made while it is written, so that a large one is never whole in memory.
struct Lazy<I>(Cell<Option<I>>);

impl<T: Serialize, I: Iterator<Item = T>> Serialize for Lazy<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
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
