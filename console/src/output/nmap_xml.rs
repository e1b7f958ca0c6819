//! nmap's XML (nmap.dtd, xmloutputversion 1.05), for `ndiff` and whatever else reads nmap.
//!
//! A host that several satellites saw comes once for each; which one is in the host's `comment`, an attribute that the
//! DTD leaves to the user and parsers pass over.

use super::text::{nmap_hosts, printable};
use crate::scan_result::{SatelliteResult, ScanResult, SeenHost, listed_states, port_lines_in, protocols};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use portolan_common::observation::{HostObservation, PortState, Protocol, Reason, StateRun};
use portolan_common::services;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use std::io::{self, Write};

/// What the document says of the run besides its results.
pub struct Run<'a> {
    /// The command line.
    pub command: &'a str,
    /// List every port.
    pub all: bool,
    /// nmap writes local times.
    pub zone: &'a TimeZone,
}

/// Writes the whole document.
pub fn write(out: &mut impl Write, scan: &ScanResult, run: &Run<'_>) -> io::Result<()> {
    let mut xml = Xml(Writer::new_with_indent(out, b' ', 1));
    xml.0.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    xml.0.write_event(Event::DocType(BytesText::from_escaped("nmaprun")))?;
    let start = scan.started_at.as_second().to_string();
    xml.open(
        "nmaprun",
        &[
            // The DTD allows no other scanner.
            ("scanner", "nmap"),
            ("args", run.command),
            ("start", &start),
            ("startstr", &ctime(scan.started_at, run.zone)),
            ("version", env!("CARGO_PKG_VERSION")),
            ("xmloutputversion", "1.05"),
        ],
    )?;
    for protocol in protocols(&scan.asked) {
        let ports = scan.asked.of(protocol);
        xml.empty(
            "scaninfo",
            &[
                ("type", scan_type(protocol, &scan.satellites)),
                ("protocol", protocol.as_str()),
                ("numservices", &ports.len().to_string()),
                ("services", &ports.to_string()),
            ],
        )?;
    }
    xml.empty("verbose", &[("level", "0")])?;
    xml.empty("debugging", &[("level", "0")])?;
    for host in &scan.hosts {
        write_host(&mut xml, scan, host, &start, run.all)?;
    }
    write_stats(&mut xml, scan, run.zone)?;
    xml.close("nmaprun")?;
    writeln!(xml.0.get_mut())
}

fn write_host(
    xml: &mut Xml<impl Write>,
    scan: &ScanResult,
    host: &SeenHost,
    start: &str,
    all: bool,
) -> io::Result<()> {
    let (seen, satellite) = (&host.seen, &scan.satellites[host.satellite]);
    let mut comment = format!("satellite={} segment={}", satellite.name, satellite.segment);
    if let Some(suspicion) = &seen.suspect {
        comment.push_str(&format!(" suspect={} confidence={}", suspicion.kind, suspicion.confidence));
    }
    let end = seen.observed_at.as_second().to_string();
    xml.open("host", &[("starttime", start), ("endtime", &end), ("comment", &comment)])?;
    let state = if seen.up { "up" } else { "down" };
    xml.empty("status", &[("state", state), ("reason", host_reason(seen).as_str()), ("reason_ttl", "0")])?;
    let family = if seen.address.is_ipv4() { "ipv4" } else { "ipv6" };
    xml.empty("address", &[("addr", &seen.address.to_string()), ("addrtype", family)])?;
    match super::text::host_name(&seen.target) {
        None => xml.empty("hostnames", &[])?,
        Some(name) => {
            xml.open("hostnames", &[])?;
            xml.empty("hostname", &[("name", &name), ("type", "user")])?;
            xml.close("hostnames")?;
        }
    }
    // nmap lists no ports of a host that is down either.
    if seen.up {
        write_ports(xml, seen, all)?;
    }
    xml.close("host")
}

fn write_ports(xml: &mut Xml<impl Write>, seen: &HostObservation, all: bool) -> io::Result<()> {
    xml.open("ports", &[])?;
    let listed = listed_states(seen, all);
    for state in PortState::ALL.iter().copied().filter(|state| !listed.contains(state)) {
        let runs: Vec<&StateRun> = seen.runs.iter().filter(|run| run.state == state).collect();
        let count: usize = runs.iter().map(|run| run.ports.len()).sum();
        if count == 0 {
            continue;
        }
        // One element a state: ndiff takes a second one for a mistake.
        xml.open("extraports", &[("state", state.as_str()), ("count", &count.to_string())])?;
        for run in runs {
            xml.empty(
                "extrareasons",
                &[
                    ("reason", run.reason.as_str()),
                    ("count", &run.ports.len().to_string()),
                    ("proto", run.protocol.as_str()),
                    ("ports", &run.ports.to_string()),
                ],
            )?;
        }
        xml.close("extraports")?;
    }
    for line in port_lines_in(seen, &listed) {
        xml.open("port", &[("protocol", line.protocol.as_str()), ("portid", &line.port.to_string())])?;
        let state = [("state", line.state.as_str()), ("reason", line.reason.as_str()), ("reason_ttl", "0")];
        xml.empty("state", &state)?;
        if let Some(name) = services::name(line.protocol, line.port) {
            xml.empty("service", &[("name", name), ("method", "table"), ("conf", "3")])?;
        }
        xml.close("port")?;
    }
    xml.close("ports")
}

