//! `portolan check`: what is expected and how it is.

use super::{ConsoleService, satellites};
use crate::alerts;
use crate::evaluate::Standing;
use crate::policies::{CHECKS, PolicyError};
use jiff::Timestamp;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::expectation::ExpectedPorts;
use portolan_common::ids::SatelliteId;
use portolan_policy::model::{Check, From as Vantage, TargetSource};
use portolan_policy::{CompiledCheck, Policy};
use portolan_proto::convert::address_to_wire;
use portolan_proto::v1;
use portolan_proto::v1::satellite::Status as Presence;
use portolan_proto::v1::uplink_down::Message as Down;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use tonic::Status;

/// Ports of a check that are shown one by one.
const PORTS: usize = 1000;
/// What is shown of its timeline.
const TIMELINE: usize = 200;

/// How a check is, as the evaluation knows it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Summary {
    /// The worst of its ports.
    state: v1::CheckState,
    /// When that began, milliseconds; 0: not known.
    since_at_ms: i64,
    ok: u64,
    pending: u64,
    firing: u64,
    unknown: u64,
    held_back_by: Vec<String>,
    /// By satellite: the oldest of its last looks at the check's addresses and the newest, milliseconds; 0: none.
    seen_at_ms: HashMap<SatelliteId, (i64, i64)>,
}

/// The same port by port.
#[derive(Clone, Debug, Default, PartialEq)]
struct Detail {
    /// What is not ok first.
    ports: Vec<v1::PortExpectation>,
    ports_dropped: u64,
    /// Newest first.
    timeline: Vec<v1::Transition>,
}

/// What the evaluation knows of a check.
fn summary_of(service: &ConsoleService, check: &CompiledCheck) -> Summary {
    let evaluation = &service.evaluation;
    evaluation.look(|evaluator, alerts| {
        let Some(known) = evaluator.summary(&check.name) else { return Summary::default() };
        let shown = |at: Option<Timestamp>| at.map_or(0, |at| evaluation.shown(at).as_millisecond());
        let seen = known.vantages.iter().map(|v| (v.satellite, (shown(v.oldest), shown(v.newest))));
        Summary {
            state: known.state.into(),
            since_at_ms: shown(Some(known.since)),
            ok: known.counts.ok,
            pending: known.counts.pending,
            firing: known.counts.firing,
            unknown: known.counts.unknown,
            held_back_by: alerts.held_back_by(&check.name).into_iter().map(str::to_owned).collect(),
            seen_at_ms: seen.collect(),
        }
    })
}

/// What the evaluation knows of a check's ports, and what happened to them.
async fn detail_of(service: &ConsoleService, check: &CompiledCheck) -> Result<Detail, Status> {
    let (ports, ports_dropped) = ports_of(service, check);
    let (store, name) = (service.store.clone(), check.name.clone());
    let timeline = tokio::task::spawn_blocking(move || store.timeline(&name, TIMELINE));
    let timeline = timeline.await.map_err(PolicyError::from)??;
    // What a later version wrote there is for a later version to show.
    let timeline = timeline.iter().filter_map(|bytes| v1::Transition::decode(bytes.as_slice()).ok());
    Ok(Detail { ports, ports_dropped, timeline: timeline.collect() })
}

fn ports_of(service: &ConsoleService, check: &CompiledCheck) -> (Vec<v1::PortExpectation>, u64) {
    let evaluation = &service.evaluation;
    evaluation.look(|evaluator, alerts| {
        let (standings, dropped) = evaluator.standings(&check.name, PORTS);
        let shown = |at: Timestamp| evaluation.shown(at);
        let port = |standing: Standing| v1::PortExpectation {
            alert_id: alerts.of_key(&standing.key).map(|alert| alert.id.to_string()).unwrap_or_default(),
            address: address_to_wire(standing.key.address),
            protocol: standing.key.port.map_or(0, |(protocol, _)| v1::Protocol::from(protocol).into()),
            port: standing.key.port.map_or(0, |(_, port)| port.into()),
            target: standing.target,
            expected: v1::Expectation::from(standing.expected).into(),
            state: v1::CheckState::from(standing.state).into(),
            since_at_ms: standing.since.map_or(0, |since| shown(since).as_millisecond()),
            flapping: standing.flapping,
            sights: standing
                .sights
                .into_iter()
                .map(|mut sight| {
                    (sight.seen, sight.since) = (shown(sight.seen), shown(sight.since));
                    alerts::sight(&sight, alerts.context())
                })
                .collect(),
        };
        (standings.into_iter().map(port).collect(), dropped)
    })
}

