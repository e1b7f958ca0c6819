//! `portolan scan`: asks, watches, prints.

mod progress;
mod request;

use super::converse;
use crate::cli::{Global, ScanArgs};
use crate::document::scan::{HostReport, ScanDocument};
use crate::errors::{ConsoleError, Exit};
use crate::interrupts::Interrupts;
use crate::output::structured::{json_line, write_one};
use crate::output::{Format, View, csv, grepable, hint, nmap_xml, print, table, text::printable, warn};
use crate::scan_result::{News, SatelliteResult, ScanResult};
use crate::session::{self, Client};
use jiff::Timestamp;
use portolan_common::ports::PortSpec;
use portolan_proto::v1;
use progress::Progress;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// How long the satellites have to stop after Ctrl-C.
const STOPPING: Duration = Duration::from_secs(1);
/// How many warnings of one kind are printed for a satellite.
const MAX_WARNINGS: usize = 20;

/// The rule of addresses that no scope file can permit.
const RESERVED_RULE: &str = "reserved address";

/// Does what was typed.
pub fn run(args: ScanArgs, global: &Global) -> Result<Exit, ConsoleError> {
    let format = global.format(Format::SCAN, "scan")?;
    let (request, asked) = request::build(&args)?;
    let all = args.all;
    let (scan, lost) = converse(async |interrupts| {
        let client = session::open(&global.context).await?;
        let progress = Progress::on_stderr(&request.satellites);
        let hosts = (format == Format::Jsonl).then_some(all);
        watch(client, request, asked, &interrupts, progress, hosts).await
    })?;
    if format != Format::Jsonl {
        print(|out| match format {
            Format::Csv => csv::write_scan(out, &scan, all),
            Format::NmapXml => {
                let (command, view) = (command_line(), View::of_stdout());
                nmap_xml::write(out, &scan, &nmap_xml::Run { command: &command, all, zone: &view.zone })
            }
            Format::Grepable => grepable::write(out, &scan, &command_line(), all),
            Format::Table => out.write_all(table::scan::render(&scan, all, &View::of_stdout()).as_bytes()),
            format => write_one(out, format, &ScanDocument::new(&scan, all)),
        })?;
    }
    warnings(&scan).iter().for_each(|text| warn(text));
    if !scan.interrupted && is_any_scope_too_narrow(&scan) {
        hint("a satellite's scope is widened in the satellite.toml on its own machine, and only there");
    }
    match lost {
        Some(error) => Err(error),
        None if scan.interrupted => Ok(Exit::Interrupted),
        None if scan.is_complete() => Ok(Exit::Done),
        None => Ok(Exit::Partial),
    }
}

/// Runs the scan to its end, or to where the operator or the network ends it; then the second of the pair says how.
/// With `lines`, hosts are printed as JSON lines while they arrive (every port listed if it is true).
async fn watch(
    mut client: Client,
    request: v1::ScanRequest,
    asked: PortSpec,
    interrupts: &Interrupts,
    mut progress: Progress,
    lines: Option<bool>,
) -> Result<(ScanResult, Option<ConsoleError>), ConsoleError> {
    let mut scan = ScanResult::new(asked, &request.satellites, Timestamp::now());
    scan.discovers = request::discovers(&request);
    let failed = || ConsoleError::call("scan");
    let mut events = client.scan(request).await.map_err(failed())?.into_inner();
    let mut stop_at: Option<Instant> = None;
    let mut lost = None;
    interrupts.be_polite();
    loop {
        let deadline = stop_at.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = interrupts.asked(), if stop_at.is_none() => {
                stop_at = Some(Instant::now() + STOPPING);
                progress.stopping();
                cancel(client.clone(), &scan.scan_id);
            }
            () = sleep_until(deadline), if stop_at.is_some() => break,
            event = events.message() => match event {
                Ok(Some(event)) => match scan.apply(event)? {
                    News::None => {}
                    News::Progress(step) => progress.step(&step, scan.discovers_from(&step.satellite)),
                    News::End(index) => progress.end(&scan.satellites[index]),
                    News::Hosts(first) => if let Some(all) = lines {
                        progress.aside(|| print(|out| {
                            let hosts = scan.hosts[first..].iter();
                            hosts.map(|host| HostReport::new(&scan, host, all)).try_for_each(|h| json_line(out, &h))
                        }))?;
                    }
                },
                Ok(None) => break,
                Err(status) => {
                    lost = Some(status);
                    break;
                }
            },
        }
    }
    progress.clear();
    // Printing may block on a slow reader; Ctrl-C then ends the process.
    interrupts.be_prompt();
    scan.finish(stop_at.is_some(), Timestamp::now());
    let lost = if stop_at.is_some() || scan.is_whole() { None } else { Some(cut_short(lost)) };
    Ok((scan, lost))
}

