//! What stands where in the satellite's data directory.

use portolan_transport::files::{self, FileError};
use portolan_transport::identity::{Identity, IdentityError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Paths inside the data directory.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// `enrollment.json`: what enrolling brought, beside the identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrollment {
    /// `HOST:PORT`, tried in order.
    pub servers: Vec<String>,
    /// The HTTP proxy in between, if any; it may carry credentials.
    pub proxy: Option<String>,
    /// The satellite's name, for its log.
    pub name: String,
}

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Never enrolled.
    #[error(
        "{} holds no enrolled satellite: run `portolan-satellite enroll TOKEN --data-dir DIR` first (`portolan \
         satellite add NAME --segment SEG` prints a token)",
        .0.display()
    )]
    NotEnrolled(PathBuf),
    /// A file is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another satellite runs on it.
    #[error("another portolan-satellite is running on {}: stop it first, or use another --data-dir", .0.display())]
    Locked(PathBuf),
}

const MAX_FILE_BYTES: u64 = 256 * 1024;

impl DataDir {
    /// Names the directory; touches nothing.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Certificate chain and key.
    pub fn identity_file(&self) -> PathBuf {
        self.0.join("identity.pem")
    }

    /// The deployment's root certificate.
    pub fn root_file(&self) -> PathBuf {
        self.0.join("root.crt")
    }

    /// The key of an enrollment that is not finished: kept, so that it can be tried again with the same token.
    pub fn pending_key_file(&self) -> PathBuf {
        self.0.join("enroll.key")
    }

    /// What enrolling brought.
    pub fn enrollment_file(&self) -> PathBuf {
        self.0.join("enrollment.json")
    }

    /// The last assignment.
    pub fn assignment_file(&self) -> PathBuf {
        self.0.join("assignment.bin")
    }

    /// The last assignment as earlier versions kept it.
    pub fn old_assignment_file(&self) -> PathBuf {
        self.0.join("assignment.json")
    }

    /// The spool's own directory.
    pub fn spool_dir(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// The administrator's file, unless `--config` names another.
    pub fn default_config_file(&self) -> PathBuf {
        self.0.join("satellite.toml")
    }

    /// Whether a satellite is enrolled here.
    pub fn is_enrolled(&self) -> bool {
        self.identity_file().exists()
    }

    /// Reads what enrolling brought.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn enrollment(&self) -> Result<Enrollment, DataDirError> {
        if !self.is_enrolled() {
            return Err(DataDirError::NotEnrolled(self.0.clone()));
        }
        let path = self.enrollment_file();
        serde_json::from_str(&files::read_text(&path, MAX_FILE_BYTES)?)
            .map_err(|error| DataDirError::Damaged { path, reason: error.to_string() })
    }

    /// Reads the identity.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn identity(&self) -> Result<Identity, DataDirError> {
        if !self.is_enrolled() {
            return Err(DataDirError::NotEnrolled(self.0.clone()));
        }
        Ok(Identity::load(&self.identity_file())?)
    }

    /// Reads the root certificate.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn root(&self) -> Result<CertificateDer<'static>, DataDirError> {
        let path = self.root_file();
        CertificateDer::from_pem_slice(files::read_text(&path, MAX_FILE_BYTES)?.as_bytes())
            .map_err(|error| DataDirError::Damaged { path, reason: error.to_string() })
    }

    /// Takes the directory for this process until the file is dropped.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] while another process has it.
    pub fn lock(&self) -> Result<File, DataDirError> {
        let path = self.0.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(FileError::on("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(DataDirError::Locked(self.0.clone())),
            Err(TryLockError::Error(error)) => Err(FileError::on("lock", &path)(error).into()),
        }
    }
}
