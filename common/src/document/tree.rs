//! What is done with a whole table, whatever its keys are: writing it as one line, and looking at every string in it.

use super::At;
use std::fmt::Write;
use toml::de::{DeTable, DeValue};

/// The table as an inline one: keys in their order, numbers in decimal, without comments. Two tables that say the same
/// give the same text, however they are laid out.
pub(super) fn inline(table: &DeTable<'_>) -> String {
    let mut text = String::new();
    write_table(table, &mut text);
    text
}

fn write_table(table: &DeTable<'_>, text: &mut String) {
    text.push('{');
    for (i, (key, value)) in table.iter().enumerate() {
        text.push_str(if i == 0 { " " } else { ", " });
        let key = key.get_ref();
        let bare =
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if bare {
            text.push_str(key)
        } else {
            write_string(key, text)
        }
        text.push_str(" = ");
        write_value(value.get_ref(), text);
    }
    text.push_str(if table.is_empty() { "}" } else { " }" });
}

fn write_value(value: &DeValue<'_>, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match value {
        DeValue::String(string) => {
            write_string(string, text);
            Ok(())
        }
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => write!(text, "{number}"),
            Err(_) => write!(text, "{number}"),
        },
        DeValue::Float(number) => write!(text, "{number}"),
        DeValue::Boolean(flag) => write!(text, "{flag}"),
        DeValue::Datetime(time) => write!(text, "{time}"),
        DeValue::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { ", " });
                write_value(item.get_ref(), text);
            }
            text.push(']');
            Ok(())
        }
        DeValue::Table(table) => {
            write_table(table, text);
            Ok(())
        }
    };
}

fn write_string(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// Shows every string of the table and of those in it, with the keys that lead to it.
pub(super) fn each_string<'a>(
    table: &'a DeTable<'_>,
    keys: &mut Vec<&'a str>,
    see: &mut dyn FnMut(&[&'a str], &At<String>),
) {
    for (key, value) in table {
        keys.push(key.get_ref());
        strings_of(value.get_ref(), value.span(), keys, see);
        keys.pop();
    }
}

fn strings_of<'a>(
    value: &'a DeValue<'_>,
    span: std::ops::Range<usize>,
    keys: &mut Vec<&'a str>,
    see: &mut dyn FnMut(&[&'a str], &At<String>),
) {
    match value {
        DeValue::String(text) => see(keys, &At { value: text.to_string(), span }),
        DeValue::Array(items) => {
            for item in items {
                strings_of(item.get_ref(), item.span(), keys, see);
            }
        }
        DeValue::Table(table) => each_string(table, keys, see),
        _ => {}
    }
}
