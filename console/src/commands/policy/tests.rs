//! Conversations with a server that is only pretended.

use super::*;
use crate::cli::{Cli, Command};
use crate::document::policy::tests::report;
use crate::fake::{Fake, answer, connect};
use clap::Parser as _;
use std::sync::Arc;

const RIGHT: &str = "version = 1\n[segment.office]\ncidrs = [\"10.99.1.0/24\"]\n";

fn command(line: &str) -> PolicyCommand {
    match Cli::try_parse_from(format!("portolan policy {line}").split(' ')).unwrap().command {
        Command::Policy(command) => command,
        _ => unreachable!(),
    }
}

/// A file of this text, and what `policy apply FILE …` has to say of it.
async fn apply_it(fake: Fake, text: &str, options: &str) -> Result<Verdict, ConsoleError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    std::fs::write(&path, text).unwrap();
    let line = format!("apply {}{options}", path.display());
    let PolicyCommand::Apply(args) = command(&line) else { unreachable!() };
    let files = Files::load(&args.files.paths).unwrap();
    judge_apply(&mut connect(&Arc::new(fake)).await, &files, &args).await
}

fn exit(verdict: &Verdict, dry_run: bool) -> Exit {
    match verdict {
        Verdict::Wrong(_) => Exit::Error,
        Verdict::Right(report) => exit_of(report, dry_run),
    }
}

#[tokio::test]
async fn a_dry_run_says_by_its_exit_code_whether_something_would_change() {
    let fake = |report: v1::PolicyReport| Fake {
        apply_policy: answer(move |request: v1::ApplyPolicyRequest| {
            assert!(request.dry_run && request.rollback_to == 0);
            assert_eq!(
                (request.files[0].name.as_str(), request.files[0].text.as_str()),
                ("policy.toml", RIGHT)
            );
            assert_eq!(request.based_on, Some(0));
            Ok(report.clone())
        }),
        ..Fake::default()
    };
    let options = " --dry-run --based-on 0";
    let verdict = apply_it(fake(report()), RIGHT, options).await.unwrap();
    assert_eq!(exit(&verdict, true), Exit::Violated);
    let same = v1::PolicyReport { differences: vec![], ..report() };
    assert_eq!(exit(&apply_it(fake(same), RIGHT, options).await.unwrap(), true), Exit::Done);
}

#[tokio::test]
async fn applying_is_done_when_it_is_done() {
    let fake = Fake {
        apply_policy: answer(|request: v1::ApplyPolicyRequest| {
            assert_eq!((request.dry_run, request.based_on, request.message.as_str()), (false, None, "why"));
            Ok(v1::PolicyReport { applied: true, version: 12, ..report() })
        }),
        ..Fake::default()
    };
    assert_eq!(exit(&apply_it(fake, RIGHT, " -m why").await.unwrap(), false), Exit::Done);
}

#[tokio::test]
async fn what_only_the_server_finds_has_its_place_too() {
    let fake = Fake {
        apply_policy: answer(|_| {
            let mistake = v1::PolicyMistake {
                file: "policy.toml".into(),
                line: 2,
                column: 10,
                length: 6,
                message: "segments are no more".into(),
                ..Default::default()
            };
            Ok(v1::PolicyReport { mistakes: vec![mistake], ..Default::default() })
        }),
        ..Fake::default()
    };
    let Verdict::Wrong(mistakes) = apply_it(fake, RIGHT, "").await.unwrap() else { panic!() };
    assert!(
        mistakes[0].to_string().contains("2 | [segment.office]\n  |          ^^^^^^\n"),
        "{}",
        mistakes[0]
    );
}

#[tokio::test]
async fn somebody_elses_version_is_not_applied_over() {
    let fake = Fake {
        apply_policy: answer(|_| Err(Status::aborted("bob applied version 12 two minutes ago"))),
        ..Fake::default()
    };
    let error = apply_it(fake, RIGHT, " --based-on 11").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot apply the policy: bob applied version 12 two minutes ago");
    assert!(error.hint().unwrap().contains("portolan policy diff"), "{:?}", error.hint());
}

#[tokio::test]
async fn a_version_that_has_become_wrong_is_shown_where_it_is() {
    let fake = Fake {
        apply_policy: answer(|request: v1::ApplyPolicyRequest| {
            assert!(request.files.is_empty() && request.rollback_to == 9);
            let mistake = v1::PolicyMistake {
                file: "flows.toml".into(),
                line: 1,
                column: 1,
                length: 7,
                message: "it has expired".into(),
                ..Default::default()
            };
            Ok(v1::PolicyReport { mistakes: vec![mistake], ..Default::default() })
        }),
        get_policy: answer(|request: v1::GetPolicyRequest| {
            assert_eq!(request.version, 9);
            let files =
                vec![v1::PolicyFile { name: "flows.toml".into(), text: "expires = \"2020-01-01\"".into() }];
            Ok(v1::GetPolicyResponse { version: None, files })
        }),
        ..Fake::default()
    };
    let PolicyCommand::Rollback(args) = command("rollback 9") else { unreachable!() };
    let verdict = judge_rollback(&mut connect(&Arc::new(fake)).await, &args).await.unwrap();
    let Verdict::Wrong(mistakes) = verdict else { panic!() };
    assert!(
        mistakes[0].to_string().contains("1 | expires = \"2020-01-01\"\n  | ^^^^^^^\n"),
        "{}",
        mistakes[0]
    );
}
