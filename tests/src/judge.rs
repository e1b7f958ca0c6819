//! The judge: nmap's connect scan of the same targets from the same place.

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

    /// Fails with every difference, named, unless both saw the same at the same addresses.
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
    let mut verdicts = Verdicts::default();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = targets.iter().partition(|address| address.is_ipv4());
    for (family, group) in [("-4", v4), ("-6", v6)] {
        if group.is_empty() {
            continue;
        }
        let mut program = host.command("nmap").args(["-sT", "-n", "-Pn", "-T4", "-p", ports, "-oX", "-"]);
        if family == "-6" {
            program = program.arg("-6");
        }
        let finished = program.args(group.iter().map(IpAddr::to_string)).limit(LIMIT).run();
        verdicts.hosts.extend(from_nmap_xml(finished.ok(), &ports::parse(ports)).hosts);
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
        verdicts.insert(address, states_of(host, asked));
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