pub(super) async fn list_checks(
    service: &ConsoleService,
    _operator: &str,
    _request: v1::ListChecksRequest,
) -> Result<v1::ListChecksResponse, Status> {
    let (policy, compiled) = (service.policies.policy(), service.policies.compiled());
    let satellites = by_name(service);
    let checks = compiled.checks.iter().map(|check| describe(service, &policy, check, &satellites));
    Ok(v1::ListChecksResponse { checks: checks.collect(), policy_version: compiled.version })
}

pub(super) async fn get_check(
    service: &ConsoleService,
    _operator: &str,
    request: v1::GetCheckRequest,
) -> Result<v1::GetCheckResponse, Status> {
    let compiled = service.policies.compiled();
    let check = find(&compiled.checks, &request.name)?;
    let Detail { ports, ports_dropped, timeline } = detail_of(service, check).await?;
    let described = describe(service, &service.policies.policy(), check, &by_name(service));
    Ok(v1::GetCheckResponse { check: Some(described), ports, ports_dropped, timeline })
}

pub(super) async fn run_check(
    service: &ConsoleService,
    operator: &str,
    request: v1::RunCheckRequest,
) -> Result<v1::RunCheckResponse, Status> {
    let compiled = service.policies.compiled();
    let check = find(&compiled.checks, &request.name)?;
    if let Some(paused) = service.policies.paused(&check.name) {
        let (name, by) = (&check.name, paused.operator);
        let words = format!("`{name}` was paused by {by}: resume it first (`portolan check resume {name}`)");
        return Err(Status::failed_precondition(words));
    }
    let now = Timestamp::now();
    let known = by_name(service);
    let mut told = Vec::new();
    let mut failed = Vec::new();
    for name in &check.satellites {
        match known.get(name).map_or(Err("it is gone".to_owned()), |known| order(service, known, check)) {
            Ok(()) => told.push(name.clone()),
            Err(error) => failed.push(v1::SatelliteFailure { satellite: name.clone(), error }),
        }
    }
    if told.is_empty() {
        let each: Vec<_> = failed.iter().map(|f| format!("{}: {}", f.satellite, f.error)).collect();
        let words = match &each[..] {
            [] => format!("`{}` has no satellite that could look: add one where it looks from", check.name),
            each => each.join("\n"),
        };
        return Err(Status::failed_precondition(words));
    }
    tracing::info!(operator, check = %check.name, from = ?told, "check run");
    Ok(v1::RunCheckResponse { ordered_at_ms: now.as_millisecond(), satellites: told, failed })
}

/// Tells a satellite to look now, or says why it cannot be told.
fn order(service: &ConsoleService, known: &Known, check: &CompiledCheck) -> Result<(), String> {
    let satellite = &known.satellite;
    match satellite.status() {
        Presence::Online => {}
        Presence::Pending => return Err("it has not enrolled yet".into()),
        _ => return Err("it is not connected".into()),
    }
    if !satellite.capabilities.iter().any(|offered| offered == CHECKS) {
        return Err(format!("its version ({}) runs no checks: update it", satellite.version));
    }
    let order = Down::RunChecks(v1::RunChecks { names: vec![check.name.clone()] });
    if service.hub.send(known.id, order) { Ok(()) } else { Err("it does not read what it is sent".into()) }
}

