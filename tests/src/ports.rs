//! Port sets in the notation that nmap and Portolan print, read by this crate's own few lines, so that the judge shares
//! no code with what it judges.

use std::collections::BTreeSet;
use std::fmt;

/// A set of ports of one protocol.
pub type Ports = BTreeSet<u16>;

/// Reads `22,80,8000-8100`; the empty text is the empty set.
#[track_caller]
pub fn parse(text: &str) -> Ports {
    let mut ports = Ports::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |number: &str| -> u16 {
            number.trim().parse().unwrap_or_else(|_| panic!("`{part}` in `{text}` is not a port or a range"))
        };
        ports.extend(bound(first)..=bound(last));
    }
    ports
}

/// Writes the shortest notation: `22,80,8000-8100`.
pub fn format(ports: &Ports) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match runs.last_mut() {
            Some((_, last)) if port > 0 && *last == port - 1 => *last = port,
            _ => runs.push((port, port)),
        }
    }
    let text = |&(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// What was seen at one address: which ports are in which state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortStates {
    /// Ports that completed the handshake.
    pub open: Ports,
    /// Ports that refused.
    pub closed: Ports,
    /// Ports that met silence or a device's rejection.
    pub filtered: Ports,
    /// UDP ports that met silence, which an open one may keep too.
    pub open_filtered: Ports,
}

impl PortStates {
    /// The set of a state, by its name.
    #[track_caller]
    pub fn of_mut(&mut self, state: &str) -> &mut Ports {
        match state {
            "open" => &mut self.open,
            "closed" => &mut self.closed,
            "filtered" => &mut self.filtered,
            "open|filtered" => &mut self.open_filtered,
            other => panic!("the lab knows no port state `{other}`"),
        }
    }

    /// All ports, whatever their state.
    pub fn asked(&self) -> Ports {
        &(&(&self.open | &self.closed) | &self.filtered) | &self.open_filtered
    }
}

impl fmt::Display for PortStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("open", &self.open),
            ("closed", &self.closed),
            ("filtered", &self.filtered),
            ("open|filtered", &self.open_filtered),
        ];
        let said = all.iter().filter(|(_, ports)| !ports.is_empty());
        let said: Vec<String> = said.map(|(state, ports)| format!("{state} {}", format(ports))).collect();
        f.write_str(&said.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_survives_the_round_trip() {
        for text in ["", "0", "22", "1-3,5,7-9", "0-65535", "65535"] {
            assert_eq!(format(&parse(text)), text);
        }
        assert_eq!(format(&parse("3,2,1,9")), "1-3,9");
    }

    #[test]
    fn states_are_told_in_one_line() {
        let states = PortStates { open: parse("80"), closed: parse("1-2"), ..PortStates::default() };
        assert_eq!(states.to_string(), "open 80; closed 1-2");
    }
}