fn cut_short(status: Option<Status>) -> ConsoleError {
    status.map_or(ConsoleError::CutShort, ConsoleError::call("finish the scan"))
}

/// Asks the server to stop. The stream's end is the answer that matters; when this call fails, leaving the stream
/// cancels too.
fn cancel(mut client: Client, scan_id: &str) {
    let request = v1::CancelScanRequest { scan_id: scan_id.to_owned() };
    tokio::spawn(async move { client.cancel_scan(session::ask(request)).await.map(drop) });
}

/// As it was typed, for formats that record it.
fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    std::iter::once("portolan".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Whether a satellite refused something that its scope file could permit.
fn is_any_scope_too_narrow(scan: &ScanResult) -> bool {
    let mut refusals = scan.satellites.iter().flat_map(|satellite| &satellite.refusals);
    refusals.any(|refusal| refusal.rule != RESERVED_RULE)
}

/// What kept the scan from being whole, satellite by satellite.
fn warnings(scan: &ScanResult) -> Vec<String> {
    let interrupted =
        scan.interrupted.then(|| "interrupted: the result holds what was seen until then".to_owned());
    let gaps = scan.satellites.iter().flat_map(|satellite| warnings_of(satellite, scan.interrupted));
    interrupted.into_iter().chain(gaps).collect()
}

fn warnings_of(satellite: &SatelliteResult, interrupted: bool) -> Vec<String> {
    let name = printable(&satellite.name);
    let mut texts = Vec::new();
    // That every satellite was interrupted goes without saying.
    if !satellite.complete && !interrupted {
        let why = satellite.error.as_deref().unwrap_or("it gave no reason");
        let what = if satellite.began { "did not finish" } else { "took no part" };
        texts.push(format!("{name} {what}: {}", printable(why)));
    }
    let refusals = satellite.refusals.iter().map(|refusal| {
        let ports = match refusal.ports.as_str() {
            "" => String::new(),
            ports => format!(" on ports {}", printable(ports)),
        };
        format!(
            "{name} refused {}{ports}: its scope says `{}`",
            printable(&refusal.target),
            printable(&refusal.rule)
        )
    });
    texts.extend(limited(refusals, satellite.refusals_dropped, &format!("{name} refused")));
    let unresolved =
        satellite.unresolved.iter().map(|text| format!("{name} cannot resolve {}", printable(text)));
    texts.extend(limited(unresolved, 0, &format!("{name} cannot resolve")));
    texts
}

/// The first few, and how many more.
fn limited(texts: impl ExactSizeIterator<Item = String>, unlisted: u64, what: &str) -> Vec<String> {
    let more = texts.len().saturating_sub(MAX_WARNINGS) as u64 + unlisted;
    let mut few: Vec<_> = texts.take(MAX_WARNINGS).collect();
    if more > 0 {
        few.push(format!("{what} {more} more"));
    }
    few
}

#[cfg(test)]
mod conversation;
#[cfg(test)]
mod tests;
