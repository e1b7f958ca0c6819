//! What scanners said of ports, read from whatever they write, and judged by what the lab knows to be true.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::ports::{self, Ports};

/// A port state, as nmap names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Something answered.
    Open,
    /// The target refused.
    Closed,
    /// Silence, or a device that says no.
    Filtered,
    /// UDP: silence that may be either.
    OpenOrFiltered,
}

/// States by address and port.
#[derive(Debug, Default)]
pub struct Verdicts {
    hosts: HashMap<IpAddr, BTreeMap<u16, State>>,
    /// How often each reason was given for a port that was left `open|filtered`.
    pub undecided: BTreeMap<String, usize>,
    /// Whether ports that are not open were told at all.
    pub only_open: bool,
}

impl State {
    fn read(text: &str) -> Option<Self> {
        match text {
            "open" => Some(Self::Open),
            "closed" => Some(Self::Closed),
            "filtered" => Some(Self::Filtered),
            "open|filtered" => Some(Self::OpenOrFiltered),
            _ => None,
        }
    }
}

impl Verdicts {
    /// From nmap's XML.
    pub fn from_nmap(xml: &str, asked: &Ports) -> Result<Self> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(xml, options).context("read nmap's XML")?;
        let mut verdicts = Self::default();
        for host in document.descendants().filter(|node| node.has_tag_name("host")) {
            let address = host
                .children()
                .filter(|node| node.has_tag_name("address"))
                .find_map(|node| node.attribute("addr")?.parse().ok());
            let Some(address) = address else { continue };
            let states: &mut BTreeMap<u16, State> = verdicts.hosts.entry(address).or_default();
            for port in host.descendants().filter(|node| node.has_tag_name("port")) {
                let number = port.attribute("portid").and_then(|text| text.parse().ok());
                let state = port.children().find_map(|node| State::read(node.attribute("state")?));
                if let (Some(number), Some(state)) = (number, state) {
                    states.insert(number, state);
                }
            }
            for extra in host.descendants().filter(|node| node.has_tag_name("extraports")) {
                let Some(state) = extra.attribute("state").and_then(State::read) else { continue };
                let named: Vec<&str> =
                    extra.children().filter_map(|reason| reason.attribute("ports")).collect();
                let set = if named.is_empty() { asked.clone() } else { ports::parse(&named.join(","))? };
                for port in set {
                    states.entry(port).or_insert(state);
                }
            }
        }
        Ok(verdicts)
    }

    /// From lines of `STATE tcp PORT ADDRESS`, which masscan's list format begins with too.
    pub fn from_list(text: &str, only_open: bool) -> Self {
        let mut verdicts = Self { only_open, ..Self::default() };
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(state), Some(_), Some(port), Some(address)) =
                (words.next().and_then(State::read), words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let (Ok(port), Ok(address)) = (port.parse(), address.parse()) {
                verdicts.hosts.entry(address).or_default().insert(port, state);
            }
        }
        verdicts
    }

    /// From rustscan's greppable output: `ADDRESS -> [PORT,PORT]`.
    pub fn from_rustscan(text: &str) -> Result<Self> {
        let mut verdicts = Self { only_open: true, ..Self::default() };
        for line in text.lines() {
            let Some((address, list)) = line.split_once(" -> ") else { continue };
            let Ok(address) = address.trim().parse() else { continue };
            for port in ports::parse(list.trim().trim_matches(['[', ']']))? {
                verdicts.hosts.entry(address).or_default().insert(port, State::Open);
            }
        }
        Ok(verdicts)
    }

    /// From the document of `portolan scan -o json`.
    pub fn from_portolan(document: &Value) -> Result<Self> {
        let mut verdicts = Self::default();
        for host in document["hosts"].as_array().context("the document has no `hosts`")? {
            let address = host["address"].as_str().and_then(|text| text.parse().ok());
            let address = address.with_context(|| format!("no address in {host}"))?;
            let states = verdicts.hosts.entry(address).or_default();
            for (_, ranges) in host["ranges"].as_object().context("a host has no `ranges`")? {
                for (state, range) in ranges.as_object().context("`ranges` without states")? {
                    let Some(state) = State::read(state) else { continue };
                    for port in ports::parse(range.as_str().unwrap_or_default())? {
                        states.insert(port, state);
                    }
                }
            }
            for port in host["ports"].as_array().into_iter().flatten() {
                if port["state"] == "open|filtered" {
                    let reason = port["reason"].as_str().unwrap_or("no reason").to_owned();
                    *verdicts.undecided.entry(reason).or_default() += 1;
                }
            }
        }
        Ok(verdicts)
    }

    /// Compares with the truth about every address and port that was asked for.
    pub fn judge(&self, hosts: &[IpAddr], ports: &Ports, truth: impl Fn(IpAddr, u16) -> State) -> Score {
        let mut score = Score { only_open: self.only_open, ..Score::default() };
        let none = BTreeMap::new();
        for &address in hosts {
            let said = self.hosts.get(&address).unwrap_or(&none);
            for &port in ports {
                let (is, said) = (truth(address, port), said.get(&port).copied());
                score.open += usize::from(is == State::Open);
                match (is, said) {
                    (State::Open, Some(State::Open)) => score.found += 1,
                    (_, Some(State::Open)) => score.false_open += 1,
                    (State::Open, _) => score.missed += 1,
                    (_, None) => score.unsaid += usize::from(!self.only_open),
                    (State::Closed, Some(State::Filtered)) => score.closed_as_filtered += 1,
                    (State::Filtered, Some(State::Closed)) => score.filtered_as_closed += 1,
                    (_, Some(State::OpenOrFiltered)) => score.undecided += 1,
                    _ => {}
                }
            }
        }
        score
    }
}

