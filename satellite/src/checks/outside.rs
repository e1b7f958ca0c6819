//! What the runner of checks needs of the world: the wall clock, names looked up, addresses probed. Tests put another
//! in its place, whose time they make pass.

use super::names::Answers;
use crate::engine::{
    self, Control, EngineContext, Look, Looked, Standing, SweepEvent, SweepRequest, SweepSummary,
};
use crate::resolve;
use jiff::Timestamp;
use portolan_common::scope::Guard;
use std::sync::Arc;
use tokio::sync::mpsc;

/// See the module.
pub trait Outside: Send + Sync + 'static {
    /// What the wall clock says, whoever set it.
    fn wall(&self) -> Timestamp;
    /// What the scope file allows at the moment.
    fn guard(&self) -> Arc<Guard>;
    /// Looks names up.
    fn resolve(&self, names: Vec<String>) -> impl Future<Output = Answers> + Send;
    /// Looks at one address; nothing more is sent once the future is dropped.
    fn look(&self, look: Look) -> impl Future<Output = Looked> + Send;
    /// Sweeps; nothing more is sent once the future is dropped.
    fn sweep(
        &self,
        request: SweepRequest,
        events: mpsc::Sender<SweepEvent>,
        control: Control,
    ) -> impl Future<Output = SweepSummary> + Send;
}

/// The scan engine, and this host's resolver.
#[derive(Clone)]
pub struct Engine {
    /// For sweeps.
    pub context: EngineContext,
    /// For looks.
    pub standing: Standing,
}

impl Outside for Engine {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn guard(&self) -> Arc<Guard> {
        self.context.guard.load_full()
    }

    async fn resolve(&self, names: Vec<String>) -> Answers {
        resolve::resolve_all(&names).await
    }

    async fn look(&self, look: Look) -> Looked {
        self.standing.look(look).await
    }

    async fn sweep(
        &self,
        request: SweepRequest,
        events: mpsc::Sender<SweepEvent>,
        control: Control,
    ) -> SweepSummary {
        engine::sweep(request, self.context.clone(), events, control).await
    }
}