fn write_stats(xml: &mut Xml<impl Write>, scan: &ScanResult, zone: &TimeZone) -> io::Result<()> {
    let elapsed = format!("{:.2}", scan.elapsed().as_secs_f64());
    let (up, total) = scan.hosts_up();
    let timestr = ctime(scan.finished_at, zone);
    let summary =
        format!("Portolan done at {timestr}; {} scanned in {elapsed} seconds", nmap_hosts(up, total));
    let mut finished = vec![
        ("time", scan.finished_at.as_second().to_string()),
        ("timestr", timestr),
        ("elapsed", elapsed),
        ("summary", summary),
    ];
    if scan.interrupted {
        finished.extend([("exit", "error".to_owned()), ("errormsg", "interrupted".to_owned())]);
    } else {
        finished.push(("exit", "success".to_owned()));
    }
    let finished: Vec<_> = finished.iter().map(|(key, value)| (*key, value.as_str())).collect();
    xml.open("runstats", &[])?;
    xml.empty("finished", &finished)?;
    let (up, down, total) = (up.to_string(), (total - up).to_string(), total.to_string());
    xml.empty("hosts", &[("up", &up), ("down", &down), ("total", &total)])?;
    xml.close("runstats")
}

/// What showed that the host is up: the most telling of its ports' reasons.
fn host_reason(seen: &HostObservation) -> Reason {
    let is_silence = |reason| matches!(reason, Reason::NoResponse | Reason::IcmpRateLimited);
    let rank = |run: &&StateRun| (is_silence(run.reason), run.state);
    seen.runs.iter().min_by_key(rank).map_or(Reason::NoResponse, |run| run.reason)
}

fn scan_type(protocol: Protocol, satellites: &[SatelliteResult]) -> &'static str {
    match protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp if satellites.iter().any(used_syn) => "syn",
        Protocol::Tcp => "connect",
    }
}

/// The method is `syn, udp` where ports of both protocols were asked for.
fn used_syn(satellite: &SatelliteResult) -> bool {
    satellite.method.split(',').any(|method| method.trim() == "syn")
}

