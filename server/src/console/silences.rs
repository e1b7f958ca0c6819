//! `portolan silence`: alerts that nobody wants to hear of for a while.

use super::ConsoleService;
use portolan_proto::v1;
use tonic::Status;

pub(super) async fn add_silence(
    service: &ConsoleService,
    operator: &str,
    request: v1::AddSilenceRequest,
) -> Result<v1::Silence, Status> {
    let silence = service.evaluation.alter(|alerts, now| alerts.add_silence(&request, operator, now)).await?;
    tracing::info!(operator, silence = %silence.id, alerts = silence.alerts, "silence added");
    Ok(silence)
}

pub(super) async fn list_silences(
    service: &ConsoleService,
    _operator: &str,
    request: v1::ListSilencesRequest,
) -> Result<v1::ListSilencesResponse, Status> {
    let silences = service.evaluation.read(|alerts, now| alerts.silences(request.expired, now));
    Ok(v1::ListSilencesResponse { silences })
}

pub(super) async fn expire_silence(
    service: &ConsoleService,
    operator: &str,
    request: v1::ExpireSilenceRequest,
) -> Result<v1::Silence, Status> {
    let silence = service.evaluation.alter(|alerts, now| alerts.expire_silence(&request.id, now)).await?;
    tracing::info!(operator, silence = %silence.id, "silence expired");
    Ok(silence)
}
