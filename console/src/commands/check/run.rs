//! `portolan check run`: orders a look, waits until everybody has looked, prints how it is then.

use super::details;
use crate::cli::Global;
use crate::commands::converse;
use crate::document::check::{FailureDocument, RunDocument};
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_one;
use crate::output::text::{and, printable};
use crate::output::{Format, View, print, table, time, warn};
use crate::session::{self, Client, ask};
use portolan_proto::v1;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the server is asked who has looked.
const POLL: Duration = Duration::from_millis(500);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take where a part cannot be looked at, so that nobody ever says that all of it was: longer than a
/// silent port.
const HINDERED_PATIENCE: Duration = Duration::from_secs(6);

/// What came of it.
struct Run {
    ordered: v1::RunCheckResponse,
    /// How it is after that, and who has not looked; none when nobody waited.
    seen: Option<(v1::GetCheckResponse, Vec<String>)>,
}

/// Does what was typed.
pub fn run(name: &str, no_wait: bool, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "check run")?;
    let action = format!("run check `{name}`");
    let run = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        order(&mut client, name, no_wait, &action).await
    })?;
    let check = match &run.seen {
        Some((answer, _)) => Some(details(answer, name, &action)?),
        None => None,
    };
    let names: Vec<_> = run.ordered.satellites.iter().map(|name| printable(name).into_owned()).collect();
    print(|out| match (format, &check) {
        (Format::Table, Some(check)) => {
            out.write_all(table::check::show(check, &View::of_stdout()).as_bytes())
        }
        (Format::Table, None) => writeln!(out, "Check {name} is ordered from {}.", and(&names)),
        (format, _) => {
            let document = RunDocument {
                name,
                ordered_at: time::from_wire(run.ordered.ordered_at_ms),
                satellites: &run.ordered.satellites,
                failed: run.ordered.failed.iter().map(FailureDocument::from).collect(),
                waiting_for: run.seen.as_ref().map(|(_, missing)| missing.as_slice()),
                check,
            };
            write_one(out, format, &document)
        }
    })?;
    warnings(&run).iter().for_each(|text| warn(text));
    Ok(exit(&run))
}

/// Orders it and, unless that is not wanted, waits.
async fn order(client: &mut Client, name: &str, no_wait: bool, action: &str) -> Result<Run, ConsoleError> {
    let request = v1::RunCheckRequest { name: name.to_owned() };
    let ordered = client.run_check(ask(request)).await.map_err(ConsoleError::call(action))?.into_inner();
    let seen = match no_wait {
        true => None,
        false => Some(wait(client, name, &ordered, action).await?),
    };
    Ok(Run { ordered, seen })
}

/// Until everybody has looked who still may; [`PATIENCE`] at most, for those who cannot look at everything
/// [`HINDERED_PATIENCE`].
async fn wait(
    client: &mut Client,
    name: &str,
    ordered: &v1::RunCheckResponse,
    action: &str,
) -> Result<(v1::GetCheckResponse, Vec<String>), ConsoleError> {
    let began = Instant::now();
    loop {
        let request = v1::GetCheckRequest { name: name.to_owned() };
        let answer = client.get_check(ask(request)).await.map_err(ConsoleError::call(action))?.into_inner();
        let (missing, patience) = missing(ordered, &answer);
        if began.elapsed() >= patience {
            return Ok((answer, missing));
        }
        sleep(POLL).await;
    }
}

/// Who was told and has not looked at everything since, and how long to wait for them.
fn missing(ordered: &v1::RunCheckResponse, answer: &v1::GetCheckResponse) -> (Vec<String>, Duration) {
    let points = answer.check.as_ref().map_or(&[][..], |check| check.vantage_points.as_slice());
    let point = |name: &str| points.iter().find(|point| point.satellite == name);
    let has_looked =
        |name: &&String| point(name).is_some_and(|point| point.oldest_seen_at_ms >= ordered.ordered_at_ms);
    let missing: Vec<_> = ordered.satellites.iter().filter(|name| !has_looked(name)).cloned().collect();
    let patience = |point: &v1::CheckVantage| match point.status() {
        v1::satellite::Status::Online if is_hindered(point) => HINDERED_PATIENCE,
        v1::satellite::Status::Online => PATIENCE,
        _ => Duration::ZERO,
    };
    let longest = missing.iter().filter_map(|name| point(name)).map(patience).max();
    (missing, longest.unwrap_or_default())
}

