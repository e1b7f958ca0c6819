//! What the router lets pass, written as a test thinks of it and loaded as one nftables ruleset.
//!
//! Rules match by address, not by interface, since delayed packets come back to the router by another one. They are
//! tried in the order in which they were added; answers on connections that a rule let through always pass. Counters,
//! loss and cuts come before everything else and hit established connections too.

use std::net::IpAddr;

use super::Host;
use super::Segment;
use super::delay::DelayBox;

/// A whole ruleset. Loading it replaces the one before.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    closed: bool,
    early: Vec<Rule>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    from: Place,
    to: Place,
    ports: PortMatch,
    verdict: Verdict,
}

#[derive(Clone, Debug)]
enum Verdict {
    Accept,
    Drop,
    Lose { percent: u8 },
    LimitResets { per_second: u32 },
    Police { per_second: u32 },
    SynProxy,
    Count { counter: String },
    Reset,
    Prohibit,
    HostUnreachable,
    PortUnreachable,
}

/// Where packets come from or go to.
#[derive(Clone, Debug)]
pub enum Place {
    /// Every address of a segment.
    Segment(String),
    /// One IPv4 and one IPv6 address.
    Host(IpAddr, IpAddr),
}

impl From<&str> for Place {
    fn from(segment: &str) -> Self {
        Self::Segment(segment.to_owned())
    }
}

impl From<&Host> for Place {
    fn from(host: &Host) -> Self {
        Self::Host(host.v4(), host.v6())
    }
}

/// Which packets a rule is about.
#[derive(Clone, Debug)]
pub struct PortMatch {
    protocol: Option<&'static str>,
    ports: String,
}

/// TCP to these ports: `80,443,8000-8100`.
pub fn tcp(ports: &str) -> PortMatch {
    PortMatch { protocol: Some("tcp"), ports: ports.to_owned() }
}

/// UDP to these ports.
pub fn udp(ports: &str) -> PortMatch {
    PortMatch { protocol: Some("udp"), ports: ports.to_owned() }
}

/// Pings and errors: ICMP and ICMPv6.
pub fn icmp() -> PortMatch {
    PortMatch { protocol: Some("{ icmp, ipv6-icmp }"), ports: String::new() }
}

/// Every packet.
pub fn any() -> PortMatch {
    PortMatch { protocol: None, ports: String::new() }
}

impl Firewall {
    /// Everything passes that no rule stops.
    pub fn open() -> Self {
        Self::default()
    }

    /// Nothing passes from one segment to another that no rule allows; what is not allowed is dropped.
    pub fn closed() -> Self {
        Self { closed: true, ..Self::default() }
    }

    /// Lets new connections pass.
    #[must_use]
    pub fn allow(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        self.with(from, to, ports, Verdict::Accept)
    }

    /// Drops without a word.
    #[must_use]
    pub fn drop(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        self.with(from, to, ports, Verdict::Drop)
    }

    /// Answers TCP with a reset, in the target's name.
    #[must_use]
    pub fn reset(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        assert_eq!(ports.protocol, Some("tcp"), "only TCP can be reset");
        self.with(from, to, ports, Verdict::Reset)
    }

    /// Answers with ICMP "administratively prohibited".
    #[must_use]
    pub fn prohibit(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        self.with(from, to, ports, Verdict::Prohibit)
    }

    /// Answers with ICMP "host unreachable" (IPv6: "address unreachable").
    #[must_use]
    pub fn host_unreachable(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        self.with(from, to, ports, Verdict::HostUnreachable)
    }

    /// Answers with ICMP "port unreachable", from the router.
    #[must_use]
    pub fn port_unreachable(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        self.with(from, to, ports, Verdict::PortUnreachable)
    }

    /// Loses this share of the packets in this direction.
    #[must_use]
    pub fn lose(mut self, from: impl Into<Place>, to: impl Into<Place>, percent: u8) -> Self {
        assert!(percent <= 100, "{percent} % is more than everything");
        self.early.push(Rule::new(from.into(), to.into(), any(), Verdict::Lose { percent }));
        self
    }

    /// Lets only so many TCP resets a second pass in this direction, as firewalls and targets do that protect
    /// themselves; the others are dropped.
    #[must_use]
    pub fn limit_resets(mut self, from: impl Into<Place>, to: impl Into<Place>, per_second: u32) -> Self {
        let verdict = Verdict::LimitResets { per_second };
        self.early.push(Rule::new(from.into(), to.into(), tcp("-"), verdict));
        self
    }

    /// A slow link: lets only so many packets a second pass in this direction, drops the others, queues none.
    #[must_use]
    pub fn police(mut self, from: impl Into<Place>, to: impl Into<Place>, per_second: u32) -> Self {
        self.early.push(Rule::new(from.into(), to.into(), any(), Verdict::Police { per_second }));
        self
    }

    /// Answers every attempt to connect in the target's name, window 0 and with options, and asks the target only once
    /// the client has completed the handshake: the kernel's own SYN proxy.
    #[must_use]
    pub fn syn_proxy(self, from: impl Into<Place>, to: impl Into<Place>, ports: PortMatch) -> Self {
        assert_eq!(ports.protocol, Some("tcp"), "only TCP has a handshake");
        self.with(from, to, ports, Verdict::SynProxy)
    }

