//! `portolan policy check|apply|diff|show|history|export|rollback`.

mod export;
mod files;

use super::{ask_once, converse};
use crate::cli::{ApplyArgs, Global, PolicyCheckArgs, PolicyCommand, RollbackArgs};
use crate::document::policy::{
    FileDocument, InactiveDocument, PolicyDocument, ReportDocument, VersionDocument, differences,
};
use crate::errors::{ConsoleError, Exit};
use crate::output::paint::Paint;
use crate::output::structured::{write_list, write_one};
use crate::output::text::count;
use crate::output::{Format, View, note, print, table};
use crate::session::{self, Client, ask};
use files::Files;
use jiff::Timestamp;
use portolan_common::document::Mistakes;
use portolan_proto::v1;
use portolan_transport::context::{self, ContextError};
use std::io::Write as _;
use std::path::PathBuf;
use table::policy::Tense;
use tonic::Status;

/// Does what was typed.
pub fn run(command: &PolicyCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        PolicyCommand::Check(args) => check(args, global),
        PolicyCommand::Apply(args) => apply(args, global),
        PolicyCommand::Diff(args) => diff(&args.paths, global),
        PolicyCommand::Show(which) => show(which.version, global),
        PolicyCommand::History => history(global),
        PolicyCommand::Export(args) => export::run(args, global),
        PolicyCommand::Rollback(args) => rollback(args, global),
    }
}

/// What came of a policy that was given to somebody to judge.
#[derive(Debug)]
enum Verdict {
    Wrong(Vec<Mistakes>),
    Right(v1::PolicyReport),
}

impl Verdict {
    /// The server's; its mistakes get the places that they have in the files.
    fn new(files: &Files, report: v1::PolicyReport) -> Self {
        match files.placed(&report) {
            mistakes if mistakes.is_empty() => Self::Right(report),
            mistakes => Self::Wrong(mistakes),
        }
    }
}

fn check(args: &PolicyCheckArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "policy check")?;
    let files = Files::load(&args.files.paths)?;
    let policy = match files.read(Timestamp::now()) {
        Err(mistakes) => return wrong(&mistakes, format),
        Ok(policy) => policy,
    };
    let offline = |why: &str| {
        note(&format!("{why}: what is missing, what would change and what it would send is not said"));
        let parts = portolan_policy::inactive(&policy);
        let inactive = parts
            .into_iter()
            .map(|part| InactiveDocument { what: part.what, why: part.why.to_owned() })
            .collect();
        let checks = count(policy.checks.len() as u64, "check");
        right(&ReportDocument::new(&[], inactive, None), &checks, Tense::Would, format)
    };
    if args.offline {
        return offline("the server was not asked");
    }
    let verdict = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        judge_check(&mut client, &files).await
    });
    match verdict {
        Err(ConsoleError::Context { source: ContextError::Missing { .. }, .. })
            if global.context == context::DEFAULT =>
        {
            offline("no server was asked, as there is no context")
        }
        Err(error) => Err(error),
        Ok(Verdict::Wrong(mistakes)) => wrong(&mistakes, format),
        Ok(Verdict::Right(report)) => {
            right(&whole(&report), &count(report.checks, "check"), Tense::Would, format)
        }
    }
}

async fn judge_check(client: &mut Client, files: &Files) -> Result<Verdict, ConsoleError> {
    let request = v1::CheckPolicyRequest { files: files.to_wire() };
    let report = client.check_policy(ask(request)).await.map_err(ConsoleError::call("check the policy"))?;
    Ok(Verdict::new(files, report.into_inner()))
}

fn apply(args: &ApplyArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "policy apply")?;
    let files = Files::load(&args.files.paths)?;
    // What is wrong shows without a server.
    if let Err(mistakes) = files.read(Timestamp::now()) {
        return wrong(&mistakes, format);
    }
    let verdict = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        judge_apply(&mut client, &files, args).await
    })?;
    applied(&verdict, args.how.dry_run, format)
}

async fn judge_apply(client: &mut Client, files: &Files, args: &ApplyArgs) -> Result<Verdict, ConsoleError> {
    let request = v1::ApplyPolicyRequest {
        files: files.to_wire(),
        rollback_to: 0,
        message: args.how.message.clone().unwrap_or_default(),
        dry_run: args.how.dry_run,
        based_on: args.based_on,
    };
    let report = client.apply_policy(ask(request)).await.map_err(ConsoleError::call("apply the policy"))?;
    Ok(Verdict::new(files, report.into_inner()))
}

fn rollback(args: &RollbackArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "policy rollback")?;
    let verdict = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        judge_rollback(&mut client, args).await
    })?;
    applied(&verdict, args.how.dry_run, format)
}

