//! `portolan check list|show|run|pause|resume`.

mod run;

use super::alert::exit_of_list;
use super::ask_once;
use crate::cli::{CheckCommand, CheckListArgs, Global};
use crate::document::check::{CheckDetails, CheckDocument, PausedDocument};
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::{write_list, write_one};
use crate::output::{Format, View, print, table};
use crate::session::ask;
use portolan_proto::v1;
use std::io::Write as _;
use tonic::Status;

/// Does what was typed.
pub fn run(command: &CheckCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        CheckCommand::List(args) => list(args, global),
        CheckCommand::Show(check) => show(&check.name, global),
        CheckCommand::Run(args) => run::run(&args.check.name, args.no_wait, global),
        CheckCommand::Pause(check) => pause(&check.name, true, global),
        CheckCommand::Resume(check) => pause(&check.name, false, global),
    }
}

fn list(args: &CheckListArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "check list")?;
    let answer = ask_once(global, "list the checks", async |client| {
        client.list_checks(ask(v1::ListChecksRequest {})).await
    })?;
    let documents = answer.checks.iter().map(CheckDocument::from);
    let documents: Vec<_> = documents.filter(|check| is_listed(args, check.state)).collect();
    let listed = documents.len();
    print(|out| match format {
        Format::Table if documents.is_empty() => writeln!(out, "{}", nothing(args, answer.policy_version)),
        Format::Table => out.write_all(table::check::list(&documents, &View::of_stdout()).as_bytes()),
        format => write_list(out, format, documents.into_iter()),
    })?;
    Ok(exit_of_list(args.firing || args.not_ok, listed))
}

fn is_listed(args: &CheckListArgs, state: &str) -> bool {
    (!args.firing || state == "firing") && (!args.not_ok || state != "ok")
}

/// An empty list in words.
fn nothing(args: &CheckListArgs, policy_version: u64) -> &'static str {
    match (policy_version, args.firing, args.not_ok) {
        (0, ..) => "There is no policy yet: portolan policy apply FILE",
        (_, true, _) => "No check fires.",
        (_, _, true) => "Every check is ok.",
        _ => "The policy in force has no checks.",
    }
}

fn show(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "check show")?;
    let action = format!("show check `{name}`");
    let request = v1::GetCheckRequest { name: name.to_owned() };
    let answer = ask_once(global, &action, async |client| client.get_check(ask(request)).await)?;
    let details = details(&answer, name, &action)?;
    print(|out| match format {
        Format::Table => out.write_all(table::check::show(&details, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &details),
    })?;
    Ok(Exit::Done)
}

/// An answer without a check is none.
fn details<'a>(
    answer: &'a v1::GetCheckResponse,
    name: &str,
    action: &str,
) -> Result<CheckDetails<'a>, ConsoleError> {
    match &answer.check {
        Some(check) => Ok(CheckDetails::new(check, answer)?),
        None => Err(ConsoleError::call(action)(Status::not_found(format!("there is no check `{name}`")))),
    }
}

fn pause(name: &str, paused: bool, global: &Global) -> Result<Exit, ConsoleError> {
    let verb = if paused { "pause" } else { "resume" };
    let format = global.format(Format::ONE, &format!("check {verb}"))?;
    let request = v1::PauseCheckRequest { name: name.to_owned(), paused };
    ask_once(global, format!("{verb} check `{name}`"), async |client| {
        client.pause_check(ask(request)).await
    })?;
    print(|out| match format {
        Format::Table if paused => writeln!(
            out,
            "Check {name} is paused: its state stays as it is. It goes on with: portolan check resume {name}"
        ),
        Format::Table => writeln!(out, "Check {name} goes on."),
        format => write_one(out, format, &PausedDocument { name, paused }),
    })?;
    Ok(Exit::Done)
}
