//! One connection: handshake under a time limit, identity, then the services that the identity picks.

use super::Shared;
use super::admission::Ticket;
use super::closing::Notice;
use crate::authorization::{Denied, authorize};
use crate::peer::{Peer, PeerIdentity};
use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::{ServiceExt as _, service_fn};

/// HTTP/2 pings and their answers: a half-open connection is found in 16 s at most.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// An operator's console asks one thing at a time, a script perhaps many; a satellite has one uplink, and a stream that
/// has not said who it is for may hold a message of over a megabyte.
const OPERATOR_STREAMS: u32 = 64;
const OTHER_STREAMS: u32 = 4;
/// A satellite may have a record on its way while the one before is read; its credit bounds the rest.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// How long the streams of somebody who was just revoked have to say goodbye.
const REVOKED_GRACE: Duration = Duration::from_millis(500);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For everything an anonymous connection does: enrolling takes one call.
    pub anonymous: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), anonymous: Duration::from_secs(30) }
    }
}

/// The routers of each kind of peer; what a kind may not name is not in its router.
#[derive(Clone)]
pub struct Services {
    /// Enrollment and health.
    pub anonymous: Router,
    /// Uplink and health.
    pub satellite: Router,
    /// Console, metrics and health.
    pub operator: Router,
    /// `/metrics` without a certificate.
    pub public_metrics: bool,
}

pub(super) async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    ticket: Ticket<IpAddr>,
    shared: Arc<Shared>,
    notice: Notice,
) {
    let _ = stream.set_nodelay(true);
    // In a box of its own, so that the connection's task does not keep its room for good.
    let handshake = Box::pin(tokio::time::timeout(shared.limits.handshake, handshake(stream, &shared)));
    let tls = tokio::select! {
        handshake = handshake => match handshake {
            Ok(Ok(Some(tls))) => tls,
            Ok(Ok(None)) => {
                shared.metrics.connections_refused.inc();
                tracing::debug!(%address, "too many handshakes before it");
                return;
            }
            Ok(Err(error)) => {
                shared.metrics.handshakes_failed.inc();
                // Port scanners do this all day long.
                tracing::debug!(%address, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                shared.metrics.handshakes_failed.inc();
                tracing::debug!(%address, "TLS handshake timed out");
                return;
            }
        },
        () = notice.wanted() => return,
    };
    let mut revocations = shared.identifier.revocations();
    let identity = shared.identifier.identify(tls.get_ref().1.peer_certificates());
    let router = match &identity {
        PeerIdentity::Satellite { .. } => shared.services.satellite.clone(),
        PeerIdentity::Operator { .. } => shared.services.operator.clone(),
        PeerIdentity::Anonymous => shared.services.anonymous.clone(),
        PeerIdentity::Refused(why) => {
            tracing::info!(%address, why, "refused a certificate");
            shared.services.anonymous.clone()
        }
    };
    // Who proved an identity gives the place of a stranger back and takes one of its own.
    let place = match &identity {
        PeerIdentity::Satellite { id, .. } => Some((&shared.satellites, id.0)),
        PeerIdentity::Operator { id, .. } => Some((&shared.operators, id.0)),
        PeerIdentity::Anonymous | PeerIdentity::Refused(_) => None,
    };
    let (_stranger, _holder) = match place {
        None => (Some(ticket), None),
        Some((places, holder)) => match places.admit(holder) {
            Some(place) => {
                drop(ticket);
                (None, Some(place))
            }
            None => {
                shared.metrics.connections_refused.inc();
                tracing::warn!(%address, %holder, "too many connections with one certificate");
                return;
            }
        },
    };
    let mut deadline = pin!(tokio::time::sleep(match identity.not_after() {
        Some(not_after) => until(not_after),
        None => shared.limits.anonymous,
    }));
    let peer = Peer { address, identity: identity.clone() };
    let service = service_fn({
        let shared = shared.clone();
        move |request: Request<Incoming>| {
            let (peer, router, shared) = (peer.clone(), router.clone(), shared.clone());
            async move { Ok::<_, Infallible>(answer(peer, router, request, &shared).await) }
        }
    });

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.handshake)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(match identity {
            PeerIdentity::Operator { .. } => OPERATOR_STREAMS,
            _ => OTHER_STREAMS,
        })
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(tls), TowerToHyperService::new(service)));
    let (mut closing, mut notice) = (false, Some(notice));
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%address, error = %error, "connection ended");
                }
                return;
            }
            () = wanted(notice.as_ref()), if notice.is_some() => {
                closing = true;
                connection.as_mut().graceful_shutdown();
                // Polled once it has written its GOAWAY, unless the peer reads nothing.
                let polled = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context))).await;
                notice = None;
                if polled.is_ready() {
                    return;
                }
            }
            Ok(()) = revocations.changed(), if !closing => {
                if shared.identifier.lapse(&identity, Timestamp::now()).is_some() {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    // Its streams say goodbye; then the connection goes, whether it wants to or not.
                    deadline.as_mut().reset(tokio::time::Instant::now() + REVOKED_GRACE);
                }
            }
            () = deadline.as_mut() => return,
        }
    }
}

/// `None`: so many were before it that it would have been too late.
async fn handshake(stream: TcpStream, shared: &Shared) -> io::Result<Option<TlsStream<TcpStream>>> {
    stream.readable().await?;
    let acceptor = TlsAcceptor::from(shared.tls.clone());
    shared.turnstile.pass(acceptor.accept(stream)).await.transpose()
}

async fn wanted(notice: Option<&Notice>) {
    match notice {
        Some(notice) => notice.wanted().await,
        None => std::future::pending().await,
    }
}

/// The time left, within what a timer can wait for.
fn until(at: Timestamp) -> Duration {
    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    left.min(Duration::from_secs(u32::MAX.into()))
}

async fn answer(
    peer: Peer,
    router: Router,
    mut request: Request<Incoming>,
    shared: &Shared,
) -> Response<Body> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let allowed = match shared.identifier.lapse(&peer.identity, Timestamp::now()) {
        Some(why) => Err(Denied::Refused(why)),
        None => authorize(&peer.identity, &request, shared.services.public_metrics),
    };
    if let Err(denied) = allowed {
        tracing::debug!(address = %peer.address, path = request.uri().path(), ?denied, "denied");
        return deny(denied, is_grpc);
    }
    request.extensions_mut().insert(peer);
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn deny(denied: Denied, is_grpc: bool) -> Response<Body> {
    if is_grpc {
        let status = match denied {
            Denied::Unauthenticated => tonic::Status::unauthenticated("a client certificate is required"),
            Denied::Forbidden => tonic::Status::permission_denied("this certificate may not do that"),
            Denied::Refused(why) => tonic::Status::permission_denied(why),
        };
        return status.into_http();
    }
    let (code, words) = match denied {
        Denied::Unauthenticated => (StatusCode::UNAUTHORIZED, "a client certificate is required\n"),
        Denied::Forbidden => (StatusCode::FORBIDDEN, "this certificate may not do that\n"),
        Denied::Refused(why) => (StatusCode::FORBIDDEN, why),
    };
    let mut response = Response::new(Body::from(words));
    *response.status_mut() = code;
    response
}
