//! The table: what is scanned over which way, by whom, and what Portolan must reach there.

use std::net::IpAddr;

use anyhow::Result;

use crate::lab::{HOST, HOST6, OPEN, UDP_OPEN, Way};
use crate::ports::{self, Ports};
use crate::verdicts::State;

/// 1,000 ports with seven of the open ones among them: 254 hosts have 1,778 open.
const THOUSAND: &str = "1-996,3306,5432,8080,9200";
/// 100 UDP ports, most of them with a protocol of their own, six with a service behind.
const UDP: &str = "7,9,13,17,19,37,42,49,53,67-69,80,88,111,123,135-139,158,161-162,177,192,199,389,407,427,443,445,\
    464,497,500,514-515,517-518,520,593,623,626,631,749,800,996-999,1022-1030,1194,1434,1645-1646,1701,1718-1719,1812-1813,\
    1900,2000,2048-2049,2222-2223,3283,3456,3478,3703,4444,4500,5000,5060-5061,5353,5632,5683,9200,10000,11211,17185,\
    20031,30718,31337,32768-32769,33281,49152-49154,51820";

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// For `--row`.
    pub name: &'static str,
    /// What it is, in words.
    pub title: &'static str,
    /// Who is asked.
    pub hosts: Hosts,
    /// What is asked.
    pub ports: &'static str,
    /// UDP instead of TCP.
    pub udp: bool,
    /// The way there.
    pub way: Way,
    /// Which of the hosts answer nothing, by their last number.
    pub dropped: Dropped,
    /// Who takes part, beside Portolan.
    pub peers: Vec<Peer>,
    /// Portolan's flags; ranges are scanned with `--no-discover`, as the peers scan them, but for the row `half`.
    pub flags: &'static [&'static str],
    /// Scans one after the other that count as one run.
    pub times: usize,
    /// Somebody else connects through the firewall meanwhile.
    pub neighbour: bool,
    /// What must be reached.
    pub limits: Vec<Limit>,
}

/// Which addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// 10.99.2.7.
    One,
    /// 10.99.2.1 to .254.
    Net,
    /// fd00:99:2::7.
    One6,
    /// fd00:99:2::/120, all 256.
    Net6,
}

/// What the firewall keeps silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Nothing.
    Nothing,
    /// .128 to .254.
    Half,
    /// Everything.
    All,
    /// Everything but three open and five closed ports.
    AllButEight,
}

/// Another scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The bare raw sender, with so many passes over what stays silent, as fast as it goes.
    Raw(u32),
    /// The same with four passes at so many SYNs a second: over a long link, speed without control only loses.
    PacedRaw(u32),
    /// `nmap -n -Pn` with these flags; slow ones run once however many runs are asked for.
    Nmap {
        /// `-sS -T4` and the like.
        flags: &'static str,
        /// It takes minutes.
        slow: bool,
    },
    /// `masscan` at so many packets a second.
    Masscan(u32),
    /// `rustscan` with so many tries.
    Rustscan(u32),
}

/// What Portolan must reach.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// At most this many times as long as a peer.
    Ratio(Peer, f64),
    /// The same, as an aim only.
    Aim(Peer, f64),
    /// At most this many seconds.
    Seconds(f64),
    /// Less than this many processor seconds of the satellite.
    Cpu(f64),
    /// Less than this many MB above idle.
    Memory(f64),
    /// At least this many ports for each processor second of the satellite.
    PerCpuSecond(f64),
    /// Every state right.
    Right,
    /// Every open port found, and none more.
    AllOpen,
    /// At most this many closed ports called filtered, and no other state wrong.
    ClosedAsFiltered(usize),
    /// Nobody else was refused at the firewall.
    NeighbourServed,
    /// Every UDP service was heard on the wire within this many milliseconds of the first probe.
    HeardWithin(f64),
    /// What is left undecided is left so for this reason.
    Undecided(&'static str),
}

const T4: Peer = Peer::Nmap { flags: "-sS -T4", slow: false };
const SLOW_T4: Peer = Peer::Nmap { flags: "-sS -T4", slow: true };
const CONNECT_T4: Peer = Peer::Nmap { flags: "-sT -T4", slow: false };
const TWO_RETRIES: Peer = Peer::Nmap { flags: "-sS -T4 --min-rate 20000 --max-retries 2", slow: false };
const ONE_RETRY: Peer = Peer::Nmap { flags: "-sS -T4 --min-rate 100000 --max-retries 1", slow: false };
const UDP_T4: Peer = Peer::Nmap { flags: "-sU -T4", slow: true };

const DROP_HALF: &[&str] = &["ip daddr 10.99.2.128-10.99.2.254 meta l4proto tcp drop"];
const DROP_ALL: &[&str] = &["ip daddr 10.99.2.0/24 meta l4proto tcp drop"];
const DROP_ALL_BUT_EIGHT: &[&str] = &["ip daddr 10.99.2.0/24 tcp dport != { 22, 443, 8080, 1000-1004 } drop"];

