//! `portolan baseline`: what was open when somebody looked.

use super::ConsoleService;
use crate::alerts::{AlertsError, BaselineScope, HostPort, Survey};
use crate::store::{InventoryQuery, Store};
use ipnet::{IpSubnets, Ipv4Subnets, Ipv6Subnets};
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_proto::v1;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use tonic::Status;

/// Hosts and ports accepted at once.
const MAX_ACCEPTED: usize = 10_000;

pub(super) async fn take_baseline(
    service: &ConsoleService,
    operator: &str,
    request: v1::TakeBaselineRequest,
) -> Result<v1::Baseline, Status> {
    let survey = survey(service, &request.name).await?;
    let taken = service.evaluation.alter(|alerts, now| alerts.take_baseline(&survey, operator, now)).await?;
    tracing::info!(operator, check = taken.name, ports = taken.ports.len(), "baseline taken");
    Ok(taken)
}

pub(super) async fn get_baseline(
    service: &ConsoleService,
    _operator: &str,
    request: v1::GetBaselineRequest,
) -> Result<v1::Baseline, Status> {
    service.evaluation.read(|alerts, _| alerts.baseline(&request.name).map(drop))?;
    let survey = survey(service, &request.name).await?;
    let shown = service.evaluation.read(|alerts, _| {
        let baseline = alerts.baseline(&request.name)?;
        Ok::<_, AlertsError>(baseline.to_wire(&survey, alerts.context()))
    });
    Ok(shown?)
}

pub(super) async fn accept_baseline(
    service: &ConsoleService,
    operator: &str,
    request: v1::AcceptBaselineRequest,
) -> Result<v1::Baseline, Status> {
    if request.hosts.len() > MAX_ACCEPTED {
        return Err(Status::invalid_argument(format!(
            "at most {MAX_ACCEPTED} hosts and ports are accepted at once"
        )));
    }
    let hosts = request.hosts.iter().map(|host| host.parse()).collect::<Result<Vec<HostPort>, _>>()?;
    service.evaluation.read(|alerts, _| alerts.baseline(&request.name).map(drop))?;
    let survey = survey(service, &request.name).await?;
    let work = service.evaluation.alter(|alerts, now| alerts.accept_baseline(&survey, &hosts, operator, now));
    let accepted = work.await?;
    tracing::info!(operator, check = accepted.name, hosts = hosts.len(), "baseline accepted");
    Ok(accepted)
}

/// What the inventory has of a check's targets.
async fn survey(service: &ConsoleService, check: &str) -> Result<Survey, Status> {
    let scope = service.evaluation.read(|alerts, _| alerts.baseline_scope(check))?;
    let store = service.store.clone();
    let read = tokio::task::spawn_blocking(move || look_up(&store, scope));
    read.await.map_err(|error| Status::internal(error.to_string()))?
}

fn look_up(store: &Store, scope: BaselineScope) -> Result<Survey, Status> {
    let mut addresses = scope.reach.addresses();
    for name in scope.reach.names() {
        let named: AddressSet = store.addresses_of(&scope.tenant, name)?.into_iter().collect();
        addresses = addresses.union(&named);
    }
    let mut survey = Survey::new(scope);
    for network in addresses.ranges().flat_map(networks) {
        let query = InventoryQuery { tenant: survey.scope().tenant.clone(), host: Some(network), all: true };
        let mut refused = None;
        store.inventory(&query, |row| match survey.add(&row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                refused = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = refused {
            return Err(error.into());
        }
    }
    Ok(survey)
}

/// A range as the fewest networks.
fn networks(range: AddressRange) -> IpSubnets {
    match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).into(),
        (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).into(),
        // A range has one family: there is nothing between addresses of two.
        _ => Ipv4Subnets::new(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_to_networks() {
        let of = |text: &str| {
            let range: AddressRange = text.parse().unwrap();
            networks(range).map(|net| net.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("10.0.0.1"), "10.0.0.1/32");
        assert_eq!(of("10.0.0.0-10.0.1.255"), "10.0.0.0/23");
        assert_eq!(of("10.0.0.255-10.0.1.1"), "10.0.0.255/32 10.0.1.0/31");
        assert_eq!(of("fd00::-fd00::1"), "fd00::/127");
        assert_eq!(of("0.0.0.0-255.255.255.255"), "0.0.0.0/0");
    }
}
