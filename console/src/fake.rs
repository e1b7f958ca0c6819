//! A server that is only pretended, for tests of whole conversations: the real client over an in-memory connection. A
//! test says how the calls are answered that it is about; every other one is unimplemented.

use crate::session::{self, Client};
use hyper_util::rt::TokioIo;
use portolan_proto::v1::{self, console_server as api};
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::service_fn;

/// What a streaming call gives.
pub type Feed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How a call is answered.
pub type Answer<Q, A> = Option<Box<dyn Fn(Q) -> Result<A, Status> + Send + Sync>>;

/// For a field of [`Fake`].
pub fn answer<Q, A>(answer: impl Fn(Q) -> Result<A, Status> + Send + Sync + 'static) -> Answer<Q, A> {
    Some(Box::new(answer))
}

/// For a streaming field of [`Fake`]: these, and then the end.
pub fn feed<T: Send + 'static>(items: Vec<Result<T, Status>>) -> Feed<T> {
    Box::pin(tokio_stream::iter(items))
}

/// Connects to it; as often as wanted.
pub async fn connect(fake: &Arc<Fake>) -> Client {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let service = api::ConsoleServer::from_arc(fake.clone());
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(theirs));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
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

macro_rules! fake {
    (one { $($method:ident($question:ident) -> $answer:ident;)+ }
     many { $($stream_method:ident($stream_question:ident) -> $stream:ident of $item:ident;)+ }) => {
        /// The answers, a field a call.
        #[derive(Default)]
        pub struct Fake {
            $(pub $method: Answer<v1::$question, v1::$answer>,)+
            $(pub $stream_method: Answer<v1::$stream_question, Feed<v1::$item>>,)+
        }

        #[tonic::async_trait]
        impl api::Console for Fake {
            $(async fn $method(&self, request: Request<v1::$question>) -> Result<Response<v1::$answer>, Status> {
                reply(&self.$method, request)
            })+
            $(type $stream = Feed<v1::$item>;
            async fn $stream_method(
                &self,
                request: Request<v1::$stream_question>,
            ) -> Result<Response<Self::$stream>, Status> {
                reply(&self.$stream_method, request)
            })+
        }
    };
}

fn reply<Q, A>(answer: &Answer<Q, A>, request: Request<Q>) -> Result<Response<A>, Status> {
    match answer {
        Some(answer) => answer(request.into_inner()).map(Response::new),
        None => Err(Status::unimplemented("")),
    }
}

fake! {
    one {
    status(StatusRequest) -> StatusResponse;
    add_satellite(AddSatelliteRequest) -> AddSatelliteResponse;
    list_satellites(ListSatellitesRequest) -> ListSatellitesResponse;
    revoke_satellite(RevokeSatelliteRequest) -> RevokeSatelliteResponse;
    remove_satellite(RemoveSatelliteRequest) -> RemoveSatelliteResponse;
    cancel_scan(CancelScanRequest) -> CancelScanResponse;
    list_scans(ListScansRequest) -> ListScansResponse;
    pause_scan(PauseScanRequest) -> PauseScanResponse;
    check_policy(CheckPolicyRequest) -> PolicyReport;
    apply_policy(ApplyPolicyRequest) -> PolicyReport;
    get_policy(GetPolicyRequest) -> GetPolicyResponse;
    list_policy_versions(ListPolicyVersionsRequest) -> ListPolicyVersionsResponse;
    list_checks(ListChecksRequest) -> ListChecksResponse;
    get_check(GetCheckRequest) -> GetCheckResponse;
    run_check(RunCheckRequest) -> RunCheckResponse;
    pause_check(PauseCheckRequest) -> PauseCheckResponse;
    take_baseline(TakeBaselineRequest) -> Baseline;
    get_baseline(GetBaselineRequest) -> Baseline;
    accept_baseline(AcceptBaselineRequest) -> Baseline;
    list_alerts(ListAlertsRequest) -> ListAlertsResponse;
    get_alert(GetAlertRequest) -> Alert;
    acknowledge_alert(AcknowledgeAlertRequest) -> Alert;
    comment_alert(CommentAlertRequest) -> Alert;
    add_silence(AddSilenceRequest) -> Silence;
    list_silences(ListSilencesRequest) -> ListSilencesResponse;
    expire_silence(ExpireSilenceRequest) -> Silence;
    open_change(OpenChangeRequest) -> ExpectedChange;
    close_change(CloseChangeRequest) -> ExpectedChange;
    list_expected_changes(ListExpectedChangesRequest) -> ListExpectedChangesResponse;
    }
    many {
    scan(ScanRequest) -> ScanStream of ScanEvent;
    list_ports(ListPortsRequest) -> ListPortsStream of PortRecord;
    history(HistoryRequest) -> HistoryStream of HistoryRecord;
    list_changes(ListChangesRequest) -> ListChangesStream of PortChange;
    watch_alerts(WatchAlertsRequest) -> WatchAlertsStream of AlertEvent;
    }
}
