//! What can go wrong in the console, in words for the person in front of it: what failed, on what, why, and what to
//! do about it. Also the exit codes.

mod hints;

use crate::output::paint::{Paint, styles};
use crate::output::text::printable;
use portolan_proto::convert::WireError;
use portolan_transport::context::ContextError;
use portolan_transport::dial::DialError;
use portolan_transport::identity::IdentityError;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use tonic::{Code, Status};

/// How a command ended; the numbers are part of the contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked was done.
    Done = 0,
    /// It failed.
    Error = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// It was done, and expectations are violated; of a dry run: something would change. Outranks [`Exit::Partial`].
    Violated = 3,
    /// A vantage point was unreachable or refused, or a name did not resolve.
    Partial = 4,
    /// The operator stopped it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The command line; every mistake in it.
    #[error("{}", mistakes.join("\n"))]
    Usage {
        /// One line each.
        mistakes: Vec<String>,
        /// What to type instead.
        hint: Option<String>,
    },
    /// No usable context.
    #[error("{}", context_words(name, source))]
    Context {
        /// As it was named.
        name: String,
        /// Why.
        source: ContextError,
    },
    /// The operator's certificate or key cannot be used.
    #[error("cannot use the certificate of context `{name}`: {reason}")]
    Identity {
        /// The context.
        name: String,
        /// Why.
        reason: String,
    },
    /// The operator's certificate is past its end.
    #[error("your certificate in context `{name}` expired {when}")]
    Expired {
        /// The context.
        name: String,
        /// A time for people.
        when: String,
    },
    /// The operator's certificate lies in the future.
    #[error("your certificate in context `{name}` is not valid before {when}")]
    NotYetValid {
        /// The context.
        name: String,
        /// A time for people.
        when: String,
    },
    /// No server answered.
    #[error("cannot reach the server of context `{name}`: {source}")]
    Unreachable {
        /// The context.
        name: String,
        /// Its file, where the addresses stand.
        path: PathBuf,
        /// Every attempt.
        source: DialError,
    },
    /// The server refused or broke off.
    #[error("cannot {action}: {}", status_words(status))]
    Call {
        /// What was attempted, as a verb.
        action: String,
        /// The server's answer.
        status: Box<Status>,
    },
    /// The server closed a scan's stream before its end.
    #[error("the server ended the scan before it was done")]
    CutShort,
    /// The server sent something that breaks the contract.
    #[error("the server's answer makes no sense here: {0}")]
    Wire(#[from] WireError),
    /// A local file.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// As a verb.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// The process could not set itself up.
    #[error("cannot start: {0}")]
    Startup(io::Error),
}

impl ConsoleError {
    /// One mistake on the command line.
    pub fn usage(mistake: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { mistakes: vec![mistake.into()], hint: Some(hint.into()) }
    }

    /// For `map_err` on a call to the server; `action` is a verb with its object.
    pub fn call(action: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let action = action.into();
        move |status| Self::Call { action, status: Box::new(status) }
    }

    /// The exit code that tells a script.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            // The server checks what the console cannot know; it is still what was typed.
            Self::Call { status, .. } if status.code() == Code::InvalidArgument => Exit::Usage,
            _ if self.is_broken_pipe() => Exit::Done,
            _ => Exit::Error,
        }
    }

    /// Whether the reader of our output went away: nobody is left to tell, and nothing is wrong.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        const NEW_CERTIFICATE: &str = "issue a new one on the server: portolan-server admin --data-dir DIR";
        let text = match self {
            Self::Usage { hint, .. } => return hint.clone(),
            Self::Context { source: ContextError::Missing { path }, .. } => {
                return Some(format!(
                    "`portolan-server init` writes one for the user who runs it; with `--admin-out FILE` it goes to a \
                     file: copy that to {} or name it with --context FILE",
                    path.display()
                ));
            }
            Self::Context { source: ContextError::NoHome, .. } => {
                "name the context's file with --context FILE"
            }
            Self::Context { source: ContextError::Content { .. } | ContextError::Identity(_), .. } => {
                "a context file is written by portolan-server; make a new one there: portolan-server admin \
                 --data-dir DIR"
            }
            Self::Context { .. } => "check the file's owner and permissions",
            Self::Identity { .. } | Self::Expired { .. } => NEW_CERTIFICATE,
            Self::NotYetValid { .. } => "check this machine's clock",
            Self::Unreachable { source, .. } if source.is_untrusted() => {
                "the address may lead to another server, or the deployment was made anew: then its `portolan-server \
                 init` wrote a new context"
            }
            Self::Unreachable { path, .. } => {
                return Some(format!(
                    "is portolan-server running, and is this its address? It stands in {}",
                    path.display()
                ));
            }
            Self::Call { action, status } => return hints::of_call(action, status).map(ToOwned::to_owned),
            Self::CutShort => "it was probably stopped; start the scan again when `portolan status` answers",
            Self::Wire(_) => {
                "console and server probably differ in version: compare `portolan --version` and \
                              `portolan status`"
            }
            Self::File { .. } | Self::Output(_) | Self::Startup(_) => return None,
        };
        Some(text.to_owned())
    }
}

