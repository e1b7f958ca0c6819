//! What holds for any policy: reading never panics, and the order of things means nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

use jiff::Timestamp;
use portolan_policy::{Policy, PolicyFile, World, differences, inactive, load, read, warnings};
use proptest::prelude::*;

const CONTRACT: &str = include_str!("fixtures/contract.toml");

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn file(name: &str, text: impl Into<String>) -> PolicyFile {
    PolicyFile { name: name.to_owned(), text: text.into() }
}

fn contract() -> Policy {
    read(&[file("contract.toml", CONTRACT)], now()).unwrap()
}

/// The contract in blocks that can change places: a block is a top-level table with what belongs to it.
fn blocks() -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let body = CONTRACT.split_once("version = 1\n").unwrap().1;
    for line in body.lines() {
        let begins = line.starts_with('[') && !line.starts_with("[[check.service]]");
        // The order of routes counts: they stay together.
        let stays = line.starts_with("[[route]]") && blocks.iter().any(|block| block.contains("[[route]]"));
        if begins && !stays {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push_str(line);
            block.push('\n');
        }
    }
    let routes = blocks.iter().position(|block| block.contains("[[route]]")).unwrap();
    assert!(blocks.len() > 15 && blocks[routes].matches("[[route]]").count() == 2);
    blocks
}

fn everything_else(policy: &Policy) {
    let world = World::default();
    assert!(differences(Some(policy), policy).is_empty());
    inactive(policy);
    warnings(policy, &world, now());
    load(policy, &world, now());
}

#[derive(Clone, Debug)]
enum Edit {
    Cut(prop::sample::Index, usize),
    Put(prop::sample::Index, String),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), 1usize..40).prop_map(|(at, length)| Edit::Cut(at, length)),
        (place(), "[\"\\[\\]{}=,\\-0-9a-z:*./ \n\\PC]{1,6}").prop_map(|(at, text)| Edit::Put(at, text)),
        (place(), place(), 1usize..200).prop_map(|(from, to, length)| Edit::Copy(from, to, length)),
    ]
}

fn apply(text: &mut String, edit: &Edit) {
    let floor = |text: &str, at: usize| text.floor_char_boundary(at.min(text.len()));
    let at = |text: &str, index: &prop::sample::Index| floor(text, index.index(text.len() + 1));
    match edit {
        Edit::Cut(index, length) => {
            let from = at(text, index);
            let to = floor(text, from + length);
            text.replace_range(from..to, "");
        }
        Edit::Put(index, new) => text.insert_str(at(text, index), new),
        Edit::Copy(from, to, length) => {
            let from = at(text, from);
            let copied = text[from..floor(text, from + length)].to_owned();
            text.insert_str(at(text, to), &copied);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_mutilated_policy_is_read_or_refused(edits in prop::collection::vec(edit(), 1..6)) {
        let mut text = CONTRACT.to_owned();
        for edit in &edits {
            apply(&mut text, edit);
        }
        match read(&[file("p.toml", text)], now()) {
            Ok(policy) => everything_else(&policy),
            Err(reports) => {
                prop_assert!(!reports.is_empty());
                for report in reports {
                    prop_assert!(!report.is_empty() && !report.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn neither_order_nor_files_make_a_difference(
        order in Just(blocks()).prop_shuffle(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (first, second) = order.split_at(cut.index(order.len() + 1));
        let files = [file("a.toml", "version = 1\n".to_owned() + &first.concat()), file("b.toml", second.concat())];
        let policy = read(&files, now());
        let policy = policy.map_err(|reports| TestCaseError::fail(reports[0].to_string()))?;
        prop_assert_eq!(differences(Some(&contract()), &policy), []);
        prop_assert_eq!(differences(Some(&policy), &contract()), []);
    }

    /// Whatever block is left out is missed, unless another needs it.
    #[test]
    fn what_is_left_out_is_a_difference(left_out in any::<prop::sample::Index>()) {
        let mut blocks = blocks();
        let gone = blocks.remove(left_out.index(blocks.len()));
        if let Ok(policy) = read(&[file("p.toml", "version = 1\n".to_owned() + &blocks.concat())], now()) {
            let back = differences(Some(&policy), &contract());
            let away = differences(Some(&contract()), &policy);
            prop_assert!(!back.is_empty() && back.len() == away.len(), "{gone}");
        }
    }
}

#[test]
fn limits_are_told() {
    let report = |files: &[PolicyFile]| read(files, now()).unwrap_err()[0].to_string();
    assert!(report(&[]).contains("there is no file"));
    let twice = [file("a.toml", "version = 1\n"), file("a.toml", "")];
    assert!(report(&twice).contains("two files have this name"));
    let long = "#".repeat(read::MAX_TEXT);
    assert!(report(&[file("a.toml", "version = 1\n"), file("b.toml", long)]).contains("3 MiB are the limit"));
    let many: Vec<_> = (0..=1000).map(|n| file(&format!("{n}.toml"), "version = 1\n")).collect();
    assert!(report(&many).contains("more than 1000 files"));
    let scattered = "\"*.*.*.1,3,5\", ".repeat(40);
    let check = format!(
        "version = 1\n[[check]]\nname = \"a\"\nfrom = [\"*\"]\ntargets = [{scattered}]\nopen = \"80\"\n"
    );
    assert!(report(&[file("a.toml", check)]).contains("separate"));
}
