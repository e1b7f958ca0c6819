//! `control.sock` in the data directory: how commands on the server's machine ask the server that runs. Whoever may open
//! the directory may ask; nobody else finds the socket.

use crate::data_dir::DataDir;
use crate::problems::Problems;
use crate::store::{About, DumpError, Store};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use portolan_common::ids::DeploymentId;
use portolan_transport::files::FileError;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Commands that are served at once.
const CONNECTIONS: usize = 8;
/// Pieces of a backup that wait for whoever reads them.
const PIECES: usize = 4;
/// The longest path that a Unix socket can be bound to.
const MAX_SOCKET_PATH: usize = 107;
/// How long the server may take to say that it begins.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a backup waits for another one, or for the hourly export.
const EXPORTING: Duration = Duration::from_secs(50);
/// A backup that is not read for this long is given up: it keeps the hourly export waiting.
const READING: Duration = Duration::from_secs(60);
/// How soon it is tried again when there is no room for a piece.
const FULL: Duration = Duration::from_millis(2);
/// A pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What the socket needs.
pub struct Control {
    /// What is backed up.
    pub data: DataDir,
    /// Its store.
    pub store: Store,
    /// Where damage is told.
    pub problems: Arc<Problems>,
    /// Whose it is.
    pub deployment: DeploymentId,
}

/// A running server that cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It does not answer.
    #[error(
        "a server or another command is at work on the data directory, and does not answer at {} ({cause}): wait until it \
         has started, or stop it",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It answers, and says no.
    #[error("the running server refuses: {0}")]
    Refused(String),
    /// The connection broke.
    #[error("the running server stopped answering: {0}")]
    Broken(String),
}

/// The socket of a data directory, open. It goes with this.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds it, in the place of one that a server that died left behind. The caller holds the directory's lock.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn bind(data: &DataDir) -> Result<Self, FileError> {
        let path = data.control_socket();
        let on = |action| FileError::on(action, &path);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            fs::remove_file(&path).map_err(on("remove the leftover"))?;
        }
        let listener =
            through_directory(&path, |short| UnixListener::bind(short)).map_err(on("bind the socket"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(on("protect the socket"))?;
        Ok(Self { listener, path })
    }

    /// Serves until `stop`; then what is under way is cut.
    pub async fn serve(self, control: Control, stop: CancellationToken) {
        let router =
            Router::new().route("/backup", get(backup)).with_state(Arc::new((control, stop.clone())));
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "the control socket does not accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = room.clone().try_acquire_owned() else { continue };
            if !is_permitted(&stream) {
                continue;
            }
            let (router, stop) = (router.clone(), stop.clone());
            tokio::spawn(async move {
                let _place = place;
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
                let _ = stop.run_until_cancelled(served).await;
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The directory keeps others out already; this holds where somebody opened it up.
fn is_permitted(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn backup(State(state): State<Arc<(Control, CancellationToken)>>) -> Response {
    let (pieces, taken) = mpsc::channel(PIECES);
    let (control, stop) = (&state.0, state.1.clone());
    let now = Timestamp::now();
    let about = match about(&control.data, control.deployment, now) {
        Ok(about) => about,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    let (store, problems) = (control.store.clone(), control.problems.clone());
    let (began, begins) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, began: Some(began) };
        let deadline = Instant::now() + EXPORTING;
        let made = loop {
            match store.dump(&about, &mut out, &|| stop.is_cancelled()) {
                // The hourly export is soon over.
                Err(DumpError::Busy) if Instant::now() < deadline && !stop.is_cancelled() => {
                    std::thread::sleep(PAUSE);
                }
                made => break made,
            }
        };
        match made {
            Ok(sums) => tracing::info!(commit = sums.commit, "a backup was made"),
            Err(error) => {
                if let DumpError::Store(what) = &error {
                    problems.set_damage(Timestamp::now(), what.clone());
                }
                tracing::warn!(%error, "a backup was given up");
                if let Some(began) = out.began.take() {
                    let _ = began.send(Err(error));
                }
            }
        }
    });
    match begins.await {
        Ok(Ok(())) => Body::from_stream(ReceiverStream::new(taken)).into_response(),
        Ok(Err(error)) => (StatusCode::CONFLICT, error.to_string()).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "it ended by a panic".to_owned()).into_response(),
    }
}

/// What a full backup takes along besides the store.
///
/// # Errors
/// When the certificate authority's directory cannot be read.
pub fn about(data: &DataDir, deployment: DeploymentId, now: Timestamp) -> Result<About, FileError> {
    let mut files = vec![("deployment.toml".to_owned(), data.deployment_file())];
    let ca = data.ca();
    for entry in fs::read_dir(&ca).map_err(FileError::on("read", &ca))? {
        let entry = entry.map_err(FileError::on("read", &ca))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Not what is being written.
        if entry.path().is_file() && !name.starts_with('.') {
            files.push((format!("ca/{name}"), entry.path()));
        }
    }
    let optional = [("server.pem", data.server_identity()), (crate::revocations::FILE, data.revocations())];
    files.extend(
        optional.into_iter().filter(|(_, path)| path.is_file()).map(|(n, path)| (n.to_owned(), path)),
    );
    files.sort();
    Ok(About { deployment, created_at: now, files })
}

/// What is written becomes a body, piece by piece, as fast as it is read.
struct Pieces {
    pieces: mpsc::Sender<Result<Bytes, io::Error>>,
    began: Option<tokio::sync::oneshot::Sender<Result<(), DumpError>>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(began) = self.began.take() {
            let _ = began.send(Ok(()));
        }
        let mut piece = Ok(Bytes::copy_from_slice(bytes));
        let deadline = Instant::now() + READING;
        loop {
            piece = match self.pieces.try_send(piece) {
                Ok(()) => return Ok(bytes.len()),
                Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
                }
                Err(TrySendError::Full(piece)) => piece,
            };
            std::thread::sleep(FULL);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks the server that runs on a data directory for a backup, and writes it to `out` as it comes.
///
/// # Errors
/// [`ControlError`]; the outer error is `out`'s.
pub async fn fetch_backup(data: &DataDir, out: &mut impl Write) -> io::Result<Result<(), ControlError>> {
    let mut body = match ask(data, "/backup").await {
        Ok(body) => body,
        Err(error) => return Ok(Err(error)),
    };
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Ok(bytes) = frame.into_data() {
                    out.write_all(&bytes)?;
                }
            }
            Err(error) => return Ok(Err(ControlError::Broken(error.to_string()))),
        }
    }
    out.flush()?;
    Ok(Ok(()))
}

