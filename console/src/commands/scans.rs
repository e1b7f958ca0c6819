//! `portolan scans` and `portolan scans pause|resume|cancel`.

use super::converse;
use crate::cli::{Global, ScansArgs, ScansCommand};
use crate::document::scans::{CancelledDocument, PausedDocument, RunningDocument};
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::{write_list, write_one};
use crate::output::text::printable;
use crate::output::{Format, View, print, table, warn};
use crate::session::{self, Client, ask};
use portolan_proto::v1;
use std::io::Write as _;
use tonic::Status;

/// Does what was typed.
pub fn run(args: &ScansArgs, global: &Global) -> Result<Exit, ConsoleError> {
    match &args.command {
        None => list(global),
        Some(ScansCommand::Pause(scan)) => pause(&scan.id, true, global),
        Some(ScansCommand::Resume(scan)) => pause(&scan.id, false, global),
        Some(ScansCommand::Cancel(scan)) => cancel(&scan.id, global),
    }
}

fn list(global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "scans")?;
    let scans = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        fetch(&mut client, "list the scans").await
    })?;
    let documents = scans.iter().map(RunningDocument::from);
    print(|out| match format {
        Format::Table => {
            let page = table::scans::list(&documents.collect::<Vec<_>>(), &View::of_stdout());
            out.write_all(page.as_bytes())
        }
        format => write_list(out, format, documents),
    })?;
    Ok(Exit::Done)
}

fn pause(id: &str, paused: bool, global: &Global) -> Result<Exit, ConsoleError> {
    let verb = if paused { "pause" } else { "resume" };
    let format = global.format(Format::ONE, &format!("scans {verb}"))?;
    let action = format!("{verb} scan `{id}`");
    let (scan_id, answer) = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        let scan_id = find(&fetch(&mut client, &action).await?, id, &action)?;
        let request = v1::PauseScanRequest { scan_id: scan_id.clone(), paused };
        let answer = client.pause_scan(ask(request)).await.map_err(ConsoleError::call(&action))?;
        Ok((scan_id, answer.into_inner()))
    })?;
    let document = PausedDocument::new(&scan_id, paused, &answer);
    print(|out| match format {
        Format::Table if paused => {
            writeln!(out, "Scan {scan_id} is paused. It goes on with: portolan scans resume {scan_id}")
        }
        Format::Table => writeln!(out, "Scan {scan_id} goes on."),
        format => write_one(out, format, &document),
    })?;
    for failure in &answer.failed {
        warn(&format!("{}: {}", printable(&failure.satellite), printable(&failure.error)));
    }
    Ok(if answer.failed.is_empty() { Exit::Done } else { Exit::Partial })
}

fn cancel(id: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "scans cancel")?;
    let action = format!("cancel scan `{id}`");
    let scan_id = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        let scan_id = find(&fetch(&mut client, &action).await?, id, &action)?;
        let request = v1::CancelScanRequest { scan_id: scan_id.clone() };
        client.cancel_scan(ask(request)).await.map_err(ConsoleError::call(&action))?;
        Ok(scan_id)
    })?;
    print(|out| match format {
        Format::Table => writeln!(out, "Scan {scan_id} is cancelled; what was seen until then stays."),
        format => write_one(out, format, &CancelledDocument { scan_id: &scan_id, cancelled: true }),
    })?;
    Ok(Exit::Done)
}

async fn fetch(client: &mut Client, action: &str) -> Result<Vec<v1::RunningScan>, ConsoleError> {
    let answer = client.list_scans(ask(v1::ListScansRequest {})).await.map_err(ConsoleError::call(action))?;
    Ok(answer.into_inner().scans)
}

/// The one scan whose id begins so.
fn find(scans: &[v1::RunningScan], id: &str, action: &str) -> Result<String, ConsoleError> {
    let found: Vec<&str> =
        scans.iter().map(|scan| scan.scan_id.as_str()).filter(|known| known.starts_with(id)).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(ConsoleError::call(action)(Status::not_found("no scan of this id is running"))),
        several => Err(ConsoleError::usage(
            format!("`{id}` is the beginning of {} scans' ids", several.len()),
            format!("type more of it: {}", several.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_where_it_tells_scans_apart() {
        let ids = ["01a1f82d-c1f4-72f9-8fcd-2e760e5281d2", "01a1f82e-249c-74b9-b8b4-a98be55d5ccb"];
        let scans = ids.map(|id| v1::RunningScan { scan_id: id.into(), ..Default::default() });
        let of = |id| find(&scans, id, &format!("pause scan `{id}`"));
        assert_eq!(of("01a1f82e").unwrap(), ids[1]);
        assert_eq!(of(ids[0]).unwrap(), ids[0]);
        let several = of("01a1").unwrap_err();
        assert_eq!(several.to_string(), "`01a1` is the beginning of 2 scans' ids");
        assert_eq!((several.exit(), several.hint().unwrap().contains(ids[0])), (Exit::Usage, true));
        let none = of("beef").unwrap_err();
        assert_eq!(none.to_string(), "cannot pause scan `beef`: no scan of this id is running");
        assert_eq!(
            (none.exit(), none.hint().unwrap()),
            (Exit::Error, "`portolan scans` shows those that run".into())
        );
    }
}
