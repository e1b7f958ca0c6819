//! `init` and `admin`: what is done on the server's machine before or beside the running server.

use crate::data_dir::{self, DataDir, DataDirError, Deployment, Making, NameError, Work};
use crate::pki::PkiError;
use crate::pki::authority::{Authority, OPERATOR_LIFE};
use crate::store::{Store, StoreError};
use jiff::Timestamp;
use portolan_common::ids::{DeploymentId, OperatorId};
use portolan_transport::context::{self, Context, ContextError};
use portolan_transport::files::{self, FileError};
use portolan_transport::identity::chain_to_pem;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// An `init` or `admin` that failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is a server already.
    #[error(
        "{} already holds a Portolan server and was left untouched: run it with `portolan-server run`, or choose \
         another --data-dir",
        .0.display()
    )]
    Exists(PathBuf),
    /// The directory holds something else.
    #[error("{} is not empty and holds no Portolan server: choose an empty or new directory", .0.display())]
    NotEmpty(PathBuf),
    /// The operator's context file exists.
    #[error(
        "the console context {} exists already and was left untouched: move it away, or name another file with \
         --admin-out FILE",
        .0.display()
    )]
    ContextExists(PathBuf),
    /// A name is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The context cannot be written.
    #[error(transparent)]
    Context(#[from] ContextError),
}

/// What `init` made.
#[derive(Debug)]
pub struct Initialised {
    /// The new deployment.
    pub deployment: DeploymentId,
    /// The first operator's context file.
    pub context: PathBuf,
    /// Where clients will look for the server.
    pub dial_addresses: Vec<String>,
}

/// Makes certificate authority, server certificate, store and the first operator's context. Everything that can be
/// refused is refused before anything is written. A marker comes first and becomes `deployment.toml` at the end, so that
/// a directory with it is whole, and nothing is ever removed but what an `init` that died half-way left.
///
/// # Errors
/// [`InitError`].
pub fn init(
    data: &DataDir,
    names: &[String],
    admin_out: Option<&Path>,
    now: Timestamp,
) -> Result<Initialised, InitError> {
    let dial_addresses = data_dir::dial_addresses(names)?;
    let hosts = data_dir::certificate_names(names)?;
    refuse_what_is_there(data)?;
    let context_path = new_context_path(admin_out)?;
    files::create_private_dir(data.path())?;
    let occupied = std::fs::read_dir(data.path())
        .map_err(FileError::on("read", data.path()))?
        .filter_map(Result::ok)
        .any(|entry| !is_leftover(&entry.file_name().to_string_lossy()));
    if occupied {
        return Err(InitError::NotEmpty(data.path().to_owned()));
    }
    let _lock = data.lock_for(Work::Init)?;
    // Somebody may have been quicker.
    refuse_what_is_there(data)?;
    remove_leftovers(data)?;

    let id = DeploymentId(Uuid::new_v4());
    let deployment = Deployment { id: id.to_string(), names: names.to_vec(), created_at: now };
    let text = toml::to_string(&deployment)
        .map_err(|error| DataDirError::Damaged { path: data.deployment_file(), reason: error.to_string() })?;
    let text = format!(
        "# The identity of this Portolan deployment. `names` may be edited: a running server takes them over.\n{text}"
    );
    files::write_private(&data.marker(Making::Init), text.as_bytes())?;
    let authority = Authority::create(&data.ca(), id, now)?;
    authority.issue_server(&hosts, now)?.store(&data.server_identity()).map_err(PkiError::from)?;
    Store::create(&data.store())?;
    write_operator_context(&authority, &dial_addresses, "admin", &context_path, now)?;
    if let Err(error) = data.finish(Making::Init) {
        // Or the next try would find a context of a deployment that never was.
        let _ = std::fs::remove_file(&context_path);
        return Err(error.into());
    }
    Ok(Initialised { deployment: id, context: context_path, dial_addresses })
}

