//! `server.toml`: everything has a default, so the file may be absent.

use jiff::SignedDuration;
use portolan_common::document::{self, Flaw, Mistakes, Reader};
use std::path::PathBuf;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MIN_FREE: std::ops::RangeInclusive<u64> = 0..=1 << 50;
const EXPORT_EVERY: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(600)..=Duration::from_secs(7 * 24 * 3600);

/// The server's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long changes and sweeps are kept, in whole months; PCI DSS asks for twelve.
    pub retention: SignedDuration,
    /// How long a satellite's certificate is valid; it is renewed at two thirds.
    pub satellite_certificate_life: SignedDuration,
    /// Bytes that must be free on the store's file system for observations to be taken.
    pub min_free: u64,
    /// How often the store is exported beside itself; `None`: never.
    pub export_every: Option<Duration>,
    /// Where `file_sd` sources of targets are read; `None`: they cannot be.
    pub sources_directory: Option<PathBuf>,
    /// `/metrics` without a certificate.
    pub public_metrics: bool,
    /// Connections that have not proved who they are, from one address (IPv6: /64).
    pub unauthenticated_per_address: usize,
    /// The same, from everywhere.
    pub unauthenticated_total: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retention: SignedDuration::from_hours(24 * 400),
            satellite_certificate_life: SignedDuration::from_hours(24 * 30),
            min_free: crate::store::MIN_FREE,
            export_every: Some(Duration::from_secs(3600)),
            sources_directory: None,
            public_metrics: false,
            unauthenticated_per_address: 64,
            unauthenticated_total: 4096,
        }
    }
}

impl Config {
    /// Reads `server.toml`.
    ///
    /// # Errors
    /// All mistakes of the file at once.
    pub fn from_toml(file_name: &str, text: &str) -> Result<Self, Mistakes> {
        document::read(file_name, text, |root| Some(Self::read(root)))
    }

    fn read(root: &mut Reader<'_>) -> Self {
        let default = Self::default();
        let signed = |duration: Duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Self {
            retention: root
                .duration("retention", DAY * 31..=DAY * 3660)
                .map_or(default.retention, |d| signed(d.value)),
            satellite_certificate_life: root
                .duration("satellite_certificate_life", Duration::from_secs(10)..=DAY * 398)
                .map_or(default.satellite_certificate_life, |d| signed(d.value)),
            min_free: root.size("min_free", MIN_FREE).map_or(default.min_free, |size| size.value),
            export_every: root
                .parse_with("export_every", export_every)
                .map_or(default.export_every, |every| every.value),
            sources_directory: root.table("sources").and_then(|mut sources| {
                sources.parse_with("directory", sources_directory).map(|directory| directory.value)
            }),
            public_metrics: root
                .choice("metrics", &[("operator", false), ("anyone", true)])
                .map_or(default.public_metrics, |choice| choice.value),
            unauthenticated_per_address: root
                .integer("unauthenticated_per_address", 1..=100_000usize)
                .map_or(default.unauthenticated_per_address, |n| n.value),
            unauthenticated_total: root
                .integer("unauthenticated_total", 1..=1_000_000usize)
                .map_or(default.unauthenticated_total, |n| n.value),
        }
    }
}

/// Where it is must not depend on where the server was started.
fn sources_directory(text: &str) -> Result<PathBuf, Flaw> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Flaw::new("`directory` is not an absolute path").hint("such as /etc/portolan/targets"))
}

/// `never`, or a duration.
fn export_every(text: &str) -> Result<Option<Duration>, Flaw> {
    if text == "never" {
        return Ok(None);
    }
    let every = document::parse_duration(text)?;
    if EXPORT_EVERY.contains(&every) {
        return Ok(Some(every));
    }
    Err(Flaw::new("`export_every` is out of range").hint("it must be from 10m to 7d, or \"never\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::from_toml("server.toml", "").unwrap(), Config::default());
    }

    #[test]
    fn exports_and_room() {
        let read = |text: &str| Config::from_toml("server.toml", text);
        let config = read("export_every = \"2h\"\nmin_free = \"1GiB\"").unwrap();
        assert_eq!((config.export_every, config.min_free), (Some(Duration::from_secs(7200)), 1 << 30));
        assert_eq!(read("export_every = \"never\"").unwrap().export_every, None);
        for wrong in ["5m", "8d", "0", "often"] {
            assert!(read(&format!("export_every = \"{wrong}\"")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sources_have_a_directory() {
        let read = |text: &str| Config::from_toml("server.toml", text);
        let config = read("[sources]\ndirectory = \"/srv/targets\"").unwrap();
        assert_eq!(config.sources_directory, Some(PathBuf::from("/srv/targets")));
        assert!(read("[sources]\ndirectory = \"targets\"").is_err());
        assert!(read("[sources]\ndir = \"/srv/targets\"").is_err());
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let text = "retention = \"1d\"\nmetrics = \"all\"\nmetric = 1\n";
        let report = Config::from_toml("server.toml", text).unwrap_err().to_string();
        for part in ["server.toml:1:", "server.toml:2:", "server.toml:3:"] {
            assert!(report.contains(part), "{report}");
        }
    }
}
