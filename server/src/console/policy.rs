//! `portolan policy`: versions of what is wanted.

use super::ConsoleService;
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn check_policy(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::CheckPolicyRequest,
) -> Result<v1::PolicyReport, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn apply_policy(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ApplyPolicyRequest,
) -> Result<v1::PolicyReport, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn get_policy(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::GetPolicyRequest,
) -> Result<v1::GetPolicyResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn list_policy_versions(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ListPolicyVersionsRequest,
) -> Result<v1::ListPolicyVersionsResponse, Status> {
    Err(Status::unimplemented("not yet"))
}
