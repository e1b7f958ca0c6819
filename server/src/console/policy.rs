//! `portolan policy`: versions of what is wanted.

use super::ConsoleService;
use crate::policies::{Apply, PolicyError};
use jiff::Timestamp;
use portolan_policy::PolicyFile;
use portolan_proto::v1;
use tonic::Status;

impl From<PolicyError> for Status {
    fn from(error: PolicyError) -> Self {
        let words = error.to_string();
        match error {
            PolicyError::Invalid(_) => Self::invalid_argument(words),
            PolicyError::NoVersion { .. } => Self::not_found(words),
            PolicyError::Overtaken { .. } => Self::aborted(words),
            PolicyError::Store(error) => error.into(),
            PolicyError::Unreadable { .. } => Self::data_loss(words),
            PolicyError::Failed(_) => Self::internal(words),
        }
    }
}

pub(super) async fn check_policy(
    service: &ConsoleService,
    _operator: &str,
    request: v1::CheckPolicyRequest,
) -> Result<v1::PolicyReport, Status> {
    Ok(service.policies.check(read(request.files), Timestamp::now()).await?)
}

pub(super) async fn apply_policy(
    service: &ConsoleService,
    operator: &str,
    request: v1::ApplyPolicyRequest,
) -> Result<v1::PolicyReport, Status> {
    let apply = Apply {
        files: read(request.files),
        rollback_to: request.rollback_to,
        author: operator.to_owned(),
        message: request.message,
        dry_run: request.dry_run,
        based_on: request.based_on,
    };
    // What was begun is ended, also when the caller goes away in the middle.
    let policies = service.policies.clone();
    let applied = tokio::spawn(async move { policies.apply(apply, Timestamp::now()).await });
    Ok(applied.await.map_err(PolicyError::from)??)
}

pub(super) async fn get_policy(
    service: &ConsoleService,
    _operator: &str,
    request: v1::GetPolicyRequest,
) -> Result<v1::GetPolicyResponse, Status> {
    let (version, files) = service.policies.version(request.version).await?;
    let file = |file: PolicyFile| v1::PolicyFile { name: file.name, text: file.text };
    Ok(v1::GetPolicyResponse {
        version: Some((&version).into()),
        files: files.into_iter().map(file).collect(),
    })
}

pub(super) async fn list_policy_versions(
    service: &ConsoleService,
    _operator: &str,
    _request: v1::ListPolicyVersionsRequest,
) -> Result<v1::ListPolicyVersionsResponse, Status> {
    let versions = service.policies.versions();
    Ok(v1::ListPolicyVersionsResponse { versions: versions.iter().map(Into::into).collect() })
}

fn read(files: Vec<v1::PolicyFile>) -> Vec<PolicyFile> {
    files.into_iter().map(|file| PolicyFile { name: file.name, text: file.text }).collect()
}
