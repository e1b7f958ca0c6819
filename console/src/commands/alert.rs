//! `portolan alert list|show|ack|comment|watch`.

mod watch;

use super::ask_once;
use super::converse;
use crate::cli::{AckArgs, AlertCommand, AlertListArgs, CommentArgs, Global};
use crate::document::alert::{AlertDetails, AlertDocument};
use crate::errors::{ConsoleError, Exit, report};
use crate::output::structured::{write_list, write_one};
use crate::output::text::printable;
use crate::output::{Format, View, print, table};
use crate::session::{self, Client, ask};
use jiff::Timestamp;
use portolan_proto::convert::WireError;
use portolan_proto::v1;
use std::io::Write as _;

/// Does what was typed.
pub fn run(command: AlertCommand, global: &Global) -> Result<Exit, ConsoleError> {
    match command {
        AlertCommand::List(args) => list(&args, global),
        AlertCommand::Show(alert) => show(&alert.id, global),
        AlertCommand::Ack(args) => acknowledge(&args, global),
        AlertCommand::Comment(args) => comment(args, global),
        AlertCommand::Watch(args) => watch::run(args, global),
    }
}

fn list(args: &AlertListArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "alert list")?;
    let request = request(args, Timestamp::now());
    let alerts =
        ask_once(global, "list the alerts", async |client| client.list_alerts(ask(request)).await)?.alerts;
    let documents = documents(&alerts)?;
    print(|out| match format {
        Format::Table if documents.is_empty() => writeln!(out, "{}", nothing(args)),
        Format::Table => out.write_all(table::alert::list(&documents, &View::of_stdout()).as_bytes()),
        format => write_list(out, format, documents.into_iter()),
    })?;
    Ok(exit_of_list(args.firing, alerts.len()))
}

/// A list of what fires says by its exit code whether it is empty.
pub fn exit_of_list(firing: bool, listed: usize) -> Exit {
    if firing && listed > 0 { Exit::Violated } else { Exit::Done }
}

fn request(args: &AlertListArgs, now: Timestamp) -> v1::ListAlertsRequest {
    let since = args.since.map(|since| since.before(now).as_millisecond());
    v1::ListAlertsRequest {
        firing: args.firing,
        // The first moment of all: 0 stands for none.
        resolved_since_at_ms: if args.all { 1 } else { since.map_or(0, |ms| ms.max(1)) },
        matchers: args.matchers.clone(),
    }
}

/// An empty list in words.
fn nothing(args: &AlertListArgs) -> String {
    let matching = if args.matchers.is_empty() { "" } else { " that matches" };
    match (args.firing, args.all || args.since.is_some()) {
        (true, _) => format!("Nothing{matching} fires."),
        (_, true) => format!("There is no alert{matching}."),
        _ => format!("There is no unresolved alert{matching}. `--all` shows resolved ones too."),
    }
}

fn documents(alerts: &[v1::Alert]) -> Result<Vec<AlertDocument<'_>>, WireError> {
    alerts.iter().map(AlertDocument::try_from).collect()
}

fn show(id: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "alert show")?;
    let request = v1::GetAlertRequest { id: id.to_owned() };
    let alert =
        ask_once(global, format!("show alert `{id}`"), async |client| client.get_alert(ask(request)).await)?;
    let details = AlertDetails::try_from(&alert)?;
    print(|out| match format {
        Format::Table => out.write_all(table::alert::show(&details, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &details),
    })?;
    Ok(Exit::Done)
}

fn acknowledge(args: &AckArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::LIST, "alert ack")?;
    let (done, errors) = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        Ok(acknowledge_each(&mut client, args).await)
    })?;
    let documents = documents(&done)?;
    print(|out| match format {
        Format::Table => documents.iter().try_for_each(|alert| {
            writeln!(out, "Alert {} is acknowledged: {}", printable(alert.id), printable(alert.summary))
        }),
        format => write_list(out, format, documents.into_iter()),
    })?;
    // One that cannot be acknowledged is no reason to leave out the others.
    Ok(errors.iter().map(report).next_back().unwrap_or(Exit::Done))
}

