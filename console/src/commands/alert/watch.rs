//! `portolan alert watch`: what happens to alerts, as it happens, over as many connections as it takes.

use crate::cli::{Global, WatchArgs};
use crate::commands::converse;
use crate::document::alert::EventDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::json_line;
use crate::output::{Format, View, note, print, table, warn};
use crate::session::{self, Client};
use portolan_proto::v1;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Code;

/// The pause before the first attempt to connect again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Does what was typed.
pub fn run(args: WatchArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(&[Format::Table, Format::Jsonl], "alert watch")?;
    let request = v1::WatchAlertsRequest { matchers: args.matchers };
    converse(async |_| {
        let watching = watch(&request, || session::open(&global.context), |event| show(event, format), note);
        match args.lasts {
            None => Err(watching.await),
            // An end of the time is the end that was asked for.
            Some(lasts) => timeout(lasts, watching).await.map_or(Ok(Exit::Done), Err),
        }
    })
}

/// One event, at once.
fn show(event: &v1::AlertEvent, format: Format) -> Result<(), ConsoleError> {
    let document = EventDocument::try_from(event)?;
    if event.kind == "missed" {
        warn("this console was too slow and some events are lost: `portolan alert list` has how it is now");
    }
    if event.kind == "ready" && format == Format::Table {
        note("what happens from now on follows as it happens");
    }
    print(|out| match format {
        Format::Jsonl => json_line(out, &document),
        // What is only for programs needs no line.
        _ if document.alert.is_none() => Ok(()),
        _ => out.write_all(table::alert::event(&document, &View::of_stdout()).as_bytes()),
    })
}

/// Watches until something fails that another attempt would not mend, and gives that; before the first event it is
/// anything at all. `tell` learns of breaks.
async fn watch<F>(
    request: &v1::WatchAlertsRequest,
    connect: impl Fn() -> F,
    mut show: impl FnMut(&v1::AlertEvent) -> Result<(), ConsoleError>,
    tell: impl Fn(&str),
) -> ConsoleError
where
    F: Future<Output = Result<Client, ConsoleError>>,
{
    let mut began = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = async {
            let failed = || ConsoleError::call("watch the alerts");
            let mut client = connect().await?;
            let mut events = client.watch_alerts(request.clone()).await.map_err(failed())?.into_inner();
            if began {
                tell("connected again; what is not resolved follows");
            }
            while let Some(event) = events.message().await.map_err(failed())? {
                (began, pause) = (true, FIRST_PAUSE);
                show(&event)?;
            }
            Ok::<_, ConsoleError>(())
        }
        .await;
        let why = match outcome {
            Ok(()) => "the server ended the watch".to_owned(),
            Err(error) if began && is_passing(&error) => error.to_string(),
            Err(error) => return error,
        };
        tell(&format!("{why}; trying again in {} s", pause.as_secs()));
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether it may be over by itself: the server restarts, the network is away.
fn is_passing(error: &ConsoleError) -> bool {
    match error {
        ConsoleError::Unreachable { source, .. } => !source.is_untrusted(),
        ConsoleError::Call { status, .. } => matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::alert::fixture::{alert, offline};
    use crate::fake::{Fake, answer, connect, feed};
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tonic::Status;

    fn event(kind: &str, alert: Option<v1::Alert>) -> Result<v1::AlertEvent, Status> {
        Ok(v1::AlertEvent { kind: kind.into(), alert, at_ms: 1_777_636_800_000 })
    }

    /// Breaks the first two times, each in its way, and then ends for good.
    fn server() -> Fake {
        let calls = AtomicUsize::new(0);
        Fake {
            watch_alerts: answer(move |request: v1::WatchAlertsRequest| {
                assert_eq!(request.matchers, ["team=shop"]);
                match calls.fetch_add(1, Ordering::SeqCst) {
                    0 => Ok(feed(vec![
                        event("current", Some(offline())),
                        event("ready", None),
                        event("firing", Some(alert())),
                        Err(Status::unavailable("the server is restarting")),
                    ])),
                    1 => Err(Status::unavailable("not yet")),
                    2 => Ok(feed(vec![event("current", Some(alert()))])),
                    _ => Err(Status::permission_denied("the certificate was revoked")),
                }
            }),
            ..Fake::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_is_made_again() {
        let (server, shown, told) = (Arc::new(server()), RefCell::new(vec![]), RefCell::new(vec![]));
        let request = v1::WatchAlertsRequest { matchers: vec!["team=shop".into()] };
        let show = |event: &v1::AlertEvent| {
            shown.borrow_mut().push(event.kind.clone());
            Ok(())
        };
        let tell = |text: &str| told.borrow_mut().push(text.to_owned());
        let end = watch(&request, async || Ok(connect(&server).await), show, tell).await;
        assert_eq!(end.to_string(), "cannot watch the alerts: the certificate was revoked");
        assert_eq!(*shown.borrow(), ["current", "ready", "firing", "current"]);
        assert_eq!(
            *told.borrow(),
            [
                "cannot watch the alerts: the server is restarting; trying again in 1 s",
                "cannot watch the alerts: not yet; trying again in 2 s",
                "connected again; what is not resolved follows",
                "the server ended the watch; trying again in 1 s",
            ]
        );
    }

    #[tokio::test]
    async fn what_fails_at_the_beginning_fails() {
        let fake = Fake { watch_alerts: answer(|_| Err(Status::unavailable("no store"))), ..Fake::default() };
        let fake = Arc::new(fake);
        let request = v1::WatchAlertsRequest::default();
        let end = watch(&request, async || Ok(connect(&fake).await), |_| Ok(()), |_| {}).await;
        assert_eq!(
            (end.to_string().as_str(), end.exit()),
            ("cannot watch the alerts: no store", Exit::Error)
        );
    }

    #[tokio::test]
    async fn a_reader_that_went_away_ends_the_watch() {
        let server = Arc::new(server());
        let request = v1::WatchAlertsRequest { matchers: vec!["team=shop".into()] };
        let gone = |_: &v1::AlertEvent| Err(ConsoleError::Output(std::io::ErrorKind::BrokenPipe.into()));
        let end = watch(&request, async || Ok(connect(&server).await), gone, |_| {}).await;
        assert_eq!(end.exit(), Exit::Done);
    }
}
