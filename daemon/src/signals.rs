//! Signals: SIGTERM and Ctrl-C ask for the end, a second one ends at once, SIGHUP asks for a look at the files.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The exit code of a program that was interrupted.
pub const INTERRUPTED: i32 = 130;

/// A signal that nobody can listen for.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for the signal {signal}: {cause}")]
pub struct SignalError {
    signal: &'static str,
    cause: io::Error,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    End,
    Reload,
}

/// Listens from now on, in a task of its own: the first SIGTERM or SIGINT cancels `shutdown`, the second ends the
/// process at once with 130. SIGHUP notifies `reload`; without one it keeps its usual meaning.
///
/// # Errors
/// When a handler cannot be installed. A program that could only be killed must not start.
pub fn listen(shutdown: CancellationToken, reload: Option<Arc<Notify>>) -> Result<(), SignalError> {
    let on = |kind, name| signal(kind).map_err(|cause| SignalError { signal: name, cause });
    let mut terminate = on(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = on(SignalKind::interrupt(), "SIGINT")?;
    let mut hangup = match reload {
        Some(_) => Some(on(SignalKind::hangup(), "SIGHUP")?),
        None => None,
    };
    let mut listener = Listener { shutdown, reload, ends: 0 };
    tokio::spawn(async move {
        loop {
            let wish = tokio::select! {
                _ = terminate.recv() => Wish::End,
                _ = interrupt.recv() => Wish::End,
                () = received(&mut hangup) => Wish::Reload,
            };
            if listener.heed(wish).is_break() {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(INTERRUPTED);
            }
        }
    });
    Ok(())
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Who is told of signals.
struct Listener {
    shutdown: CancellationToken,
    reload: Option<Arc<Notify>>,
    ends: u32,
}

impl Listener {
    /// Passes a wish on; breaks when the end was asked for twice.
    fn heed(&mut self, wish: Wish) -> ControlFlow<()> {
        match (wish, &self.reload) {
            (Wish::Reload, Some(reload)) => reload.notify_one(),
            (Wish::Reload, None) => {}
            (Wish::End, _) => {
                self.ends += 1;
                self.shutdown.cancel();
            }
        }
        if self.ends < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_first_asks_the_second_insists_and_a_reload_is_neither() {
        let (shutdown, reload) = (CancellationToken::new(), Arc::new(Notify::new()));
        let mut listener = Listener { shutdown: shutdown.clone(), reload: Some(reload.clone()), ends: 0 };
        assert!(listener.heed(Wish::Reload).is_continue());
        tokio::time::timeout(Duration::from_secs(1), reload.notified()).await.unwrap();
        assert!(!shutdown.is_cancelled());
        assert!(listener.heed(Wish::End).is_continue(), "one signal waits for an orderly end");
        assert!(shutdown.is_cancelled());
        assert!(listener.heed(Wish::Reload).is_continue());
        assert!(listener.heed(Wish::End).is_break());
    }
}
