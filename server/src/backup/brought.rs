//! The files that a backup brings besides the store, and whether they fit together: looked at in memory, before anything on
//! the disk is touched.

use crate::data_dir::DataDir;
use crate::pki::PkiError;
use crate::pki::authority::Authority;
use crate::pki::server_certificate;
use crate::store::{self, DumpError, Part, StoreError};
use portolan_common::ids::DeploymentId;
use portolan_transport::files::FileError;
use portolan_transport::identity::Identity;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// The files of a data directory that a backup brings.
pub(super) struct Brought(pub BTreeMap<String, Vec<u8>>);

impl Brought {
    pub(super) fn read(file: &Path, stop: &CancellationToken) -> Result<Self, DumpError> {
        let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        store::read(file, |part| {
            if stop.is_cancelled() {
                return Err(StoreError::Closed);
            }
            if let Part::File { path, content } = part {
                all.entry(path).or_default().extend(content);
            }
            Ok(())
        })?;
        Ok(Self(all))
    }

    fn text(&self, path: &Path) -> Result<String, FileError> {
        let content = path.to_str().and_then(|name| self.0.get(name));
        let content = content.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        content
            .and_then(|bytes| String::from_utf8(bytes.clone()).map_err(io::Error::other))
            .map_err(FileError::on("read", path))
    }

    fn authority(&self, deployment: DeploymentId) -> Result<Authority, PkiError> {
        Authority::from_files(Path::new("ca"), deployment, |path| self.text(path))
    }

    /// Everything that cannot be made anew: the deployment, and the certificate authority with its keys.
    pub(super) fn check(&self, deployment: DeploymentId) -> Result<(), String> {
        let name = Path::new("deployment.toml");
        let text = self.text(name).map_err(|error| error.to_string())?;
        let (id, _) = DataDir::parse_deployment(&text, name).map_err(|error| error.to_string())?;
        if id != deployment {
            return Err(format!("deployment.toml is of deployment {id}, the store of {deployment}"));
        }
        let check = || {
            let authority = self.authority(deployment)?;
            let root_key = Path::new("ca/root.key");
            match self.0.contains_key("ca/root.key") {
                true => authority.check_root_key_text(&self.text(root_key)?, root_key),
                false => Ok(()),
            }
        };
        check().map_err(|error: PkiError| error.without_advice())
    }

    /// The server's certificate and key, where there are any.
    pub(super) fn check_server_key(&self, deployment: DeploymentId) -> Result<(), String> {
        let name = Path::new("server.pem");
        if !self.0.contains_key("server.pem") {
            return Ok(());
        }
        let check = || {
            let identity = Identity::from_pem(&self.text(name)?, name)?;
            server_certificate::prove(identity, name, &self.authority(deployment)?).map(|_| ())
        };
        check().map_err(|error: PkiError| error.without_advice())
    }
}
