//! The console's contexts: one file each, holding where a server is and who the operator is.
//!
//! `portolan-server init` writes the first one; the console reads them.

use crate::files::{self, FileError};
use crate::identity::{Identity, IdentityError};
use etcetera::BaseStrategy as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the context that is used when none is named.
pub const DEFAULT: &str = "default";

const MAX_FILE_BYTES: u64 = 256 * 1024;

/// A context file's content: TOML with PEM inside, so that one private file carries all.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `HOST:PORT`, tried in order.
    pub servers: Vec<String>,
    /// PEM: the deployment's root certificate.
    pub ca: String,
    /// PEM: the operator's certificate, then the issuing certificate.
    pub certificate: String,
    /// PEM, PKCS#8: the operator's private key.
    pub key: String,
}

/// A context that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// There is no such file.
    #[error("there is no context {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no context file.
    #[error("{} is no context file: {reason}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its certificate or key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The user has no home directory.
    #[error("no configuration directory: neither XDG_CONFIG_HOME nor HOME is set")]
    NoHome,
}

/// Where contexts live: `$XDG_CONFIG_HOME/portolan/contexts`.
///
/// # Errors
/// [`ContextError::NoHome`].
pub fn directory() -> Result<PathBuf, ContextError> {
    let base = etcetera::choose_base_strategy().map_err(|_| ContextError::NoHome)?;
    Ok(base.config_dir().join("portolan/contexts"))
}

/// The file of a context: a bare name stands in [`directory`], anything with a slash or ending in `.toml` is a path.
///
/// # Errors
/// [`ContextError::NoHome`].
pub fn path_of(name: &str) -> Result<PathBuf, ContextError> {
    if name.contains('/') || name.ends_with(".toml") {
        return Ok(PathBuf::from(name));
    }
    Ok(directory()?.join(format!("{name}.toml")))
}

impl Context {
    /// Reads a context file.
    ///
    /// # Errors
    /// [`ContextError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        let text = files::read_text(path, MAX_FILE_BYTES).map_err(|error| match error.cause.kind() {
            std::io::ErrorKind::NotFound => ContextError::Missing { path: path.to_owned() },
            _ => error.into(),
        })?;
        toml::from_str(&text)
            .map_err(|error| ContextError::Content { path: path.to_owned(), reason: error.to_string() })
    }

    /// Writes it, 0600, replacing what stood there.
    ///
    /// # Errors
    /// [`ContextError::File`].
    pub fn store(&self, path: &Path) -> Result<(), ContextError> {
        if let Some(parent) = path.parent() {
            files::create_private_dir(parent)?;
        }
        let text = toml::to_string(self)
            .map_err(|error| ContextError::Content { path: path.to_owned(), reason: error.to_string() })?;
        Ok(files::write_private(path, text.as_bytes())?)
    }

    /// The operator's certificate and key.
    ///
    /// # Errors
    /// [`ContextError::Identity`]; `path` is for the message.
    pub fn identity(&self, path: &Path) -> Result<Identity, ContextError> {
        Ok(Identity::from_pem(&format!("{}{}", self.certificate, self.key), path)?)
    }

    /// The root to trust.
    ///
    /// # Errors
    /// [`ContextError::Content`]; `path` is for the message.
    pub fn root(&self, path: &Path) -> Result<CertificateDer<'static>, ContextError> {
        CertificateDer::from_pem_slice(self.ca.as_bytes())
            .map_err(|error| ContextError::Content { path: path.to_owned(), reason: format!("ca: {error}") })
    }
}
