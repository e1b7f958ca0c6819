//! `portolan change`: changes that were announced. How things were is read from the inventory when one is opened, and
//! again when it is closed; whoever closes it has looked anew before.

use super::{ConsoleService, inventory};
use crate::alerts::{Anticipated, ExpectedChange, speaks_of};
use crate::store::{InventoryQuery, StoreError};
use jiff::Timestamp;
use portolan_proto::v1;
use std::ops::ControlFlow;
use tonic::Status;

/// Records told of one expectation.
const MAX_RECORDS: usize = 256;

pub(super) async fn open_change(
    service: &ConsoleService,
    operator: &str,
    request: v1::OpenChangeRequest,
) -> Result<v1::ExpectedChange, Status> {
    let mut change = ExpectedChange::read(&request, operator, Timestamp::now())?;
    let before = how_it_is(service, change.expectations.clone()).await?;
    for (expectation, before) in change.expectations.iter_mut().zip(before) {
        expectation.before = before;
    }
    let opened = service.evaluation.alter(|alerts, now| alerts.open_change(change, now)).await?;
    tracing::info!(operator, change = opened.name, expectations = opened.expectations.len(), "change opened");
    Ok(opened)
}

pub(super) async fn close_change(
    service: &ConsoleService,
    operator: &str,
    request: v1::CloseChangeRequest,
) -> Result<v1::ExpectedChange, Status> {
    let name = request.name;
    let expectations =
        service.evaluation.read(|alerts, now| alerts.change(&name, now).map(|c| c.expectations.clone()))?;
    let after = how_it_is(service, expectations).await?;
    let mut closed = service.evaluation.alter(|alerts, now| alerts.close_change(&name, now)).await?;
    for (expectation, after) in closed.expectations.iter_mut().zip(after) {
        expectation.after = after;
    }
    tracing::info!(operator, change = closed.name, "change closed");
    Ok(closed)
}

pub(super) async fn list_expected_changes(
    service: &ConsoleService,
    _operator: &str,
    request: v1::ListExpectedChangesRequest,
) -> Result<v1::ListExpectedChangesResponse, Status> {
    let changes = service.evaluation.read(|alerts, now| alerts.changes(request.closed, now));
    Ok(v1::ListExpectedChangesResponse { changes })
}

/// What the inventory says of each expectation, in every tenant that it may speak of.
async fn how_it_is(
    service: &ConsoleService,
    expectations: Vec<Anticipated>,
) -> Result<Vec<Vec<v1::PortRecord>>, Status> {
    let service = service.clone();
    let read = move || expectations.iter().map(|expectation| records_of(&service, expectation)).collect();
    let records: Result<Vec<_>, StoreError> =
        tokio::task::spawn_blocking(read).await.map_err(|error| Status::internal(error.to_string()))?;
    Ok(records?)
}

fn records_of(
    service: &ConsoleService,
    expectation: &Anticipated,
) -> Result<Vec<v1::PortRecord>, StoreError> {
    let mut records = Vec::new();
    for tenant in service.registry.tenants() {
        let query = InventoryQuery { tenant, host: Some(expectation.target), all: true };
        service.store.inventory(&query, |row| {
            let record = inventory::port_record(service, row);
            let told = record.and_then(|record| {
                let ports = speaks_of(expectation, &record)?;
                Some(v1::PortRecord { ports: Some((&ports).into()), ..record })
            });
            records.extend(told);
            if records.len() < MAX_RECORDS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    records.truncate(MAX_RECORDS);
    Ok(records)
}
