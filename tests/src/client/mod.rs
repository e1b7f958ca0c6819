//! A peer that a test holds in its hand: one connection as whoever has an identity, saying on the wire what no honest
//! program would say, when no honest program would.

mod between;
mod ledger;
mod messages;
mod pattern;
mod synthetic;
mod uplink;
pub mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use portolan_proto::v1;
use portolan_proto::v1::console_client::ConsoleClient;
use portolan_proto::v1::enrollment_client::EnrollmentClient;
use portolan_proto::v1::uplink_client::UplinkClient;
use portolan_transport::context::Context;
use portolan_transport::dial::Dialer;
use portolan_transport::{identity, pin, tls};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::ServiceExt as _;

pub use self::between::{Between, Hands, Way};
pub use self::ledger::{Breach, Ledger};
pub use self::messages::{end, hello, host, now_ms, observations, run};
pub use self::pattern::{Change, FLAPPING, Pattern};
pub use self::synthetic::{Fleet, Synthetic};
pub use self::uplink::{Heard, Uplink};

use crate::deployment::{Deployment, Identity, Satellite};
use crate::lab::Host;
use crate::wait::SOON;

/// One connection to a server. Dropping it cuts the connection, whatever is under way.
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects from a host as whoever holds `identity`, or as nobody.
    ///
    /// # Errors
    /// When the server lets nobody of that kind in.
    #[track_caller]
    pub fn open(from: &Host, deployment: &Deployment, identity: Option<&Identity>) -> Result<Self, String> {
        let dialer = dialer_of(deployment, identity);
        // Threads stay in the network of the one that made them.
        let runtime = from.inside(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
        let runtime = runtime.expect("threads");
        let dialled = runtime.spawn(async move { dialer.connect().await });
        let dialled = runtime.block_on(dialled).expect("dialling does not panic");
        dialled.map(|channel| Self { runtime, channel }).map_err(|error| error.to_string())
    }

    /// Connects as nobody.
    #[track_caller]
    pub fn anonymous(deployment: &Deployment) -> Self {
        Self::open(deployment.server_host(), deployment, None).expect("a connection")
    }

    /// Connects as the first admin, from the server's own host.
    #[track_caller]
    pub fn operator(deployment: &Deployment) -> Self {
        let identity = deployment.admin().identity();
        Self::open(deployment.server_host(), deployment, Some(&identity)).expect("a connection")
    }

    /// Connects in the place of an enrolled satellite.
    #[track_caller]
    pub fn satellite(satellite: &Satellite, deployment: &Deployment) -> Self {
        Self::open(satellite.host(), deployment, Some(&satellite.identity())).expect("a connection")
    }

    /// `Console/Status`.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn status(&self) -> Result<v1::StatusResponse, Status> {
        let mut console = ConsoleClient::new(self.channel.clone());
        self.finish(console.status(v1::StatusRequest {}))
    }

    /// `Console/RevokeSatellite`.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn revoke(&self, name: &str) -> Result<v1::RevokeSatelliteResponse, Status> {
        let mut console = ConsoleClient::new(self.channel.clone());
        self.finish(console.revoke_satellite(v1::RevokeSatelliteRequest { name: name.to_owned() }))
    }

    /// `Enrollment/Enroll`.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn enroll(&self, request: v1::EnrollRequest) -> Result<v1::EnrollResponse, Status> {
        let mut enrollment = EnrollmentClient::new(self.channel.clone());
        self.finish(enrollment.enroll(request))
    }

    /// `Uplink/Connect`, with nothing said yet.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn uplink(&self) -> Result<Uplink, Status> {
        let (up, messages) = Uplink::outbound();
        let mut uplink = UplinkClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let down = self.finish(uplink.connect(messages))?;
        Ok(Uplink::new(self.runtime.handle().clone(), up, down))
    }

    /// Calls an RPC with an encoded message; returns the encoded messages that it answers with, until the end of the
    /// stream or the limit.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn ask_raw(&self, rpc: &str, request: Vec<u8>, limit: Duration) -> Result<Vec<Vec<u8>>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let answers = within(self.runtime.handle(), limit, async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = tonic::Request::new(request);
            let mut stream = grpc.server_streaming(request, grpc_path(rpc), wire::Raw).await?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await? {
                answers.push(answer);
            }
            Ok(answers)
        });
        answers.unwrap_or_else(|| Err(Status::deadline_exceeded("the test's limit")))
    }

    /// Begins a scan whose events are read in the background and let go; dropping what it returns cancels it.
    pub fn scan(&self, request: v1::ScanRequest) -> ScanCall {
        let mut console = ConsoleClient::new(self.channel.clone());
        let call = self.runtime.spawn(async move {
            let mut events = console.scan(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = events.message().await? {
                if let Some(v1::scan_event::Event::End(end)) = event.event {
                    last = Some(end);
                }
            }
            Ok(last)
        });
        ScanCall { handle: self.runtime.handle().clone(), call: Some(call) }
    }

    /// Begins a message of `claimed` bytes on a new stream, says only `said` of them, and falls silent.
    pub fn half_said(&self, rpc: &str, claimed: u32, said: usize) {
        let body = messages::frame(claimed, &vec![0; said]).chain(tokio_stream::pending());
        let call = self.channel.clone().oneshot(post(rpc, body));
        self.runtime.spawn(async move {
            let _answer = call.await;
            std::future::pending::<()>().await;
        });
    }

    /// Calls an RPC with any bytes for a message; returns what the server made of it, if it answers at all.
    pub fn call_with(&self, rpc: &str, bytes: &[u8]) -> Result<Code, String> {
        let length = u32::try_from(bytes.len()).expect("a short message");
        let call = self.channel.clone().oneshot(post(rpc, messages::frame(length, bytes)));
        let answer = within(self.runtime.handle(), SOON, async {
            let (head, body) = call.await.map_err(|error| error.to_string())?.into_parts();
            let trailers = body.collect().await.map_err(|error| error.to_string())?.trailers().cloned();
            let status = Status::from_header_map(&head.headers);
            Ok(status.or_else(|| Status::from_header_map(&trailers?)).map_or(Code::Unknown, |s| s.code()))
        });
        answer.expect("an answer in time")
    }

    /// A stream on which Hello was said and Welcome heard.
    #[track_caller]
    pub fn greeted(&self, epoch: u8) -> Uplink {
        let mut uplink = self.uplink().expect("a stream");
        uplink.greet(hello(epoch));
        uplink
    }

    fn finish<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
        within(self.runtime.handle(), SOON, call).expect("an answer in time").map(tonic::Response::into_inner)
    }
}

