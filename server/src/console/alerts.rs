//! `portolan alert`: what is wrong, and who has seen it.

use super::{ConsoleService, Streamed};
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn list_alerts(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::ListAlertsRequest,
) -> Result<v1::ListAlertsResponse, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn get_alert(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::GetAlertRequest,
) -> Result<v1::Alert, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn acknowledge_alert(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::AcknowledgeAlertRequest,
) -> Result<v1::Alert, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) async fn comment_alert(
    _service: &ConsoleService,
    _operator: &str,
    _request: v1::CommentAlertRequest,
) -> Result<v1::Alert, Status> {
    Err(Status::unimplemented("not yet"))
}

pub(super) fn watch_alerts(
    _service: &ConsoleService,
    _request: v1::WatchAlertsRequest,
) -> Result<Streamed<v1::AlertEvent>, Status> {
    Err(Status::unimplemented("not yet"))
}
