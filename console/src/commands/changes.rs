//! `portolan changes`: what changed on any host.

use super::converse;
use crate::cli::{ChangesArgs, Global};
use crate::document::history::{Change, sort};
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_list;
use crate::output::{Format, View, print, table};
use crate::session;
use jiff::Timestamp;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(args: &ChangesArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "changes")?;
    let since = args.since.before(Timestamp::now());
    let request = v1::ListChangesRequest {
        since_at_ms: since.as_millisecond(),
        segment: args.segment.clone().unwrap_or_default(),
    };
    let changes = converse(async |_| {
        let failed = || ConsoleError::call("list the changes");
        let mut client = session::open(&global.context).await?;
        let mut records = client.list_changes(request).await.map_err(failed())?.into_inner();
        let mut changes = Vec::new();
        while let Some(record) = records.message().await.map_err(failed())? {
            changes.push(Change::try_from(record)?);
        }
        sort(&mut changes);
        Ok(changes)
    })?;
    print(|out| match format {
        Format::Table => {
            let page = table::history::changes(&changes, args.segment.as_deref(), since, &View::of_stdout());
            out.write_all(page.as_bytes())
        }
        format => write_list(out, format, changes.iter().flat_map(Change::documents)),
    })?;
    Ok(Exit::Done)
}
