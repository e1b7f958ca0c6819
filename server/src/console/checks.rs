//! `portolan check`: what is expected and how it is.

use super::ConsoleService;
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn list_checks(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ListChecksRequest,
) -> Result<v1::ListChecksResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn get_check(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::GetCheckRequest,
) -> Result<v1::GetCheckResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn run_check(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::RunCheckRequest,
) -> Result<v1::RunCheckResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn pause_check(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::PauseCheckRequest,
) -> Result<v1::PauseCheckResponse, Status> {
    Err(Status::unimplemented("not yet"))
}
