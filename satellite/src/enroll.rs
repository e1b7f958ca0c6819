//! `enroll`: from a join token to an identity. The key is made here and stays here; the pin is checked before
//! anything is sent.

use crate::config;
use crate::data_dir::{DataDir, DataDirError, Enrollment};
use crate::interfaces;
use ipnet::IpNet;
use portolan_common::addresses::parse_network;
use portolan_common::scope::Scope;
use portolan_proto::token::TokenError;
use portolan_proto::v1::enrollment_client::EnrollmentClient;
use portolan_proto::v1::{EnrollRequest, JoinToken};
use portolan_transport::dial::{DialError, Dialer};
use portolan_transport::files::{self, FileError};
use portolan_transport::identity::{IdentityError, KeyRequest, chain_to_pem};
use portolan_transport::{pin, tls};
use rustls::pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// An enrollment that failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token is not whole.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// This directory holds a satellite.
    #[error(
        "{} already holds the satellite `{name}`: run it with `portolan-satellite run`, or enrol into another \
         --data-dir",
        path.display()
    )]
    Enrolled {
        /// The directory.
        path: PathBuf,
        /// Its satellite.
        name: String,
    },
    /// The proxy is no URL.
    #[error("`{0}` is no proxy URL: write http://[USER:PASSWORD@]HOST:PORT")]
    Proxy(String),
    /// A server answered that is not the token's.
    #[error(
        "the server that answers is not the one that made this token (its certificate authority has another \
         fingerprint): nothing was sent to it. Is the token from another deployment, or does something intercept the \
         connection? ({0})"
    )]
    Foreign(DialError),
    /// No server could be reached.
    #[error("cannot reach the server: {0}")]
    Unreachable(DialError),
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server's answer makes no sense.
    #[error("the server's answer cannot be used: {0}")]
    Answer(&'static str),
    /// The proposed scope is malformed.
    #[error("the token proposes a scope that cannot be used: {0}")]
    Scope(String),
    /// The satellite's own file is invalid.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The interfaces cannot be listed.
    #[error("cannot list this host's networks: {0}")]
    Interfaces(std::io::Error),
}

/// Where the scope came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeOrigin {
    /// The administrator's file stood already.
    File,
    /// The token proposed it.
    Token,
    /// The networks that the policy knows in the tenant.
    Policy,
    /// The networks that this host is connected to.
    Connected,
}

/// What an enrollment brought.
#[derive(Debug)]
pub struct Enrolled {
    /// The satellite's name.
    pub name: String,
    /// Where it stands.
    pub segment: String,
    /// Whose address space.
    pub tenant: String,
    /// What it may scan.
    pub scope: Scope,
    /// Where that came from.
    pub origin: ScopeOrigin,
}

