//! What was typed becomes a request, or a list of every mistake in it.

use crate::cli::{Method, ScanArgs};
use crate::errors::ConsoleError;
use portolan_common::ports::{PortSpec, PortSpecError};
use portolan_common::targets::{Target, TargetSpec, parse_all};
use portolan_proto::{MAX_MESSAGE_BYTES, v1};
use std::io::Read as _;
use std::path::Path;

/// The longest target list that fits into one request with room for the rest of it, in bytes.
const MAX_TARGET_BYTES: usize = MAX_MESSAGE_BYTES - 512 * 1024;

/// What is scanned where nobody says which ports. Of UDP fewer: silence takes long there.
const TCP_PORTS: &str = "top-1000";
const UDP_PORTS: &str = "U:top-100";

/// The request, and the ports it asks for.
///
/// # Errors
/// All mistakes at once.
pub fn build(args: &ScanArgs) -> Result<(v1::ScanRequest, PortSpec), ConsoleError> {
    let mut targets = args.targets.clone();
    if let Some(path) = &args.input_list {
        targets.extend(read_list(path)?);
    }
    let exclude: Vec<String> = args.exclude.iter().flat_map(|text| split_exclude(text)).collect();
    let mut mistakes = Vec::new();
    if let Err(errors) = parse_all(&targets, &exclude) {
        mistakes.extend(errors.iter().map(ToString::to_string));
    } else if targets.is_empty() {
        mistakes.push("there is no target in the input list".to_owned());
    } else if targets.iter().chain(&exclude).map(|text| text.len() + 4).sum::<usize>() > MAX_TARGET_BYTES {
        mistakes
            .push(format!("the target list is too long for one scan: {MAX_TARGET_BYTES} bytes is the limit"));
    }
    let usual = if args.method == Method::Udp { UDP_PORTS } else { TCP_PORTS };
    let ports = read_ports(args.ports.as_deref().unwrap_or(usual), args.method)
        .map_err(|error| mistakes.push(error.to_string()))
        .unwrap_or_default();
    if args.udp_budget.is_some() && !ports.tcp.is_empty() && ports.udp.is_empty() {
        mistakes.push(
            "--udp-budget bounds UDP ports, and none is asked for: name some with -p U:53,161 or --method udp"
                .to_owned(),
        );
    }
    let satellites = unique(&args.from);
    if satellites.iter().any(String::is_empty) {
        mistakes.push("--from names an empty satellite".to_owned());
    }
    if !mistakes.is_empty() {
        return Err(ConsoleError::Usage {
            mistakes,
            hint: Some("`portolan scan --help` shows what can be typed".into()),
        });
    }
    let request = v1::ScanRequest {
        satellites,
        targets,
        exclude,
        ports: ports.to_string(),
        method: args.method.as_str().to_owned(),
        gentle: args.gentle,
        discover: discovery(args).into(),
        // At most a day.
        udp_budget_ms: args.udp_budget.map_or(0, |budget| budget.as_millis() as u64),
        max_rate: args.max_rate.unwrap_or(0),
        max_rate_per_host: args.max_rate_per_host.unwrap_or(0),
    };
    Ok((request, ports))
}

fn discovery(args: &ScanArgs) -> v1::Discovery {
    match (args.discover, args.no_discover) {
        (true, _) => v1::Discovery::On,
        (_, true) => v1::Discovery::Off,
        _ => v1::Discovery::Unspecified,
    }
}

/// Whether satellites look for hosts first, where they can: left to them, they do so for networks and ranges.
pub fn discovers(request: &v1::ScanRequest) -> bool {
    let is_range = |text: &String| {
        text.parse::<TargetSpec>()
            .is_ok_and(|spec| matches!(spec.target, Target::Addresses(set) if set.len() > 1))
    };
    match request.discover() {
        _ if request.method == Method::Connect.as_str() => false,
        v1::Discovery::On => true,
        v1::Discovery::Off => false,
        v1::Discovery::Unspecified => request.targets.iter().any(is_range),
    }
}

