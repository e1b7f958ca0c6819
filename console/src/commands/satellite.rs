//! `portolan satellite add|list|show|revoke|remove`.

use super::converse;
use crate::cli::{AddArgs, Global, SatelliteCommand, SatelliteName};
use crate::document::satellite::{JoinDocument, RemovedDocument, RevokedDocument, SatelliteDocument};
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::{write_list, write_one};
use crate::output::{Format, View, print, table, time, warn};
use crate::session::{self, Client, ask};
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(command: SatelliteCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        SatelliteCommand::Add(args) => add(&args, global),
        SatelliteCommand::List => list(global),
        SatelliteCommand::Show(SatelliteName { name }) => show(&name, global),
        SatelliteCommand::Revoke(SatelliteName { name }) => revoke(&name, global),
        SatelliteCommand::Remove(SatelliteName { name }) => remove(&name, global),
    }
}

fn add(args: &AddArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "satellite add")?;
    let request = v1::AddSatelliteRequest {
        name: args.name.clone(),
        segment: args.segment.clone(),
        tenant: args.tenant.clone(),
        scope: args.scope.clone(),
        ttl_seconds: args.ttl.as_secs(),
    };
    let added = converse(async |_| {
        let answer = session::open(&global.context).await?.add_satellite(ask(request)).await;
        Ok(answer.map_err(ConsoleError::call(format!("add satellite `{}`", args.name)))?.into_inner())
    })?;
    let document = JoinDocument {
        name: &args.name,
        segment: &args.segment,
        tenant: &args.tenant,
        token: &added.token,
        expires_at: time::from_wire(added.expires_at_ms),
        // The token is the server's; one that cannot be read here is passed on all the same.
        servers: v1::JoinToken::from_text(&added.token).map(|token| token.servers).unwrap_or_default(),
        scope: &args.scope,
    };
    if added.replaced_token {
        warn(&format!("`{}` had a join token that was not used yet: that one is void now", args.name));
    }
    print(|out| match format {
        Format::Table => out.write_all(table::satellite::join(&document, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

fn list(global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "satellite list")?;
    let satellites = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        fetch(&mut client, "", "list the satellites").await
    })?;
    let documents = satellites.iter().map(SatelliteDocument::from);
    print(|out| match format {
        Format::Table => {
            let page = table::satellite::list(&documents.collect::<Vec<_>>(), &View::of_stdout());
            out.write_all(page.as_bytes())
        }
        format => write_list(out, format, documents),
    })?;
    Ok(Exit::Done)
}

fn show(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "satellite show")?;
    let action = format!("show satellite `{name}`");
    let satellites = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        fetch(&mut client, name, &action).await
    })?;
    let Some(satellite) = satellites.first() else {
        let missing = tonic::Status::not_found(format!("there is no satellite `{name}`"));
        return Err(ConsoleError::call(action)(missing));
    };
    let document = SatelliteDocument::from(satellite);
    print(|out| match format {
        Format::Table => out.write_all(table::satellite::show(&document, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

/// All satellites, or the one of this name.
async fn fetch(client: &mut Client, name: &str, action: &str) -> Result<Vec<v1::Satellite>, ConsoleError> {
    let request = v1::ListSatellitesRequest { name: name.to_owned() };
    let answer = client.list_satellites(ask(request)).await.map_err(ConsoleError::call(action))?;
    Ok(answer.into_inner().satellites)
}

fn revoke(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "satellite revoke")?;
    let request = v1::RevokeSatelliteRequest { name: name.to_owned() };
    let revoked = converse(async |_| {
        let answer = session::open(&global.context).await?.revoke_satellite(ask(request)).await;
        Ok(answer.map_err(ConsoleError::call(format!("revoke satellite `{name}`")))?.into_inner())
    })?;
    let document = RevokedDocument { name, revoked: true, was_online: revoked.was_online };
    print(|out| match format {
        Format::Table => {
            let ended = if document.was_online { "its connection was ended" } else { "it was not connected" };
            writeln!(out, "Satellite {name} is revoked; {ended}. Its certificates are refused from now on.")
        }
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

fn remove(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "satellite remove")?;
    let request = v1::RemoveSatelliteRequest { name: name.to_owned() };
    converse(async |_| {
        let answer = session::open(&global.context).await?.remove_satellite(ask(request)).await;
        answer.map_err(ConsoleError::call(format!("remove satellite `{name}`")))
    })?;
    print(|out| match format {
        Format::Table => writeln!(out, "Satellite {name} is removed; what it saw stays in the history."),
        format => write_one(out, format, &RemovedDocument { name, removed: true }),
    })?;
    Ok(Exit::Done)
}