/// Enrols into a data directory. What fails can be tried again with the same token while it lives.
///
/// # Errors
/// [`EnrollError`].
pub async fn enroll(
    token: &str,
    data: &DataDir,
    config_file: &Path,
    proxy: Option<&str>,
) -> Result<Enrolled, EnrollError> {
    let token = JoinToken::from_text(token)?;
    if data.is_enrolled() {
        let name = data.enrollment().map(|enrollment| enrollment.name).unwrap_or_default();
        return Err(EnrollError::Enrolled { path: data.path().to_owned(), name });
    }
    let proxy_uri = proxy.map(parse_proxy).transpose()?;
    let proposed = proposed_scope(&token.scope)?;
    // Whatever is wrong with the local files is found before the token is used.
    files::create_private_dir(data.path())?;
    let _lock = data.lock()?;
    let standing = if config_file.exists() { Some(config::load(config_file)?.scope) } else { None };
    let request = pending_key(data)?;

    let pinned: [u8; 32] =
        token.ca_pin.as_slice().try_into().map_err(|_| TokenError::Damaged("a part is missing"))?;
    let (tls, verifier) = tls::pinned_config(pinned)?;
    let dialer = Dialer { servers: token.servers.clone(), proxy: proxy_uri, tls: Arc::new(tls) };
    let channel = dialer.connect().await.map_err(|error| {
        if verifier.saw_foreign_server() {
            EnrollError::Foreign(error)
        } else {
            EnrollError::Unreachable(error)
        }
    })?;
    let call = EnrollRequest {
        secret: token.secret,
        csr_der: request.csr_der.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let answer = tokio::time::timeout(ANSWER, EnrollmentClient::new(channel).enroll(call))
        .await
        .map_err(|_| EnrollError::Refused("it did not answer in time; try again with the same token".into()))?
        .map_err(|status| EnrollError::Refused(status.message().to_owned()))?
        .into_inner();

    let root = CertificateDer::from(answer.root_certificate);
    if pin::fingerprint(&root) != pinned {
        return Err(EnrollError::Answer("its root certificate is not the pinned one"));
    }
    if answer.certificate_chain.is_empty() {
        return Err(EnrollError::Answer("it carries no certificate"));
    }
    let chain = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
    let identity = request.into_identity(chain)?;
    identity.facts()?;
    // That key and certificate belong together is proved here, not at the first connection.
    tls::client_config(&root, &identity)?;

    let (scope, origin) = match (standing, proposed) {
        (Some(scope), _) => (scope, ScopeOrigin::File),
        (None, Some(scope)) => (scope, ScopeOrigin::Token),
        (None, None) => match proposed_scope(&answer.known_cidrs)? {
            Some(scope) => (scope, ScopeOrigin::Policy),
            None => {
                let networks = interfaces::connected_networks().map_err(EnrollError::Interfaces)?;
                (Scope::allowing(&networks), ScopeOrigin::Connected)
            }
        },
    };
    if origin != ScopeOrigin::File {
        if let Some(parent) = config_file.parent() {
            files::create_private_dir(parent)?;
        }
        files::write_private(config_file, scope.to_toml().as_bytes())?;
    }
    let enrollment = Enrollment {
        servers: token.servers,
        proxy: proxy.map(str::to_owned),
        name: answer.satellite_name.clone(),
    };
    let text = serde_json::to_string_pretty(&enrollment).unwrap_or_default();
    files::write_private(&data.enrollment_file(), text.as_bytes())?;
    files::write_private(&data.root_file(), chain_to_pem(&[root]).as_bytes())?;
    // What an earlier satellite here was assigned is not this one's.
    for file in [data.assignment_file(), data.old_assignment_file()] {
        let _ = std::fs::remove_file(file);
    }
    // The identity comes last: with it the directory counts as enrolled.
    identity.store(&data.identity_file())?;
    // It stays harmless where it cannot be removed: the identity holds the same key.
    let _ = std::fs::remove_file(data.pending_key_file());
    Ok(Enrolled {
        name: answer.satellite_name,
        segment: answer.segment,
        tenant: answer.tenant,
        scope,
        origin,
    })
}

/// Reads a proxy's URL.
///
/// # Errors
/// [`EnrollError::Proxy`].
pub fn parse_proxy(text: &str) -> Result<http::Uri, EnrollError> {
    // The credentials in it are not for the terminal.
    let shown = || EnrollError::Proxy(text.rsplit('@').next().unwrap_or_default().to_owned());
    let uri: http::Uri = text.parse().map_err(|_| shown())?;
    let usable = uri.scheme_str() == Some("http") && uri.host().is_some() && uri.port_u16().is_some();
    if usable { Ok(uri) } else { Err(shown()) }
}

fn proposed_scope(cidrs: &[String]) -> Result<Option<Scope>, EnrollError> {
    let networks: Vec<IpNet> = cidrs
        .iter()
        .map(|text| parse_network(text).map_err(|error| EnrollError::Scope(error.to_string())))
        .collect::<Result<_, _>>()?;
    Ok((!networks.is_empty()).then(|| Scope::allowing(&networks)))
}

fn pending_key(data: &DataDir) -> Result<KeyRequest, EnrollError> {
    let path = data.pending_key_file();
    if path.exists() {
        return Ok(KeyRequest::from_key_pem(&files::read_text(&path, 64 * 1024)?)?);
    }
    let request = KeyRequest::generate()?;
    files::write_private(&path, request.key_pem.as_bytes())?;
    Ok(request)
}
