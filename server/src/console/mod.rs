//! The Console service: what operators may ask. One file a resource; this one only says where each call goes.

mod alerts;
mod baselines;
mod changes;
mod checks;
mod inventory;
mod policy;
mod satellites;
mod scans;
mod silences;
mod status;

use crate::alerts::AlertsError;
use crate::evaluation::{AlterError, Evaluation};
use crate::peer::{Peer, PeerIdentity};
use crate::pki::server_certificate::ServerCertificate;
use crate::policies::Policies;
use crate::problems::Problems;
use crate::registry::{Registry, RegistryError};
use crate::scans::Scans;
use crate::store::{Store, StoreError};
use crate::uplink::Hub;
use jiff::Timestamp;
use portolan_common::ids::DeploymentId;
use portolan_daemon::Group;
use portolan_proto::v1;
use portolan_proto::v1::console_server::Console;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// See the module.
#[derive(Clone)]
pub struct ConsoleService {
    /// Where everything is.
    pub store: Store,
    /// Who is registered.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub hub: Arc<Hub>,
    /// What holds of it.
    pub evaluation: Arc<Evaluation>,
    /// What is wanted.
    pub policies: Arc<Policies>,
    /// What should be known.
    pub problems: Arc<Problems>,
    /// What runs.
    pub scans: Arc<Scans>,
    /// Calls that watch alerts.
    pub watches: Group,
    /// For `status`.
    pub certificate: Arc<ServerCertificate>,
    /// For `status`.
    pub deployment: DeploymentId,
    /// For `status`.
    pub started_at: Timestamp,
    /// `HOST:PORT` for join tokens; follows `deployment.toml`.
    pub dial_addresses: Arc<arc_swap::ArcSwap<Vec<String>>>,
    /// The pin for join tokens.
    pub ca_pin: [u8; 32],
}

impl ConsoleService {
    /// Who calls, for the record.
    fn operator<T>(request: &Request<T>) -> (String, Timestamp) {
        match request.extensions().get::<Peer>().map(|peer| &peer.identity) {
            Some(PeerIdentity::Operator { name, not_after, .. }) => (name.clone(), *not_after),
            // The authorization table lets nobody else through.
            _ => (String::new(), Timestamp::UNIX_EPOCH),
        }
    }
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let words = error.to_string();
        match error {
            RegistryError::Unknown { .. } => Self::not_found(words),
            RegistryError::Taken(_) => Self::already_exists(words),
            RegistryError::Name(_) | RegistryError::TokenLife => Self::invalid_argument(words),
            RegistryError::Active(_) => Self::failed_precondition(words),
            RegistryError::Store(error) => error.into(),
            RegistryError::NotKept(_) => Self::internal(words),
        }
    }
}

impl From<AlertsError> for Status {
    fn from(error: AlertsError) -> Self {
        let words = error.to_string();
        match error {
            AlertsError::Unknown(..) => Self::not_found(words),
            AlertsError::Ambiguous(..) | AlertsError::Invalid(_) => Self::invalid_argument(words),
            AlertsError::Exists(_) => Self::already_exists(words),
            AlertsError::Untimely(_) => Self::failed_precondition(words),
            AlertsError::Full(_) => Self::resource_exhausted(words),
        }
    }
}

