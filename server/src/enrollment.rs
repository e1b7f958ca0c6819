//! The Enrollment service: the only one that a client without a certificate can reach.

use crate::pki::authority::{Authority, MAX_CSR_BYTES};
use crate::policies::Policies;
use crate::registry::{RedeemError, Registry};
use jiff::{SignedDuration, Timestamp};
use portolan_proto::v1::enrollment_server::Enrollment;
use portolan_proto::v1::{EnrollRequest, EnrollResponse};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// See the module.
pub struct EnrollmentService {
    /// Whom to enrol.
    pub registry: Arc<Registry>,
    /// Who knows the segments' networks.
    pub policies: Arc<Policies>,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// How long a satellite's certificate is valid.
    pub life: SignedDuration,
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.secret.len() != 32 || request.csr_der.len() > MAX_CSR_BYTES {
            return Err(Status::invalid_argument("the request is malformed"));
        }
        let now = Timestamp::now();
        let (record, issued) = self
            .registry
            .redeem(&request.secret, &request.csr_der, &self.authority, self.life, now)
            .await
            .map_err(|error| status(&error))?;
        let version: String = request.version.chars().filter(|c| !c.is_control()).take(32).collect();
        tracing::info!(satellite = %record.name, segment = %record.segment, version, "enrolled");
        let known_cidrs = self.policies.cidrs(&record.tenant).iter().map(ToString::to_string).collect();
        Ok(Response::new(EnrollResponse {
            certificate_chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            root_certificate: self.authority.root().to_vec(),
            satellite_name: record.name,
            segment: record.segment,
            tenant: record.tenant,
            known_cidrs,
        }))
    }
}

/// The secret's holder is told what is wrong; everybody else only that the server does not know the token.
fn status(error: &RedeemError) -> Status {
    match error {
        RedeemError::Unknown => Status::unauthenticated(error.to_string()),
        RedeemError::Used(_) | RedeemError::Expired(_) | RedeemError::Void => {
            Status::failed_precondition(error.to_string())
        }
        RedeemError::Request(_) => Status::invalid_argument(error.to_string()),
        RedeemError::Store(failure) => {
            tracing::error!(error = %failure, "an enrollment failed");
            Status::internal(
                "the server could not record the enrollment; try again, the token is not used up",
            )
        }
    }
}
