//! The judge: nmap's scan of the same targets from the same place, by connecting, by SYN or by UDP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::lab::{Finished, Host};
use crate::ports::{self, PortStates, Ports};

/// How long the judge may take.
const LIMIT: Duration = Duration::from_secs(200);

/// Port states by address, as one scanner saw them from one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    hosts: BTreeMap<IpAddr, PortStates>,
    reasons: BTreeMap<(IpAddr, u16), Reason>,
}

/// Why a port is in its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The scanner's word for it: `syn-ack`, `reset`, `no-response`, `port-unreach`, …
    pub word: String,
    /// The time to live of the answer, where the scanner tells it.
    pub ttl: Option<u8>,
}

impl Verdicts {
    /// What was seen at one address.
    #[track_caller]
    pub fn of(&self, address: IpAddr) -> &PortStates {
        self.hosts.get(&address).unwrap_or_else(|| panic!("{address} is not among {:?}", self.addresses()))
    }

    /// Every address that was judged.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.hosts.keys().copied().collect()
    }

    /// Adds what was seen at one address.
    pub fn insert(&mut self, address: IpAddr, states: PortStates) {
        self.hosts.insert(address, states);
    }

    /// Adds why a port is in its state.
    pub fn explain(&mut self, address: IpAddr, port: u16, word: &str, ttl: Option<u8>) {
        self.reasons.insert((address, port), Reason { word: word.to_owned(), ttl });
    }

    /// Why a port is in its state.
    #[track_caller]
    pub fn reason(&self, address: IpAddr, port: u16) -> &Reason {
        let found = self.reasons.get(&(address, port));
        found.unwrap_or_else(|| panic!("no reason for port {port} of {address}"))
    }

    /// The ports of an address by the scanner's word for the reason.
    pub fn by_reason(&self, address: IpAddr) -> BTreeMap<&str, Ports> {
        let mut all: BTreeMap<&str, Ports> = BTreeMap::new();
        for ((_, port), reason) in self.reasons.iter().filter(|((of, _), _)| *of == address) {
            all.entry(&reason.word).or_default().insert(*port);
        }
        all
    }

    /// Fails unless both saw the same and for the same reasons, each port of each address. Both must know a reason for
    /// every port.
    #[track_caller]
    pub fn same_with_reasons_as(&self, other: &Self, names: (&str, &str)) {
        self.same_as(other, names);
        let mut differences = Vec::new();
        for address in self.addresses() {
            let (mine, theirs) = (self.by_reason(address), other.by_reason(address));
            if mine != theirs {
                let say = |seen: &BTreeMap<&str, Ports>| {
                    let all = seen.iter().map(|(word, set)| format!("{word} {}", ports::format(set)));
                    all.collect::<Vec<_>>().join("; ")
                };
                differences.push(format!("{address}: {} says {}", names.0, say(&mine)));
                differences.push(format!("{address}: {} says {}", names.1, say(&theirs)));
            }
        }
        assert!(differences.is_empty(), "they differ:\n{}", differences.join("\n"));
    }

    /// Fails with every difference in states, named, unless both saw the same at the same addresses. Reasons are not
    /// compared: each scanner has its own words for them.
    #[track_caller]
    pub fn same_as(&self, other: &Self, names: (&str, &str)) {
        let mut differences = Vec::new();
        for address in self.hosts.keys().chain(other.hosts.keys()).collect::<std::collections::BTreeSet<_>>()
        {
            let (mine, theirs) = (self.hosts.get(address), other.hosts.get(address));
            if mine != theirs {
                let say = |seen: Option<&PortStates>| seen.map_or("nothing".into(), PortStates::to_string);
                differences.push(format!("{address}: {} saw {}", names.0, say(mine)));
                differences.push(format!("{address}: {} saw {}", names.1, say(theirs)));
            }
        }
        assert!(differences.is_empty(), "they differ:\n{}", differences.join("\n"));
    }
}

/// Scans `targets` with `nmap -sT` from `host`. Needs [`need!("nmap")`](crate::need).
#[track_caller]
pub fn nmap_connect(host: &Host, targets: &[IpAddr], ports: &str) -> Verdicts {
    nmap(host, &["-sT", "-T4"], targets, ports)
}

/// The same with `nmap -sS`: over raw sockets, which root of the lab may open.
#[track_caller]
pub fn nmap_syn(host: &Host, targets: &[IpAddr], ports: &str) -> Verdicts {
    nmap(host, &["-sS", "-T4"], targets, ports)
}

