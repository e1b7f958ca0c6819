//! The certificate authority: a root, an issuing certificate under it, and what they sign. ECDSA P-256 throughout.
//!
//! Every certificate is built from parameters of ours alone: of a signing request only the public key is used
//! (RFC 5280; rcgen's own reading of a request would carry the requester's names, uses and CA flag along).

use super::{PkiError, proof};
use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::{DeploymentId, OperatorId, Role, SatelliteId, SpiffeId};
use portolan_transport::files::{self, FileError};
use portolan_transport::identity::{Identity, KeyRequest, chain_to_pem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName};
use std::net::IpAddr;
use std::path::Path;
use time::OffsetDateTime;

/// The root outlives the machines; replacing it means enrolling every satellite again.
const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 20);
const ISSUING_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// How long an operator's certificate is valid.
pub const OPERATOR_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// How long the server's own certificate is valid; the server renews it by itself.
pub const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Clocks in isolated segments are off by minutes; a fresh certificate must be valid there too.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);
/// The longest signing request that is read; one for P-256 has some 250 bytes.
pub const MAX_CSR_BYTES: usize = 4096;
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Signs leaf certificates with the issuing key.
pub struct Authority {
    deployment: DeploymentId,
    root: CertificateDer<'static>,
    issuing: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that was issued.
pub struct Issued {
    /// Leaf, then issuing certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The end of the leaf's validity.
    pub not_after: Timestamp,
    /// SHA-256 of the raw public key.
    pub key_fingerprint: [u8; 32],
}

impl Authority {
    /// Makes a new root and issuing certificate and writes them to `directory` (`root.crt`, `root.key`,
    /// `issuing.crt`, `issuing.key`).
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(directory: &Path, deployment: DeploymentId, now: Timestamp) -> Result<Self, PkiError> {
        let short: String = deployment.to_string().chars().take(8).collect();

        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut root = base_params(&format!("Portolan root {short}"), now, ROOT_LIFE)?;
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root_certificate = root.self_signed(&root_key)?;
        let root_issuer = Issuer::from_params(&root, &root_key);

        let issuing_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut issuing = base_params(&format!("Portolan issuing {short}"), now, ISSUING_LIFE)?;
        // A leaf under it can never be an authority, whatever it says of itself.
        issuing.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        issuing.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        issuing.use_authority_key_identifier_extension = true;
        let issuing_certificate = issuing.signed_by(&issuing_key, &root_issuer)?;

        files::create_private_dir(directory)?;
        for (name, content) in [
            ("root.key", root_key.serialize_pem()),
            ("root.crt", chain_to_pem(&[root_certificate.der().clone()])),
            ("issuing.key", issuing_key.serialize_pem()),
            ("issuing.crt", chain_to_pem(&[issuing_certificate.der().clone()])),
        ] {
            files::write_private(&directory.join(name), content.as_bytes())?;
        }
        Self::assemble(
            deployment,
            root_certificate.der().clone(),
            issuing_certificate.der().clone(),
            issuing_key,
        )
    }

    /// Reads what [`Authority::create`] wrote, and proves that it fits together. The root's key is not needed and may be
    /// kept elsewhere.
    ///
    /// # Errors
    /// When a file is missing, damaged, or does not fit the others.
    pub fn load(directory: &Path, deployment: DeploymentId) -> Result<Self, PkiError> {
        Self::from_files(directory, deployment, |path| files::read_text(path, MAX_FILE_BYTES))
    }

