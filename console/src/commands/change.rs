//! `portolan change open|close|list`.

mod close;

use super::ask_once;
use crate::cli::{ChangeCommand, Expected, Global, OpenArgs};
use crate::document::change::ChangeDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::{write_list, write_one};
use crate::output::{Format, View, print, table};
use crate::session::ask;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(command: &ChangeCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        ChangeCommand::Open(args) => open(args, global),
        ChangeCommand::Close { name } => close::run(name, global),
        ChangeCommand::List(args) => list(args.closed, global),
    }
}

fn open(args: &OpenArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "change open")?;
    let request = v1::OpenChangeRequest {
        name: args.name.clone(),
        expectations: args.expect.iter().map(to_wire).collect(),
        // At most thirty days.
        lasts_ms: args.lasts.as_millis() as u64,
        reason: args.message.clone().unwrap_or_default(),
    };
    let change = ask_once(global, format!("open change `{}`", args.name), async |client| {
        client.open_change(ask(request)).await
    })?;
    let document = ChangeDocument::try_from(&change)?;
    print(|out| match format {
        Format::Table => out.write_all(table::change::opened(&document, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

fn to_wire(expected: &Expected) -> v1::ChangeExpectation {
    v1::ChangeExpectation {
        from: expected.from.clone(),
        target: expected.target.clone(),
        protocol: v1::Protocol::from(expected.protocol).into(),
        ports: expected.ports.clone(),
        state: v1::PortState::from(expected.state).into(),
        before: vec![],
        after: vec![],
    }
}

fn list(closed: bool, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "change list")?;
    let request = v1::ListExpectedChangesRequest { closed };
    let answer = ask_once(global, "list the announced changes", async |client| {
        client.list_expected_changes(ask(request)).await
    })?;
    let documents = answer.changes.iter().map(ChangeDocument::try_from).collect::<Result<Vec<_>, _>>()?;
    print(|out| match format {
        Format::Table if documents.is_empty() && closed => writeln!(out, "No changes were announced."),
        Format::Table if documents.is_empty() => {
            writeln!(out, "No change is open. `--closed` shows those that are closed too.")
        }
        Format::Table => out.write_all(table::change::list(&documents, &View::of_stdout()).as_bytes()),
        format => write_list(out, format, documents.into_iter()),
    })?;
    Ok(Exit::Done)
}