/// With `--method udp` a port counts for UDP unless it says otherwise.
fn read_ports(text: &str, method: Method) -> Result<PortSpec, PortSpecError> {
    const PREFIX: &str = "U:";
    let says_protocol = text.split(',').any(|piece| matches!(piece.trim().as_bytes(), [_, b':', ..]));
    if method != Method::Udp || says_protocol {
        return text.parse();
    }
    format!("{PREFIX}{text}").parse().map_err(|mut error: PortSpecError| {
        error.column = error.column.saturating_sub(PREFIX.len()).max(1);
        error
    })
}

/// A comma separates exclusions, but it also has a meaning inside one (`10.0.0.1,5`): what is a target as a whole
/// stays whole.
fn split_exclude(text: &str) -> Vec<String> {
    if text.parse::<TargetSpec>().is_ok() {
        return vec![text.to_owned()];
    }
    text.split(',').map(str::trim).filter(|piece| !piece.is_empty()).map(ToOwned::to_owned).collect()
}

fn unique(names: &[String]) -> Vec<String> {
    let mut unique: Vec<String> = Vec::with_capacity(names.len());
    for name in names.iter().map(|name| name.trim()) {
        if !unique.iter().any(|known| known == name) {
            unique.push(name.to_owned());
        }
    }
    unique
}

