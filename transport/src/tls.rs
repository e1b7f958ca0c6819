//! TLS settings that every party shares: TLS 1.3 only, aws-lc-rs everywhere, nothing resumed.

use crate::identity::Identity;
use crate::pin::PinVerifier;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// The one crypto provider of all binaries.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// For a client that is enrolled: trusts only `root`, shows `identity`.
///
/// # Errors
/// When the root is no certificate, or the identity's key does not fit its certificate.
pub fn client_config(
    root: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    Ok(finish(config))
}

/// For enrollment: trusts only what descends from the root whose SHA-256 is `pin`, shows nothing. The verifier keeps
/// the root that it found.
///
/// # Errors
/// None in practice; the provider might lack TLS 1.3.
pub fn pinned_config(pin: [u8; 32]) -> Result<(ClientConfig, Arc<PinVerifier>), rustls::Error> {
    let verifier = Arc::new(PinVerifier::new(pin, provider()));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    Ok((finish(config), verifier))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session is not verified again, so it would outlive a revocation.
    config.resumption = Resumption::disabled();
    config
}
