//! One light satellite's connection: TCP from an address of its own, TLS with a certificate of its own, HTTP/2, and the
//! uplink's stream on it. Without the channel that tonic puts between, which costs more than all the rest.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use portolan_proto::v1::uplink_client::UplinkClient;
use portolan_proto::v1::{UplinkDown, UplinkUp};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// As the real satellite has them.
const STEP: Duration = Duration::from_secs(5);
const WELCOME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// A stream on which the first message was said and the first answer heard.
pub(super) struct Link {
    pub down: Streaming<UplinkDown>,
    pub first: UplinkDown,
    /// Drives the connection. Dropping it breaks the connection, whatever is under way.
    _driver: JoinSet<()>,
}

/// Connects, and opens the stream with what `outbound` has to say first.
pub(super) async fn open(
    source: Ipv4Addr,
    server: SocketAddr,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    outbound: mpsc::Receiver<UplinkUp>,
) -> Result<Link, String> {
    let failed = |step: &str, why: &dyn std::fmt::Display| format!("{step}: {why}");
    let socket = TcpSocket::new_v4().map_err(|error| failed("socket", &error))?;
    socket.bind((source, 0).into()).map_err(|error| failed("bind", &error))?;
    let tcp = timeout(STEP, socket.connect(server)).await.map_err(|late| failed("connect", &late))?;
    let tcp = tcp.map_err(|error| failed("connect", &error))?;
    // A failure costs latency only.
    let _ = tcp.set_nodelay(true);
    let tls = timeout(STEP, TlsConnector::from(tls).connect(name, tcp)).await;
    let tls = tls.map_err(|late| failed("TLS", &late))?.map_err(|error| failed("TLS", &error))?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|error| failed("HTTP/2", &error))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // How it ended is told to the stream.
        let _ = connection.await;
    });
    let service = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = UplinkClient::with_origin(service, http::Uri::from_static("https://portolan"));
    let greeted = timeout(WELCOME, async {
        let mut down = client.connect(ReceiverStream::new(outbound)).await?.into_inner();
        let first = down.message().await?.ok_or_else(|| Status::unknown("it closed the stream"))?;
        Ok::<_, Status>((down, first))
    });
    let (down, first) = greeted
        .await
        .map_err(|late| failed("Welcome", &late))?
        .map_err(|status| failed("Welcome", &status))?;
    Ok(Link { down, first, _driver: driver })
}
