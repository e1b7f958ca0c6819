//! `portolan ports`, `portolan history` and `portolan changes`: streamed from a blocking thread, as fast as the reader takes them.

use super::{ConsoleService, Streamed};
use crate::store::{
    Change, HistoryQuery, InventoryQuery, InventoryRow, SatelliteRecord, Store, StoreError, is_name,
};
use ipnet::IpNet;
use jiff::Timestamp;
use portolan_common::addresses::parse_network;
use portolan_common::ids::SatelliteId;
use portolan_proto::convert::address_to_wire;
use portolan_proto::v1;
use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Records that may wait for the reader.
const WAITING: usize = 256;
/// How often it is looked whether a reader that lags takes more.
const SLOW_READER: Duration = Duration::from_millis(5);

pub(super) fn ports(
    service: &ConsoleService,
    request: v1::ListPortsRequest,
) -> Result<Streamed<v1::PortRecord>, Status> {
    let hosts = hosts(service, &request.host)?;
    let service = service.clone();
    Ok(streamed(service.store.clone(), move |send| {
        for (tenant, host) in hosts {
            let query = InventoryQuery { tenant, host, all: request.all };
            service.store.inventory(&query, |row| {
                for part in parts(&service, &query.tenant, row) {
                    let record = port_record(&service, part);
                    let record =
                        record.filter(|r| request.segment.is_empty() || r.segment == request.segment);
                    if record.is_some_and(|record| send(record).is_break()) {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }))
}

/// A row in parts by when their ports were last looked at: checks look again and again, and what they see unchanged is
/// not written each time.
fn parts(service: &ConsoleService, tenant: &str, row: InventoryRow) -> Vec<InventoryRow> {
    let evaluation = &service.evaluation;
    let mut looks = evaluation.look(|evaluator, _| evaluator.looks(row.satellite, tenant, row.address));
    looks.sort_by_key(|look| Reverse(look.seen));
    let mut parts = Vec::new();
    let mut rest = row;
    for look in looks.iter().filter(|look| (look.protocol, look.state) == (rest.protocol, rest.state)) {
        let last_seen = evaluation.shown(look.seen);
        let ports = rest.ports.intersection(&look.ports);
        if !ports.is_empty() && last_seen > rest.last_seen {
            rest.ports = rest.ports.difference(&ports);
            parts.push(InventoryRow { ports, last_seen, ..rest.clone() });
        }
    }
    if !rest.ports.is_empty() {
        parts.push(rest);
    }
    parts
}

pub(super) fn history(
    service: &ConsoleService,
    request: v1::HistoryRequest,
) -> Result<Streamed<v1::HistoryRecord>, Status> {
    let port = request
        .port
        .map(|port| u16::try_from(port).map_err(|_| Status::invalid_argument(format!("{port} is no port"))))
        .transpose()?;
    let since = Timestamp::from_millisecond(request.since_at_ms)
        .map_err(|_| Status::invalid_argument("the time is out of range"))?;
    let hosts: Vec<(String, IpAddr)> = hosts(service, &request.host)?
        .into_iter()
        .map(|(tenant, host)| match host {
            Some(host) if host.prefix_len() == host.max_prefix_len() => Ok((tenant, host.addr())),
            _ => Err(Status::invalid_argument("history is asked for one host: an address, or a name")),
        })
        .collect::<Result<_, _>>()?;
    let service = service.clone();
    Ok(streamed(service.store.clone(), move |send| {
        let name_of = |id: SatelliteId| service.registry.get(id).map_or_else(|| id.to_string(), |r| r.name);
        for (tenant, address) in &hosts {
            for first in service.store.first_seen(tenant, *address)? {
                let record = v1::history_record::Record::FirstSeen(v1::FirstSeen {
                    satellite: name_of(first.satellite),
                    address: address_to_wire(*address),
                    at_ms: first.at.as_millisecond(),
                });
                if send(v1::HistoryRecord { record: Some(record) }).is_break() {
                    return Ok(());
                }
            }
        }
        for (tenant, address) in hosts {
            let query = HistoryQuery { tenant, address, port, since };
            service.store.history(&query, |change| {
                let change = port_change(name_of(change.satellite), &change);
                let record = v1::history_record::Record::Change(change);
                send(v1::HistoryRecord { record: Some(record) })
            })?;
        }
        Ok(())
    }))
}

/// Every change of every host.
pub(super) fn changes(
    service: &ConsoleService,
    request: v1::ListChangesRequest,
) -> Result<Streamed<v1::PortChange>, Status> {
    let since = Timestamp::from_millisecond(request.since_at_ms)
        .map_err(|_| Status::invalid_argument("the time is out of range"))?;
    let service = service.clone();
    Ok(streamed(service.store.clone(), move |send| {
        service.store.changes_since(since, |change| {
            let seen_by = service.registry.get(change.satellite);
            let foreign = |of: &SatelliteRecord| of.segment != request.segment;
            if !request.segment.is_empty() && seen_by.as_ref().is_none_or(foreign) {
                return ControlFlow::Continue(());
            }
            let name = seen_by.map_or_else(|| change.satellite.to_string(), |satellite| satellite.name);
            send(port_change(name, &change))
        })
    }))
}

fn port_change(satellite: String, change: &Change) -> v1::PortChange {
    v1::PortChange {
        at_ms: change.at.as_millisecond(),
        satellite,
        address: address_to_wire(change.address),
        protocol: v1::Protocol::from(change.protocol).into(),
        ports: Some((&change.ports).into()),
        from: v1::PortState::from(change.from).into(),
        to: v1::PortState::from(change.to).into(),
        reason: v1::Reason::from(change.reason).into(),
        late: change.late,
    }
}

/// A row of the inventory with who saw it. A removed vantage point is evidence of nothing any more.
pub(super) fn port_record(service: &ConsoleService, row: InventoryRow) -> Option<v1::PortRecord> {
    let satellite = service.registry.get(row.satellite).filter(|satellite| satellite.removed_at_ms == 0)?;
    Some(v1::PortRecord {
        satellite: satellite.name,
        segment: satellite.segment,
        tenant: satellite.tenant,
        address: address_to_wire(row.address),
        target: if is_name(&row.target) { row.target } else { String::new() },
        protocol: v1::Protocol::from(row.protocol).into(),
        state: v1::PortState::from(row.state).into(),
        reason: v1::Reason::from(row.reason).into(),
        ports: Some((&row.ports).into()),
        since_at_ms: row.since.as_millisecond(),
        last_seen_at_ms: row.last_seen.as_millisecond(),
    })
}

/// What a host argument stands for in each tenant: an address, a network, the addresses of a name; all when empty.
fn hosts(service: &ConsoleService, host: &str) -> Result<Vec<(String, Option<IpNet>)>, Status> {
    let tenants = service.registry.tenants();
    let everywhere = |network| tenants.iter().map(|tenant| (tenant.clone(), network)).collect();
    if host.is_empty() {
        return Ok(everywhere(None));
    }
    if let Ok(network) = parse_network(host) {
        return Ok(everywhere(Some(network)));
    }
    let mut found = Vec::new();
    for tenant in &tenants {
        for address in service.store.addresses_of(tenant, host)? {
            found.push((tenant.clone(), Some(IpNet::from(address))));
        }
    }
    if found.is_empty() {
        let name: String = host.chars().filter(|c| !c.is_control()).take(253).collect();
        return Err(Status::not_found(format!("nothing was scanned by the name `{name}`: try its address")));
    }
    Ok(found)
}

/// Runs a blocking read whose every record goes to the stream; it stops when the reader goes.
fn streamed<T: Send + 'static>(
    store: Store,
    read: impl FnOnce(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<(), StoreError> + Send + 'static,
) -> Streamed<T> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let mut interrupted = false;
        let mut send = |record| {
            let mut record = Ok(record);
            loop {
                record = match sender.try_send(record) {
                    Ok(()) => return ControlFlow::Continue(()),
                    Err(TrySendError::Closed(_)) => return ControlFlow::Break(()),
                    Err(TrySendError::Full(back)) => back,
                };
                // Whoever reads slowly may take its time, but not keep a store closed that wants to be opened again.
                if !store.is_open() {
                    interrupted = true;
                    return ControlFlow::Break(());
                }
                std::thread::sleep(SLOW_READER);
            }
        };
        let read = read(&mut send);
        if interrupted {
            let _ = sender.blocking_send(Err(StoreError::Closed.into()));
        } else if let Err(error) = read {
            let _ = sender.blocking_send(Err(error.into()));
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}
