//! `portolan alert`: what is wrong, and who has seen it.

use super::{ConsoleService, Streamed};
use crate::alerts::{AlertsError, ListQuery, read_matchers, sight as wire_sight};
use portolan_policy::Matcher;
use portolan_proto::convert::time_from_wire;
use portolan_proto::v1;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Events that may wait for one reader; beyond them, those that wait for all of them do.
const WAITING: usize = 64;
/// Calls that watch at the same time.
const MAX_WATCHES: usize = 1000;

pub(super) async fn list_alerts(
    service: &ConsoleService,
    _operator: &str,
    request: v1::ListAlertsRequest,
) -> Result<v1::ListAlertsResponse, Status> {
    let resolved_since = match request.resolved_since_at_ms {
        0 => None,
        ms => Some(time_from_wire(ms).map_err(|_| Status::invalid_argument("the time is out of range"))?),
    };
    let matchers = read_matchers(&request.matchers)?;
    let query = ListQuery { firing: request.firing, resolved_since, matchers };
    Ok(v1::ListAlertsResponse { alerts: service.evaluation.read(|alerts, _| alerts.list(&query)) })
}

pub(super) async fn get_alert(
    service: &ConsoleService,
    _operator: &str,
    request: v1::GetAlertRequest,
) -> Result<v1::Alert, Status> {
    let evaluation = &service.evaluation;
    Ok(evaluation.look(|evaluator, alerts| {
        let mut alert = alerts.show(&request.id)?;
        // What is seen now says more than what was when the alert last changed.
        let known = alerts.find(&request.id).ok().and_then(|id| alerts.get(id));
        if let Some(key) = known.filter(|alert| alert.is_unresolved()).and_then(|alert| alert.subject.key()) {
            let sights = evaluator.sights(key).into_iter().map(|mut sight| {
                (sight.seen, sight.since) = (evaluation.shown(sight.seen), evaluation.shown(sight.since));
                wire_sight(&sight, alerts.context())
            });
            alert.sights = sights.collect();
        }
        Ok::<_, AlertsError>(alert)
    })?)
}

pub(super) async fn acknowledge_alert(
    service: &ConsoleService,
    operator: &str,
    request: v1::AcknowledgeAlertRequest,
) -> Result<v1::Alert, Status> {
    let (id, comment) = (request.id, request.comment);
    let alert =
        service.evaluation.alter(|alerts, now| alerts.acknowledge(&id, operator, &comment, now)).await?;
    tracing::info!(operator, alert = %alert.id, "alert acknowledged");
    Ok(alert)
}

pub(super) async fn comment_alert(
    service: &ConsoleService,
    operator: &str,
    request: v1::CommentAlertRequest,
) -> Result<v1::Alert, Status> {
    let work =
        service.evaluation.alter(|alerts, now| alerts.comment(&request.id, operator, &request.text, now));
    Ok(work.await?)
}

pub(super) fn watch_alerts(
    service: &ConsoleService,
    request: v1::WatchAlertsRequest,
) -> Result<Streamed<v1::AlertEvent>, Status> {
    let matchers = read_matchers(&request.matchers)?;
    if service.watches.len() >= MAX_WATCHES {
        return Err(Status::resource_exhausted(format!(
            "{MAX_WATCHES} calls watch alerts already: end some"
        )));
    }
    // First the changes, then what is there: what happens in between comes by both ways, and is told once.
    let changes = service.evaluation.subscribe();
    let (current, known) =
        service.evaluation.read(|alerts, _| (alerts.current(&matchers), alerts.last_change()));
    let (sender, receiver) = mpsc::channel(WAITING);
    let stop = service.watches.stop().clone();
    service.watches.spawn("watch", async move {
        let told = async {
            tell_current(&sender, current).await?;
            tell_changes(&sender, changes, known, &matchers).await
        };
        tokio::select! {
            _ = told => {}
            () = sender.closed() => {}
            () = stop.cancelled() => {
                let _ = sender.try_send(Err(Status::unavailable("the server is shutting down: watch again when it is back")));
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

type Sender = mpsc::Sender<Result<v1::AlertEvent, Status>>;

/// The reader is gone.
struct Gone;

async fn send(sender: &Sender, event: v1::AlertEvent) -> Result<(), Gone> {
    sender.send(Ok(event)).await.map_err(|_| Gone)
}

async fn tell_current(sender: &Sender, current: Vec<v1::Alert>) -> Result<(), Gone> {
    for alert in current {
        let at_ms = alert.changed_at_ms;
        send(sender, v1::AlertEvent { kind: "current".into(), alert: Some(alert), at_ms }).await?;
    }
    send(sender, said("ready")).await
}

/// Tells what happens after what was told.
async fn tell_changes(
    sender: &Sender,
    mut changes: Receiver<crate::alerts::AlertChange>,
    known: u64,
    matchers: &[Matcher],
) -> Result<(), Gone> {
    loop {
        match changes.recv().await {
            Ok(change) => {
                let labels = change.alert.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                if change.number > known && matchers.iter().all(|matcher| matcher.matches(&labels)) {
                    send(sender, (&change).into()).await?;
                }
            }
            Err(RecvError::Lagged(_)) => send(sender, said("missed")).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// An event about no alert.
fn said(kind: &str) -> v1::AlertEvent {
    v1::AlertEvent { kind: kind.into(), alert: None, at_ms: jiff::Timestamp::now().as_millisecond() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::{AlertChange, ChangeKind};
    use std::sync::Arc;
    use tokio::sync::broadcast;

    fn change(number: u64, check: &str) -> AlertChange {
        let labels = [("check".to_owned(), check.to_owned())].into();
        let alert = v1::Alert { id: number.to_string(), labels, ..v1::Alert::default() };
        let at = jiff::Timestamp::UNIX_EPOCH;
        AlertChange { number, kind: ChangeKind::Firing, alert: Arc::new(alert), at }
    }

    #[tokio::test]
    async fn what_is_there_then_what_happens_each_once_and_what_was_missed() {
        let (changes, watched) = broadcast::channel(4);
        // The second came between subscribing and reading, and is in what was read.
        for number in 1..=4 {
            changes.send(change(number, "shop")).unwrap();
        }
        changes.send(change(5, "mail")).unwrap();
        changes.send(change(6, "shop")).unwrap();
        drop(changes);
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let current = vec![v1::Alert { id: "3".into(), ..v1::Alert::default() }];
        assert!(tell_current(&sender, current).await.is_ok());
        let matchers = ["check=shop".parse().unwrap()];
        assert!(tell_changes(&sender, watched, 3, &matchers).await.is_ok());
        drop(sender);
        let mut told = Vec::new();
        while let Some(event) = receiver.recv().await {
            let event = event.unwrap();
            told.push((event.kind, event.alert.map(|alert| alert.id).unwrap_or_default()));
        }
        let wanted = [("current", "3"), ("ready", ""), ("missed", ""), ("firing", "4"), ("firing", "6")];
        assert_eq!(told, wanted.map(|(kind, id)| (kind.to_owned(), id.to_owned())));
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_ends_it() {
        let (changes, watched) = broadcast::channel(4);
        changes.send(change(1, "shop")).unwrap();
        let (sender, receiver) = mpsc::channel(WAITING);
        drop(receiver);
        assert!(tell_current(&sender, Vec::new()).await.is_err());
        assert!(tell_changes(&sender, watched, 0, &[]).await.is_err());
    }
}