pub(super) async fn pause_check(
    service: &ConsoleService,
    operator: &str,
    request: v1::PauseCheckRequest,
) -> Result<v1::PauseCheckResponse, Status> {
    let (policies, name, paused) = (service.policies.clone(), request.name, request.paused);
    let author = operator.to_owned();
    // What was begun is ended, also when the caller goes away in the middle.
    let done = tokio::spawn(async move {
        let is_there = policies.set_paused(&name, paused.then_some(&author), Timestamp::now()).await;
        is_there.map(|is_there| (is_there, name))
    });
    let (is_there, name) = done.await.map_err(PolicyError::from)??;
    if !is_there {
        return Err(find(&service.policies.compiled().checks, &name)
            .err()
            .unwrap_or_else(|| unknown(&name, "")));
    }
    tracing::info!(operator, check = name, paused, "check {}", if paused { "paused" } else { "resumed" });
    Ok(v1::PauseCheckResponse {})
}

/// A satellite that is not removed.
struct Known {
    id: SatelliteId,
    satellite: v1::Satellite,
    /// The revision that it should have.
    revision: u64,
}

fn by_name(service: &ConsoleService) -> BTreeMap<String, Known> {
    let known = |record: crate::store::SatelliteRecord| {
        let id = record.satellite_id().ok()?;
        let satellite = satellites::describe(service, &record);
        Some((record.name, Known { id, satellite, revision: record.assignment_revision }))
    };
    service.registry.list().into_iter().filter_map(known).collect()
}

fn find<'a>(checks: &'a [CompiledCheck], name: &str) -> Result<&'a CompiledCheck, Status> {
    if let Some(check) = checks.iter().find(|check| check.name == name) {
        return Ok(check);
    }
    let near = checks
        .iter()
        .map(|check| (strsim::damerau_levenshtein(&check.name, name), &check.name))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 2);
    let hint = match near {
        Some((_, known)) => format!(": did you mean `{known}`?"),
        None if checks.is_empty() => ": there is none yet (`portolan policy apply FILE`)".to_owned(),
        None => ": `portolan check list` shows all".to_owned(),
    };
    Err(unknown(name, &hint))
}

fn unknown(name: &str, hint: &str) -> Status {
    // What was typed goes back to a terminal.
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Status::not_found(format!("there is no check `{name}`{hint}"))
}

fn describe(
    service: &ConsoleService,
    policy: &Policy,
    check: &CompiledCheck,
    known: &BTreeMap<String, Known>,
) -> v1::Check {
    let summary = summary_of(service, check);
    let wanted = policy.checks.get(&check.name);
    let paused = service.policies.paused(&check.name);
    let vantage_points = check
        .satellites
        .iter()
        .filter_map(|name| known.get(name))
        .map(|known| vantage(service, check, known, &summary))
        .collect();
    v1::Check {
        name: check.name.clone(),
        tenant: check.tenant.clone(),
        from: wanted.map(from).unwrap_or_default(),
        targets: wanted.map(targets).unwrap_or_default(),
        open: check.ports.open.to_string(),
        closed: check.ports.closed.to_string(),
        blocked: check.ports.blocked.to_string(),
        watch: check.ports.watch.to_string(),
        exclusive: wanted.is_some_and(|wanted| wanted.exclusive),
        schedule: check.schedule.to_string(),
        labels: check.labels.clone().into_iter().collect(),
        state: summary.state.into(),
        ok: summary.ok,
        pending: summary.pending,
        firing: summary.firing,
        unknown: summary.unknown,
        vantage_points,
        paused_by: paused.as_ref().map(|paused| paused.operator.clone()).unwrap_or_default(),
        paused_at_ms: paused.map_or(0, |paused| paused.at_ms),
        held_back_by: summary.held_back_by,
        since_at_ms: summary.since_at_ms,
        confirm: wanted.map_or(0, |wanted| wanted.confirm),
        recover: wanted.map_or(0, |wanted| wanted.recover),
        quorum: wanted.map(|wanted| quorum(wanted, &check.ports)).unwrap_or_default(),
        severity: wanted.map(|wanted| severity(wanted, &check.ports)).unwrap_or_default(),
        depend_on: wanted.map(|wanted| wanted.depend_on.clone()).unwrap_or_default(),
        baseline_missing: !check.ports.watch.is_empty()
            && service.evaluation.read(|alerts, _| alerts.baseline(&check.name).is_err()),
    }
}

