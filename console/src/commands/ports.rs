//! `portolan ports`: the inventory.

use super::converse;
use crate::cli::{Global, PortsArgs};
use crate::document::ports::PortRun;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_list;
use crate::output::text::printable;
use crate::output::{Format, View, print, table};
use crate::session;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(args: PortsArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "ports")?;
    let nothing = nothing(&args);
    let request = v1::ListPortsRequest {
        segment: args.segment.unwrap_or_default(),
        host: args.host.unwrap_or_default(),
        all: args.all,
    };
    // Runs are compact and only expanded while they are written; and what breaks off midway prints nothing.
    let runs = converse(async |_| {
        let failed = || ConsoleError::call("list the ports");
        let mut client = session::open(&global.context).await?;
        let mut records = client.list_ports(request).await.map_err(failed())?.into_inner();
        let mut runs = Vec::new();
        while let Some(record) = records.message().await.map_err(failed())? {
            runs.push(PortRun::try_from(record)?);
        }
        Ok(runs)
    })?;
    print(|out| match format {
        Format::Table if runs.is_empty() => writeln!(out, "{nothing}"),
        Format::Table => out.write_all(table::ports::render(&runs, &View::of_stdout()).as_bytes()),
        format => write_list(out, format, runs.iter().flat_map(PortRun::documents)),
    })?;
    Ok(Exit::Done)
}

/// An empty inventory in words.
fn nothing(args: &PortsArgs) -> String {
    let mut text =
        if args.all { "Nothing is known".to_owned() } else { "No open ports are known".to_owned() };
    if let Some(host) = &args.host {
        text.push_str(&format!(" of {}", printable(host)));
    }
    if let Some(segment) = &args.segment {
        text.push_str(&format!(" as seen from segment {}", printable(segment)));
    }
    text.push('.');
    if !args.all {
        text.push_str(" `--all` shows closed and filtered ones too; `portolan scan` looks anew.");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_inventory_repeats_what_was_asked() {
        let args = PortsArgs { segment: Some("pci".into()), host: Some("db".into()), all: true };
        assert_eq!(nothing(&args), "Nothing is known of db as seen from segment pci.");
    }
}
