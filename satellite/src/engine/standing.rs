//! A prober for single looks at one host each, which lives as long as the satellite: a thread and sockets for each
//! look, as a sweep has them, would be far too heavy for a thousand checks a second.
//!
//! What is seen is what a sweep by TCP connections would see: the same scheduler decides. It is always gentle, and it
//! says nothing about a host that no probe left for.

mod desk;
#[cfg(test)]
mod tests;

pub(super) use desk::Desk;

use self::desk::BROKEN;
use super::connect::{Caller, ConnectProber, Order, Scheduler, attend};
use super::limits::Lease;
use super::{EngineContext, Refusal};
use jiff::Zoned;
use portolan_common::observation::HostObservation;
use portolan_common::ports::PortSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The most ports of one look.
pub const MAX_PORTS: usize = 1024;

/// One look at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What the policy wrote: a name, or the address.
    pub target: String,
    /// The address.
    pub address: IpAddr,
    /// TCP ports, 1 to [`MAX_PORTS`].
    pub ports: PortSet,
}

/// What became of a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Looked {
    /// What was seen; `unscanned` says what of the ports the scope forbids.
    Host(HostObservation),
    /// The scope permits nothing of it, by these rules.
    Refused(Vec<Refusal>),
    /// Nothing was seen: this host has no way to the address (where a sweep would call it filtered), cannot open
    /// connections, or was asked for too much. Why, in words for the operator.
    Failed(String),
}

/// A prober for single looks. Its handles share one thread.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Desk>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// What is said of looks for which it is too late.
const ENDED: &str = "the prober of checks has been stopped";

/// Closes the desk when the thread ends, however it ends.
struct Closing(Arc<Desk>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(BROKEN);
    }
}

/// Who waits for a look; one that is dropped gives it up.
struct Waiting<'a> {
    desk: &'a Desk,
    answer: oneshot::Receiver<Looked>,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.answer.close();
            self.desk.give_up();
        }
    }
}

impl Standing {
    /// Starts its thread, which ends when the last handle is dropped or `cancel` is cancelled. An error when this
    /// process can have no more threads or descriptors.
    pub fn start(context: EngineContext, cancel: CancellationToken) -> io::Result<Self> {
        let desk = Arc::new(Desk::new()?);
        let mut prober = ConnectProber::new()?;
        prober.hear(desk.bell())?;
        let closing = Closing(Arc::clone(&desk));
        std::thread::Builder::new().name("looks".to_owned()).spawn(move || {
            let lease = Lease::new(Arc::clone(&context.limits));
            let guard = context.guard.load_full();
            let (seed, now) = (rand::random(), Instant::now());
            let mut scheduler = Scheduler::of_looks(guard, lease, seed, now, Zoned::now());
            let ended = attend(&mut scheduler, &mut prober, &closing.0, &context, &cancel);
            if let Err(why) = &ended {
                tracing::error!("the prober of checks ended: {why}");
            }
            // Said before the looks under way are dropped with the scheduler: their callers ask why.
            closing.0.close(ended.as_ref().map_or_else(String::as_str, |()| ENDED));
        })?;
        Ok(Self(Arc::new(Handle(desk))))
    }

    /// Returns when no look is taken any more, with why, in words for the operator: its thread failed, or everything was
    /// cancelled.
    pub async fn ended(&self) -> String {
        let desk = &*self.0.0;
        desk.closed().await;
        desk.why_closed()
    }

    /// Takes the look in turn; gently, so that it may wait for others at the same path (at most 200 probes a second and
    /// 20 in flight for each /24 or /64). A silent port takes some 3 s. A look whose future is dropped is given up: no
    /// more is sent for it.
    pub async fn look(&self, look: Look) -> Looked {
        let ports = look.ports.len();
        if !(1..=MAX_PORTS).contains(&ports) {
            return Looked::Failed(format!(
                "a look at {} with {ports} ports cannot be taken: it takes 1 to {MAX_PORTS}",
                look.target
            ));
        }
        let desk = &*self.0.0;
        let place = match desk.place().await {
            Ok(place) => place,
            Err(why) => return Looked::Failed(why),
        };
        let (reply, answer) = oneshot::channel();
        if let Err(why) = desk.order(Order::new(look, Caller { reply, place })) {
            return Looked::Failed(why);
        }
        let mut waiting = Waiting { desk, answer, over: false };
        let answer = (&mut waiting.answer).await;
        waiting.over = true;
        answer.unwrap_or_else(|_| Looked::Failed(desk.why_closed()))
    }
}
