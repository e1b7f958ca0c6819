//! Dialing: name, TCP (perhaps through a proxy), TLS, HTTP/2 — each step with its own error.

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::{Service as _, service_fn};

/// How long one step (TCP to one address, TLS) may take.
const STEP: Duration = Duration::from_secs(5);
/// HTTP/2 pings go out this often, also on an idle connection …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
/// … and an answer must come within this: a half-open connection is found in 16 s at most.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// tonic's default of 64 KiB for stream and connection alike lets one stalled stream block its siblings.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Where the server is and how to get there.
#[derive(Clone)]
pub struct Dialer {
    /// `HOST:PORT`, tried in order.
    pub servers: Vec<String>,
    /// `http://[USER:PASSWORD@]HOST:PORT`: an HTTP proxy that is asked to CONNECT.
    pub proxy: Option<http::Uri>,
    /// From [`crate::tls`].
    pub tls: Arc<ClientConfig>,
}

/// No server could be reached; every attempt is in the message.
#[derive(Debug, thiserror::Error)]
#[error("{}", attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct DialError {
    /// One for each server tried.
    pub attempts: Vec<AttemptError>,
}

impl DialError {
    /// Whether a server was reached whose certificate is not to be trusted.
    pub fn is_untrusted(&self) -> bool {
        self.attempts.iter().any(|attempt| {
            matches!(&attempt.cause, Cause::Tls(error) if matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_))))
        })
    }
}

/// One server that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{server}: {cause}")]
pub struct AttemptError {
    /// `HOST:PORT`.
    pub server: String,
    /// What failed.
    pub cause: Cause,
}

/// The step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The address is not `HOST:PORT`.
    #[error("not of the form HOST:PORT")]
    Address,
    /// The name does not resolve.
    #[error("the name does not resolve ({0})")]
    Resolve(io::Error),
    /// TCP failed.
    #[error("{}", connect_words(.0))]
    Connect(io::Error),
    /// The proxy refused or failed.
    #[error("the proxy {proxy} gave no tunnel: {reason}")]
    Proxy {
        /// Which proxy, without credentials.
        proxy: String,
        /// Its answer.
        reason: String,
    },
    /// TLS failed.
    #[error("{}", tls_words(.0))]
    Tls(io::Error),
    /// HTTP/2 failed.
    #[error("it does not speak Portolan's protocol ({0})")]
    Http(tonic::transport::Error),
}

fn connect_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: nothing listens there, or a firewall rejects".into()
        }
        io::ErrorKind::TimedOut => {
            format!("no answer within {} s: the host is down, or a firewall drops", STEP.as_secs())
        }
        _ => error.to_string(),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls_words(error: &io::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error};
    match tls_error(error) {
        Some(Error::InvalidCertificate(problem)) => match problem {
            CertificateError::UnknownIssuer => {
                "the server's certificate comes from another certificate authority: it is not the server of this \
                 deployment"
                    .into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate does not name this address: add it to the server's names \
                 (deployment.toml in its data directory)"
                    .into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired, or this machine's clock is wrong".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: this machine's clock is probably wrong".into()
            }
            other => format!("the server's certificate is not acceptable ({other:?})"),
        },
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "the server refuses this certificate: it has expired".into()
        }
        Some(Error::AlertReceived(alert)) => format!("the server ended the TLS handshake ({alert:?})"),
        Some(other) => format!("TLS failed ({other})"),
        None if error.kind() == io::ErrorKind::TimedOut => "the TLS handshake got no answer".into(),
        None if error.kind() == io::ErrorKind::UnexpectedEof
            || error.kind() == io::ErrorKind::ConnectionReset =>
        {
            "the connection was closed during the TLS handshake".into()
        }
        None => format!("TLS failed ({error})"),
    }
}

impl Dialer {
    /// Connects to the first server that answers. The channel is one connection and never reconnects by itself.
    ///
    /// # Errors
    /// [`DialError`] with every attempt.
    pub async fn connect(&self) -> Result<Channel, DialError> {
        let mut attempts = Vec::new();
        for server in &self.servers {
            match self.connect_to(server).await {
                Ok(channel) => return Ok(channel),
                Err(cause) => attempts.push(AttemptError { server: server.clone(), cause }),
            }
        }
        Err(DialError { attempts })
    }

    async fn connect_to(&self, server: &str) -> Result<Channel, Cause> {
        let (host, _) = split_host_port(server).ok_or(Cause::Address)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Cause::Address)?;
        let tcp = match &self.proxy {
            Some(proxy) => through_proxy(proxy, server).await?,
            None => direct(server).await?,
        };
        // Acks and small records must not wait for Nagle's algorithm; a failure costs latency only.
        let _ = tcp.set_nodelay(true);
        let connector = TlsConnector::from(self.tls.clone());
        let tls = timeout(STEP, connector.connect(name, tcp))
            .await
            .map_err(|_| Cause::Tls(io::ErrorKind::TimedOut.into()))?
            .map_err(Cause::Tls)?;
        let once = Arc::new(Mutex::new(Some(TokioIo::new(tls))));
        Endpoint::from_static("http://portolan")
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_with_connector(service_fn(move |_| {
                let taken = once.lock().map(|mut stream| stream.take()).ok().flatten();
                async move { taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
            }))
            .await
            .map_err(Cause::Http)
    }
}

/// Splits `HOST:PORT`, `[V6]:PORT`; the brackets go.
pub fn split_host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some((host, port))
}

async fn direct(server: &str) -> Result<TcpStream, Cause> {
    let addresses = timeout(STEP, tokio::net::lookup_host(server))
        .await
        .map_err(|_| Cause::Resolve(io::ErrorKind::TimedOut.into()))?
        .map_err(Cause::Resolve)?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(Cause::Connect(last))
}

async fn through_proxy(proxy: &http::Uri, server: &str) -> Result<TcpStream, Cause> {
    let named = proxy.authority().map(|a| a.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    let failed = |reason: String| Cause::Proxy { proxy: named.clone().unwrap_or_default(), reason };
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(STEP));
    let mut tunnel = Tunnel::new(proxy.clone(), tcp);
    if let Some((credentials, _)) = proxy.authority().and_then(|a| a.as_str().rsplit_once('@')) {
        let basic = format!("Basic {}", data_encoding::BASE64.encode(credentials.as_bytes()));
        let header = http::HeaderValue::from_str(&basic)
            .map_err(|_| failed("its credentials are malformed".into()))?;
        tunnel = tunnel.with_auth(header);
    }
    let destination: http::Uri = format!("https://{server}").parse().map_err(|_| Cause::Address)?;
    timeout(STEP * 2, tunnel.call(destination))
        .await
        .map_err(|_| failed("no answer".into()))?
        .map(TokioIo::into_inner)
        .map_err(|error| failed(chain_of(&error)))
}

/// An error with its sources, which libraries keep out of their own words.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_words = inner.to_string();
        if !words.contains(&inner_words) {
            words = format!("{words}: {inner_words}");
        }
        source = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port() {
        assert_eq!(split_host_port("a.example:8443"), Some(("a.example", 8443)));
        assert_eq!(split_host_port("[fd00::1]:8443"), Some(("fd00::1", 8443)));
        for wrong in ["a.example", "fd00::1:8443", ":8443", "a:0", "a:99999", "[fd00::1:8443"] {
            assert_eq!(split_host_port(wrong), None, "{wrong}");
        }
    }
}