/// Of what is expected at all.
fn quorum(check: &Check, ports: &ExpectedPorts) -> HashMap<String, String> {
    let of = &check.quorum;
    let all = [
        ("open", &ports.open, of.open),
        ("closed", &ports.closed, of.closed),
        ("blocked", &ports.blocked, of.blocked),
    ];
    let expected = all.into_iter().filter(|(_, ports, _)| !ports.is_empty());
    expected.map(|(word, _, quorum)| (word.to_owned(), quorum.to_string())).collect()
}

/// Of what is expected at all.
fn severity(check: &Check, ports: &ExpectedPorts) -> HashMap<String, String> {
    let of = &check.severity;
    let all = [
        ("open", &ports.open, of.open),
        ("closed", &ports.closed, of.closed),
        ("blocked", &ports.blocked, of.blocked),
    ];
    let expected = all.into_iter().filter(|(_, ports, _)| !ports.is_empty());
    expected.map(|(word, _, severity)| (word.to_owned(), severity.as_str().to_owned())).collect()
}

fn vantage(
    service: &ConsoleService,
    check: &CompiledCheck,
    known: &Known,
    summary: &Summary,
) -> v1::CheckVantage {
    let (oldest, newest) = summary.seen_at_ms.get(&known.id).copied().unwrap_or_default();
    let status = service.policies.status(&check.name, known.id).unwrap_or_default();
    let is_online = known.satellite.status() == Presence::Online;
    let (name, segment) = (&known.satellite.name, &known.satellite.segment);
    let dark_until = service.policies.compiled().dark_until(name, segment, Timestamp::now());
    v1::CheckVantage {
        satellite: known.satellite.name.clone(),
        segment: known.satellite.segment.clone(),
        status: known.satellite.status,
        oldest_seen_at_ms: oldest,
        newest_seen_at_ms: newest,
        // Of the ranges beyond those that it named, each has one at least.
        addresses: count(&status.addresses).saturating_add(status.addresses_dropped),
        error: match dark_until {
            Some(until) if status.error.is_empty() => {
                format!("a blackout keeps it from sending anything for checks until {until:.0}")
            }
            _ => status.error,
        },
        refusals: status.refusals,
        unresolved: status
            .unresolved
            .into_iter()
            .map(|name| format!("{}: {}", name.name, name.error))
            .collect(),
        interval_ms: status.interval_ms,
        outdated: is_online && known.satellite.assignment_revision != known.revision,
        method: status.method,
    }
}

/// Addresses in all of these ranges.
fn count(ranges: &[String]) -> u64 {
    let set: AddressSet = ranges.iter().filter_map(|range| range.parse::<AddressRange>().ok()).collect();
    u64::try_from(set.len()).unwrap_or(u64::MAX)
}

fn from(check: &Check) -> Vec<String> {
    let one = |from: &Vantage| match from {
        Vantage::All => "*".to_owned(),
        Vantage::Segment(segment) => format!("segment:{segment}"),
        Vantage::Satellite(satellite) => format!("satellite:{satellite}"),
    };
    check.from.iter().map(one).collect()
}

fn targets(check: &Check) -> Vec<String> {
    let one = |target: &TargetSource| match target {
        TargetSource::Literal(text) => text.clone(),
        TargetSource::FileSd { file, .. } => format!("file_sd {file}"),
        TargetSource::HttpSd { url, .. } => format!("http_sd {url}"),
    };
    check.targets.iter().map(one).collect()
}
