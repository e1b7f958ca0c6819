//! The certificate that the listener shows: replaced while connections live on.

use super::authority::Authority;
use super::{PkiError, proof};
use crate::data_dir::DataDir;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use portolan_transport::identity::{Identity, IdentityError};
use portolan_transport::tls;
use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::*;

/// Hands every new handshake the certificate of the moment.
#[derive(Debug)]
pub struct ServerCertificate {
    current: ArcSwap<Shown>,
}

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

/// What [`ServerCertificate::refresh`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing was to be done.
    Kept,
    /// The file on disk had changed and is shown from now on.
    Reloaded,
    /// A new certificate was made, for the reason given.
    Renewed(&'static str),
}

impl ServerCertificate {
    /// Loads the server's certificate, making one where there is none or where it no longer fits.
    ///
    /// # Errors
    /// When files cannot be read or written, or the file is damaged.
    pub fn open(
        data: &DataDir,
        authority: &Authority,
        names: &[String],
        now: Timestamp,
    ) -> Result<Self, PkiError> {
        let path = data.server_identity();
        let identity = if path.exists() {
            load(&path, authority).map_err(with_advice)?
        } else {
            let identity = authority.issue_server(names, now)?;
            identity.store(&path)?;
            identity
        };
        let certificate = Self { current: ArcSwap::from_pointee(shown(identity)?) };
        certificate.refresh(data, authority, names, now)?;
        Ok(certificate)
    }

    /// When the certificate of the moment expires.
    pub fn not_after(&self) -> Timestamp {
        self.current.load().not_after
    }

    /// Takes over a file that changed on disk; makes a new certificate when two thirds of the life are over or when
    /// the names changed. Live connections keep theirs.
    ///
    /// # Errors
    /// When files cannot be read or written; the certificate of the moment stays.
    pub fn refresh(
        &self,
        data: &DataDir,
        authority: &Authority,
        names: &[String],
        now: Timestamp,
    ) -> Result<Refresh, PkiError> {
        let path = data.server_identity();
        let on_disk = load(&path, authority)?;
        let changed = on_disk.chain != self.current.load().key.cert;
        let why = renewal_reason(&on_disk, names, now)?;
        if let Some(why) = why {
            let identity = authority.issue_server(names, now)?;
            identity.store(&path)?;
            self.current.store(Arc::new(shown(identity)?));
            return Ok(Refresh::Renewed(why));
        }
        if changed {
            self.current.store(Arc::new(shown(on_disk)?));
            return Ok(Refresh::Reloaded);
        }
        Ok(Refresh::Kept)
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

/// Reads the server's identity and proves that it is one that clients accept.
///
/// # Errors
/// When it is damaged, or was not issued by this authority.
pub fn load(path: &Path, authority: &Authority) -> Result<Identity, PkiError> {
    prove(Identity::load(path)?, path, authority)
}

/// The same of an identity that was read already; `path` is for the message.
///
/// # Errors
/// As [`load`].
pub fn prove(identity: Identity, path: &Path, authority: &Authority) -> Result<Identity, PkiError> {
    let [leaf, rest @ ..] = identity.chain.as_slice() else {
        return Err(proof::broken(path, "no certificate in it"));
    };
    if rest.first() != Some(authority.issuing()) || rest.get(1).is_some_and(|root| root != authority.root()) {
        return Err(proof::broken(path, "the issuing certificate or the root in it is not that in ca/"));
    }
    proof::check_signature(path, leaf, authority.issuing())?;
    let key =
        KeyPair::try_from(&identity.key).map_err(|_| proof::broken(path, "no usable private key in it"))?;
    proof::check_key(path, &key, leaf)?;
    Ok(identity)
}

/// Unlike the files of `ca/`, this one can be made anew.
fn with_advice(error: PkiError) -> PkiError {
    match error {
        PkiError::Identity(IdentityError::Content { path, reason }) => {
            let reason = reason.strip_suffix(proof::ADVICE).unwrap_or(&reason);
            let todo = "run `portolan-server doctor --repair`, which moves it aside; the server then makes a new one";
            PkiError::Identity(IdentityError::Content { path, reason: format!("{reason}; {todo}") })
        }
        error => error,
    }
}

fn shown(identity: Identity) -> Result<Shown, PkiError> {
    let not_after = identity.facts()?.not_after;
    let key = CertifiedKey::from_der(identity.chain, identity.key, &tls::provider())?;
    Ok(Shown { key: Arc::new(key), not_after })
}

fn renewal_reason(
    identity: &Identity,
    names: &[String],
    now: Timestamp,
) -> Result<Option<&'static str>, PkiError> {
    let facts = identity.facts()?;
    let life = facts.not_before.duration_until(facts.not_after);
    if now >= facts.not_before + life * 2 / 3 {
        return Ok(Some("two thirds of its life are over"));
    }
    let mut carried = names_of(identity);
    let mut wanted: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    carried.sort();
    wanted.sort();
    wanted.dedup();
    Ok((carried != wanted).then_some("the server's names changed"))
}

/// The DNS names and addresses of the leaf, as `deployment.toml` spells them.
fn names_of(identity: &Identity) -> Vec<String> {
    let Some(Ok((_, leaf))) = identity.chain.first().map(|der| X509Certificate::from_der(der)) else {
        return Vec::new();
    };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use portolan_common::ids::DeploymentId;

    #[test]
    fn it_is_renewed_in_time_and_when_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let authority = Authority::create(&data.ca(), DeploymentId(uuid::Uuid::new_v4()), now).unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "fd00::1".to_owned()];
        let certificate = ServerCertificate::open(&data, &authority, &names, now).unwrap();
        let refresh = |names: &[String], days: i64| {
            let later = now + SignedDuration::from_hours(24 * days);
            certificate.refresh(&data, &authority, names, later).unwrap()
        };
        assert_eq!(refresh(&names, 1), Refresh::Kept);
        assert!(matches!(refresh(&names, 61), Refresh::Renewed("two thirds of its life are over")));
        assert!(matches!(refresh(&names[..1], 62), Refresh::Renewed("the server's names changed")));
        assert_eq!(refresh(&names[..1], 63), Refresh::Kept);

        authority.issue_server(&names[..1], now).unwrap().store(&data.server_identity()).unwrap();
        assert_eq!(refresh(&names[..1], 1), Refresh::Reloaded);
    }
}
