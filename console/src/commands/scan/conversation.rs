//! Conversations with a server that is only pretended: the real client over an in-memory connection.

use super::{Progress, watch};
use crate::errors::ConsoleError;
use crate::interrupts::Interrupts;
use crate::scan_result::fixture::{down, end, event, finished, hosts, started};
use crate::session::{self, Client};
use hyper_util::rt::TokioIo;
use portolan_proto::v1::{self, console_server as api, scan_event::Event};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::service_fn;

type Reply<T> = Result<Response<T>, Status>;
type Feed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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

struct Fake {
    ending: Ending,
    cancelled: Arc<Notify>,
}

#[tonic::async_trait]
impl api::Console for Fake {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        Err(Status::unimplemented(""))
    }

    async fn add_satellite(&self, _: Request<v1::AddSatelliteRequest>) -> Reply<v1::AddSatelliteResponse> {
        Err(Status::unimplemented(""))
    }

    async fn list_satellites(
        &self,
        _: Request<v1::ListSatellitesRequest>,
    ) -> Reply<v1::ListSatellitesResponse> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_satellite(
        &self,
        _: Request<v1::RevokeSatelliteRequest>,
    ) -> Reply<v1::RevokeSatelliteResponse> {
        Err(Status::unimplemented(""))
    }

    async fn remove_satellite(
        &self,
        _: Request<v1::RemoveSatelliteRequest>,
    ) -> Reply<v1::RemoveSatelliteResponse> {
        Err(Status::unimplemented(""))
    }

    type ScanStream = Feed<v1::ScanEvent>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Reply<Self::ScanStream> {
        if request.get_ref().satellites.iter().any(|name| name == "ofice-1") {
            return Err(Status::not_found("there is no satellite `ofice-1`; did you mean `office-1`?"));
        }
        let (ending, cancelled) = (self.ending, self.cancelled.clone());
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
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(|item| item))))
    }

    async fn cancel_scan(&self, request: Request<v1::CancelScanRequest>) -> Reply<v1::CancelScanResponse> {
        assert_eq!(request.get_ref().scan_id, "01890a5d-ac96-774b-bcce-b302099a8057");
        self.cancelled.notify_one();
        Ok(Response::new(v1::CancelScanResponse {}))
    }

    async fn list_scans(&self, _: Request<v1::ListScansRequest>) -> Reply<v1::ListScansResponse> {
        Err(Status::unimplemented(""))
    }

    async fn pause_scan(&self, _: Request<v1::PauseScanRequest>) -> Reply<v1::PauseScanResponse> {
        Err(Status::unimplemented(""))
    }

    type ListPortsStream = Feed<v1::PortRecord>;

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Reply<Self::ListPortsStream> {
        Err(Status::unimplemented(""))
    }

    type HistoryStream = Feed<v1::HistoryRecord>;

    async fn history(&self, _: Request<v1::HistoryRequest>) -> Reply<Self::HistoryStream> {
        Err(Status::unimplemented(""))
    }
}

async fn connect(ending: Ending) -> Client {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let fake = api::ConsoleServer::new(Fake { ending, cancelled: Arc::new(Notify::new()) });
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(theirs));
    tokio::spawn(Server::builder().add_service(fake).serve_with_incoming(incoming));
    let mut ours = Some(TokioIo::new(ours));
    let channel = Endpoint::from_static("http://portolan")
        .connect_with_connector(service_fn(move |_| {
            let ours = ours.take();
            async move { ours.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        }))
        .await
        .unwrap();
    session::client(channel)
}

type Outcome = Result<(crate::scan_result::ScanResult, Option<ConsoleError>), ConsoleError>;

async fn run(ending: Ending, from: &str, interrupts: &Interrupts) -> Outcome {
    let request = v1::ScanRequest { satellites: vec![from.into()], ..Default::default() };
    let client = connect(ending).await;
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
