//! `portolan change`: changes that were announced.

use super::ConsoleService;
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn open_change(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::OpenChangeRequest,
) -> Result<v1::ExpectedChange, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn close_change(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::CloseChangeRequest,
) -> Result<v1::ExpectedChange, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn list_expected_changes(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ListExpectedChangesRequest,
) -> Result<v1::ListExpectedChangesResponse, Status> {
    Err(Status::unimplemented("not yet"))
}