fn context_words(name: &str, source: &ContextError) -> String {
    match source {
        ContextError::Missing { path } => {
            format!("there is no context `{name}`: {} does not exist", path.display())
        }
        other => format!("cannot use context `{name}`: {other}"),
    }
}

impl From<(&str, IdentityError)> for ConsoleError {
    fn from((name, error): (&str, IdentityError)) -> Self {
        Self::Identity { name: name.to_owned(), reason: error.to_string() }
    }
}

/// What the bottom of a chain of errors says: tonic wraps what the network said several times over.
fn root_cause(status: &Status) -> Option<String> {
    let mut error: &dyn std::error::Error = std::error::Error::source(status)?;
    while let Some(deeper) = error.source() {
        error = deeper;
    }
    Some(error.to_string())
}

/// rustls reports the server's refusal of our certificate as an alert on the established connection.
fn is_certificate_refused(status: &Status) -> bool {
    root_cause(status).is_some_and(|cause| cause.contains("fatal alert"))
}

fn status_words(status: &Status) -> String {
    if is_certificate_refused(status) {
        return "the server refuses your certificate".to_owned();
    }
    // The server's own words are for people; the transport's are not.
    if let Some(cause) = root_cause(status) {
        // rustls writes to programmers, with a link to its manual.
        return if cause.contains("close_notify") || cause.contains("://") {
            "the connection to the server broke".to_owned()
        } else {
            format!("the connection to the server broke ({})", printable(&cause))
        };
    }
    match status.code() {
        Code::Unimplemented => "the server does not know this command".to_owned(),
        Code::DeadlineExceeded => "the server gave no answer in time".to_owned(),
        code if status.message().is_empty() => format!("the server says: {}", code.description()),
        _ => status.message().lines().map(printable).collect::<Vec<_>>().join("; "),
    }
}

/// Prints an error to stderr as `error:` lines and a `hint:` line; gives the exit code.
pub fn report(error: &ConsoleError) -> Exit {
    if !error.is_broken_pipe() {
        // When stderr is gone too there is nobody to tell.
        let _ = io::stderr().write_all(lines(error, Paint::for_stderr()).as_bytes());
    }
    error.exit()
}

fn lines(error: &ConsoleError, paint: Paint) -> String {
    let mistakes = match error {
        ConsoleError::Usage { mistakes, .. } => mistakes.clone(),
        other => vec![other.to_string()],
    };
    let label = paint.apply(styles::ERROR, "error:");
    let mut text: String =
        mistakes.iter().map(|mistake| format!("{label} {}\n", mistake.trim_end())).collect();
    if let Some(hint) = error.hint() {
        text.push_str(&format!("{} {hint}\n", paint.apply(styles::HINT, "hint:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(status: Status) -> ConsoleError {
        ConsoleError::call("show satellite `ofice-1`")(status)
    }

    #[test]
    fn an_error_says_what_failed_on_what_why_and_what_to_do() {
        let error = call(Status::not_found("there is no satellite `ofice-1`; did you mean `office-1`?"));
        assert_eq!(
            lines(&error, Paint::off()),
            "error: cannot show satellite `ofice-1`: there is no satellite `ofice-1`; did you mean `office-1`?\n\
             hint: `portolan satellite list` shows the satellites there are\n"
        );
        assert_eq!(error.exit(), Exit::Error);
    }

    #[test]
    fn what_the_server_cannot_read_is_a_usage_error() {
        let error = call(Status::invalid_argument("bad ports\nbad targets"));
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().ends_with("bad ports; bad targets"), "{error}");
    }

    #[test]
    fn every_mistake_gets_its_line() {
        let error = ConsoleError::Usage { mistakes: vec!["a".into(), "b".into()], hint: None };
        assert_eq!(lines(&error, Paint::off()), "error: a\nerror: b\n");
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn a_missing_context_says_where_it_was_looked_for() {
        let source =
            ContextError::Missing { path: "/home/ada/.config/portolan/contexts/default.toml".into() };
        let text = lines(&ConsoleError::Context { name: "default".into(), source }, Paint::off());
        assert!(text.contains("/home/ada/.config/portolan/contexts/default.toml does not exist"), "{text}");
        assert!(text.contains("portolan-server init") && text.contains("--admin-out FILE"), "{text}");
    }

    #[test]
    fn control_characters_of_the_server_do_not_reach_the_terminal() {
        let text = call(Status::internal("\u{1b}[2Jgone")).to_string();
        assert!(text.contains("\\u{1b}[2Jgone"), "{text}");
    }

    #[test]
    fn a_connection_that_broke_is_said_without_the_libraries_words() {
        let broke = |cause: &'static str| call(Status::from_error(io::Error::other(cause).into()));
        let rustls =
            "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/rustls/";
        assert_eq!(
            broke(rustls).to_string(),
            "cannot show satellite `ofice-1`: the connection to the server broke"
        );
        let reset = broke("Connection reset by peer").to_string();
        assert!(reset.ends_with("broke (Connection reset by peer)"), "{reset}");
    }

    #[test]
    fn a_broken_pipe_is_no_error() {
        assert_eq!(ConsoleError::Output(io::ErrorKind::BrokenPipe.into()).exit(), Exit::Done);
        assert_eq!(ConsoleError::Output(io::ErrorKind::StorageFull.into()).exit(), Exit::Error);
    }
}
