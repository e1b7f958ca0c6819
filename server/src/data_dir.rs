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

/// What `deployment.toml` has at most.
pub const MAX_DEPLOYMENT_BYTES: u64 = 1024 * 1024;

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
    /// Nothing of a server.
    #[error("{} holds no Portolan server: name the server's data directory with --data-dir DIR", .0.display())]
    NotInitialised(PathBuf),
    /// A server that lost the file that says which one it is.
    #[error(
        "deployment.toml is missing in {}, the rest of a server is here: put the file back from a backup (`portolan-server \
         restore BACKUP --data-dir NEW` into a new directory, then copy it from there); nothing was touched",
        .0.display()
    )]
    Headless(PathBuf),
    /// A `restore` died half-way.
    #[error(
        "an interrupted restore is in {}: run `portolan-server restore` again with the same --data-dir, or remove the directory",
        .0.display()
    )]
    HalfRestored(PathBuf),
    /// An `init` died half-way.
    #[error(
        "an interrupted init is in {}: run `portolan-server init` again with the same --data-dir, or remove the directory",
        .0.display()
    )]
    HalfInitialised(PathBuf),
    /// It is a satellite's.
    #[error(
        "{} is a satellite's data directory (it has an enrollment.json): name the server's with --data-dir DIR",
        .0.display()
    )]
    Satellite(PathBuf),
    /// `deployment.toml` is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process has it.
    #[error("{}", locked(path, *work, holder))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What it does.
        work: Work,
        /// ` (process N)`, or empty.
        holder: String,
    },
}

/// What a process holds the data directory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// `run`.
    Server,
    /// `backup`, while no server runs.
    Backup,
    /// `restore`.
    Restore,
    /// `doctor`.
    Doctor,
    /// `init`.
    Init,
}

impl Work {
    const COMMANDS: [(&'static str, Self); 4] = [
        ("backup", Self::Backup),
        ("restore", Self::Restore),
        ("doctor", Self::Doctor),
        ("init", Self::Init),
    ];

    /// How it is told in the lock; a server's lock holds its process number alone.
    fn name(self) -> &'static str {
        Self::COMMANDS.iter().find(|(_, work)| *work == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Self {
        Self::COMMANDS.iter().find(|(known, _)| *known == name).map_or(Self::Server, |(_, work)| *work)
    }
}

fn locked(path: &Path, work: Work, holder: &str) -> String {
    let path = path.display();
    match work {
        Work::Server => format!(
            "another portolan-server{holder} is running on {path}: stop it first, or use another --data-dir"
        ),
        Work::Backup => format!("a backup is under way{holder} on {path}: wait until it is done"),
        Work::Restore => format!("a restore is under way{holder} on {path}: wait until it is done"),
        Work::Doctor => {
            format!("`portolan-server doctor` is at work{holder} on {path}: wait until it is done")
        }
        Work::Init => format!("`portolan-server init` is at work{holder} on {path}: wait until it is done"),
    }
}

/// What makes a data directory of nothing. It writes a marker first, which holds what `deployment.toml` will say and
/// becomes it at the very end: as long as it stands under its own name, nothing else there was ever used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// `init`.
    Init,
    /// `restore`.
    Restore,
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

    /// The file that stands there while a server is being made.
    pub fn marker(&self, making: Making) -> PathBuf {
        self.0.join(match making {
            Making::Init => "deployment.toml.init",
            Making::Restore => "deployment.toml.restore",
        })
    }

    /// The end of an `init` or `restore`, in one step: what its marker says is the server from now on.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn finish(&self, making: Making) -> Result<(), FileError> {
        let path = self.deployment_file();
        let renamed = std::fs::rename(self.marker(making), &path);
        renamed.and_then(|()| File::open(&self.0)?.sync_all()).map_err(FileError::on("write", &path))
    }

