//! `portolan history`: what changed.

use super::converse;
use crate::cli::{Global, HistoryArgs};
use crate::document::history::{Change, Past, sort};
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_list;
use crate::output::{Format, View, print, table};
use crate::session;
use jiff::Timestamp;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(args: &HistoryArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "history")?;
    let what = args.host.to_string();
    let request = v1::HistoryRequest {
        host: args.host.host.clone(),
        port: args.host.port.map(u32::from),
        since_at_ms: args.since.map_or(0, |since| since.before(Timestamp::now()).as_millisecond()),
    };
    let past = converse(async |_| {
        let failed = || ConsoleError::call(format!("show the history of {what}"));
        let mut client = session::open(&global.context).await?;
        let mut records = client.history(request).await.map_err(failed())?.into_inner();
        let mut past = Past::default();
        while let Some(record) = records.message().await.map_err(failed())? {
            past.add(record)?;
        }
        sort(&mut past.changes);
        Ok(past)
    })?;
    print(|out| match format {
        Format::Table => {
            let page = table::history::render(&past, &what, args.since.is_some(), &View::of_stdout());
            out.write_all(page.as_bytes())
        }
        format => write_list(out, format, past.changes.iter().flat_map(Change::documents)),
    })?;
    Ok(Exit::Done)
}