/// What was right once may be wrong now: an exception that has expired since.
async fn judge_rollback(client: &mut Client, args: &RollbackArgs) -> Result<Verdict, ConsoleError> {
    let action = format!("go back to version {}", args.version);
    let request = v1::ApplyPolicyRequest {
        files: vec![],
        rollback_to: args.version,
        message: args.how.message.clone().unwrap_or_default(),
        dry_run: args.how.dry_run,
        based_on: None,
    };
    let report = client.apply_policy(ask(request)).await.map_err(ConsoleError::call(&action))?.into_inner();
    if report.mistakes.is_empty() {
        return Ok(Verdict::Right(report));
    }
    let request = v1::GetPolicyRequest { version: args.version };
    let policy = client.get_policy(ask(request)).await.map_err(ConsoleError::call(&action))?.into_inner();
    Ok(Verdict::Wrong(Files::from_wire(policy.files).placed(&report)))
}

/// What applying came to; a dry run says by its exit code whether something would change.
fn applied(verdict: &Verdict, dry_run: bool, format: Format) -> Result<Exit, ConsoleError> {
    let report = match verdict {
        Verdict::Wrong(mistakes) => return wrong(mistakes, format),
        Verdict::Right(report) => report,
    };
    let tense = if dry_run { Tense::Would } else { Tense::Did };
    right(&whole(report), &count(report.checks, "check"), tense, format)?;
    Ok(exit_of(report, dry_run))
}

fn exit_of(report: &v1::PolicyReport, dry_run: bool) -> Exit {
    if dry_run && !report.differences.is_empty() { Exit::Violated } else { Exit::Done }
}

fn diff(paths: &[PathBuf], global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "policy diff")?;
    let files = Files::load(paths)?;
    if let Err(mistakes) = files.read(Timestamp::now()) {
        return wrong(&mistakes, Format::Table);
    }
    let verdict = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        judge_check(&mut client, &files).await
    })?;
    let report = match verdict {
        Verdict::Wrong(mistakes) => return wrong(&mistakes, Format::Table),
        Verdict::Right(report) => report,
    };
    let differences = differences(&report);
    print(|out| match format {
        Format::Table => {
            let page = table::policy::differences(&differences, Tense::Would, &View::of_stdout());
            out.write_all(page.as_bytes())
        }
        format => write_list(out, format, differences.into_iter()),
    })?;
    Ok(exit_of(&report, true))
}

fn whole(report: &v1::PolicyReport) -> ReportDocument<'_> {
    let inactive = report.inactive.iter().map(InactiveDocument::from).collect();
    ReportDocument::new(&[], inactive, Some(report))
}

/// Mistakes are for people on stderr, or for programs on stdout.
fn wrong(mistakes: &[Mistakes], format: Format) -> Result<Exit, ConsoleError> {
    match format {
        Format::Table => {
            // When stderr is gone there is nobody to tell.
            let text = table::policy::mistakes(mistakes, Paint::for_stderr());
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        format => print(|out| write_one(out, format, &ReportDocument::new(mistakes, vec![], None)))?,
    }
    Ok(Exit::Error)
}

/// What there is to say of a policy without mistakes.
fn right(
    report: &ReportDocument<'_>,
    checks: &str,
    tense: Tense,
    format: Format,
) -> Result<Exit, ConsoleError> {
    print(|out| match format {
        Format::Table => {
            match (report.version, tense, report.applied) {
                (Some(version), Tense::Did, true) => {
                    writeln!(out, "Version {version} is in force: {checks}.")?
                }
                (Some(version), Tense::Did, false) => {
                    writeln!(out, "Version {version} is in force already: {checks}.")?;
                }
                _ => writeln!(out, "There are no mistakes: {checks}.")?,
            }
            out.write_all(table::policy::report(report, tense, &View::of_stdout()).as_bytes())
        }
        format => write_one(out, format, report),
    })?;
    Ok(Exit::Done)
}

/// The files of a version; without one, of that in force.
fn fetch(
    version: Option<u64>,
    global: &Global,
) -> Result<(v1::PolicyVersion, Vec<v1::PolicyFile>), ConsoleError> {
    let action = match version {
        Some(version) => format!("show version {version} of the policy"),
        None => "show the policy".to_owned(),
    };
    let request = v1::GetPolicyRequest { version: version.unwrap_or(0) };
    let answer = ask_once(global, &action, async |client| client.get_policy(ask(request)).await)?;
    match answer.version {
        Some(version) => Ok((version, answer.files)),
        None => Err(ConsoleError::call(action)(Status::not_found("there is no policy"))),
    }
}

fn show(version: Option<u64>, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "policy show")?;
    let (version, files) = fetch(version, global)?;
    let document = PolicyDocument {
        version: VersionDocument::from(&version),
        files: files.iter().map(FileDocument::from).collect(),
    };
    print(|out| match format {
        Format::Table => out.write_all(table::policy::show(&document, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

fn history(global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "policy history")?;
    let versions = ask_once(global, "list the versions of the policy", async |client| {
        client.list_policy_versions(ask(v1::ListPolicyVersionsRequest {})).await
    })?
    .versions;
    let documents: Vec<_> = versions.iter().map(VersionDocument::from).collect();
    print(|out| match format {
        Format::Table if documents.is_empty() => {
            writeln!(out, "There is no policy yet: portolan policy apply FILE")
        }
        Format::Table => out.write_all(table::policy::history(&documents, &View::of_stdout()).as_bytes()),
        format => write_list(out, format, documents.into_iter()),
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests;