/// How far a scanner was right. All numbers are ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Truly open.
    pub open: usize,
    /// Of these found.
    pub found: usize,
    /// Of these called something else, or not mentioned.
    pub missed: usize,
    /// Called open, and are not.
    pub false_open: usize,
    /// Closed, called filtered.
    pub closed_as_filtered: usize,
    /// Filtered, called closed.
    pub filtered_as_closed: usize,
    /// Left `open|filtered`.
    pub undecided: usize,
    /// Not mentioned, though not open.
    pub unsaid: usize,
    /// The scanner tells open ports only, so the rest cannot be judged.
    pub only_open: bool,
}

impl Score {
    /// Whether every state is as it should be.
    pub fn is_right(&self) -> bool {
        self.missed + self.false_open + self.wrong() == 0
    }

    /// The worse of two runs, number by number.
    #[must_use]
    pub fn worst(&self, other: &Self) -> Self {
        Self {
            open: self.open,
            found: self.found.min(other.found),
            missed: self.missed.max(other.missed),
            false_open: self.false_open.max(other.false_open),
            closed_as_filtered: self.closed_as_filtered.max(other.closed_as_filtered),
            filtered_as_closed: self.filtered_as_closed.max(other.filtered_as_closed),
            undecided: self.undecided.max(other.undecided),
            unsaid: self.unsaid.max(other.unsaid),
            only_open: self.only_open,
        }
    }

    fn wrong(&self) -> usize {
        self.closed_as_filtered + self.filtered_as_closed + self.undecided + self.unsaid
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} open", self.found, self.open)?;
        let errors = [
            (self.false_open, "falsely open"),
            (self.closed_as_filtered, "closed called filtered"),
            (self.filtered_as_closed, "filtered called closed"),
            (self.undecided, "left open|filtered"),
            (self.unsaid, "not told"),
        ];
        for (count, what) in errors.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        match (self.is_right(), self.only_open) {
            (true, false) => f.write_str(", all right"),
            (_, true) => f.write_str(" (tells no others)"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 2, 1))];

    /// 1 is open, 2 closed, 3 filtered.
    fn truth(_: IpAddr, port: u16) -> State {
        [State::Open, State::Closed, State::Filtered][usize::from(port) - 1]
    }

    #[test]
    fn every_kind_of_mistake_is_counted() -> Result<()> {
        let asked = ports::parse("1-3")?;
        let judge = |text: &str, only_open| Verdicts::from_list(text, only_open).judge(&HOST, &asked, truth);
        let line = |state: &str, port: u16| format!("{state} tcp {port} 10.99.2.1\n");
        let right = [line("open", 1), line("closed", 2), line("filtered", 3)].concat();
        assert!(judge(&right, false).is_right());
        let wrong = judge(&[line("closed", 1), line("filtered", 2), line("open", 3)].concat(), false);
        assert_eq!((wrong.missed, wrong.closed_as_filtered, wrong.false_open), (1, 1, 1));
        assert_eq!(judge(&line("open", 1), false).unsaid, 2);
        assert!(judge(&line("open", 1), true).is_right());
        Ok(())
    }

    #[test]
    fn each_format_is_read() -> Result<()> {
        let asked = ports::parse("1-3")?;
        let xml = "<nmaprun><host><address addr='10.99.2.1' addrtype='ipv4'/><ports>\
            <extraports state='closed' count='1'><extrareasons reason='reset' count='1' ports='2'/></extraports>\
            <port protocol='tcp' portid='1'><state state='open'/></port>\
            <port protocol='tcp' portid='3'><state state='filtered'/></port></ports></host></nmaprun>";
        assert!(Verdicts::from_nmap(xml, &asked)?.judge(&HOST, &asked, truth).is_right());
        let json = serde_json::json!({"hosts": [{"address": "10.99.2.1", "ports": [],
            "ranges": {"tcp": {"open": "1", "closed": "2", "filtered": "3"}}}]});
        assert!(Verdicts::from_portolan(&json)?.judge(&HOST, &asked, truth).is_right());
        assert!(Verdicts::from_rustscan("10.99.2.1 -> [1]\n")?.judge(&HOST, &asked, truth).is_right());
        Ok(())
    }
}