/// C's `ctime`, as nmap prints times: `Fri Nov 20 08:11:06 2026`.
fn ctime(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// Elements with attributes: quick-xml escapes what has a meaning in XML, [`printable`] what XML cannot hold at all.
struct Xml<W>(Writer<W>);

impl<W: Write> Xml<W> {
    fn element<'a>(name: &'a str, attributes: &[(&str, &str)]) -> BytesStart<'a> {
        attributes.iter().fold(BytesStart::new(name), |mut element, (key, value)| {
            element.push_attribute((*key, printable(value).as_ref()));
            element
        })
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
        self.0.write_event(Event::Start(Self::element(name, attributes)))
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
        self.0.write_event(Event::Empty(Self::element(name, attributes)))
    }

    fn close(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_result::fixture::{
        end, event, host, hosts, one_vantage, result, started, suspect, two_vantages, udp,
    };
    use portolan_proto::v1::{self, scan_event};

    fn xml(scan: &ScanResult, all: bool) -> String {
        let mut out = Vec::new();
        write(
            &mut out,
            scan,
            &Run { command: "portolan scan <x> --from office-1", all, zone: &TimeZone::UTC },
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_document_is_nmaps() {
        let text = xml(&one_vantage(), false);
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE nmaprun>
<nmaprun scanner="nmap" args="portolan scan &lt;x&gt; --from office-1" start="1777636800" startstr="Fri May  1 12:00:00 2026" version="0.2.0" xmloutputversion="1.05">
 <scaninfo type="connect" protocol="tcp" numservices="1024" services="1-1024"/>
 <verbose level="0"/>
 <debugging level="0"/>
 <host starttime="1777636800" endtime="1777636800" comment="satellite=office-1 segment=office">
  <status state="down" reason="no-response" reason_ttl="0"/>
  <address addr="10.99.2.8" addrtype="ipv4"/>
  <hostnames/>
 </host>
"#;
        assert!(text.starts_with(expected), "{text}");
        let shop = r#"  <status state="up" reason="syn-ack" reason_ttl="0"/>
  <address addr="10.99.2.10" addrtype="ipv4"/>
  <hostnames>
   <hostname name="shop.internal" type="user"/>
  </hostnames>
  <ports>
   <extraports state="closed" count="1020">
    <extrareasons reason="conn-refused" count="1020" proto="tcp" ports="1-21,23-79,81-442,444-1023"/>
   </extraports>
   <extraports state="filtered" count="1">
    <extrareasons reason="no-response" count="1" proto="tcp" ports="1024"/>
   </extraports>
   <port protocol="tcp" portid="22">
    <state state="open" reason="syn-ack" reason_ttl="0"/>
    <service name="ssh" method="table" conf="3"/>
   </port>
"#;
        assert!(text.contains(shop), "{text}");
        let stats = r#" <runstats>
  <finished time="1777636812" timestr="Fri May  1 12:00:12 2026" elapsed="12.30" summary="Portolan done at Fri May  1 12:00:12 2026; 4 IP addresses (2 hosts up) scanned in 12.30 seconds" exit="success"/>
  <hosts up="2" down="2" total="4"/>
 </runstats>
</nmaprun>
"#;
        assert!(text.ends_with(stats), "{text}");
    }

    #[test]
    fn each_satellite_has_its_host_and_addresses_count_once() {
        let text = xml(&two_vantages(), false);
        assert_eq!(text.matches("<address addr=\"10.99.3.10\"").count(), 2);
        assert!(text.contains("comment=\"satellite=pci-1 segment=pci\""), "{text}");
        assert!(text.contains("<hosts up=\"2\" down=\"0\" total=\"2\"/>"), "{text}");
    }

    #[test]
    fn few_silent_udp_ports_are_elements_and_many_are_counted() {
        let of = |seen: HostObservation| {
            xml(&result("U:1-90", &["s"], vec![started(&[("s", "x")]), hosts("s", &[seen])]), false)
        };
        let few = of(suspect(udp("161", "67-69")));
        let ports = r#"  <ports>
   <extraports state="closed" count="9">
    <extrareasons reason="port-unreach" count="9" proto="udp" ports="1-9"/>
   </extraports>
   <port protocol="udp" portid="53">
    <state state="open" reason="udp-response" reason_ttl="0"/>
    <service name="domain" method="table" conf="3"/>
   </port>
   <port protocol="udp" portid="67">
    <state state="open|filtered" reason="icmp-rate-limited" reason_ttl="0"/>
"#;
        assert!(few.contains(ports), "{few}");
        assert!(few.contains(r#"<status state="up" reason="udp-response""#), "{few}");
        assert!(few.contains(r#"<scaninfo type="udp" protocol="udp""#), "{few}");
        assert!(few.contains(r#"segment=x suspect=syn-proxy confidence=95""#), "{few}");
        let many = of(udp("161", "60-90"));
        let counted = r#"   <extraports state="open|filtered" count="32">
    <extrareasons reason="no-response" count="1" proto="udp" ports="161"/>
    <extrareasons reason="icmp-rate-limited" count="31" proto="udp" ports="60-90"/>
   </extraports>
"#;
        assert!(many.contains(counted) && many.matches("<port ").count() == 1, "{many}");
    }

    #[test]
    fn each_protocol_has_the_type_of_scan_that_was_done() {
        let of = |asked, method: &str| {
            let last = v1::SatelliteEnd { method: method.into(), ..end("s", 0, 1, 4) };
            xml(
                &result(asked, &["s"], vec![started(&[("s", "x")]), event(scan_event::Event::End(last))]),
                false,
            )
        };
        let tcp =
            |scan| format!("<scaninfo type=\"{scan}\" protocol=\"tcp\" numservices=\"1\" services=\"22\"/>");
        let udp = "<scaninfo type=\"udp\" protocol=\"udp\" numservices=\"1\" services=\"53\"/>";
        assert!(of("22", "syn").contains(&tcp("syn")));
        assert!(of("22", "connect").contains(&tcp("connect")));
        assert!(of("U:53", "udp").contains(udp) && !of("U:53", "udp").contains("protocol=\"tcp\""));
        assert!(of("T:22,U:53", "syn, udp").contains(&format!("{}\n {udp}", tcp("syn"))));
    }

    #[test]
    fn with_all_every_port_is_an_element() {
        let text = xml(&one_vantage(), true);
        assert_eq!(text.matches("<port ").count(), 2 * 1024);
        assert!(!text.contains("<extraports"));
    }

    #[test]
    fn hostile_names_do_not_break_the_document() {
        let mut seen = host("x", "fd00::1", true, &[(PortState::Open, Reason::SynAck, "22")]);
        seen.target = "\"><script/>&\u{1b}".into();
        let mut scan = result("22", &["s"], vec![started(&[("s", "x")]), hosts("s", &[seen])]);
        scan.satellites[0].segment = "\"<\u{0}".into();
        scan.finish(true, scan.finished_at);
        let text = xml(&scan, false);
        assert!(!text.contains("<script") && !text.contains('\u{1b}') && !text.contains('\u{0}'), "{text}");
        assert!(
            text.contains("segment=&quot;&lt;\\u{0}") && text.contains("errormsg=\"interrupted\""),
            "{text}"
        );
        assert!(text.contains("addr=\"fd00::1\" addrtype=\"ipv6\""), "{text}");
    }
}
