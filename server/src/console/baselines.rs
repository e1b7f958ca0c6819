//! `portolan baseline`: what was open when somebody looked.

use super::ConsoleService;
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn take_baseline(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::TakeBaselineRequest,
) -> Result<v1::Baseline, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn get_baseline(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::GetBaselineRequest,
) -> Result<v1::Baseline, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn accept_baseline(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::AcceptBaselineRequest,
) -> Result<v1::Baseline, Status> {
    Err(Status::unimplemented("not yet"))
}
