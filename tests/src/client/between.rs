//! A peer that stands between a satellite and its server: it ends both sides' TLS with their own keys and passes every
//! message of the uplink through a test's hands, to be recorded, changed, held back or added to.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_transport::dial::Dialer;
use portolan_transport::identity::Identity;
use portolan_transport::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};

use super::wire::Raw;
use super::{dialer_of, grpc_path};
use crate::deployment::{Deployment, Satellite};

/// Messages on their way in one direction.
const ON_THEIR_WAY: usize = 64;
/// As the satellite's own program allows.
const MAX_MESSAGE: usize = 64 << 20;
const CONNECT: &str = "portolan.v1.Uplink/Connect";

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the satellite to the server.
    Up,
    /// From the server to the satellite.
    Down,
}

/// What the test makes of a message: the connection's number (from 1), the way, the message; what is returned goes on
/// in its place.
pub type Hands = dyn Fn(u64, Way, Vec<u8>) -> Vec<Vec<u8>> + Send + Sync;

/// The peer. Dropping it cuts every connection.
pub struct Between {
    port: u16,
    connections: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

struct Shared {
    upstream: Dialer,
    hands: Arc<Hands>,
    connections: Arc<AtomicU64>,
}

impl Between {
    /// Listens on a port of the server's host for one satellite, which must be told to dial there
    /// ([`Satellite::dial_port`]).
    #[track_caller]
    pub fn start(
        deployment: &Deployment,
        satellite: &Satellite,
        port: u16,
        hands: impl Fn(u64, Way, Vec<u8>) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let own = Identity::load(&deployment.data_dir().join("server.pem")).expect("the server's identity");
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|config| config.with_no_client_auth().with_single_cert(own.chain, own.key));
        let mut config = config.expect("certificate and key belong together");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connections = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Shared {
            upstream: dialer_of(deployment, Some(&satellite.identity())),
            hands: Arc::new(hands),
            connections: connections.clone(),
        });
        let host = deployment.server_host();
        let runtime = host.inside(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
        let runtime = runtime.expect("threads");
        let bound = runtime.spawn(TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
        let listener = runtime.block_on(bound).expect("no panic").expect("a free port");
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), shared));
        Self { port, connections, runtime: Some(runtime) }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Streams that satellites opened so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move { drop(serve(connection, &acceptor, shared).await) });
    }
}

async fn serve(
    connection: TcpStream,
    acceptor: &TlsAcceptor,
    shared: Arc<Shared>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    connection.set_nodelay(true)?;
    let tls = acceptor.accept(connection).await?;
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, shared).await) }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.serve_connection(TokioIo::new(tls), service).await?;
    Ok(())
}

async fn answer(request: http::Request<hyper::body::Incoming>, shared: Arc<Shared>) -> http::Response<Body> {
    if request.uri().path().trim_start_matches('/') != CONNECT {
        return Status::unimplemented("only the uplink passes here").into_http();
    }
    let service = Passing(shared);
    let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(MAX_MESSAGE);
    grpc.streaming(service, request).await
}

/// One stream's way through.
struct Passing(Arc<Shared>);

impl tonic::server::StreamingService<Vec<u8>> for Passing {
    type Response = Vec<u8>;
    type ResponseStream = ReceiverStream<Result<Vec<u8>, Status>>;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
            let channel = shared
                .upstream
                .connect()
                .await
                .map_err(|error| Status::unavailable(format!("no server behind: {error}")))?;
            let (up, outbound) = mpsc::channel(ON_THEIR_WAY);
            let hands = shared.hands.clone();
            let mut inbound = request.into_inner();
            tokio::spawn(async move {
                while let Some(Ok(message)) = inbound.next().await {
                    for message in hands(number, Way::Up, message) {
                        if up.send(message).await.is_err() {
                            return;
                        }
                    }
                }
            });
            let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = Request::new(ReceiverStream::new(outbound));
            let mut answers = client.streaming(request, grpc_path(CONNECT), Raw).await?.into_inner();
            let (down, answered) = mpsc::channel(ON_THEIR_WAY);
            let hands = shared.hands.clone();
            tokio::spawn(async move {
                loop {
                    match answers.message().await {
                        Ok(Some(message)) => {
                            for message in hands(number, Way::Down, message) {
                                if down.send(Ok(message)).await.is_err() {
                                    return;
                                }
                            }
                        }
                        Ok(None) => return,
                        Err(status) => return drop(down.send(Err(status)).await),
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(answered)))
        })
    }
}
