//! Uplink: the satellites' streams. [`hub`] knows who is connected, [`session`] runs one stream, [`commit`] makes what
//! it brings durable.

mod commit;
mod hub;
mod replay;
mod session;
mod skew;

pub use hub::{Hub, Joined, Live, StatusCounts};
pub use replay::Replays;

use crate::evaluation::Evaluation;
use crate::metrics::Metrics;
use crate::peer::{Peer, PeerIdentity};
use crate::pki::authority::Authority;
use crate::policies::Policies;
use crate::problems::Problems;
use crate::registry::Registry;
use crate::scans::Scans;
use crate::store::Store;
use jiff::SignedDuration;
use portolan_daemon::Group;
use portolan_proto::v1::uplink_server::Uplink;
use portolan_proto::v1::{UplinkDown, UplinkUp};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Messages to a satellite that may wait; a stream that lets more pile up is ended.
const OUTBOUND: usize = 256;

/// A message to a satellite. Boxed, as whatever waits in a session's queues: they hold room for 32 entries from the
/// start, which for ten thousand satellites is most of the memory.
type Outgoing = Box<Result<UplinkDown, Status>>;

/// What every session shares.
#[derive(Clone)]
pub struct UplinkService {
    /// Where observations go.
    pub store: Store,
    /// Who may connect.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub hub: Arc<Hub>,
    /// Who waits for results.
    pub scans: Arc<Scans>,
    /// What is made of what they see.
    pub evaluation: Arc<Evaluation>,
    /// What satellites are asked to do.
    pub policies: Arc<Policies>,
    /// Who catches up.
    pub replays: Replays,
    /// What should be known.
    pub problems: Arc<Problems>,
    /// Received and not committed yet: bytes, over all sessions.
    pub room: Arc<Semaphore>,
    /// Who signs renewals.
    pub authority: Arc<Authority>,
    /// How long a satellite's certificate is valid.
    pub life: SignedDuration,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where sessions run.
    pub tasks: Group,
    /// Ends them.
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Uplink for UplinkService {
    type ConnectStream = Map<ReceiverStream<Outgoing>, fn(Outgoing) -> Result<UplinkDown, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<UplinkUp>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection carries no identity"))?;
        let PeerIdentity::Satellite { id, not_after } = peer.identity else {
            return Err(Status::permission_denied("only a satellite has an uplink"));
        };
        let record = self
            .registry
            .get(id)
            .ok_or_else(|| Status::permission_denied("this server does not know the satellite"))?;
        let (down, outbound) = mpsc::channel(OUTBOUND);
        let name = record.name.clone();
        let session = session::Session::new(self.clone(), id, record, peer.address, not_after, down);
        // Boxed, or every layer around it keeps room for a copy of it.
        self.tasks.spawn(name, Box::pin(session.run(request.into_inner())));
        let unboxed: fn(Outgoing) -> _ = |message| *message;
        Ok(Response::new(ReceiverStream::new(outbound).map(unboxed)))
    }
}