/// The whole table.
pub fn all() -> Vec<Row> {
    let open = Row {
        name: "one",
        title: "one host, 65,535 ports, all answer",
        hosts: Hosts::One,
        ports: "1-65535",
        udp: false,
        way: Way::default(),
        dropped: Dropped::Nothing,
        peers: vec![Peer::Raw(1), Peer::Raw(4), T4, Peer::Masscan(100_000), Peer::Rustscan(1)],
        flags: &["--method", "syn"],
        times: 1,
        neighbour: false,
        limits: vec![Limit::Ratio(T4, 1.0), Limit::Aim(Peer::Raw(1), 1.0), Limit::Right],
    };
    let net = Row {
        name: "net",
        title: "254 hosts x 1,000 ports, all answer",
        hosts: Hosts::Net,
        ports: THOUSAND,
        limits: vec![
            Limit::Ratio(T4, 0.85),
            Limit::Ratio(Peer::Raw(1), 1.1),
            Limit::Cpu(2.0),
            Limit::Memory(35.0),
            Limit::Right,
        ],
        ..open.clone()
    };
    let lossy_way = Way { delay: 20, loss: 1, ..Way::default() };
    let connect = |row: &Row, name, title| Row {
        name,
        title,
        peers: vec![CONNECT_T4],
        flags: &["--method", "connect"],
        limits: vec![Limit::Ratio(CONNECT_T4, 1.0), Limit::PerCpuSecond(28_000.0), Limit::Right],
        ..row.clone()
    };
    let half = Row {
        name: "half",
        title: "254 hosts x 8 ports, half of the hosts dropped",
        ports: OPEN,
        way: Way { rules: DROP_HALF, ..Way::default() },
        dropped: Dropped::Half,
        peers: vec![Peer::Raw(4), SLOW_T4, TWO_RETRIES, Peer::Rustscan(1)],
        limits: vec![Limit::Seconds(0.7), Limit::Right],
        ..net.clone()
    };
    let silent = Row {
        name: "silent",
        title: "one host, 65,535 ports, all dropped",
        way: Way { rules: DROP_ALL, ..Way::default() },
        dropped: Dropped::All,
        peers: vec![Peer::Raw(4), ONE_RETRY],
        limits: vec![Limit::Seconds(2.2), Limit::Right],
        ..open.clone()
    };
    let silent_far = Row {
        name: "silent-far",
        title: "one host, 65,535 ports, all but 8 dropped, 300 ms away",
        way: Way { rules: DROP_ALL_BUT_EIGHT, delay: 300, ..Way::default() },
        dropped: Dropped::AllButEight,
        peers: vec![Peer::PacedRaw(80_000), ONE_RETRY],
        limits: vec![Limit::Right],
        ..silent.clone()
    };
    let lossy = Row {
        name: "lossy",
        title: "254 hosts x 1,000 ports, 20 ms, 1 % loss each way",
        way: lossy_way.clone(),
        peers: vec![
            Peer::PacedRaw(80_000),
            SLOW_T4,
            TWO_RETRIES,
            ONE_RETRY,
            Peer::Masscan(50_000),
            Peer::Rustscan(1),
        ],
        limits: vec![Limit::Seconds(4.5), Limit::AllOpen, Limit::ClosedAsFiltered(2)],
        ..net.clone()
    };
    let stateful = Row {
        name: "stateful",
        title: "the same behind a stateful firewall",
        way: Way { stateful: true, ..lossy_way },
        peers: vec![TWO_RETRIES],
        neighbour: true,
        limits: vec![Limit::Right, Limit::NeighbourServed],
        ..lossy.clone()
    };
    let flows = Row {
        name: "flows",
        title: "254 hosts x 8 ports, gently, through a firewall that holds 4,096 flows; half of the hosts silent behind it",
        way: Way { behind: DROP_HALF, stateful: true, flows: Some(4096), ..Way::default() },
        peers: vec![TWO_RETRIES],
        flags: &["--method", "syn", "--gentle"],
        neighbour: true,
        limits: vec![Limit::Right, Limit::NeighbourServed],
        ..half.clone()
    };
    let udp = Row {
        name: "udp",
        title: "UDP, one host, 100 ports, 6 services, Linux's ICMP limit",
        ports: UDP,
        udp: true,
        way: Way { udp: true, ..Way::default() },
        peers: vec![UDP_T4],
        flags: &["--method", "udp"],
        limits: vec![Limit::HeardWithin(500.0), Limit::Right, Limit::Seconds(100.0)],
        ..open.clone()
    };
    let udp_budget = Row {
        name: "udp-budget",
        title: "the same with --udp-budget 5s",
        peers: vec![],
        flags: &["--method", "udp", "--udp-budget", "5s", "--all"],
        limits: vec![
            Limit::HeardWithin(500.0),
            Limit::AllOpen,
            Limit::Undecided("icmp-rate-limited"),
            Limit::Seconds(6.0),
        ],
        ..udp.clone()
    };
    let periodic = Row {
        name: "periodic",
        title: "254 hosts x 8 known ports, all open, 20 times over",
        ports: OPEN,
        peers: vec![],
        times: 20,
        limits: vec![Limit::PerCpuSecond(80_000.0), Limit::Right],
        ..net.clone()
    };
    let six = |row: &Row, name, title, hosts| Row {
        name,
        title,
        hosts,
        peers: vec![T4],
        limits: vec![Limit::Ratio(T4, 1.0), Limit::Right],
        ..row.clone()
    };
    let one6 = six(&open, "one6", "IPv6: one host, 65,535 ports, all answer", Hosts::One6);
    let net6 = six(&net, "net6", "IPv6: 256 hosts x 1,000 ports, all answer", Hosts::Net6);
    let connect_one = connect(&open, "connect-one", "connect: one host, 65,535 ports, all answer");
    let connect_net = connect(&net, "connect-net", "connect: 254 hosts x 1,000 ports, all answer");
    vec![
        open,
        net,
        connect_one,
        connect_net,
        half,
        silent,
        silent_far,
        lossy,
        stateful,
        flows,
        udp,
        udp_budget,
        periodic,
        one6,
        net6,
    ]
}