/// Whether something keeps a vantage point from looking at all that the check asks for.
fn is_hindered(point: &v1::CheckVantage) -> bool {
    !point.error.is_empty() || !point.refusals.is_empty() || !point.unresolved.is_empty()
}

/// What kept vantage points from looking.
fn warnings(run: &Run) -> Vec<String> {
    let failed = run.ordered.failed.iter();
    let mut texts: Vec<_> = failed
        .map(|failure| format!("{}: {}", printable(&failure.satellite), printable(&failure.error)))
        .collect();
    let missing = run.seen.iter().flat_map(|(_, missing)| missing);
    texts.extend(missing.map(|name| format!("{} has not looked at everything yet", printable(name))));
    texts
}

/// A fault outranks a vantage point that could not look.
fn exit(run: &Run) -> Exit {
    let Some((answer, missing)) = &run.seen else {
        return if run.ordered.failed.is_empty() { Exit::Done } else { Exit::Partial };
    };
    let check = answer.check.as_ref();
    let state = check.map_or(v1::CheckState::Unknown, v1::Check::state);
    let in_part = check.is_some_and(|check| {
        let told =
            check.vantage_points.iter().filter(|point| run.ordered.satellites.contains(&point.satellite));
        told.into_iter().any(is_hindered)
    });
    match state {
        v1::CheckState::Firing | v1::CheckState::Pending => Exit::Violated,
        _ if !run.ordered.failed.is_empty() || !missing.is_empty() || in_part => Exit::Partial,
        _ => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::check::fixture::check;
    use crate::fake::{Fake, answer, connect};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use v1::satellite::Status;

    const ORDERED: i64 = 1_777_636_800_000;

    fn looked(state: v1::CheckState, at: [i64; 2], status: Status) -> v1::GetCheckResponse {
        let mut check = v1::Check { state: state.into(), ..check() };
        for (point, at) in check.vantage_points.iter_mut().zip(at) {
            (point.oldest_seen_at_ms, point.status) = (ORDERED + at, Status::Online.into());
        }
        check.vantage_points[1].status = status.into();
        v1::GetCheckResponse { check: Some(check), ..Default::default() }
    }

    /// The second satellite looks when it has been asked for so often; 0: never.
    fn server(state: v1::CheckState, after: i64, status: Status) -> Fake {
        let asked = AtomicI64::new(0);
        Fake {
            run_check: answer(|_| {
                Ok(v1::RunCheckResponse {
                    ordered_at_ms: ORDERED,
                    satellites: vec!["office-1".into(), "dmz-1".into()],
                    failed: vec![],
                })
            }),
            get_check: answer(move |_| {
                let times = asked.fetch_add(1, Ordering::SeqCst) + 1;
                let second = if after > 0 && times >= after { 0 } else { -1 };
                Ok(looked(state, [5, second], status))
            }),
            ..Fake::default()
        }
    }

    async fn outcome(fake: Fake, no_wait: bool) -> (Run, Duration) {
        let mut client = connect(&Arc::new(fake)).await;
        let start = Instant::now();
        let run = order(&mut client, "shop-front", no_wait, "run check `shop-front`").await.unwrap();
        (run, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_until_everybody_has_looked() {
        let (run, waited) = outcome(server(v1::CheckState::Ok, 4, Status::Online), false).await;
        assert_eq!((exit(&run), warnings(&run).len()), (Exit::Done, 0));
        assert!(waited >= 3 * POLL && waited < PATIENCE, "{waited:?}");
        let (run, _) = outcome(server(v1::CheckState::Firing, 1, Status::Online), false).await;
        assert_eq!(exit(&run), Exit::Violated);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_wait_for_ever() {
        let (run, waited) = outcome(server(v1::CheckState::Ok, 0, Status::Online), false).await;
        assert!(waited >= PATIENCE, "{waited:?}");
        assert_eq!(
            (exit(&run), warnings(&run)),
            (Exit::Partial, vec!["dmz-1 has not looked at everything yet".into()])
        );
        let (run, _) = outcome(server(v1::CheckState::Pending, 0, Status::Online), false).await;
        assert_eq!(exit(&run), Exit::Violated, "3 outranks 4");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_not_waited_for() {
        let (run, waited) = outcome(server(v1::CheckState::Ok, 0, Status::Offline), false).await;
        assert!(waited < POLL, "{waited:?}");
        assert_eq!(exit(&run), Exit::Partial);
        let (run, _) = outcome(server(v1::CheckState::Firing, 0, Status::Online), true).await;
        assert!(run.seen.is_none() && exit(&run) == Exit::Done);
    }

    fn always(seen: v1::GetCheckResponse) -> crate::fake::Answer<v1::GetCheckRequest, v1::GetCheckResponse> {
        answer(move |_| Ok(seen.clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_looks_at_everything_is_not_waited_for_long() {
        let refused = v1::Refusal { target: "10.1.1.1".into(), ..Default::default() };
        let mut seen = looked(v1::CheckState::Ok, [5, -1], Status::Online);
        seen.check.as_mut().unwrap().vantage_points[1].refusals.push(refused);
        let fake = Fake { get_check: always(seen.clone()), ..server(v1::CheckState::Ok, 0, Status::Online) };
        let (run, waited) = outcome(fake, false).await;
        assert!(waited >= HINDERED_PATIENCE && waited < 2 * HINDERED_PATIENCE, "{waited:?}");
        assert_eq!(exit(&run), Exit::Partial);
        // Others still may come.
        seen.check.as_mut().unwrap().vantage_points[0].oldest_seen_at_ms = 0;
        let fake = Fake { get_check: always(seen), ..server(v1::CheckState::Ok, 0, Status::Online) };
        let (_, waited) = outcome(fake, false).await;
        assert!(waited >= PATIENCE, "{waited:?}");
    }

    #[test]
    fn a_vantage_point_that_could_not_look_makes_it_partial() {
        let mut answer = looked(v1::CheckState::Ok, [0, 0], Status::Online);
        let ordered =
            v1::RunCheckResponse { ordered_at_ms: ORDERED, satellites: vec!["dmz-1".into()], failed: vec![] };
        let of = |ordered: &v1::RunCheckResponse, answer: &v1::GetCheckResponse| {
            exit(&Run { ordered: ordered.clone(), seen: Some((answer.clone(), vec![])) })
        };
        assert_eq!(of(&ordered, &answer), Exit::Done);
        if let Some(check) = &mut answer.check {
            check.vantage_points[1].error = "no raw sockets".into();
        }
        assert_eq!(of(&ordered, &answer), Exit::Partial);
        if let Some(check) = &mut answer.check {
            let point = &mut check.vantage_points[1];
            (point.error, point.unresolved) = (String::new(), vec!["shop.internal: no such name".into()]);
        }
        assert_eq!(of(&ordered, &answer), Exit::Partial);
        let failed = vec![v1::SatelliteFailure { satellite: "a".into(), error: "it is offline".into() }];
        let ordered = v1::RunCheckResponse { failed, satellites: vec![], ..ordered };
        assert_eq!(of(&ordered, &answer), Exit::Partial);
        let run = Run { ordered, seen: None };
        assert_eq!((exit(&run), warnings(&run)), (Exit::Partial, vec!["a: it is offline".into()]));
    }
}