/// Targets separated by white space; `#` begins a comment.
fn read_list(path: &Path) -> Result<Vec<String>, ConsoleError> {
    let failed = |source| ConsoleError::File { action: "read the input list", path: path.to_owned(), source };
    let mut text = String::new();
    let limit = 2 * MAX_MESSAGE_BYTES as u64;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(path)
            .map_err(failed)?
            .take(limit + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
    }
    if text.len() as u64 > limit {
        // What is cut off would be missing, or be half an address, and nobody would know.
        let too_large = format!("it is larger than {} MiB: split it", limit / (1024 * 1024));
        return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, too_large)));
    }
    let uncommented = text.lines().map(|line| line.split_once('#').map_or(line, |(before, _)| before));
    Ok(uncommented.flat_map(str::split_whitespace).map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use std::io::Write as _;

    fn args(line: &str) -> ScanArgs {
        match Cli::try_parse_from(format!("portolan scan {line}").split_whitespace()).unwrap().command {
            Command::Scan(args) => args,
            _ => unreachable!(),
        }
    }

    fn mistakes(line: &str) -> Vec<String> {
        match build(&args(line)).unwrap_err() {
            ConsoleError::Usage { mistakes, .. } => mistakes,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn names_of_ports_and_satellites_are_made_plain() {
        let (request, asked) =
            build(&args("10.0.0.0/24 shop.internal -p ssh,8000-8002,80 --from a,b,a")).unwrap();
        assert_eq!(request.ports, "22,80,8000-8002");
        assert_eq!(request.satellites, ["a", "b"]);
        assert_eq!(request.targets, ["10.0.0.0/24", "shop.internal"]);
        assert_eq!((asked.len(), request.method.as_str()), (5, "auto"));
        assert_eq!(build(&args("10.0.0.1 --from a")).unwrap().1.tcp.len(), 1000);
    }

    #[test]
    fn ports_follow_the_method() {
        let ports = |line: &str| build(&args(line)).unwrap().0.ports;
        assert_eq!(ports("10.0.0.1 -p 53,snmp --method udp --from a"), "U:53,161");
        assert_eq!(ports("10.0.0.1 -p T:53,U:53 --method udp --from a"), "T:53,U:53");
        assert_eq!(ports("10.0.0.1 -p 53 --method syn --from a"), "53");
        assert_eq!(ports("10.0.0.1 -p - --method udp --from a"), "U:1-65535");
        assert_eq!(ports("10.0.0.1 -p T:22,U:53,161 --from a"), "T:22,U:53,161");
        let usual = build(&args("10.0.0.1 --method udp --from a")).unwrap().1;
        assert_eq!((usual.tcp.len(), usual.udp.len()), (0, 100));
        let text = mistakes("10.0.0.1 -p 70000 --method udp --from a").concat();
        assert!(text.contains("column 1"), "{text}");
    }

    #[test]
    fn ceilings_budgets_and_discovery_are_passed_on() {
        let request = |line: &str| build(&args(line)).unwrap().0;
        let plain = request("10.0.0.1 --from a");
        assert_eq!((plain.max_rate, plain.max_rate_per_host, plain.udp_budget_ms), (0, 0, 0));
        assert_eq!(plain.discover(), v1::Discovery::Unspecified);
        let bounded = request(
            "10.0.0.1 --from a --max-rate 500 --max-rate-per-host 5 --udp-budget 1m --method udp --discover",
        );
        assert_eq!((bounded.max_rate, bounded.max_rate_per_host, bounded.udp_budget_ms), (500, 5, 60_000));
        assert_eq!(bounded.discover(), v1::Discovery::On);
        assert_eq!(request("10.0.0.1 --from a --no-discover").discover(), v1::Discovery::Off);
    }

    #[test]
    fn hosts_are_looked_for_in_ranges_or_on_demand() {
        let of = |line: &str| discovers(&build(&args(line)).unwrap().0);
        assert!(!of("10.0.0.1 a.internal --from a") && of("10.0.0.1 --discover --from a"));
        assert!(!of("10.0.1.0/24 --method connect --from a"));
        assert!(of("10.0.0.1 10.0.1.0/24 --from a") && !of("10.0.1.0/24 --no-discover --from a"));
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let found = mistakes("10.0.0.256 10.0.0.1/33 10.0.0.1 --exclude 10.0.0.0/99 -p 70000 --from a");
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains("10.0.0.256") && found[1].contains("10.0.0.1/33"), "{found:?}");
        assert!(found[2].starts_with("excluded target") && found[3].contains("70000"), "{found:?}");
    }

    #[test]
    fn a_budget_for_udp_needs_udp_ports() {
        let found = mistakes("10.0.0.1 -p 22,80 --udp-budget 30s --from a");
        assert!(
            matches!(found.as_slice(), [one] if one.starts_with("--udp-budget bounds UDP ports")),
            "{found:?}"
        );
        assert_eq!(mistakes("10.0.0.1 --udp-budget 30s --from a").len(), 1, "top-1000 is TCP");
        assert!(build(&args("10.0.0.1 -p T:22,U:53 --udp-budget 30s --from a")).is_ok());
        // Bad ports are one mistake, not two.
        assert_eq!(mistakes("10.0.0.1 -p 70000 --udp-budget 30s --from a").len(), 1);
    }

    #[test]
    fn exclusions_are_split_at_commas_that_separate() {
        assert_eq!(split_exclude("10.0.0.1,10.0.0.2"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(split_exclude("10.0.0.1,5,9"), ["10.0.0.1,5,9"]);
        assert_eq!(split_exclude("a.internal, b.internal,"), ["a.internal", "b.internal"]);
    }

    #[test]
    fn targets_come_from_a_file_too() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "# the shop\n10.0.0.1  10.0.0.2\nshop.internal # front").unwrap();
        let path = file.path().display();
        let (request, _) = build(&args(&format!("10.0.0.9 --input-list {path} --from a"))).unwrap();
        assert_eq!(request.targets, ["10.0.0.9", "10.0.0.1", "10.0.0.2", "shop.internal"]);
        let missing = build(&args("--input-list /nonexistent/list --from a")).unwrap_err().to_string();
        assert!(missing.contains("cannot read the input list /nonexistent/list"), "{missing}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        let found = mistakes(&format!("--input-list {} --from a", empty.path().display()));
        assert_eq!(found, ["there is no target in the input list"]);
    }
}