impl Row {
    /// Every address.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let six = |last: u16| IpAddr::from([0xfd00, 0x99, 2, 0, 0, 0, 0, last]);
        match self.hosts {
            Hosts::One => vec![HOST.into()],
            Hosts::Net => (1..=254).map(|last| IpAddr::from([10, 99, 2, last])).collect(),
            Hosts::One6 => vec![HOST6.into()],
            Hosts::Net6 => (0..=255).map(six).collect(),
        }
    }

    /// The addresses as scanners take them.
    pub fn target(&self) -> &'static str {
        match self.hosts {
            Hosts::One => "10.99.2.7",
            Hosts::Net => "10.99.2.1-254",
            Hosts::One6 => "fd00:99:2::7",
            Hosts::Net6 => "fd00:99:2::/120",
        }
    }

    /// The ports that are asked.
    pub fn asked(&self) -> Result<Ports> {
        ports::parse(self.ports)
    }

    /// What is true of an address and port.
    pub fn truth(&self) -> Result<impl Fn(IpAddr, u16) -> State + use<>> {
        let open = ports::parse(if self.udp { UDP_OPEN } else { OPEN })?;
        let eight = ports::parse("22,443,8080,1000-1004")?;
        let dropped = self.dropped;
        Ok(move |address: IpAddr, port: u16| {
            let last = match address {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(address) => address.octets()[15],
            };
            let silent = match dropped {
                Dropped::Nothing => false,
                Dropped::Half => last >= 128,
                Dropped::All => true,
                Dropped::AllButEight => !eight.contains(&port),
            };
            match (silent, open.contains(&port)) {
                (true, _) => State::Filtered,
                (false, true) => State::Open,
                (false, false) => State::Closed,
            }
        })
    }

    /// Portolan's flags, with another method if wanted.
    pub fn flags(&self, method: Option<&str>) -> Vec<String> {
        let mut flags: Vec<String> = self.flags.iter().map(|flag| (*flag).to_owned()).collect();
        if let (Some(method), false) = (method, self.udp) {
            flags[1] = method.to_owned();
        }
        // Without a word from a host nobody knows how long it takes to answer: the default asks first.
        if self.name != "half" {
            flags.push("--no-discover".into());
        }
        flags
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Raw(1) => f.write_str("raw, one pass"),
            Self::Raw(passes) => write!(f, "raw, {passes} passes"),
            Self::PacedRaw(rate) => write!(f, "raw, 4 passes, {rate}/s"),
            Self::Nmap { flags, .. } => write!(f, "nmap {flags}"),
            Self::Masscan(rate) => write!(f, "masscan --rate {rate}"),
            Self::Rustscan(tries) => write!(f, "rustscan --tries {tries}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_ask_what_they_say() -> Result<()> {
        let rows = all();
        let row = |name: &str| rows.iter().find(|row| row.name == name);
        let open_of = |name: &str| -> Result<(usize, usize)> {
            let Some(row) = row(name) else { return Ok((0, 0)) };
            let (truth, ports) = (row.truth()?, row.asked()?);
            let pairs =
                row.addresses().into_iter().flat_map(|host| ports.iter().map(move |port| (host, *port)));
            let open = pairs.filter(|(host, port)| truth(*host, *port) == State::Open).count();
            Ok((open, row.addresses().len() * ports.len()))
        };
        assert_eq!(open_of("one")?, (8, 65_535));
        assert_eq!(open_of("net")?, (1_778, 254_000));
        assert_eq!(open_of("half")?, (127 * 8, 2_032));
        assert_eq!(open_of("silent")?.0, 0);
        assert_eq!(open_of("silent-far")?.0, 3);
        assert_eq!(open_of("udp")?, (6, 100));
        Ok(())
    }
}
