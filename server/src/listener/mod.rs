//! The one port: an accept loop that never handshakes itself, and the connections behind it.

mod admission;
mod closing;
mod connection;
mod tls;
mod turnstile;

pub use admission::{Admission, share_of};
pub use closing::Closing;
pub use connection::{Limits, Services};
pub use tls::server_config;
pub use turnstile::Turnstile;

use crate::metrics::Metrics;
use crate::peer::Identifier;
use portolan_daemon::Group;
use rustls::ServerConfig;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long to wait for descriptors to come free before accepting again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// Whoever does not get its turn for a handshake within this is let go: begun later, it would end too late.
const TURN_WAIT: Duration = Duration::from_secs(2);

/// How long to wait after any other failure to accept.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// What every connection shares.
pub struct Shared {
    /// TLS.
    pub tls: Arc<ServerConfig>,
    /// What is served to whom.
    pub services: Services,
    /// Unauthenticated connections by address.
    pub admission: Arc<Admission<IpAddr>>,
    /// Those of satellites by satellite: one that was taken over must not take every descriptor.
    pub satellites: Arc<Admission<Uuid>>,
    /// Those of operators by operator.
    pub operators: Arc<Admission<Uuid>>,
    /// Who may begin a handshake.
    pub turnstile: Turnstile,
    /// Turns certificates into identities.
    pub identifier: Identifier,
    /// Time limits.
    pub limits: Limits,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Accepts until `stop`, then returns and closes the port; the connections live on until they are told to close.
pub async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Group,
    closing: Closing,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                shared.metrics.connections.inc();
                // Over the cap the connection is closed at once, before it costs a handshake.
                let Some(ticket) = shared.admission.admit(share_of(address.ip())) else {
                    shared.metrics.connections_refused.inc();
                    close_now(stream);
                    continue;
                };
                let serving = connection::serve(stream, address, ticket, shared.clone(), closing.notice());
                // Boxed, or every layer around it keeps room for a copy of it.
                connections.spawn(address, Box::pin(serving));
            }
            Err(error) if is_exhausted(&error) => {
                tracing::warn!(%error, "cannot accept: out of descriptors or memory; pausing");
                shared.metrics.accept_pauses.inc();
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) => {
                // The peer went away between its SYN and our accept; whatever else it is must not spin.
                tracing::debug!(%error, "accept");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use nix::libc;
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn close_now(stream: TcpStream) {
    // A reset: no TIME_WAIT for somebody who hammers the port. Failing to set it costs nothing else.
    let _ = stream.set_zero_linger();
}