/// The same with `nmap -sU`. Where a target limits its ICMP errors, each closed port takes a second.
#[track_caller]
pub fn nmap_udp(host: &Host, targets: &[IpAddr], ports: &str) -> Verdicts {
    nmap(host, &["-sU", "-T4"], targets, ports)
}

#[track_caller]
fn nmap(host: &Host, method: &[&str], targets: &[IpAddr], ports: &str) -> Verdicts {
    let mut verdicts = Verdicts::default();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = targets.iter().partition(|address| address.is_ipv4());
    for (family, group) in [("-4", v4), ("-6", v6)] {
        if group.is_empty() {
            continue;
        }
        let mut program = host.command("nmap").args(method);
        program = program.args(["-n", "-Pn", "--reason", "-p", ports, "-oX", "-"]);
        if family == "-6" {
            program = program.arg("-6");
        }
        let finished = program.args(group.iter().map(IpAddr::to_string)).limit(LIMIT).run();
        let seen = from_nmap_xml(finished.ok(), &ports::parse(ports));
        verdicts.hosts.extend(seen.hosts);
        verdicts.reasons.extend(seen.reasons);
    }
    verdicts
}

/// Reads nmap's XML, from nmap or from whoever claims to write it, with an XML parser that knows nothing of either.
#[track_caller]
pub fn from_nmap_xml(finished: &Finished, asked: &Ports) -> Verdicts {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&finished.stdout, options)
        .unwrap_or_else(|error| panic!("not XML ({error}):\n{finished}"));
    let root = document.root_element();
    assert!(root.has_tag_name("nmaprun"), "not nmap's XML:\n{finished}");
    let mut verdicts = Verdicts::default();
    for host in root.children().filter(|node| node.has_tag_name("host")) {
        let ip = |node: &roxmltree::Node<'_, '_>| {
            node.has_tag_name("address")
                && node.attribute("addrtype").is_some_and(|kind| kind.starts_with("ip"))
        };
        let address = host.children().find(ip).and_then(|node| node.attribute("addr"));
        let address = address.and_then(|text| text.parse().ok());
        let address = address.unwrap_or_else(|| panic!("a host without an address:\n{finished}"));
        let states = states_of(host, asked);
        explain(&mut verdicts, address, host, &states);
        verdicts.insert(address, states);
    }
    verdicts
}

#[track_caller]
fn states_of(host: roxmltree::Node<'_, '_>, asked: &Ports) -> PortStates {
    let mut states = PortStates::default();
    for port in host.descendants().filter(|node| node.has_tag_name("port")) {
        let number =
            port.attribute("portid").and_then(|text| text.parse().ok()).expect("a port has a number");
        let state = port.children().find(|node| node.has_tag_name("state"));
        let state = state.and_then(|node| node.attribute("state")).expect("a port has a state");
        states.of_mut(state).insert(number);
    }
    for extra in host.descendants().filter(|node| node.has_tag_name("extraports")) {
        let state = extra.attribute("state").expect("extra ports have a state");
        let named: Vec<&str> = extra.children().filter_map(|reason| reason.attribute("ports")).collect();
        let set = match named.is_empty() {
            true => asked - &states.asked(),
            false => ports::parse(&named.join(",")),
        };
        states.of_mut(state).extend(set);
    }
    states
}

/// Reasons stand with each port that is listed, and with the lists of the ports that are not.
fn explain(verdicts: &mut Verdicts, address: IpAddr, host: roxmltree::Node<'_, '_>, states: &PortStates) {
    for port in host.descendants().filter(|node| node.has_tag_name("port")) {
        let number = port.attribute("portid").and_then(|text| text.parse().ok());
        let state = port.children().find(|node| node.has_tag_name("state"));
        if let (Some(number), Some(state)) = (number, state)
            && let Some(word) = state.attribute("reason")
        {
            let ttl = state.attribute("reason_ttl").and_then(|text| text.parse().ok()).filter(|ttl| *ttl > 0);
            verdicts.explain(address, number, word, ttl);
        }
    }
    let asked = states.asked();
    for extra in host.descendants().filter(|node| node.has_tag_name("extrareasons")) {
        let (Some(word), Some(named)) = (extra.attribute("reason"), extra.attribute("ports")) else {
            continue;
        };
        for port in ports::parse(named).intersection(&asked) {
            verdicts.explain(address, *port, word, None);
        }
    }
}