/// What connects to a deployment's server as whoever holds `identity`, or as nobody.
#[track_caller]
fn dialer_of(deployment: &Deployment, identity: Option<&Identity>) -> Dialer {
    let file = deployment.admin_file();
    let root = Context::load(&file).and_then(|context| context.root(&file)).expect("the admin's context");
    let config = match identity {
        Some(identity) => {
            let pem = format!("{}{}", identity.chain(), identity.key());
            let own = identity::Identity::from_pem(&pem, Path::new("identity")).expect("an identity");
            tls::client_config(&root, &own).expect("certificate and key belong together")
        }
        None => tls::pinned_config(pin::fingerprint(&root)).expect("TLS 1.3").0,
    };
    Dialer { servers: vec![deployment.address()], proxy: None, tls: Arc::new(config) }
}

type ScanOutcome = Result<Option<v1::SatelliteEnd>, Status>;

/// A scan under way.
pub struct ScanCall {
    handle: Handle,
    call: Option<tokio::task::JoinHandle<ScanOutcome>>,
}

impl ScanCall {
    /// Waits for its end: the last satellite's, unless there was none; nothing when it does not come in time.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn wait(&mut self, limit: Duration) -> Option<ScanOutcome> {
        let call = self.call.as_mut()?;
        let ended = within(&self.handle, limit, call)?;
        self.call = None;
        Some(ended.unwrap_or_else(|error| Err(Status::internal(error.to_string()))))
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.call.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }
}

impl Drop for ScanCall {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.abort();
        }
    }
}

fn grpc_path(rpc: &str) -> http::uri::PathAndQuery {
    format!("/{rpc}").parse().expect("a path")
}

fn post(
    rpc: &str,
    body: impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static,
) -> http::Request<tonic::body::Body> {
    http::Request::post(format!("http://portolan/{rpc}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(body)))
        .expect("a request")
}

/// Runs to its end what must end soon.
fn within<T>(handle: &Handle, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    handle.block_on(async { tokio::time::timeout(limit, work).await.ok() })
}