    /// Whether a rule needs connections that the router has not seen begin to be invalid.
    pub(super) fn has_syn_proxy(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.verdict, Verdict::SynProxy))
    }

    /// Drops every packet between the two, both ways, of established connections as well: the cable is cut, and
    /// neither side is told.
    #[must_use]
    pub fn cut(mut self, one: impl Into<Place>, other: impl Into<Place>) -> Self {
        let (one, other) = (one.into(), other.into());
        self.early.push(Rule::new(one.clone(), other.clone(), any(), Verdict::Drop));
        self.early.push(Rule::new(other, one, any(), Verdict::Drop));
        self
    }

    /// Counts packets, whatever becomes of them, for [`Lab::packets`](super::Lab::packets); of TCP only attempts to
    /// connect.
    #[must_use]
    pub fn count(
        mut self,
        counter: &str,
        from: impl Into<Place>,
        to: impl Into<Place>,
        ports: PortMatch,
    ) -> Self {
        let rule = Rule::new(from.into(), to.into(), ports, Verdict::Count { counter: counter.to_owned() });
        self.early.insert(0, rule);
        self
    }

    fn with(
        mut self,
        from: impl Into<Place>,
        to: impl Into<Place>,
        ports: PortMatch,
        verdict: Verdict,
    ) -> Self {
        self.rules.push(Rule::new(from.into(), to.into(), ports, verdict));
        self
    }

    /// The text for `nft -f`.
    pub(super) fn ruleset(&self, segments: &[Segment], delays: &[DelayBox]) -> String {
        let mut text = String::from("flush ruleset\ntable inet lab {\n");
        for rule in &self.early {
            if let Verdict::Count { counter } = &rule.verdict {
                text.push_str(&format!("  counter {counter} {{ }}\n"));
            }
        }
        // A packet on its way into a delay box is not yet on its way: neither tracked nor judged.
        text.push_str("  chain arriving { type filter hook prerouting priority raw; policy accept;\n");
        for delay in delays {
            text.push_str(&format!("    iifname \"{}\" notrack\n", delay.segment()));
        }
        for rule in self.rules.iter().filter(|rule| matches!(rule.verdict, Verdict::SynProxy)) {
            // The proxy's SYNs are nobody's connection until it makes one of its own.
            rule.write_as(" tcp flags & (fin | syn | rst | ack) == syn notrack", segments, &mut text);
        }
        let policy = if self.closed { "drop" } else { "accept" };
        text.push_str("  }\n  chain passing { type filter hook forward priority filter;");
        text.push_str(&format!(" policy {policy};\n    oifname \"delay*\" accept\n"));
        for rule in &self.early {
            rule.write(segments, &mut text);
        }
        for rule in self.rules.iter().filter(|rule| matches!(rule.verdict, Verdict::SynProxy)) {
            rule.write(segments, &mut text);
        }
        text.push_str("    ct state established,related accept\n");
        for rule in self.rules.iter().filter(|rule| !matches!(rule.verdict, Verdict::SynProxy)) {
            rule.write(segments, &mut text);
        }
        text.push_str("  }\n}\n");
        text
    }
}

impl Rule {
    fn new(from: Place, to: Place, ports: PortMatch, verdict: Verdict) -> Self {
        Self { from, to, ports, verdict }
    }

    fn write(&self, segments: &[Segment], text: &mut String) {
        self.write_as(&self.verdict.text(&self.ports), segments, text);
    }

    /// What it matches, with another statement behind.
    fn write_as(&self, statement: &str, segments: &[Segment], text: &mut String) {
        let (from4, from6) = self.from.networks(segments);
        let (to4, to6) = self.to.networks(segments);
        for (family, from, to) in [("ip", from4, to4), ("ip6", from6, to6)] {
            let matched = format!("{family} saddr {from} {family} daddr {to}{}", self.ports.text());
            text.push_str(&format!("    {matched}{statement}\n"));
        }
    }
}

impl Place {
    fn networks(&self, segments: &[Segment]) -> (String, String) {
        match self {
            Self::Host(v4, v6) => (v4.to_string(), v6.to_string()),
            Self::Segment(name) => {
                let segment = segments.iter().find(|segment| segment.name == *name);
                let segment = segment.unwrap_or_else(|| panic!("the lab has no segment `{name}`"));
                (segment.v4.to_string(), segment.v6.to_string())
            }
        }
    }
}

impl PortMatch {
    fn text(&self) -> String {
        match (self.protocol, self.ports.as_str()) {
            (None, _) => String::new(),
            (Some(protocol), "" | "-") => format!(" meta l4proto {protocol}"),
            (Some(protocol), ports) => format!(" {protocol} dport {{ {ports} }}"),
        }
    }
}

impl Verdict {
    fn text(&self, ports: &PortMatch) -> String {
        match self {
            Self::Accept => " accept".into(),
            Self::Drop => " drop".into(),
            Self::Lose { percent: 100 } => " drop".into(),
            Self::Lose { percent } => format!(" numgen random mod 100 < {percent} drop"),
            // A burst of a tenth of a second, so that the rate is what counts.
            Self::LimitResets { per_second } => {
                let burst = (per_second / 10).max(1);
                format!(
                    " tcp flags & rst == rst limit rate over {per_second}/second burst {burst} packets drop"
                )
            }
            Self::Police { per_second } => {
                let burst = (per_second / 10).max(1);
                format!(" limit rate over {per_second}/second burst {burst} packets drop")
            }
            Self::SynProxy => {
                " ct state { invalid, untracked } synproxy mss 1460 wscale 7 timestamp sack-perm".into()
            }
            Self::Count { counter } if ports.protocol == Some("tcp") => {
                format!(" tcp flags & (syn | ack) == syn counter name {counter}")
            }
            Self::Count { counter } => format!(" counter name {counter}"),
            Self::Reset => " reject with tcp reset".into(),
            Self::Prohibit => " reject with icmpx type admin-prohibited".into(),
            Self::HostUnreachable => " reject with icmpx type host-unreachable".into(),
            Self::PortUnreachable => " reject with icmpx type port-unreachable".into(),
        }
    }
}