async fn acknowledge_each(client: &mut Client, args: &AckArgs) -> (Vec<v1::Alert>, Vec<ConsoleError>) {
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    for id in &args.ids {
        let comment = args.message.clone().unwrap_or_default();
        let request = v1::AcknowledgeAlertRequest { id: id.clone(), comment };
        match client.acknowledge_alert(ask(request)).await {
            Ok(alert) => done.push(alert.into_inner()),
            Err(status) => errors.push(ConsoleError::call(format!("acknowledge alert `{id}`"))(status)),
        }
    }
    (done, errors)
}

fn comment(args: CommentArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "alert comment")?;
    let id = args.alert.id;
    let request = v1::CommentAlertRequest { id: id.clone(), text: args.text };
    let alert = ask_once(global, format!("comment on alert `{id}`"), async |client| {
        client.comment_alert(ask(request)).await
    })?;
    let details = AlertDetails::try_from(&alert)?;
    print(|out| match format {
        Format::Table => writeln!(out, "It stands with alert {}.", printable(&alert.id)),
        format => write_one(out, format, &details),
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::document::alert::fixture::alert;
    use crate::fake::{Fake, answer, connect};
    use crate::scan_result::fixture::noon;
    use clap::Parser as _;
    use std::sync::Arc;
    use tonic::Status;

    fn command(line: &str) -> AlertCommand {
        match Cli::try_parse_from(format!("portolan alert {line}").split(' ')).unwrap().command {
            Command::Alert(command) => command,
            _ => unreachable!(),
        }
    }

    #[test]
    fn what_is_listed_follows_what_was_typed() {
        let of = |line: &str| match command(line) {
            AlertCommand::List(args) => (request(&args, noon()), nothing(&args)),
            _ => unreachable!(),
        };
        let asked = |line: &str| (of(line).0.firing, of(line).0.resolved_since_at_ms);
        assert_eq!(
            (asked("list"), asked("list --firing"), asked("list --all")),
            ((false, 0), (true, 0), (false, 1))
        );
        assert_eq!(asked("list --since 1h"), (false, noon().as_millisecond() - 3_600_000));
        assert_eq!(asked("list --since 1970-01-01T00:00:00Z"), (false, 1));
        assert_eq!(of("list team=shop severity!=info").0.matchers, ["team=shop", "severity!=info"]);
        assert_eq!(of("list --firing team=shop").1, "Nothing that matches fires.");
        assert_eq!(of("list --all").1, "There is no alert.");
    }

    #[test]
    fn only_a_list_of_what_fires_ends_with_3() {
        assert_eq!((exit_of_list(true, 1), exit_of_list(true, 0)), (Exit::Violated, Exit::Done));
        assert_eq!(exit_of_list(false, 5), Exit::Done);
    }

    #[tokio::test]
    async fn one_alert_that_is_gone_does_not_keep_the_others_from_being_acknowledged() {
        let fake = Fake {
            acknowledge_alert: answer(|request: v1::AcknowledgeAlertRequest| match request.id.as_str() {
                "beef" => Err(Status::not_found("there is no such alert")),
                _ => {
                    assert_eq!(request.comment, "seen");
                    Ok(v1::Alert { id: request.id, acknowledged_by: "ada".into(), ..alert() })
                }
            }),
            ..Fake::default()
        };
        let AlertCommand::Ack(args) = command("ack 01a1 beef 01a2 -m seen") else { unreachable!() };
        let mut client = connect(&Arc::new(fake)).await;
        let (done, errors) = acknowledge_each(&mut client, &args).await;
        assert_eq!(done.iter().map(|alert| alert.id.as_str()).collect::<Vec<_>>(), ["01a1", "01a2"]);
        assert_eq!(errors[0].to_string(), "cannot acknowledge alert `beef`: there is no such alert");
        assert_eq!(errors.len(), 1);
    }
}
