//! `portolan change close`: looks again from where the change was expected, so that what is shown as after is fresh.

use crate::cli::Global;
use crate::commands::converse;
use crate::document::change::ClosedDocument;
use crate::errors::{ConsoleError, Exit};
use crate::output::structured::write_one;
use crate::output::text::printable;
use crate::output::{Format, View, print, table, warn};
use crate::session::{self, Client, ask};
use portolan_common::addresses::parse_network;
use portolan_common::ports::PortSpec;
use portolan_proto::convert::address_from_wire;
use portolan_proto::v1::{self, satellite::Status as Standing, scan_event::Event};
use std::io::Write as _;
use tonic::Status;

/// The most that is looked at again, addresses by ports: a /24 with a thousand ports. What is announced may be as wide as
/// a whole network; to end it must not send a flood through that.
const MAX_AGAIN: u128 = 1 << 18;

/// Does what was typed.
pub fn run(name: &str, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::ONE, "change close")?;
    let (change, gaps, violations) = converse(async |_| {
        let mut client = session::open(&global.context).await?;
        close(&mut client, name).await
    })?;
    let document = ClosedDocument::new(&change, &violations)?;
    print(|out| match format {
        Format::Table => out.write_all(table::change::closed(&document, &View::of_stdout()).as_bytes()),
        format => write_one(out, format, &document),
    })?;
    gaps.iter().for_each(|text| warn(text));
    Ok(match (violations.is_empty(), gaps.is_empty()) {
        (false, _) => Exit::Violated,
        (true, false) => Exit::Partial,
        (true, true) => Exit::Done,
    })
}

/// Looks and closes; gives also where nobody could look, and the alerts that its ports leave behind.
async fn close(
    client: &mut Client,
    name: &str,
) -> Result<(v1::ExpectedChange, Vec<String>, Vec<v1::Alert>), ConsoleError> {
    let failed = || ConsoleError::call(format!("close change `{name}`"));
    let request = v1::ListExpectedChangesRequest { closed: false };
    let open = client.list_expected_changes(ask(request)).await.map_err(failed())?.into_inner().changes;
    let Some(change) = open.into_iter().find(|change| change.name == name) else {
        return Err(failed()(Status::not_found("no change of this name is open")));
    };
    let request = v1::ListSatellitesRequest::default();
    let satellites = client.list_satellites(ask(request)).await.map_err(failed())?.into_inner().satellites;
    let mut gaps = Vec::new();
    for expectation in &change.expectations {
        let from = online(&expectation.from, &satellites);
        if from.is_empty() {
            gaps.push(format!(
                "no satellite of {} is online: what was last seen from there may be old",
                printable(&expectation.from)
            ));
            continue;
        }
        if breadth(expectation).is_none_or(|breadth| breadth > MAX_AGAIN) {
            gaps.push(format!(
                "{} on ports {} is too much to look at again: what was last seen there may be old",
                printable(&expectation.target),
                printable(&expectation.ports)
            ));
            continue;
        }
        let request = scan_of(expectation, from);
        match look(client, request).await {
            Ok(found) => gaps.extend(found),
            // The change is closed all the same: it is the operator's word that it is over.
            Err(status) => gaps.push(ConsoleError::call("look again")(status).to_string()),
        }
    }
    let request = v1::CloseChangeRequest { name: name.to_owned() };
    let closed = client.close_change(ask(request)).await.map_err(failed())?.into_inner();
    let mut alerts = match client.list_alerts(ask(v1::ListAlertsRequest::default())).await {
        Ok(alerts) => alerts.into_inner().alerts,
        // It is closed, whatever else cannot be said.
        Err(status) => {
            gaps.push(ConsoleError::call("list the alerts that it leaves behind")(status).to_string());
            Vec::new()
        }
    };
    alerts.retain(|alert| closed.expectations.iter().any(|expectation| is_about(alert, expectation)));
    Ok((closed, gaps, alerts))
}