    /// The same of files that may be elsewhere: `read` gives the text of each.
    ///
    /// # Errors
    /// As [`Authority::load`].
    pub fn from_files(
        directory: &Path,
        deployment: DeploymentId,
        read: impl Fn(&Path) -> Result<String, FileError>,
    ) -> Result<Self, PkiError> {
        let certificate = |name: &str| -> Result<CertificateDer<'static>, PkiError> {
            let path = directory.join(name);
            let text = read(&path)?;
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| damaged(&path, &error))
        };
        let key_path = directory.join("issuing.key");
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|error| damaged(&key_path, &error))?;
        let (root, issuing) = (certificate("root.crt")?, certificate("issuing.crt")?);
        proof::check_signature(&directory.join("root.crt"), &root, &root)?;
        proof::check_signature(&directory.join("issuing.crt"), &issuing, &root)?;
        proof::check_key(&key_path, &key, &issuing)?;
        Self::assemble(deployment, root, issuing, key)
    }

    /// Proves that the root's key, where it is kept, is that of the root.
    ///
    /// # Errors
    /// When it is damaged, or another's.
    pub fn check_root_key(&self, directory: &Path) -> Result<(), PkiError> {
        let path = directory.join("root.key");
        if !path.exists() {
            return Ok(());
        }
        self.check_root_key_text(&files::read_text(&path, MAX_FILE_BYTES)?, &path)
    }

    /// The same of its text; `path` is for the message.
    ///
    /// # Errors
    /// As [`Authority::check_root_key`].
    pub fn check_root_key_text(&self, text: &str, path: &Path) -> Result<(), PkiError> {
        let key = KeyPair::from_pem(text).map_err(|error| damaged(path, &error))?;
        proof::check_key(path, &key, &self.root)
    }

    /// The certificate that signs all others.
    pub fn issuing(&self) -> &CertificateDer<'static> {
        &self.issuing
    }

    fn assemble(
        deployment: DeploymentId,
        root: CertificateDer<'static>,
        issuing: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_der(&issuing, key)?;
        Ok(Self { deployment, root, issuing, issuer })
    }

    /// The root certificate that everybody trusts.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The deployment it issues for.
    pub fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// Issues a satellite's certificate for the public key of `csr_der`.
    ///
    /// # Errors
    /// [`PkiError::Request`] when the request is too long, malformed, wrongly signed or over another kind of key.
    pub fn issue_satellite(
        &self,
        csr_der: &[u8],
        id: SatelliteId,
        name: &str,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, PkiError> {
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(PkiError::Request("it is too long"));
        }
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
                .map_err(|_| PkiError::Request("it is malformed or its signature is wrong"))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::Request("its key is not ECDSA P-256"));
        }
        request.params = self.client_params(Role::Satellite(id), name, life, now)?;
        let certificate = request.signed_by(&self.issuer)?;
        Ok(Issued {
            chain: vec![certificate.der().clone(), self.issuing.clone()],
            not_after: now + life,
            key_fingerprint: sha256(request.public_key.der_bytes()),
        })
    }

    /// Makes a key and certificate for an operator, here and now: for `init` and `admin`, which run where the
    /// operator's context is written.
    ///
    /// # Errors
    /// Only when the crypto provider fails.
    pub fn issue_operator(&self, id: OperatorId, name: &str, now: Timestamp) -> Result<Identity, PkiError> {
        let params = self.client_params(Role::Operator(id), name, OPERATOR_LIFE, now)?;
        self.sign_fresh_key(params, false)
    }

    /// Makes a key and certificate for the server, valid for every name.
    ///
    /// # Errors
    /// [`PkiError::Name`] for a name that no certificate can carry.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<Identity, PkiError> {
        let common_name = names.first().map(String::as_str).unwrap_or("portolan-server");
        let mut params = base_params(common_name, now, SERVER_LIFE)?;
        params.subject_alt_names.push(self.uri(Role::Server)?);
        for name in names {
            let wrong = || PkiError::Name(name.clone());
            params.subject_alt_names.push(match ServerName::try_from(name.as_str()) {
                Ok(ServerName::IpAddress(address)) => SanType::IpAddress(IpAddr::from(address)),
                Ok(_) => SanType::DnsName(name.clone().try_into().map_err(|_| wrong())?),
                Err(_) => return Err(wrong()),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // The root travels along, so that a satellite that knows only its pin finds it.
        self.sign_fresh_key(params, true)
    }

    fn sign_fresh_key(&self, params: CertificateParams, with_root: bool) -> Result<Identity, PkiError> {
        let request = KeyRequest::generate()?;
        let key = KeyPair::from_pem(&request.key_pem)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone(), self.issuing.clone()];
        if with_root {
            chain.push(self.root.clone());
        }
        Ok(request.into_identity(chain)?)
    }

    fn client_params(
        &self,
        role: Role,
        name: &str,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<CertificateParams, PkiError> {
        let mut params = base_params(name, now, life)?;
        params.subject_alt_names.push(self.uri(role)?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn uri(&self, role: Role) -> Result<SanType, PkiError> {
        let id = SpiffeId { deployment: self.deployment, role }.to_string();
        Ok(SanType::URI(id.clone().try_into().map_err(|_| PkiError::Name(id))?))
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Identity(portolan_transport::identity::IdentityError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Names, dates and a random serial of 127 bits (RFC 5280, section 4.1.2.2: positive, at most 20 octets).
fn base_params(
    common_name: &str,
    now: Timestamp,
    life: SignedDuration,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    // `CA:FALSE` in the certificate itself, for verifiers that read more into an absent extension than into a plain no.
    params.is_ca = IsCa::ExplicitNoCa;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Portolan");
    params.distinguished_name.push(DnType::CommonName, common_name);
    // A life of seconds, in a test, keeps its proportions.
    params.not_before = date(now - BACKDATE.min(life / 24))?;
    params.not_after = date(now + life)?;
    let mut serial = uuid::Uuid::new_v4().into_bytes();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn date(at: Timestamp) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| PkiError::Request("a date out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_common::ids::SpiffeId;
    use portolan_transport::identity::read_leaf;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn authority() -> (tempfile::TempDir, Authority, Timestamp) {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let authority =
            Authority::create(&dir.path().join("ca"), DeploymentId(uuid::Uuid::new_v4()), now).unwrap();
        (dir, authority, now)
    }

    /// The class of Teleport CVE-2025-49825 and SPIRE CVE-2021-27098.
    #[test]
    fn a_request_that_wants_to_be_an_authority_gets_a_plain_leaf() {
        let (_dir, authority, now) = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut wish = CertificateParams::new(vec!["server.example".into()]).unwrap();
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wish.distinguished_name.push(DnType::CommonName, "root");
        let csr = wish.serialize_request(&key).unwrap();

        let id = SatelliteId(uuid::Uuid::new_v4());
        let issued = authority.issue_satellite(csr.der(), id, "office-1", DAY * 30, now).unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        assert!(!leaf.is_ca());
        assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
        let uses = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(uses.client_auth && !uses.server_auth && !uses.any);
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 1, "no name of the requester's: {names:?}");

        let facts = read_leaf(&issued.chain[0]).unwrap();
        assert_eq!(
            facts.spiffe_id,
            SpiffeId { deployment: authority.deployment(), role: Role::Satellite(id) }
        );
        assert_eq!(facts.common_name, "office-1");
        assert_eq!(facts.not_after, now + DAY * 30);
    }

    #[test]
    fn requests_that_are_no_requests_are_refused() {
        let (_dir, authority, now) = authority();
        let id = SatelliteId(uuid::Uuid::new_v4());
        let good = KeyRequest::generate().unwrap().csr_der;
        let mut flipped = good.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let other_key = CertificateParams::default().serialize_request(&p384).unwrap();
        for bad in [vec![], vec![0; 10], flipped, vec![0x30; MAX_CSR_BYTES + 1], other_key.der().to_vec()] {
            assert!(matches!(authority.issue_satellite(&bad, id, "x", DAY, now), Err(PkiError::Request(_))));
        }
        assert!(authority.issue_satellite(&good, id, "x", DAY, now).is_ok());
    }

    #[test]
    fn it_loads_again_without_the_roots_key() {
        let (dir, authority, now) = authority();
        std::fs::remove_file(dir.path().join("ca/root.key")).unwrap();
        let again = Authority::load(&dir.path().join("ca"), authority.deployment()).unwrap();
        assert_eq!(again.root(), authority.root());
        again.issue_server(&["localhost".into(), "127.0.0.1".into()], now).unwrap();
        assert!(matches!(again.issue_server(&["no name".into()], now), Err(PkiError::Name(_))));
    }
}
