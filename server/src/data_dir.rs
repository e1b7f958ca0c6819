//! What stands where in the server's data directory, and the lock that keeps a second server out.

use jiff::Timestamp;
use portolan_common::ids::DeploymentId;
use portolan_transport::files::{self, FileError};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The port that clients dial when a name carries none.
pub const DEFAULT_PORT: u16 = 8443;

/// Paths inside the data directory.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// `deployment.toml`: what identifies the deployment. Its `names` may be edited; a running server takes them over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Part of every identity; never changes.
    pub id: String,
    /// `HOST[:PORT]`: where clients find the server.
    pub names: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Never initialised.
    #[error(
        "{} holds no Portolan server: run `portolan-server init --data-dir DIR --name HOST` first",
        .0.display()
    )]
    NotInitialised(PathBuf),
    /// `deployment.toml` is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another server runs on it.
    #[error("another portolan-server{holder} is running on {}: stop it first, or use another --data-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// ` (process N)`, or empty.
        holder: String,
    },
}

impl DataDir {
    /// Names the directory; touches nothing.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The certificate authority's directory.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    /// The server's certificate and key.
    pub fn server_identity(&self) -> PathBuf {
        self.0.join("server.pem")
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// The deployment's file.
    pub fn deployment_file(&self) -> PathBuf {
        self.0.join("deployment.toml")
    }

    /// The socket on which a running server answers whoever may read this directory.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Where the hourly exports are.
    pub fn exports(&self) -> PathBuf {
        self.0.join("exports")
    }

    /// The journal of revocations.
    pub fn revocations(&self) -> PathBuf {
        self.0.join(crate::revocations::FILE)
    }

    /// Reads `deployment.toml`.
    ///
    /// # Errors
    /// When it is missing (never initialised) or damaged.
    pub fn deployment(&self) -> Result<(DeploymentId, Deployment), DataDirError> {
        let path = self.deployment_file();
        if !path.exists() {
            return Err(DataDirError::NotInitialised(self.0.clone()));
        }
        let text = files::read_text(&path, 1024 * 1024)?;
        let damaged = |reason: String| DataDirError::Damaged { path: path.clone(), reason };
        let deployment: Deployment = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let id = deployment.id.parse().map_err(|_| damaged("its id is no UUID".into()))?;
        if deployment.names.is_empty() {
            return Err(damaged("it names no address under which clients find the server".into()));
        }
        for name in &deployment.names {
            split_name(name).map_err(|error| damaged(error.to_string()))?;
        }
        Ok((id, deployment))
    }

    /// Takes the directory for this process until the lock is dropped.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] while another process has it.
    pub fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.0.join("lock");
        let on = |action| FileError::on(action, &path);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(on("open the lock"))?;
        match file.try_lock() {
            Ok(()) => {
                // Only told to whoever comes second; a full disk is no reason not to start.
                let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                Ok(DataDirLock { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.rewind();
                let _ = file.take(20).read_to_string(&mut pid);
                let holder = pid.parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
                Err(DataDirError::Locked { path: self.0.clone(), holder })
            }
            Err(TryLockError::Error(error)) => Err(on("lock")(error).into()),
        }
    }
}

/// Holds the data directory; the kernel releases it even when the process dies.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// A server name that is not `HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form HOST or HOST:PORT (an IPv6 address with a port: [ADDRESS]:PORT)")]
pub struct NameError(pub String);

/// Splits `HOST[:PORT]` into the host, brackets removed, and the port ([`DEFAULT_PORT`] when there is none).
///
/// # Errors
/// [`NameError`] unless the host is an address or a DNS name.
pub fn split_name(text: &str) -> Result<(String, u16), NameError> {
    let wrong = || NameError(text.to_owned());
    let (host, port) = match portolan_transport::dial::split_host_port(text) {
        Some((host, port)) => (host, port),
        None => {
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            if bare.contains(':') && bare.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong());
            }
            (bare, DEFAULT_PORT)
        }
    };
    let known = rustls::pki_types::ServerName::try_from(host).is_ok();
    // An address has one spelling, or the certificate would seem to lack it for ever.
    let host = match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    };
    if known { Ok((host, port)) } else { Err(wrong()) }
}

/// The addresses that clients dial: `HOST:PORT`, IPv6 in brackets.
///
/// # Errors
/// [`NameError`] for the first name that is none.
pub fn dial_addresses(names: &[String]) -> Result<Vec<String>, NameError> {
    names
        .iter()
        .map(|name| {
            let (host, port) = split_name(name)?;
            Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
        })
        .collect()
}

/// The hosts that the server's certificate must name, without repetition.
///
/// # Errors
/// [`NameError`] for the first name that is none.
pub fn certificate_names(names: &[String]) -> Result<Vec<String>, NameError> {
    let mut hosts = Vec::new();
    for name in names {
        let (host, _) = split_name(name)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(split_name("Portolan.Example"), Ok(("portolan.example".into(), DEFAULT_PORT)));
        assert_eq!(split_name("a:1"), Ok(("a".into(), 1)));
        assert_eq!(split_name("fd00::1"), Ok(("fd00::1".into(), DEFAULT_PORT)));
        assert_eq!(split_name("[FD00:0:0::1]:9"), Ok(("fd00::1".into(), 9)));
        assert_eq!(split_name("[fd00::1]:9"), Ok(("fd00::1".into(), 9)));
        for wrong in ["", "a:b", "a:0", ":1", "a b", "a:1:2", "[fd00::1", "-x-"] {
            assert!(split_name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(dial_addresses(&["fd00::1".into(), "a:1".into()]).unwrap(), ["[fd00::1]:8443", "a:1"]);
    }

    #[test]
    fn the_lock_keeps_a_second_one_out() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let lock = data.lock().unwrap();
        let error = data.lock().unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        data.lock().unwrap();
    }
}
