//! A certificate with its private key, and the making of both: the key is made where it is used and never leaves.

use crate::files::{self, FileError};
use jiff::Timestamp;
use portolan_common::ids::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};

/// The longest identity file that is read.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// A certificate chain, leaf first, with the leaf's private key.
#[derive(Debug)]
pub struct Identity {
    /// Leaf, then the issuing certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: PrivateKeyDer<'static>,
}

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file's content is no identity.
    #[error("{} holds no usable certificate and key: {reason}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate of ours cannot be read.
    #[error("a certificate cannot be read: {0}")]
    Certificate(String),
    /// The key generator or the signing request failed.
    #[error("cannot make a key and signing request: {0}")]
    Generate(#[from] rcgen::Error),
}

/// A fresh key with the signing request that asks for its certificate.
pub struct KeyRequest {
    /// PKCS#8, PEM: to be kept.
    pub key_pem: String,
    /// PKCS#10, DER: to be sent. It carries the public key and no wishes.
    pub csr_der: Vec<u8>,
}

impl KeyRequest {
    /// Makes an ECDSA P-256 key.
    ///
    /// # Errors
    /// Only when the crypto provider fails.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::for_key(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    /// A signing request for a key that was made before: an enrollment tried again.
    ///
    /// # Errors
    /// When the text holds no private key.
    pub fn from_key_pem(pem: &str) -> Result<Self, IdentityError> {
        Self::for_key(&KeyPair::from_pem(pem)?)
    }

    fn for_key(key: &KeyPair) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_der: csr.der().to_vec() })
    }

    /// Joins the key with the chain that was issued for it.
    ///
    /// # Errors
    /// When the key cannot be read back.
    pub fn into_identity(self, chain: Vec<CertificateDer<'static>>) -> Result<Identity, IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        Ok(Identity { chain, key })
    }
}

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    /// The one SPIFFE ID among its URI names.
    pub spiffe_id: SpiffeId,
    /// The subject's common name; empty if there is none.
    pub common_name: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Reads a leaf certificate.
///
/// # Errors
/// When it is no X.509 certificate with exactly one URI name that is a Portolan SPIFFE ID
/// (X.509-SVID specification, section 2).
pub fn read_leaf(certificate: &CertificateDer<'_>) -> Result<LeafFacts, IdentityError> {
    use x509_parser::prelude::*;
    let wrong = |why: &str| IdentityError::Certificate(why.to_owned());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| wrong(&error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| wrong(&error.to_string()))?
        .ok_or_else(|| wrong("it has no subject alternative name"))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(wrong("it needs exactly one URI name"));
    };
    let time = |t: ASN1Time| Timestamp::from_second(t.timestamp()).map_err(|error| wrong(&error.to_string()));
    Ok(LeafFacts {
        spiffe_id: uri
            .parse()
            .map_err(|error: portolan_common::ids::SpiffeIdError| wrong(&error.to_string()))?,
        common_name: parsed
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        not_before: time(parsed.validity().not_before)?,
        not_after: time(parsed.validity().not_after)?,
    })
}

impl Identity {
    /// Reads certificates (leaf first) and a key from PEM text.
    ///
    /// # Errors
    /// When either is missing or damaged; `path` is for the message.
    pub fn from_pem(text: &str, path: &Path) -> Result<Self, IdentityError> {
        let wrong = |reason: String| IdentityError::Content { path: path.to_owned(), reason };
        let chain = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(error.to_string()))?;
        if chain.is_empty() {
            return Err(wrong("no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| wrong(format!("no private key in it ({error})")))?;
        Ok(Self { chain, key })
    }

    /// Reads one file that holds chain and key, as [`Identity::store`] writes it.
    ///
    /// # Errors
    /// When the file cannot be read or holds no identity.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&files::read_text(path, MAX_FILE_BYTES)?, path)
    }

    /// Writes chain and key into one file, so that both are replaced in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), IdentityError> {
        Ok(files::write_private(path, self.to_pem().as_bytes())?)
    }

    /// Chain and key as PEM.
    pub fn to_pem(&self) -> String {
        format!("{}{}", chain_to_pem(&self.chain), to_pem("PRIVATE KEY", self.key.secret_der()))
    }

    /// What the leaf says.
    ///
    /// # Errors
    /// As [`read_leaf`].
    pub fn facts(&self) -> Result<LeafFacts, IdentityError> {
        read_leaf(self.chain.first().ok_or_else(|| IdentityError::Certificate("the chain is empty".into()))?)
    }
}

/// Certificates as PEM, in order.
pub fn chain_to_pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|certificate| to_pem("CERTIFICATE", certificate)).collect()
}

fn to_pem(label: &str, der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new(label, der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}
