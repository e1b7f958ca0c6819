//! `portolan baseline take|show|diff|accept`.

use super::ask_once;
use crate::cli::{AcceptArgs, BaselineCommand, Global};
use crate::document::baseline::BaselineDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::{write_list, write_one};
use crate::output::{Format, View, print, table};
use crate::session::ask;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(command: &BaselineCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        BaselineCommand::Take(check) => take(&check.name, global),
        BaselineCommand::Show(check) => {
            let format = global.format(Format::ONE, "baseline show")?;
            show(&fetch(&check.name, global)?, format)
        }
        BaselineCommand::Diff(check) => differences(&check.name, global),
        BaselineCommand::Accept(args) => accept(args, global),
    }
}

fn take(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "baseline take")?;
    let request = v1::TakeBaselineRequest { name: name.to_owned() };
    let action = format!("take a baseline of check `{name}`");
    show(&ask_once(global, action, async |client| client.take_baseline(ask(request)).await)?, format)
}

fn accept(args: &AcceptArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "baseline accept")?;
    let name = &args.check.name;
    let hosts = args.hosts.iter().map(ToString::to_string).collect();
    let request = v1::AcceptBaselineRequest { name: name.clone(), hosts };
    let action = format!("accept what differs from the baseline of check `{name}`");
    show(&ask_once(global, action, async |client| client.accept_baseline(ask(request)).await)?, format)
}

fn fetch(name: &str, global: &Global) -> Result<v1::Baseline, ConsoleError> {
    let request = v1::GetBaselineRequest { name: name.to_owned() };
    let action = format!("show the baseline of check `{name}`");
    ask_once(global, action, async |client| client.get_baseline(ask(request)).await)
}

fn show(baseline: &v1::Baseline, format: Format) -> Result<Exit, ConsoleError> {
    let document = BaselineDocument::try_from(baseline)?;
    print(|out| match format {
        Format::Table => out.write_all(table::baseline::show(&document, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

fn differences(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "baseline diff")?;
    let baseline = fetch(name, global)?;
    let differences = BaselineDocument::try_from(&baseline)?.differences;
    let exit = if differences.is_empty() { Exit::Done } else { Exit::Violated };
    print(|out| match format {
        Format::Table => {
            let page = table::baseline::differences(&differences, &View::of_stdout());
            out.write_all(page.as_bytes())
        }
        format => write_list(out, format, differences.into_iter()),
    })?;
    Ok(exit)
}
