//! Whether certificates and keys fit together: a flipped bit in one of the files must be a message at the start, not a
//! handshake that fails on every satellite.

use super::PkiError;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use portolan_transport::identity::IdentityError;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use std::path::Path;
use x509_parser::prelude::*;

/// Says that a certificate was issued by another one, or by itself.
///
/// # Errors
/// When it was not, or is no longer what was signed; `path` is for the message.
pub(crate) fn check_signature(
    path: &Path,
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
) -> Result<(), PkiError> {
    let wrong = |why: &str| broken(path, why);
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| wrong("the certificate does not parse"))?;
    let (_, by) = X509Certificate::from_der(issuer).map_err(|_| wrong("its issuer's does not parse"))?;
    let signature = &parsed.signature_value;
    let is_whole =
        rest.is_empty() && frame(parsed.tbs_certificate.as_ref(), &signature.data) == certificate.as_ref();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &by.public_key().subject_public_key.data);
    if is_whole
        && parsed.issuer().as_raw() == by.subject().as_raw()
        && key.verify(parsed.tbs_certificate.as_ref(), &signature.data).is_ok()
    {
        return Ok(());
    }
    Err(wrong("the certificate's signature is wrong: it, or its issuer's, is not what it was"))
}

/// What the signature does not cover, as this authority writes it: the parser reads some of it leniently, and clients
/// compare certificates byte by byte.
fn frame(signed: &[u8], signature: &[u8]) -> Vec<u8> {
    const ECDSA_WITH_SHA256: [u8; 12] =
        [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let bits = u8::try_from(signature.len() + 1).unwrap_or(0);
    let content = [signed, &ECDSA_WITH_SHA256, &[0x03, bits, 0x00], signature].concat();
    let [high, low] = u16::try_from(content.len()).unwrap_or(0).to_be_bytes();
    [&[0x30, 0x82, high, low], content.as_slice()].concat()
}

/// Says that a private key is that of a certificate.
///
/// # Errors
/// When it is not; `path` is for the message.
pub(crate) fn check_key(
    path: &Path,
    key: &KeyPair,
    certificate: &CertificateDer<'_>,
) -> Result<(), PkiError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|_| broken(path, "the certificate of this key does not parse"))?;
    if key.der_bytes() == parsed.public_key().subject_public_key.data.as_ref() {
        return Ok(());
    }
    Err(broken(path, "the key is not that of its certificate"))
}

/// What to do about a file of `ca/`; whoever says it in other words takes it off.
pub(crate) const ADVICE: &str = "; put the file back from a backup (`portolan-server restore`)";

pub(crate) fn broken(path: &Path, why: &str) -> PkiError {
    PkiError::Identity(IdentityError::Content { path: path.to_owned(), reason: format!("{why}{ADVICE}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;
    use crate::pki::authority::Authority;
    use crate::pki::server_certificate;
    use jiff::Timestamp;
    use portolan_common::ids::DeploymentId;
    use portolan_transport::identity::Identity;
    use std::fs;

    struct Files {
        _dir: tempfile::TempDir,
        data: DataDir,
        id: DeploymentId,
    }

    fn files() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let id = DeploymentId(uuid::Uuid::from_u128(5));
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let authority = Authority::create(&data.ca(), id, now).unwrap();
        authority.issue_server(&["localhost".into()], now).unwrap().store(&data.server_identity()).unwrap();
        Files { _dir: dir, data, id }
    }

    impl Files {
        fn load(&self) -> Result<(Authority, Identity), PkiError> {
            let authority = Authority::load(&self.data.ca(), self.id)?;
            authority.check_root_key(&self.data.ca())?;
            let identity = server_certificate::load(&self.data.server_identity(), &authority)?;
            Ok((authority, identity))
        }
    }

    /// `deployment.toml` is a person's text: a flip that still parses there is not told from an edit.
    #[test]
    fn a_flipped_bit_in_a_certificate_or_key_changes_nothing_or_is_named() {
        let files = files();
        let (good, identity) = files.load().unwrap();
        let (mut harmless, mut refused) = (0, 0);
        let names = ["ca/root.crt", "ca/root.key", "ca/issuing.crt", "ca/issuing.key", "server.pem"];
        for name in names {
            let path = files.data.path().join(name);
            let content = fs::read(&path).unwrap();
            // Every byte, one of its bits after another.
            for at in 0..content.len() {
                let mut flipped = content.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(&path, &flipped).unwrap();
                match files.load() {
                    Ok((authority, read)) => {
                        harmless += 1;
                        assert_eq!((authority.root(), authority.issuing()), (good.root(), good.issuing()));
                        assert_eq!(read.chain[0], identity.chain[0], "{name}, byte {at}");
                    }
                    Err(error) => {
                        refused += 1;
                        let words = error.to_string();
                        assert!(words.contains(name), "{name}, byte {at}: {words}");
                    }
                }
            }
            fs::write(&path, &content).unwrap();
        }
        assert!(refused > 3000 && harmless > 0, "{refused} refused, {harmless} harmless");
    }

    #[test]
    fn files_of_two_servers_do_not_fit_together() {
        for name in ["ca/root.crt", "ca/root.key", "ca/issuing.crt", "ca/issuing.key", "server.pem"] {
            let (ours, theirs) = (files(), files());
            fs::copy(theirs.data.path().join(name), ours.data.path().join(name)).unwrap();
            assert!(ours.load().is_err(), "{name}");
        }
    }
}
