//! Uplink: the satellites' streams. [`hub`] knows who is connected, [`session`] runs one stream, [`commit`] makes what
//! it brings durable.

mod commit;
mod hub;
mod session;

pub use hub::{Hub, Joined, StatusCounts};

use crate::metrics::Metrics;
use crate::peer::{Peer, PeerIdentity};
use crate::pki::authority::Authority;
use crate::registry::Registry;
use crate::scans::Scans;
use crate::store::Store;
use jiff::SignedDuration;
use portolan_proto::v1::uplink_server::Uplink;
use portolan_proto::v1::{UplinkDown, UplinkUp};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// Messages to a satellite that may wait; a stream that lets more pile up is ended.
const OUTBOUND: usize = 256;

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
    /// Who signs renewals.
    pub authority: Arc<Authority>,
    /// How long a satellite's certificate is valid.
    pub life: SignedDuration,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where sessions run.
    pub tasks: TaskTracker,
    /// Ends them.
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Uplink for UplinkService {
    type ConnectStream = ReceiverStream<Result<UplinkDown, Status>>;

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
        if !self.store.is_writable() {
            return Err(Status::unavailable("the server cannot store anything now"));
        }
        let (down, outbound) = mpsc::channel(OUTBOUND);
        let session = session::Session::new(self.clone(), id, record, peer.address, not_after, down);
        self.tasks.spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}
