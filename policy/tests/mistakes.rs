//! Every mistake has a file of its own under `fixtures/mistakes`, and the report that it must give beside it. With
//! `PORTOLAN_WRITE_REPORTS` set the reports are written instead of compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use jiff::Timestamp;
use portolan_policy::{Policy, PolicyFile, read};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn read_file(path: &Path) -> PolicyFile {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    PolicyFile { name: path.file_name().unwrap().to_string_lossy().into_owned(), text }
}

/// The contents of a directory whose names end so, ascending.
fn entries(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    paths.sort();
    paths
}

fn report(files: &[PolicyFile]) -> String {
    let mistakes = read(files, now()).expect_err("it has a mistake");
    let reports: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    reports.join("\n\n") + "\n"
}

fn compare(path: &Path, files: &[PolicyFile]) {
    let expected = path.with_extension("txt");
    let report = report(files);
    if std::env::var_os("PORTOLAN_WRITE_REPORTS").is_some() {
        std::fs::write(&expected, &report).unwrap();
    }
    let text = std::fs::read_to_string(&expected).unwrap_or_default();
    assert_eq!(report, text, "{} is not what {} gives", expected.display(), path.display());
}

#[test]
fn every_mistake_is_reported_as_it_was_agreed() {
    let directory = fixtures().join("mistakes");
    let files = entries(&directory, ".toml");
    assert!(files.len() > 40, "only {} files", files.len());
    for path in &files {
        compare(path, &[read_file(path)]);
    }
    // A directory is a policy of several files.
    let several: Vec<_> = entries(&directory, "").into_iter().filter(|path| path.is_dir()).collect();
    assert!(!several.is_empty());
    for path in &several {
        let files: Vec<_> = entries(path, ".toml").iter().map(|path| read_file(path)).collect();
        compare(path, &files);
    }
}

#[test]
fn the_policy_of_the_contract_has_no_mistake() {
    let Policy { segments, checks, flows, receivers, routes, .. } =
        read(&[read_file(&fixtures().join("contract.toml"))], now()).unwrap_or_else(|mistakes| {
            panic!("{}", mistakes.iter().map(ToString::to_string).collect::<String>())
        });
    assert_eq!((segments.len(), checks.len(), flows.len()), (5, 3, 4));
    assert_eq!((receivers.len(), routes.len()), (3, 2));
}
