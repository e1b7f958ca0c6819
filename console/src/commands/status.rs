//! `portolan status`: done when the server answered, whatever it answered.

use super::converse;
use crate::cli::Global;
use crate::document::status::StatusDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_one;
use crate::output::{Format, View, print, table, warn};
use crate::session::{self, ask};
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "status")?;
    let status = converse(async |_| {
        let answer = session::open(&global.context).await?.status(ask(v1::StatusRequest {})).await;
        Ok(answer.map_err(ConsoleError::call("ask for the server's status"))?.into_inner())
    })?;
    let view = View::of_stdout();
    print(|out| match format {
        Format::Table => out.write_all(table::status::render(&status, &global.context, &view).as_bytes()),
        format => write_one(out, format, &StatusDocument::new(&status, &global.context)),
    })?;
    for text in table::status::warnings(&status, view.now) {
        warn(&text);
    }
    Ok(Exit::Done)
}