impl From<AlterError> for Status {
    fn from(error: AlterError) -> Self {
        match error {
            AlterError::Refused(error) => error.into(),
            AlterError::Unwritten => Self::unavailable(error.to_string()),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a console call failed");
        Self::internal(error.to_string())
    }
}

#[tonic::async_trait]
impl Console for ConsoleService {
    type ScanStream = Streamed<v1::ScanEvent>;
    type ListPortsStream = Streamed<v1::PortRecord>;
    type HistoryStream = Streamed<v1::HistoryRecord>;
    type ListChangesStream = Streamed<v1::PortChange>;
    type WatchAlertsStream = Streamed<v1::AlertEvent>;

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status::status(self, &request)))
    }

    async fn add_satellite(
        &self,
        request: Request<v1::AddSatelliteRequest>,
    ) -> Result<Response<v1::AddSatelliteResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        satellites::add(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_satellites(
        &self,
        request: Request<v1::ListSatellitesRequest>,
    ) -> Result<Response<v1::ListSatellitesResponse>, Status> {
        satellites::list(self, &request.into_inner().name).map(Response::new)
    }

    async fn revoke_satellite(
        &self,
        request: Request<v1::RevokeSatelliteRequest>,
    ) -> Result<Response<v1::RevokeSatelliteResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        satellites::revoke(self, &operator, &request.into_inner().name).await.map(Response::new)
    }

    async fn remove_satellite(
        &self,
        request: Request<v1::RemoveSatelliteRequest>,
    ) -> Result<Response<v1::RemoveSatelliteResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        satellites::remove(self, &operator, &request.into_inner().name).await.map(Response::new)
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (operator, _) = Self::operator(&request);
        scans::scan(self, &operator, request.into_inner()).map(Response::new)
    }

    async fn cancel_scan(
        &self,
        request: Request<v1::CancelScanRequest>,
    ) -> Result<Response<v1::CancelScanResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        scans::cancel(self, &operator, &request.into_inner().scan_id).map(Response::new)
    }

    async fn list_scans(
        &self,
        _: Request<v1::ListScansRequest>,
    ) -> Result<Response<v1::ListScansResponse>, Status> {
        Ok(Response::new(v1::ListScansResponse { scans: self.scans.list() }))
    }

    async fn pause_scan(
        &self,
        request: Request<v1::PauseScanRequest>,
    ) -> Result<Response<v1::PauseScanResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        scans::pause(self, &operator, &request.into_inner()).map(Response::new)
    }

    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<Self::ListPortsStream>, Status> {
        inventory::ports(self, request.into_inner()).map(Response::new)
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        inventory::history(self, request.into_inner()).map(Response::new)
    }

    async fn check_policy(
        &self,
        request: Request<v1::CheckPolicyRequest>,
    ) -> Result<Response<v1::PolicyReport>, Status> {
        let (operator, _) = Self::operator(&request);
        policy::check_policy(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::PolicyReport>, Status> {
        let (operator, _) = Self::operator(&request);
        policy::apply_policy(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        policy::get_policy(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_policy_versions(
        &self,
        request: Request<v1::ListPolicyVersionsRequest>,
    ) -> Result<Response<v1::ListPolicyVersionsResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        policy::list_policy_versions(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_checks(
        &self,
        request: Request<v1::ListChecksRequest>,
    ) -> Result<Response<v1::ListChecksResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        checks::list_checks(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn get_check(
        &self,
        request: Request<v1::GetCheckRequest>,
    ) -> Result<Response<v1::GetCheckResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        checks::get_check(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn run_check(
        &self,
        request: Request<v1::RunCheckRequest>,
    ) -> Result<Response<v1::RunCheckResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        checks::run_check(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn pause_check(
        &self,
        request: Request<v1::PauseCheckRequest>,
    ) -> Result<Response<v1::PauseCheckResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        checks::pause_check(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn take_baseline(
        &self,
        request: Request<v1::TakeBaselineRequest>,
    ) -> Result<Response<v1::Baseline>, Status> {
        let (operator, _) = Self::operator(&request);
        baselines::take_baseline(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn get_baseline(
        &self,
        request: Request<v1::GetBaselineRequest>,
    ) -> Result<Response<v1::Baseline>, Status> {
        let (operator, _) = Self::operator(&request);
        baselines::get_baseline(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn accept_baseline(
        &self,
        request: Request<v1::AcceptBaselineRequest>,
    ) -> Result<Response<v1::Baseline>, Status> {
        let (operator, _) = Self::operator(&request);
        baselines::accept_baseline(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_alerts(
        &self,
        request: Request<v1::ListAlertsRequest>,
    ) -> Result<Response<v1::ListAlertsResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        alerts::list_alerts(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn get_alert(&self, request: Request<v1::GetAlertRequest>) -> Result<Response<v1::Alert>, Status> {
        let (operator, _) = Self::operator(&request);
        alerts::get_alert(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn acknowledge_alert(
        &self,
        request: Request<v1::AcknowledgeAlertRequest>,
    ) -> Result<Response<v1::Alert>, Status> {
        let (operator, _) = Self::operator(&request);
        alerts::acknowledge_alert(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn comment_alert(
        &self,
        request: Request<v1::CommentAlertRequest>,
    ) -> Result<Response<v1::Alert>, Status> {
        let (operator, _) = Self::operator(&request);
        alerts::comment_alert(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn watch_alerts(
        &self,
        request: Request<v1::WatchAlertsRequest>,
    ) -> Result<Response<Self::WatchAlertsStream>, Status> {
        alerts::watch_alerts(self, request.into_inner()).map(Response::new)
    }

    async fn add_silence(
        &self,
        request: Request<v1::AddSilenceRequest>,
    ) -> Result<Response<v1::Silence>, Status> {
        let (operator, _) = Self::operator(&request);
        silences::add_silence(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_silences(
        &self,
        request: Request<v1::ListSilencesRequest>,
    ) -> Result<Response<v1::ListSilencesResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        silences::list_silences(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn expire_silence(
        &self,
        request: Request<v1::ExpireSilenceRequest>,
    ) -> Result<Response<v1::Silence>, Status> {
        let (operator, _) = Self::operator(&request);
        silences::expire_silence(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn open_change(
        &self,
        request: Request<v1::OpenChangeRequest>,
    ) -> Result<Response<v1::ExpectedChange>, Status> {
        let (operator, _) = Self::operator(&request);
        changes::open_change(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn close_change(
        &self,
        request: Request<v1::CloseChangeRequest>,
    ) -> Result<Response<v1::ExpectedChange>, Status> {
        let (operator, _) = Self::operator(&request);
        changes::close_change(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_expected_changes(
        &self,
        request: Request<v1::ListExpectedChangesRequest>,
    ) -> Result<Response<v1::ListExpectedChangesResponse>, Status> {
        let (operator, _) = Self::operator(&request);
        changes::list_expected_changes(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_changes(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Result<Response<Self::ListChangesStream>, Status> {
        inventory::changes(self, request.into_inner()).map(Response::new)
    }
}
