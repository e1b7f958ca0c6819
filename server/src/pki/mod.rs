//! The deployment's certificates: who may issue ([`authority`]), what the listener shows ([`server_certificate`]).

pub mod authority;
pub(crate) mod proof;
pub mod server_certificate;

use portolan_transport::files::FileError;
use portolan_transport::identity::IdentityError;

/// Something about the deployment's certificates that failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate or key file is damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// A signing request is not acceptable.
    #[error("the certificate signing request is not acceptable: {0}")]
    Request(&'static str),
    /// A name of the server is neither a DNS name nor an address.
    #[error("`{0}` is neither a host name nor an IP address")]
    Name(String),
    /// The key does not fit the crypto provider.
    #[error("the server's key cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl PkiError {
    /// What is wrong, without what to do about it.
    pub fn without_advice(&self) -> String {
        let words = self.to_string();
        words.strip_suffix(proof::ADVICE).unwrap_or(&words).to_owned()
    }
}
