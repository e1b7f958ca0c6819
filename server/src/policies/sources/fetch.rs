//! Asks a source of targets: files in the directory that `server.toml` names, or an HTTP endpoint.

use super::SourceId;
use super::discovery::{self, Answer, AnswerError};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long an endpoint may take for its whole answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer, or of all files of a pattern.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Files of a pattern.
const MAX_FILES: usize = 1000;
const MAX_REDIRECTS: usize = 3;
/// Patterns that are read at the same time.
const READINGS: usize = 8;

/// A reading on a file system that hangs keeps its turn for as long as it hangs: with each question it would take one
/// more of the threads that everything else that blocks needs too.
static TURNS: Semaphore = Semaphore::const_new(READINGS);

/// A source that gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no directory to read from.
    #[error("server.toml names no directory of files to read targets from: set `directory` in its [sources]")]
    NoDirectory,
    /// The directory or a file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The pattern cannot be understood.
    #[error("`{0}` is no pattern of files")]
    Pattern(String),
    /// Nothing matches.
    #[error("there is no such file in {}", .0.display())]
    NoFile(PathBuf),
    /// A link leads elsewhere.
    #[error("{} leads out of the directory of sources, and is not read", .0.display())]
    Outside(PathBuf),
    /// Too much.
    #[error("it is larger than {} MiB, or more than {MAX_FILES} files", MAX_BYTES / 1024 / 1024)]
    TooLarge,
    /// The endpoint cannot be reached, or TLS with it.
    #[error("{0}")]
    Http(String),
    /// The endpoint says no.
    #[error("it answered {0}")]
    Status(reqwest::StatusCode),
    /// The answer is not what it should be.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// It was not waited for any longer.
    #[error("it did not answer within {} s", TIMEOUT.as_secs())]
    Late,
    /// Asking it failed in a way that it must not.
    #[error("asking it failed ({0}); see the server's log")]
    Failed(#[from] tokio::task::JoinError),
}

impl From<reqwest::Error> for SourceError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Late;
        }
        // The URL is named by whoever reports this; what really went wrong is further down.
        let error = error.without_url();
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            words = format!("{words}: {inner}");
            cause = inner.source();
        }
        Self::Http(words)
    }
}

/// Asks sources.
#[derive(Clone)]
pub struct Asker {
    directory: Option<PathBuf>,
    client: Result<reqwest::Client, String>,
}

impl Asker {
    /// One that reads files in `directory`. The system's roots are read anew with each, so that a changed one counts.
    pub fn new(directory: Option<PathBuf>) -> Self {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("portolan-server/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
                .timeout(TIMEOUT)
        };
        // A host without any root can ask without TLS all the same.
        let client = builder().build().or_else(|_| builder().tls_certs_only([]).build());
        Self { directory, client: client.map_err(|error| SourceError::from(error).to_string()) }
    }

    /// Asks a source once.
    ///
    /// # Errors
    /// [`SourceError`] when it gives nothing that can be used.
    pub async fn ask(&self, source: &SourceId) -> Result<Answer, SourceError> {
        let asking = async {
            match source {
                SourceId::Http(url) => self.ask_http(url).await,
                SourceId::File(pattern) => {
                    let directory = self.directory.clone().ok_or(SourceError::NoDirectory)?;
                    let pattern = pattern.clone();
                    // Never closed.
                    let turn = TURNS.acquire().await;
                    let read = tokio::task::spawn_blocking(move || {
                        let _turn = turn;
                        read_files(&directory, &pattern)
                    });
                    read.await?
                }
            }
        };
        // A directory on a network file system may hang as well.
        tokio::time::timeout(TIMEOUT, asking).await.unwrap_or(Err(SourceError::Late))
    }

