//! CSV: a header, then rows; text from the network is escaped of control characters.

use super::text::printable;
use crate::scan_result::{ScanResult, port_lines};
use std::io::{self, Write};

/// Writes rows under a header.
pub fn write(
    out: &mut impl Write,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(header).map_err(io_error)?;
    for row in rows {
        csv.write_record(row.iter().map(|cell| printable(cell).into_owned())).map_err(io_error)?;
    }
    csv.flush()
}

/// The crate's own conversion would hide a broken pipe.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// A scan's open ports, or all.
pub fn write_scan(out: &mut impl Write, scan: &ScanResult, all: bool) -> io::Result<()> {
    const HEADER: &[&str] = &[
        "satellite",
        "target",
        "address",
        "protocol",
        "port",
        "state",
        "reason",
        "rtt_us",
        "suspect",
        "confidence",
    ];
    let rows = scan.hosts.iter().flat_map(|host| {
        let suspect = host.seen.suspect.as_ref();
        port_lines(&host.seen, all).into_iter().map(move |line| {
            vec![
                scan.satellites[host.satellite].name.clone(),
                host.seen.target.clone(),
                host.seen.address.to_string(),
                line.protocol.to_string(),
                line.port.to_string(),
                line.state.to_string(),
                line.reason.to_string(),
                line.rtt_us.map(|us| us.to_string()).unwrap_or_default(),
                suspect.map(|s| s.kind.to_string()).unwrap_or_default(),
                suspect.map(|s| (f64::from(s.confidence) / 100.0).to_string()).unwrap_or_default(),
            ]
        })
    });
    write(out, HEADER, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::{hosts, one_vantage, result, started, suspect, udp};
    use portolan_common::observation::{PortState, Reason};

    fn csv(scan: &ScanResult, all: bool) -> String {
        let mut out = Vec::new();
        write_scan(&mut out, scan, all).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_row_an_open_port() {
        let text = csv(&one_vantage(), false);
        assert_eq!(
            text,
            "satellite,target,address,protocol,port,state,reason,rtt_us,suspect,confidence\n\
             office-1,shop.internal,10.99.2.10,tcp,22,open,syn-ack,412,,\n\
             office-1,shop.internal,10.99.2.10,tcp,80,open,syn-ack,412,,\n\
             office-1,shop.internal,10.99.2.10,tcp,443,open,syn-ack,412,,\n"
        );
        assert_eq!(csv(&one_vantage(), true).lines().count(), 1 + 4 * 1024);
    }

    #[test]
    fn suspicions_have_their_columns() {
        let events = vec![started(&[("s", "x")]), hosts("s", &[suspect(udp("161", "67"))])];
        let text = csv(&result("U:1-200", &["s"], events), false);
        assert_eq!(
            text.lines().nth(1),
            Some("s,10.0.0.7,10.0.0.7,udp,53,open,udp-response,412,syn-proxy,0.95")
        );
    }

    #[test]
    fn hostile_targets_stay_in_their_cell() {
        let mut seen = crate::scan_result::fixture::host(
            "x",
            "10.0.0.1",
            true,
            &[(PortState::Open, Reason::SynAck, "22")],
        );
        seen.target = "a,\"b\"\n\u{1b}[2J".into();
        let text = csv(&result("22", &["s"], vec![started(&[("s", "x")]), hosts("s", &[seen])]), false);
        assert_eq!(
            text.lines().nth(1),
            Some("s,\"a,\"\"b\"\"\\u{a}\\u{1b}[2J\",10.0.0.1,tcp,22,open,syn-ack,412,,")
        );
    }
}