/// Whether a check is violated by a port that the change was announced for.
fn is_about(alert: &v1::Alert, expectation: &v1::ChangeExpectation) -> bool {
    let (Ok(address), Ok(network), Ok(ports), Ok(port)) = (
        address_from_wire(&alert.address),
        parse_network(&expectation.target),
        expectation.ports.parse::<PortSpec>(),
        u16::try_from(alert.port),
    ) else {
        return false;
    };
    // The ports are written without a protocol's letter.
    !alert.check.is_empty()
        && network.contains(&address)
        && alert.protocol() == expectation.protocol()
        && ports.tcp.contains(port)
}

/// The satellites that are meant and can look now.
fn online(from: &str, satellites: &[v1::Satellite]) -> Vec<String> {
    let is_meant = |satellite: &&v1::Satellite| {
        satellite.status() == Standing::Online
            && (from == "*" || satellite.segment == from || satellite.name == from)
    };
    satellites.iter().filter(is_meant).map(|satellite| satellite.name.clone()).collect()
}

/// How much that is, addresses by ports; `None` where it cannot be said.
fn breadth(expectation: &v1::ChangeExpectation) -> Option<u128> {
    let network = parse_network(&expectation.target).ok()?;
    let ports: PortSpec = expectation.ports.parse().ok()?;
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    1u128.checked_shl(bits)?.checked_mul(ports.len() as u128)
}

fn scan_of(expectation: &v1::ChangeExpectation, satellites: Vec<String>) -> v1::ScanRequest {
    let letter = if expectation.protocol() == v1::Protocol::Udp { "U" } else { "T" };
    v1::ScanRequest {
        satellites,
        targets: vec![expectation.target.clone()],
        ports: format!("{letter}:{}", expectation.ports),
        method: "auto".to_owned(),
        ..Default::default()
    }
}

/// Scans without a word of progress; gives what it could not look at.
async fn look(client: &mut Client, request: v1::ScanRequest) -> Result<Vec<String>, Status> {
    let mut events = client.scan(request).await?.into_inner();
    let mut gaps = Vec::new();
    let mut finished = false;
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::Finished(_)) => finished = true,
            Some(Event::End(end)) => gaps.extend(gap(&end)),
            _ => {}
        }
    }
    if !finished {
        gaps.push("the server ended a scan before it was done".to_owned());
    }
    Ok(gaps)
}