    async fn ask_http(&self, url: &str) -> Result<Answer, SourceError> {
        let client = self.client.as_ref().map_err(|why| SourceError::Http(why.clone()))?;
        let mut response = client.get(url).header(http::header::ACCEPT, "application/json").send().await?;
        if !response.status().is_success() {
            return Err(SourceError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(SourceError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(discovery::read([body.as_slice()])?)
    }
}

/// Reads all files of a pattern inside of the directory. Blocking.
fn read_files(directory: &Path, pattern: &str) -> Result<Answer, SourceError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| SourceError::Read { path, cause }
    };
    let root = directory.canonicalize().map_err(failed(directory))?;
    let escaped = glob::Pattern::escape(&root.to_string_lossy());
    let paths =
        glob::glob(&format!("{escaped}/{pattern}")).map_err(|_| SourceError::Pattern(pattern.to_owned()))?;
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut room = MAX_BYTES;
    for path in paths {
        let path = path.map_err(|error| failed(error.path())(std::io::ErrorKind::PermissionDenied.into()))?;
        let real = path.canonicalize().map_err(failed(&path))?;
        if !real.starts_with(&root) {
            return Err(SourceError::Outside(path));
        }
        // A pipe or device would be waited for without end.
        if !real.is_file() {
            continue;
        }
        if bodies.len() == MAX_FILES {
            return Err(SourceError::TooLarge);
        }
        let file = std::fs::File::open(&real).map_err(failed(&path))?;
        let mut body = Vec::new();
        file.take(room as u64 + 1).read_to_end(&mut body).map_err(failed(&path))?;
        room = room.checked_sub(body.len()).ok_or(SourceError::TooLarge)?;
        bodies.push(body);
    }
    if bodies.is_empty() {
        return Err(SourceError::NoFile(root));
    }
    Ok(discovery::read(bodies.iter().map(Vec::as_slice))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn file(directory: &Path, pattern: &str) -> Result<Answer, SourceError> {
        Asker::new(Some(directory.to_owned())).ask(&SourceId::File(pattern.to_owned())).await
    }

    #[tokio::test]
    async fn files_are_read_by_pattern_and_only_inside_of_the_directory() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("sou[r]ces");
        std::fs::create_dir_all(inner.join("web")).unwrap();
        let list = |host: &str| format!(r#"[{{"targets": ["{host}:80"]}}]"#);
        std::fs::write(inner.join("web/a.json"), list("10.0.0.1")).unwrap();
        std::fs::write(inner.join("web/b.json"), list("10.0.0.2")).unwrap();
        std::fs::write(inner.join("web/c.txt"), "no list").unwrap();
        std::fs::write(outer.path().join("secret.json"), list("10.0.0.66")).unwrap();
        assert_eq!(file(&inner, "web/*.json").await.unwrap().targets, ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(file(&inner, "web/b.json").await.unwrap().targets, ["10.0.0.2"]);
        assert!(matches!(file(&inner, "mail/*.json").await, Err(SourceError::NoFile(_))));
        assert!(matches!(file(&inner, "web/*.txt").await, Err(SourceError::Answer(AnswerError::Json(_)))));
        assert!(matches!(file(&inner, "../secret.json").await, Err(SourceError::Outside(_))));
        std::os::unix::fs::symlink(outer.path().join("secret.json"), inner.join("web/d.json")).unwrap();
        assert!(matches!(file(&inner, "web/*.json").await, Err(SourceError::Outside(_))));
        std::fs::write(inner.join("large.json"), vec![b' '; MAX_BYTES + 1]).unwrap();
        assert!(matches!(file(&inner, "large.json").await, Err(SourceError::TooLarge)));
        let nowhere = Asker::new(None).ask(&SourceId::File("a.json".into())).await.unwrap_err().to_string();
        assert!(nowhere.contains("[sources]"), "{nowhere}");
    }

    /// Answers so many requests with the same text.
    async fn endpoint(answer: String, requests: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    async fn ask(url: String) -> Result<Answer, SourceError> {
        Asker::new(None).ask(&SourceId::Http(url)).await
    }

    async fn http(answer: &str, requests: usize) -> Result<Answer, SourceError> {
        ask(endpoint(answer.to_owned(), requests).await).await
    }

    fn response(status: &str, header: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\n{header}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn an_endpoint_is_asked_within_bounds() {
        let list = response("200 OK", "", r#"[{"targets": ["10.0.0.1:9100"], "labels": {"env": "x"}}]"#);
        assert_eq!(http(&list, 1).await.unwrap().targets, ["10.0.0.1"]);
        let error = http(&response("503 Service Unavailable", "", ""), 1).await.unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        let error = http(&response("200 OK", "", &" ".repeat(MAX_BYTES + 1)), 1).await.unwrap_err();
        assert!(matches!(error, SourceError::TooLarge), "{error}");
        let error = http(&response("302 Found", "location: /again\r\n", ""), 20).await.unwrap_err();
        assert!(error.to_string().contains("redirect"), "{error}");
        let error = http("nonsense", 1).await.unwrap_err();
        assert!(matches!(error, SourceError::Http(_)), "{error}");
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = ask(format!("http://{unused}/")).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn a_reading_that_hangs_keeps_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.json"), "[]").unwrap();
        let hanging = TURNS.acquire_many(READINGS as u32).await.unwrap();
        tokio::time::pause();
        assert!(matches!(file(directory.path(), "a.json").await, Err(SourceError::Late)));
        tokio::time::resume();
        drop(hanging);
        assert!(file(directory.path(), "a.json").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_says_nothing_is_late() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(matches!(ask(url).await, Err(SourceError::Late)));
    }
}
