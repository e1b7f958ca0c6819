//! nmap's grepable lines (`-oG`). Which satellite saw a host stands in a comment line before its hosts.

use super::text::{host_name, nmap_hosts, printable};
use crate::scan_result::{ScanResult, SeenHost, listed_states, port_lines_in};
use portolan_common::observation::PortState;
use portolan_common::services;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Writes the whole scan.
pub fn write(out: &mut impl Write, scan: &ScanResult, command: &str, all: bool) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(out, "# Portolan {version} scan initiated {} as: {}", scan.started_at, printable(command))?;
    let mut satellite = None;
    for host in &scan.hosts {
        if satellite.replace(host.satellite) != Some(host.satellite) {
            let satellite = &scan.satellites[host.satellite];
            writeln!(out, "# Seen from {} ({})", printable(&satellite.name), printable(&satellite.segment))?;
        }
        write_host(out, host, all)?;
    }
    let (up, total) = scan.hosts_up();
    writeln!(
        out,
        "# Portolan {} at {} -- {} scanned in {:.2} seconds",
        if scan.interrupted { "interrupted" } else { "done" },
        scan.finished_at,
        nmap_hosts(up, total),
        scan.elapsed().as_secs_f64()
    )
}

fn write_host(out: &mut impl Write, host: &SeenHost, all: bool) -> io::Result<()> {
    let seen = &host.seen;
    let name = host_name(&seen.target).unwrap_or_default();
    let head = format!("Host: {} ({name})\t", seen.address);
    writeln!(out, "{head}Status: {}", if seen.up { "Up" } else { "Down" })?;
    if !seen.up {
        return Ok(());
    }
    let listed = listed_states(seen, all);
    let ports: Vec<_> = port_lines_in(seen, &listed)
        .iter()
        .map(|line| {
            let service = services::name(line.protocol, line.port).unwrap_or_default();
            format!("{}/{}/{}//{service}///", line.port, line.state, line.protocol)
        })
        .collect();
    write!(out, "{head}Ports: {}", ports.join(", "))?;
    let mut ignored: BTreeMap<PortState, usize> = BTreeMap::new();
    for run in seen.runs.iter().filter(|run| !listed.contains(&run.state)) {
        *ignored.entry(run.state).or_default() += run.ports.len();
    }
    // nmap names one state and lists the ports of the others; the most frequent first serves who reads only one.
    let mut ignored: Vec<_> = ignored.into_iter().collect();
    ignored.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let ignored: Vec<_> = ignored.iter().map(|(state, count)| format!("{state} ({count})")).collect();
    if !ignored.is_empty() {
        write!(out, "\tIgnored State: {}", ignored.join(", "))?;
    }
    // A field of ours, as nmap adds `OS:` and others.
    if let Some(suspicion) = &seen.suspect {
        write!(out, "\tSuspect: {} ({}%)", suspicion.kind, suspicion.confidence)?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::{hosts, one_vantage, result, started, suspect, two_vantages, udp};

    fn grepable(scan: &ScanResult, all: bool) -> String {
        let mut out = Vec::new();
        write(&mut out, scan, "portolan scan x", all).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_lines_are_nmaps() {
        let text = grepable(&one_vantage(), false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[1..6],
            [
                "# Seen from office-1 (office)",
                "Host: 10.99.2.8 ()\tStatus: Down",
                "Host: 10.99.2.9 ()\tStatus: Down",
                "Host: 10.99.2.10 (shop.internal)\tStatus: Up",
                "Host: 10.99.2.10 (shop.internal)\tPorts: 22/open/tcp//ssh///, 80/open/tcp//http///, \
                 443/open/tcp//https///\tIgnored State: closed (1020), filtered (1)",
            ]
        );
        assert!(text.ends_with("4 IP addresses (2 hosts up) scanned in 12.30 seconds\n"), "{text}");
    }

    #[test]
    fn silent_udp_ports_and_suspicions_are_told() {
        let seen = suspect(udp("161", "67"));
        let events = vec![started(&[("s", "x")]), hosts("s", &[seen])];
        let text = grepable(&result("U:1-200", &["s"], events), false);
        let line = "Host: 10.0.0.7 ()\tPorts: 53/open/udp//domain///, 67/open|filtered/udp//";
        assert!(text.contains(line), "{text}");
        let end = "161/open|filtered/udp//snmp///\tIgnored State: closed (9)\tSuspect: syn-proxy (95%)\n";
        assert!(text.contains(end), "{text}");
    }

    #[test]
    fn each_satellite_is_announced_once() {
        let text = grepable(&two_vantages(), false);
        assert_eq!(text.matches("# Seen from").count(), 2);
        assert!(grepable(&one_vantage(), true).contains("1024/filtered/tcp//"));
    }
}
