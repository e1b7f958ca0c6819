//! What `portolan scan -o json` printed.

use std::net::IpAddr;

use serde_json::Value;

use crate::judge::Verdicts;
use crate::lab::Finished;
use crate::ports::{self, PortStates};

/// A finished scan: the process and its document.
#[derive(Debug)]
pub struct Scan {
    finished: Finished,
    document: Value,
}

impl Scan {
    /// Of a console that was started by the test.
    pub fn new(finished: Finished) -> Self {
        let document = serde_json::from_str(&finished.stdout).unwrap_or(Value::Null);
        Self { finished, document }
    }

    /// How the console ended.
    pub fn finished(&self) -> &Finished {
        &self.finished
    }

    /// Fails unless the console ended with this code.
    #[track_caller]
    pub fn code_is(&self, code: i32) -> &Self {
        self.finished.code_is(code);
        self
    }

    /// The whole document.
    #[track_caller]
    pub fn document(&self) -> &Value {
        assert!(!self.document.is_null(), "no JSON document:\n{}", self.finished);
        &self.document
    }

    /// The entry of a satellite in `satellites`.
    #[track_caller]
    pub fn satellite(&self, name: &str) -> &Value {
        self.entries("satellites", |entry| entry["name"] == name).first().copied().unwrap_or_else(|| {
            panic!("satellite {name} is not in the document:\n{}", self.finished);
        })
    }

    /// The entries of a satellite in `hosts`.
    #[track_caller]
    pub fn hosts(&self, satellite: &str) -> Vec<&Value> {
        self.entries("hosts", |entry| entry["satellite"] == satellite)
    }

    /// The entry of one address as one satellite saw it.
    #[track_caller]
    pub fn host(&self, satellite: &str, address: IpAddr) -> &Value {
        let hosts = self.hosts(satellite);
        let found = hosts.iter().find(|host| host["address"] == address.to_string());
        found.unwrap_or_else(|| panic!("{satellite} says nothing of {address}:\n{}", self.finished))
    }

    /// The entry of one TCP port in a host's `ports`, if it is listed.
    #[track_caller]
    pub fn port(&self, satellite: &str, address: IpAddr, port: u16) -> Option<&Value> {
        let ports = self.host(satellite, address)["ports"].as_array().expect("`ports` is a list");
        ports.iter().find(|entry| entry["protocol"] == "tcp" && entry["port"] == port)
    }

    /// What a satellite saw of TCP ports, in the judge's terms, from `ranges`.
    #[track_caller]
    pub fn verdicts(&self, satellite: &str) -> Verdicts {
        self.verdicts_of(satellite, "tcp")
    }

    /// The same for a protocol, `tcp` or `udp`; reasons are those of the ports that are listed.
    #[track_caller]
    pub fn verdicts_of(&self, satellite: &str, protocol: &str) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for host in self.hosts(satellite) {
            let address = host["address"].as_str().and_then(|text| text.parse().ok());
            let address = address.unwrap_or_else(|| panic!("no address in {host}"));
            let mut states = PortStates::default();
            let ranges = host["ranges"][protocol].as_object();
            for (state, range) in ranges.unwrap_or_else(|| panic!("no {protocol} `ranges` in {host}")) {
                let range = range.as_str().expect("ranges are text");
                // What the scope forbade was not looked at, so it has no state.
                if !range.is_empty() && state != "unscanned" {
                    *states.of_mut(state) = ports::parse(range);
                }
            }
            verdicts.insert(address, states);
            for entry in host["ports"].as_array().into_iter().flatten() {
                let port = entry["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                if let (Some(port), Some(reason), true) =
                    (port, entry["reason"].as_str(), entry["protocol"] == protocol)
                {
                    verdicts.explain(address, port, reason, None);
                }
            }
        }
        verdicts
    }

    #[track_caller]
    fn entries(&self, list: &str, of_interest: impl Fn(&&Value) -> bool) -> Vec<&Value> {
        let entries = self.document()[list].as_array();
        let entries = entries.unwrap_or_else(|| panic!("no list `{list}`:\n{}", self.finished));
        entries.iter().filter(of_interest).collect()
    }
}