/// A server, whole or not, is never overwritten: only an `init` that died half-way is.
fn refuse_what_is_there(data: &DataDir) -> Result<(), InitError> {
    match data.deployment() {
        Err(DataDirError::NotInitialised(_) | DataDirError::HalfInitialised(_)) => Ok(()),
        Ok(_) | Err(DataDirError::Damaged { .. }) => Err(InitError::Exists(data.path().to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// What an `init` that died half-way leaves behind.
fn is_leftover(name: &str) -> bool {
    matches!(name, "ca" | "store" | "high-water" | "lock" | "server.pem" | "deployment.toml.init")
        || name.ends_with(".tmp")
}

/// As long as its marker stands, nothing of it was ever used; without the marker, both are empty.
fn remove_leftovers(data: &DataDir) -> Result<(), InitError> {
    for directory in [data.ca(), data.store()] {
        if directory.exists() {
            std::fs::remove_dir_all(&directory).map_err(FileError::on("remove the leftover", &directory))?;
        }
    }
    Ok(())
}

/// What `admin` made.
#[derive(Debug)]
pub struct IssuedOperator {
    /// The context file.
    pub context: PathBuf,
    /// When its certificate expires.
    pub expires: Timestamp,
}

/// Issues a new operator's certificate, also beside a running server.
///
/// # Errors
/// [`InitError`].
pub fn admin(
    data: &DataDir,
    name: &str,
    admin_out: Option<&Path>,
    now: Timestamp,
) -> Result<IssuedOperator, InitError> {
    let (id, deployment) = data.deployment()?;
    let authority = Authority::load(&data.ca(), id)?;
    let context = new_context_path(admin_out)?;
    let dial_addresses = data_dir::dial_addresses(&deployment.names)?;
    write_operator_context(&authority, &dial_addresses, name, &context, now)?;
    Ok(IssuedOperator { context, expires: now + OPERATOR_LIFE })
}

fn new_context_path(admin_out: Option<&Path>) -> Result<PathBuf, InitError> {
    let path = match admin_out {
        Some(path) => path.to_owned(),
        None => context::path_of(context::DEFAULT)?,
    };
    if path.exists() { Err(InitError::ContextExists(path)) } else { Ok(path) }
}

fn write_operator_context(
    authority: &Authority,
    servers: &[String],
    name: &str,
    path: &Path,
    now: Timestamp,
) -> Result<(), InitError> {
    let identity = authority.issue_operator(OperatorId(Uuid::now_v7()), name, now)?;
    let chain = chain_to_pem(&identity.chain);
    let pem = identity.to_pem();
    let context = Context {
        servers: servers.to_vec(),
        ca: chain_to_pem(std::slice::from_ref(authority.root())),
        key: pem.strip_prefix(&chain).unwrap_or(&pem).to_owned(),
        certificate: chain,
    };
    Ok(context.store(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// The class of CVE-2026-24414: key files that others can read.
    #[test]
    fn everything_it_writes_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        let out = dir.path().join("admin.toml");
        init(&data, &["localhost".into()], Some(&out), Timestamp::now()).unwrap();
        let mut waiting = vec![data.path().to_owned(), out];
        while let Some(path) = waiting.pop() {
            let metadata = std::fs::metadata(&path).unwrap();
            if path != data.store() && path.starts_with(data.store()) {
                // sled sets no mode; the binaries' umask does.
                continue;
            }
            let mode = metadata.permissions().mode() & 0o777;
            if metadata.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
            }
        }
    }

    #[test]
    fn a_second_one_refuses_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let out = dir.path().join("../admin-1.toml");
        let out = dir.path().parent().unwrap().join(out.file_name().unwrap());
        let _ = std::fs::remove_file(&out);
        init(&data, &["localhost".into()], Some(&out), Timestamp::now()).unwrap();
        let before = std::fs::read(data.ca().join("root.key")).unwrap();
        let again = init(&data, &["localhost".into()], Some(&dir.path().join("x.toml")), Timestamp::now());
        assert!(matches!(again, Err(InitError::Exists(_))));
        assert_eq!(std::fs::read(data.ca().join("root.key")).unwrap(), before);
        let admin = admin(&data, "second", Some(&out), Timestamp::now());
        assert!(matches!(admin, Err(InitError::ContextExists(_))));
        std::fs::remove_file(&out).unwrap();
    }

    #[test]
    fn a_half_made_one_is_made_again_and_a_foreign_directory_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        Authority::create(&data.ca(), DeploymentId(Uuid::nil()), Timestamp::now()).unwrap();
        std::fs::write(data.marker(Making::Init), "half").unwrap();
        init(&data, &["localhost".into()], Some(&dir.path().join("a.toml")), Timestamp::now()).unwrap();
        assert!(!data.marker(Making::Init).exists() && data.deployment().is_ok());

        let foreign = DataDir::new(&dir.path().join("foreign"));
        files::create_private_dir(foreign.path()).unwrap();
        std::fs::write(foreign.path().join("thesis.tex"), "").unwrap();
        let error = init(&foreign, &["localhost".into()], Some(&dir.path().join("b.toml")), Timestamp::now());
        assert!(matches!(error, Err(InitError::NotEmpty(_))));
    }

    #[test]
    fn a_server_that_lost_its_deployment_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(&dir.path().join("data"));
        init(&data, &["localhost".into()], Some(&dir.path().join("a.toml")), Timestamp::now()).unwrap();
        std::fs::remove_file(data.deployment_file()).unwrap();
        let key = std::fs::read(data.ca().join("root.key")).unwrap();
        let again = |name: &str| {
            let out = dir.path().join(name);
            init(&data, &["localhost".into()], Some(&out), Timestamp::now()).map(|_| ()).unwrap_err()
        };
        for gone in ["", "server.pem", "store"] {
            let path = data.path().join(gone);
            if path.is_file() {
                std::fs::remove_file(path).unwrap();
            } else if !gone.is_empty() {
                std::fs::remove_dir_all(path).unwrap();
            }
            let error = again("b.toml");
            assert!(matches!(error, InitError::DataDir(DataDirError::Headless(_))), "{error}");
        }
        assert!(error_of_admin(&data, dir.path()).contains("the rest of a server is here"));
        std::fs::write(data.marker(Making::Restore), "").unwrap();
        let error = again("b.toml");
        assert!(matches!(error, InitError::DataDir(DataDirError::HalfRestored(_))), "{error}");
        assert_eq!(std::fs::read(data.ca().join("root.key")).unwrap(), key);
        assert!(!dir.path().join("b.toml").exists());
    }

    fn error_of_admin(data: &DataDir, dir: &Path) -> String {
        admin(data, "x", Some(&dir.join("c.toml")), Timestamp::now()).map(|_| ()).unwrap_err().to_string()
    }
}
