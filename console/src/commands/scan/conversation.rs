//! Scans in conversation with a server that is only pretended.

use super::{Progress, watch};
use crate::errors::ConsoleError;
use crate::fake::{Fake, Feed, answer, connect};
use crate::interrupts::Interrupts;
use crate::scan_result::fixture::{down, end, event, finished, hosts, started};
use portolan_proto::v1::{self, scan_event::Event};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How the pretended server ends a scan after its first host.
#[derive(Clone, Copy)]
enum Ending {
    Whole,
    /// Only when it is told to.
    WhenCancelled,
    Never,
    Early,
    Broken,
}

/// A server whose scans end so.
fn server(ending: Ending) -> Fake {
    let cancelled = Arc::new(Notify::new());
    let notify = cancelled.clone();
    Fake {
        scan: answer(move |request| scan(&request, ending, &cancelled)),
        cancel_scan: answer(move |request: v1::CancelScanRequest| {
            assert_eq!(request.scan_id, "01890a5d-ac96-774b-bcce-b302099a8057");
            notify.notify_one();
            Ok(v1::CancelScanResponse {})
        }),
        ..Fake::default()
    }
}

fn scan(
    request: &v1::ScanRequest,
    ending: Ending,
    cancelled: &Arc<Notify>,
) -> Result<Feed<v1::ScanEvent>, Status> {
    if request.satellites.iter().any(|name| name == "ofice-1") {
        return Err(Status::not_found("there is no satellite `ofice-1`; did you mean `office-1`?"));
    }
    let cancelled = cancelled.clone();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let first = [
            Ok(started(&[("office-1", "office")])),
            Ok(hosts("office-1", &[down("10.0.0.1", "10.0.0.1", "22")])),
        ];
        let partial =
            v1::SatelliteEnd { complete: false, error: "cancelled".into(), ..end("office-1", 0, 1, 4) };
        let last = match ending {
            Ending::Whole => vec![Ok(event(Event::End(end("office-1", 0, 1, 4)))), Ok(finished())],
            Ending::WhenCancelled => vec![Ok(event(Event::End(partial))), Ok(finished())],
            Ending::Broken => vec![Err(Status::internal("the store is full"))],
            Ending::Early | Ending::Never => vec![],
        };
        for item in first {
            let _ = sender.send(item).await;
        }
        match ending {
            Ending::WhenCancelled => cancelled.notified().await,
            Ending::Never => sender.closed().await,
            _ => {}
        }
        for item in last {
            let _ = sender.send(item).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

type Outcome = Result<(crate::scan_result::ScanResult, Option<ConsoleError>), ConsoleError>;

async fn run(ending: Ending, from: &str, interrupts: &Interrupts) -> Outcome {
    let request = v1::ScanRequest { satellites: vec![from.into()], ..Default::default() };
    let client = connect(&Arc::new(server(ending))).await;
    let progress = Progress::none();
    watch(client, request, "22".parse().unwrap(), interrupts, progress, None).await
}

#[tokio::test]
async fn a_scan_runs_to_its_end() {
    let (scan, lost) = run(Ending::Whole, "office-1", &Interrupts::none()).await.unwrap();
    assert!(lost.is_none() && scan.is_whole() && scan.is_complete() && !scan.interrupted);
    assert_eq!(scan.hosts.len(), 1);
}

#[tokio::test]
async fn an_unknown_satellite_is_the_servers_word() {
    let error = run(Ending::Whole, "ofice-1", &Interrupts::none()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot scan: there is no satellite `ofice-1`; did you mean `office-1`?");
}

#[tokio::test]
async fn an_interrupt_cancels_and_keeps_what_was_seen() {
    let interrupts = Interrupts::none();
    let later = interrupts.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        later.pretend();
    });
    let start = Instant::now();
    let (scan, lost) = run(Ending::WhenCancelled, "office-1", &interrupts).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    assert!(lost.is_none() && scan.interrupted && scan.hosts.len() == 1);
    assert_eq!(scan.satellites[0].error.as_deref(), Some("cancelled"));
}

#[tokio::test]
async fn a_server_that_does_not_stop_is_left_after_a_second() {
    let interrupts = Interrupts::none();
    interrupts.pretend();
    let start = Instant::now();
    let (scan, lost) = run(Ending::Never, "office-1", &interrupts).await.unwrap();
    assert!((1..3).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(lost.is_none() && scan.interrupted);
    assert_eq!(scan.satellites[0].error.as_deref(), Some("interrupted"));
}

#[tokio::test]
async fn a_scan_that_breaks_off_is_an_error_with_what_was_seen() {
    for (ending, words) in [(Ending::Early, "ended the scan"), (Ending::Broken, "the store is full")] {
        let (scan, lost) = run(ending, "office-1", &Interrupts::none()).await.unwrap();
        assert!(lost.unwrap().to_string().contains(words));
        assert_eq!(scan.hosts.len(), 1);
        assert!(!scan.satellites[0].complete && scan.satellites[0].error.is_some());
    }
}