    /// What a directory without `deployment.toml` is, if it can be looked into.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn without_deployment(&self) -> Result<DataDirError, FileError> {
        let path = self.0.clone();
        let mut names = Vec::new();
        match std::fs::read_dir(&self.0) {
            Ok(entries) => names.extend(entries.filter_map(Result::ok).map(|entry| entry.file_name())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::on("read", &self.0)(error)),
        }
        let has = |name: &str| names.iter().any(|known| known == name);
        // Who cannot look into it cannot say that it is empty.
        let is_filled = |path: &Path| match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        Ok(if self.marker(Making::Restore).exists() {
            DataDirError::HalfRestored(path)
        } else if self.marker(Making::Init).exists() {
            DataDirError::HalfInitialised(path)
        } else if is_filled(&self.ca()) || is_filled(&self.store()) || has("server.pem") {
            DataDirError::Headless(path)
        } else if has("enrollment.json") {
            DataDirError::Satellite(path)
        } else {
            DataDirError::NotInitialised(path)
        })
    }

    /// Reads `deployment.toml`.
    ///
    /// # Errors
    /// When it is missing, which is told by what else is there, or damaged.
    pub fn deployment(&self) -> Result<(DeploymentId, Deployment), DataDirError> {
        let path = self.deployment_file();
        match files::read_text(&path, MAX_DEPLOYMENT_BYTES) {
            Ok(text) => Self::parse_deployment(&text, &path),
            Err(error) if error.cause.kind() == std::io::ErrorKind::NotFound => {
                Err(self.without_deployment()?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what `deployment.toml` says; `path` is for the message.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn parse_deployment(text: &str, path: &Path) -> Result<(DeploymentId, Deployment), DataDirError> {
        let damaged = |reason: String| DataDirError::Damaged { path: path.to_owned(), reason };
        let deployment: Deployment = toml::from_str(text).map_err(|error| damaged(error.to_string()))?;
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
        self.lock_for(Work::Server)
    }

    /// The same, and whoever comes second is told what for.
    ///
    /// # Errors
    /// As [`DataDir::lock`].
    pub fn lock_for(&self, work: Work) -> Result<DataDirLock, DataDirError> {
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
                let words = format!("{} {}", std::process::id(), work.name());
                let _ = file.set_len(0).and_then(|()| file.write_all(words.trim_end().as_bytes()));
                Ok(DataDirLock { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut words = String::new();
                let _ = file.rewind();
                let _ = file.take(40).read_to_string(&mut words);
                let (pid, work) = words.split_once(' ').unwrap_or((&words, ""));
                let holder = pid.parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
                Err(DataDirError::Locked { path: self.0.clone(), work: Work::named(work), holder })
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

    #[test]
    fn a_directory_without_its_deployment_is_told_by_what_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let of = |entries: &[&str]| {
            let name = format!("of-{}", entries.concat().replace('/', "-"));
            let data = DataDir::new(&dir.path().join(name));
            for entry in entries {
                let path = data.path().join(entry);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            }
            data.deployment().unwrap_err()
        };
        assert!(matches!(of(&[]), DataDirError::NotInitialised(_)));
        assert!(matches!(of(&["lock", "thesis.tex"]), DataDirError::NotInitialised(_)));
        assert!(matches!(of(&["ca/root.key"]), DataDirError::Headless(_)));
        assert!(matches!(of(&["store/db"]), DataDirError::Headless(_)));
        assert!(matches!(of(&["server.pem"]), DataDirError::Headless(_)));
        assert!(matches!(of(&["ca/root.key", "deployment.toml.restore"]), DataDirError::HalfRestored(_)));
        assert!(matches!(of(&["ca/root.key", "deployment.toml.init"]), DataDirError::HalfInitialised(_)));
        assert!(matches!(of(&["enrollment.json"]), DataDirError::Satellite(_)));
        assert!(matches!(of(&["deployment.toml"]), DataDirError::Damaged { .. }));
    }

    #[test]
    fn what_cannot_be_looked_into_is_not_called_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        // What the kernel says of a path through a file, as it does of a directory of somebody else's.
        let error = DataDir::new(&dir.path().join("file")).deployment().unwrap_err();
        assert!(matches!(error, DataDirError::File(_)), "{error}");
    }

    #[test]
    fn whoever_holds_the_lock_is_named_by_what_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let pid = std::process::id();
        for (work, words) in [
            (Work::Backup, format!("a backup is under way (process {pid})")),
            (Work::Restore, format!("a restore is under way (process {pid})")),
            (Work::Doctor, format!("doctor` is at work (process {pid})")),
            (Work::Server, format!("portolan-server (process {pid}) is running")),
        ] {
            let _lock = data.lock_for(work).unwrap();
            let error = data.lock().unwrap_err().to_string();
            assert!(error.contains(&words), "{error}");
        }
    }
}
