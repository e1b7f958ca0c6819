//! `portolan silence`: alerts that nobody wants to hear of for a while.

use super::ConsoleService;
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn add_silence(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::AddSilenceRequest,
) -> Result<v1::Silence, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn list_silences(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ListSilencesRequest,
) -> Result<v1::ListSilencesResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn expire_silence(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ExpireSilenceRequest,
) -> Result<v1::Silence, Status> {
    Err(Status::unimplemented("not yet"))
}
