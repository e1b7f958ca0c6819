//! The scope as the file has it: reading it, and writing the first one.

use super::{
    Careful, DEFAULT_CAREFUL_RATE, DEFAULT_MAX_RATE, HIGHEST_IN_FLIGHT, HIGHEST_MAX_RATE, Payloads, Scope,
    all_ports,
};
use crate::addresses::parse_network;
use crate::document::{self, Mistakes, Reader};
use crate::ports::PortSpec;
use ipnet::IpNet;

const PAYLOADS: [(&str, Payloads); 3] =
    [("none", Payloads::None), ("builtin", Payloads::Builtin), ("any", Payloads::Any)];

impl Scope {
    /// Reads the `[scope]` table, which `table` is. `None` when something needed is missing or wrong; what that is
    /// has been noted.
    pub fn read(table: &mut Reader<'_>) -> Option<Self> {
        table.require(&["allow"]);
        let allow = networks(table, "allow");
        let scope = Self {
            deny: networks(table, "deny").unwrap_or_default(),
            ports: ports(table, "ports").unwrap_or_else(all_ports),
            max_rate: number(table, "max_rate", HIGHEST_MAX_RATE, DEFAULT_MAX_RATE),
            payloads: payloads(table, Payloads::Builtin),
            careful: table
                .tables("careful")
                .into_iter()
                .filter_map(|mut block| Careful::read(&mut block))
                .collect(),
            allow: Vec::new(),
        };
        Some(Self { allow: allow?, ..scope })
    }

    /// Reads a file that has a `[scope]` and nothing else.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn from_toml(file_name: &str, text: &str) -> Result<Self, Mistakes> {
        document::read(file_name, text, |root| {
            root.require(&["scope"]);
            Self::read(&mut root.table("scope")?)
        })
    }

    /// A `[scope]` table with comments for the administrator who edits it; it reads back as the same scope.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# What this satellite may probe. The server cannot widen it: only an edit of this file can, and the\n\
             # satellite reads it again when it changes.\n\
             [scope]\n\
             # only addresses in these networks\n",
        );
        text.push_str(&list("allow", &self.allow));
        text.push_str("# but none of these; deny wins\n");
        text.push_str(&list("deny", &self.deny));
        text.push_str("# TCP and UDP alike, unless marked: \"-\" for all, \"1-1024\", \"T:22,443,U:53\"\n");
        let ports = if self.ports == all_ports() { "-".to_owned() } else { self.ports.to_text_both() };
        text.push_str(&format!("ports = \"{ports}\"\n"));
        text.push_str("# probe packets per second, all jobs together\n");
        text.push_str(&format!("max_rate = {}\n", self.max_rate));
        text.push_str("# what may be sent to an open port: none, builtin (probes that only read) or any\n");
        text.push_str(&format!("payloads = \"{}\"\n", self.payloads));
        if self.careful.is_empty() {
            text.push_str(CAREFUL_EXAMPLE);
        }
        for block in &self.careful {
            block.write(&mut text);
        }
        text
    }
}

/// What an administrator with printers or controllers would want to know is possible.
const CAREFUL_EXAMPLE: &str = "
# Fragile devices, such as printers and controllers:
# [[scope.careful]]
# cidrs      = [\"192.0.2.0/24\"]
# max_rate   = 5                  # packets per second to all of them together
# in_flight  = 1                  # probes waiting for an answer at once
# payloads   = \"none\"
# deny_ports = \"9100-9107\"
# hours      = \"02:00-04:00\"      # local time
";

impl Careful {
    fn read(table: &mut Reader<'_>) -> Option<Self> {
        table.require(&["cidrs"]);
        let cidrs = networks(table, "cidrs");
        let block = Self {
            max_rate: number(table, "max_rate", HIGHEST_MAX_RATE, DEFAULT_CAREFUL_RATE),
            in_flight: number(table, "in_flight", HIGHEST_IN_FLIGHT, 1),
            payloads: payloads(table, Payloads::None),
            deny_ports: ports(table, "deny_ports").unwrap_or_default(),
            hours: table.parse("hours").map(|hours| hours.value),
            cidrs: Vec::new(),
        };
        Some(Self { cidrs: cidrs?, ..block })
    }

    fn write(&self, text: &mut String) {
        text.push_str("\n# fragile devices\n[[scope.careful]]\n");
        text.push_str(&list("cidrs", &self.cidrs));
        text.push_str(&format!("max_rate = {}\n", self.max_rate));
        text.push_str(&format!("in_flight = {}\n", self.in_flight));
        text.push_str(&format!("payloads = \"{}\"\n", self.payloads));
        if !self.deny_ports.is_empty() {
            text.push_str(&format!("deny_ports = \"{}\"\n", self.deny_ports.to_text_both()));
        }
        if let Some(hours) = self.hours {
            text.push_str(&format!("hours = \"{hours}\"\n"));
        }
    }
}

fn networks(table: &mut Reader<'_>, key: &'static str) -> Option<Vec<IpNet>> {
    Some(table.parse_all(key, parse_network)?.into_iter().map(|net| net.value).collect())
}

fn ports(table: &mut Reader<'_>, key: &'static str) -> Option<PortSpec> {
    table.parse_with(key, PortSpec::parse_both).map(|ports| ports.value)
}

fn number(table: &mut Reader<'_>, key: &'static str, highest: u32, default: u32) -> u32 {
    table.integer(key, 1..=highest).map_or(default, |number| number.value)
}

fn payloads(table: &mut Reader<'_>, default: Payloads) -> Payloads {
    table.choice("payloads", &PAYLOADS).map_or(default, |payloads| payloads.value)
}

fn list(key: &str, nets: &[IpNet]) -> String {
    let nets: Vec<String> = nets.iter().map(|net| format!("\"{net}\"")).collect();
    match nets.len() {
        0..=4 => format!("{key} = [{}]\n", nets.join(", ")),
        _ => format!("{key} = [\n    {},\n]\n", nets.join(",\n    ")),
    }
}