fn gap(end: &v1::SatelliteEnd) -> Option<String> {
    let name = printable(&end.satellite);
    if let [first, ..] = end.refusals.as_slice() {
        return Some(format!(
            "{name} refused {}: its scope says `{}`",
            printable(&first.target),
            printable(&first.rule)
        ));
    }
    (!end.complete).then(|| format!("{name} could not look: {}", printable(&end.error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::alert::fixture::alert;
    use crate::document::change::tests::change;
    use crate::fake::{Fake, answer, connect, feed};
    use crate::scan_result::fixture::{end, event, finished};
    use std::sync::{Arc, Mutex};

    fn satellites() -> v1::ListSatellitesResponse {
        let satellite = |name: &str, segment: &str, status: Standing| v1::Satellite {
            name: name.into(),
            segment: segment.into(),
            status: status.into(),
            ..Default::default()
        };
        v1::ListSatellitesResponse {
            satellites: vec![
                satellite("office-1", "office", Standing::Online),
                satellite("office-2", "office", Standing::Offline),
                satellite("pci-1", "pci", Standing::Online),
            ],
        }
    }

    /// One open change that expects this of each of these; whether the office can look is said by `complete`.
    fn server(froms: &[&str], complete: bool, calls: &Arc<Mutex<Vec<String>>>) -> Fake {
        let one = change().expectations.remove(0);
        let expectations =
            froms.iter().map(|from| v1::ChangeExpectation { from: (*from).into(), ..one.clone() });
        let open = v1::ExpectedChange { closed_at_ms: 0, expectations: expectations.collect(), ..change() };
        let (scans, closes) = (calls.clone(), calls.clone());
        Fake {
            list_expected_changes: answer(move |request: v1::ListExpectedChangesRequest| {
                assert!(!request.closed);
                Ok(v1::ListExpectedChangesResponse { changes: vec![open.clone()] })
            }),
            list_satellites: answer(|_| Ok(satellites())),
            scan: answer(move |request: v1::ScanRequest| {
                let from = request.satellites.join("+");
                scans.lock().unwrap().push(format!("{from} {} {}", request.targets[0], request.ports));
                let error = if complete { String::new() } else { "it restarted".into() };
                let end = v1::SatelliteEnd { complete, error, ..end("office-1", 1, 1, 2) };
                Ok(feed(vec![Ok(event(Event::End(end))), Ok(finished())]))
            }),
            close_change: answer(move |request: v1::CloseChangeRequest| {
                closes.lock().unwrap().push(format!("close {}", request.name));
                Ok(change())
            }),
            list_alerts: answer(|request: v1::ListAlertsRequest| {
                assert!(!request.firing && request.resolved_since_at_ms == 0);
                let about = |port| v1::Alert { port, ..alert() };
                Ok(v1::ListAlertsResponse { alerts: vec![about(8442), about(8443), about(0)] })
            }),
            ..Fake::default()
        }
    }

    async fn outcome(
        froms: &[&str],
        complete: bool,
        name: &str,
    ) -> (Result<Vec<String>, ConsoleError>, Vec<String>) {
        let calls = Arc::default();
        let mut client = connect(&Arc::new(server(froms, complete, &calls))).await;
        let gaps = close(&mut client, name).await.map(|(_, gaps, violations)| {
            assert_eq!(violations.iter().map(|alert| alert.port).collect::<Vec<_>>(), [8443]);
            gaps
        });
        let calls = calls.lock().unwrap().clone();
        (gaps, calls)
    }

    #[tokio::test]
    async fn it_looks_from_where_something_was_expected_and_closes_then() {
        let (gaps, calls) = outcome(&["office", "*"], true, "CHG31337").await;
        assert_eq!(gaps.unwrap(), [""; 0]);
        assert_eq!(
            calls,
            ["office-1 10.99.2.10 T:8443-8444", "office-1+pci-1 10.99.2.10 T:8443-8444", "close CHG31337",]
        );
    }

    #[tokio::test]
    async fn where_nobody_can_look_is_said_and_it_closes_all_the_same() {
        let (gaps, calls) = outcome(&["office-2", "office"], false, "CHG31337").await;
        assert_eq!(
            gaps.unwrap(),
            [
                "no satellite of office-2 is online: what was last seen from there may be old",
                "office-1 could not look: it restarted",
            ]
        );
        assert_eq!(calls.last().unwrap(), "close CHG31337");
    }

    #[test]
    fn what_is_too_wide_is_not_looked_at_again() {
        let of = |target: &str, ports: &str| {
            let one = change().expectations.remove(0);
            breadth(&v1::ChangeExpectation { target: target.into(), ports: ports.into(), ..one })
        };
        assert_eq!((of("10.99.2.10", "80"), of("10.99.2.0/24", "80-81,443")), (Some(1), Some(768)));
        assert_eq!((of("fd00::/64", "80"), of("::/0", "80")), (Some(1 << 64), None));
        assert!(of("10.99.2.0/24", "1-1024") <= Some(MAX_AGAIN) && of("0.0.0.0/0", "80") > Some(MAX_AGAIN));
        assert_eq!(of("shop.internal", "80"), None);
    }

    #[tokio::test]
    async fn what_is_not_open_is_not_closed() {
        let (error, calls) = outcome(&["office"], true, "CHG1").await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "cannot close change `CHG1`: no change of this name is open"
        );
        assert!(calls.is_empty(), "{calls:?}");
    }
}