async fn ask(data: &DataDir, path: &'static str) -> Result<hyper::body::Incoming, ControlError> {
    let socket = data.control_socket();
    let unreachable = |cause| ControlError::Unreachable { path: socket.clone(), cause };
    let broken = |error: hyper::Error| ControlError::Broken(error.to_string());
    let stream = through_directory(&socket, |short| std::os::unix::net::UnixStream::connect(short))
        .and_then(|stream| stream.set_nonblocking(true).map(|()| stream))
        .and_then(UnixStream::from_std)
        .map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "portolan-server").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| ControlError::Broken(error.to_string()))?;
    let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
    let answer = answer.map_err(|_| ControlError::Broken("it does not answer".into()))?.map_err(broken)?;
    if answer.status() == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let words = answer.into_body().collect().await.map_err(broken)?.to_bytes();
    Err(ControlError::Refused(String::from_utf8_lossy(words.get(..1000).unwrap_or(&words)).into_owned()))
}

/// A path that is too long for a socket is reached through its directory.
fn through_directory<T>(path: &Path, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return act(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return act(path) };
    let directory = File::open(directory)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    act(&short).map_err(|error| {
        let why = "the path is too long for a Unix socket, and through /proc/self/fd it is";
        io::Error::new(error.kind(), format!("{why}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_private_whatever_the_length_of_its_path_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["short".to_owned(), "long".repeat(40)] {
            let data = DataDir::new(&dir.path().join(name));
            fs::create_dir(data.path()).unwrap();
            // What a server that was killed leaves behind.
            let stale = through_directory(&data.control_socket(), |path| {
                std::os::unix::net::UnixListener::bind(path)
            });
            drop(stale.unwrap());
            let refused = ask(&data, "/backup").await.unwrap_err();
            assert!(matches!(refused, ControlError::Unreachable { .. }), "{refused}");
            let socket = ControlSocket::bind(&data).unwrap();
            let mode = fs::metadata(data.control_socket()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let accepting = tokio::spawn(async move {
                socket.listener.accept().await.unwrap();
                socket
            });
            through_directory(&data.control_socket(), |path| std::os::unix::net::UnixStream::connect(path))
                .unwrap();
            drop(accepting.await.unwrap());
            assert!(!data.control_socket().exists(), "it goes with the server");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        fs::write(data.control_socket(), "mine").unwrap();
        let error = ControlSocket::bind(&data).unwrap_err().to_string();
        assert!(error.contains("control.sock"), "{error}");
        assert_eq!(fs::read_to_string(data.control_socket()).unwrap(), "mine");
    }
}
