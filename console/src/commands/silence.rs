//! `portolan silence add|list|expire`.

use super::ask_once;
use crate::cli::{Global, SilenceArgs, SilenceCommand};
use crate::document::silence::SilenceDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::{write_list, write_one};
use crate::output::text::printable;
use crate::output::{Format, View, print, table};
use crate::session::ask;
use jiff::Timestamp;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(command: &SilenceCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        SilenceCommand::Add(args) => add(args, global),
        SilenceCommand::List { expired } => list(*expired, global),
        SilenceCommand::Expire { id } => expire(id, global),
    }
}

fn add(args: &SilenceArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "silence add")?;
    let request = request(args, Timestamp::now())?;
    let silence = ask_once(global, "add a silence", async |client| client.add_silence(ask(request)).await)?;
    let view = View::of_stdout();
    let document = SilenceDocument::new(&silence, view.now);
    print(|out| match format {
        Format::Table => out.write_all(table::silence::added(&document, &view).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    Ok(Exit::Done)
}

/// What was typed, with times that make sense together.
fn request(args: &SilenceArgs, now: Timestamp) -> Result<v1::AddSilenceRequest, ConsoleError> {
    let starts = args.from.unwrap_or(now);
    let wrong = |mistake: &str| ConsoleError::usage(mistake, "`portolan silence add --help` shows examples");
    let ends = match (args.until, args.lasts) {
        (Some(until), _) => until,
        (None, Some(lasts)) => {
            starts.checked_add(lasts).map_err(|_| wrong("it would end after all calendars"))?
        }
        (None, None) => return Err(wrong("when it ends is missing: --for or --until")),
    };
    if ends <= starts {
        return Err(wrong("it would end before it begins"));
    }
    if ends <= now {
        return Err(wrong("it would be over already"));
    }
    Ok(v1::AddSilenceRequest {
        matchers: args.matchers.clone(),
        reason: args.message.clone(),
        starts_at_ms: args.from.map_or(0, Timestamp::as_millisecond),
        ends_at_ms: ends.as_millisecond(),
    })
}

fn list(expired: bool, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "silence list")?;
    let request = v1::ListSilencesRequest { expired };
    let silences =
        ask_once(global, "list the silences", async |client| client.list_silences(ask(request)).await)?
            .silences;
    let view = View::of_stdout();
    let documents = silences.iter().map(|silence| SilenceDocument::new(silence, view.now));
    print(|out| match format {
        Format::Table if silences.is_empty() => {
            writeln!(
                out,
                "There are no silences.{}",
                if expired { "" } else { " `--expired` shows those that are over too." }
            )
        }
        Format::Table => {
            out.write_all(table::silence::list(&documents.collect::<Vec<_>>(), &view).as_bytes())
        }
        format => write_list(out, format, documents),
    })?;
    Ok(Exit::Done)
}

fn expire(id: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "silence expire")?;
    let request = v1::ExpireSilenceRequest { id: id.to_owned() };
    let silence = ask_once(global, format!("expire silence `{id}`"), async |client| {
        client.expire_silence(ask(request)).await
    })?;
    print(|out| match format {
        Format::Table => writeln!(out, "Silence {} is over.", printable(&silence.id)),
        format => write_one(out, format, &SilenceDocument::new(&silence, Timestamp::now())),
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::scan_result::fixture::noon;
    use clap::Parser as _;

    fn of(times: &str) -> Result<v1::AddSilenceRequest, ConsoleError> {
        let line = format!("portolan silence add team=shop {times} -m x");
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Silence(SilenceCommand::Add(args)) => request(&args, noon()),
            _ => unreachable!(),
        }
    }

    #[test]
    fn times_become_a_beginning_and_an_end() {
        let noon = noon().as_millisecond();
        let times = |line: &str| of(line).map(|r| (r.starts_at_ms, r.ends_at_ms)).unwrap();
        assert_eq!(times("--for 2h"), (0, noon + 7_200_000));
        assert_eq!(times("--until 2026-05-01T13:00:00Z"), (0, noon + 3_600_000));
        let (from, to) = (noon + 3_600_000, noon + 5_400_000);
        assert_eq!(times("--from 2026-05-01T13:00:00Z --for 30m"), (from, to));
        // One that began before is no mistake: it says since when the reason holds.
        assert_eq!(times("--from 2026-05-01T11:00:00Z --for 2h"), (noon - 3_600_000, noon + 3_600_000));
    }

    #[test]
    fn what_never_holds_is_refused() {
        for (line, words) in [
            ("--until 2026-05-01T11:00:00Z", "before it begins"),
            ("--from 2026-05-02T00:00:00Z --until 2026-05-01T13:00:00Z", "before it begins"),
            ("--from 2026-04-01T00:00:00Z --for 1h", "over already"),
        ] {
            let error = of(line).unwrap_err();
            assert!(error.to_string().contains(words) && error.exit() == Exit::Usage, "{line}: {error}");
        }
    }
}
