//! Where looks are handed in, and the thread that attends to them is woken.

use crate::engine::connect::Order;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Looks that wait or are under way, some 300 bytes each; whoever comes later waits for a place.
const MAX_LOOKS: usize = 16_384;

/// What is said of looks when the thread is gone and did not say why.
pub(super) const BROKEN: &str = "the prober of checks stopped unexpectedly; the log says why";

/// What the callers and the thread share.
#[derive(Debug)]
pub(in crate::engine) struct Desk {
    inbox: Mutex<Inbox>,
    bell: EventFd,
    places: Arc<Semaphore>,
    /// Cancelled when no look is taken any more.
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct Inbox {
    calls: Calls,
    /// Nobody can hand in anything any more.
    left: bool,
    /// Why no look is taken any more.
    closed: Option<String>,
}

/// What came in since the last time.
#[derive(Debug, Default)]
pub(in crate::engine) struct Calls {
    pub(in crate::engine) orders: VecDeque<Order>,
    /// Somebody does not wait any more for a look handed in before.
    pub(in crate::engine) given_up: bool,
}

impl Desk {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inbox: Mutex::default(),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            places: Arc::new(Semaphore::new(MAX_LOOKS)),
            over: CancellationToken::new(),
        })
    }

    /// What rings when something came in.
    pub(super) fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// Waits for a place for one more look; an error says why none is taken any more.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, String> {
        match Arc::clone(&self.places).acquire_owned().await {
            Ok(place) => Ok(place),
            Err(_) => Err(self.why_closed()),
        }
    }

    /// Hands a look in.
    pub(super) fn order(&self, order: Order) -> Result<(), String> {
        let mut inbox = self.inbox();
        if let Some(why) = &inbox.closed {
            return Err(why.clone());
        }
        let quiet = inbox.is_quiet();
        inbox.calls.orders.push_back(order);
        drop(inbox);
        if quiet {
            self.ring();
        }
        Ok(())
    }

    /// Somebody does not wait any more for what was handed in.
    pub(super) fn give_up(&self) {
        let mut inbox = self.inbox();
        let quiet = inbox.is_quiet();
        inbox.calls.given_up = true;
        drop(inbox);
        if quiet {
            self.ring();
        }
    }

    /// Nothing more is handed in.
    pub(super) fn leave(&self) {
        self.inbox().left = true;
        self.ring();
    }

    /// Takes what came in; `None` when nothing comes any more.
    pub(in crate::engine) fn collect(&self) -> Option<Calls> {
        let mut inbox = self.inbox();
        (!inbox.left).then(|| std::mem::take(&mut inbox.calls))
    }

    /// From now on no look is taken; those handed in and not collected are dropped. What was said first stands.
    pub(super) fn close(&self, why: &str) {
        let mut inbox = self.inbox();
        inbox.closed.get_or_insert_with(|| why.to_owned());
        let calls = std::mem::take(&mut inbox.calls);
        drop(inbox);
        self.places.close();
        self.over.cancel();
        drop(calls);
    }

    /// Waits until no look is taken any more.
    pub(super) async fn closed(&self) {
        self.over.cancelled().await;
    }

    /// Why no look is taken any more.
    pub(super) fn why_closed(&self) -> String {
        self.inbox().closed.clone().unwrap_or_else(|| BROKEN.to_owned())
    }

    fn ring(&self) {
        // It fails only where it would overflow, having rung 2^64 times unheard.
        let _ = self.bell.write(1);
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // It is never left half-changed, so a panic elsewhere does not spoil it.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Whether nothing came in since the last time: then the thread may be asleep.
    fn is_quiet(&self) -> bool {
        self.calls.orders.is_empty() && !self.calls.given_up
    }
}

/// Wakes the thread, whatever for.
impl Wake for Desk {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
