//! Ctrl-C and SIGTERM: at once by default, politely while a scan runs.

use crate::errors::Exit;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Watches for the two signals in a thread of its own, so that one is heeded even while output blocks on a slow
/// reader.
#[derive(Clone)]
pub struct Interrupts(Arc<State>);

struct State {
    /// Whether the next signal is handed to the command instead of ending the process.
    polite: AtomicBool,
    asked: Notify,
}

impl Interrupts {
    /// Starts watching. When that fails the signals keep their usual effect, which is the next best.
    pub fn watch() -> Self {
        let state = Arc::new(State { polite: AtomicBool::new(false), asked: Notify::new() });
        let watcher = state.clone();
        let _ = std::thread::Builder::new().name("interrupts".into()).spawn(move || {
            let Ok(runtime) = runtime::Builder::new_current_thread().enable_io().build() else { return };
            runtime.block_on(watcher.run());
        });
        Self(state)
    }

    /// From now on the first signal only ends [`Interrupts::asked`]; the one after it ends the process.
    pub fn be_polite(&self) {
        self.0.polite.store(true, Ordering::SeqCst);
    }

    /// From now on the next signal ends the process.
    pub fn be_prompt(&self) {
        self.0.polite.store(false, Ordering::SeqCst);
    }

    /// Waits for a signal.
    pub async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// As if a signal had come.
    #[cfg(test)]
    pub fn pretend(&self) {
        self.0.asked.notify_one();
    }

    /// Watches nothing.
    #[cfg(test)]
    pub fn none() -> Self {
        Self(Arc::new(State { polite: AtomicBool::new(true), asked: Notify::new() }))
    }
}

/// What was drawn from the cursor on goes (ECMA-48 ED), so that the shell's prompt has a line of its own.
fn leave_terminal() {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // A terminal that went away needs no clearing.
        let _ = stderr.write_all(b"\x1b[J\n");
    }
}

impl State {
    async fn run(&self) {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !self.polite.swap(false, Ordering::SeqCst) {
                leave_terminal();
                std::process::exit(Exit::Interrupted as i32);
            }
            self.asked.notify_one();
        }
    }
}
