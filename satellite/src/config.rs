//! `satellite.toml`, the administrator's file: the scope, which nobody else can widen, and the bounds of the spool.

use crate::spool::SpoolSettings;
use crate::spool::retention::MIN_SIZE;
use portolan_common::document::{self, Mistakes, Reader};
use portolan_common::scope::Scope;
use portolan_transport::files::{self, FileError};
use std::path::Path;
use std::time::Duration;

const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
const LARGEST_SPOOL: u64 = 1 << 40;
const SHORTEST_AGE: Duration = Duration::from_secs(1);
const LONGEST_AGE: Duration = Duration::from_secs(365 * 86_400);

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What may be probed.
    pub scope: Scope,
    /// What is kept while the server is away. Taken up at the next start.
    pub spool: SpoolSettings,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has mistakes: all of them.
    #[error("the configuration file has mistakes\n{0}")]
    Mistakes(Mistakes),
}

/// Reads the file.
///
/// # Errors
/// When the file is missing or has mistakes; all of them are reported at once.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = files::read_text(path, MAX_FILE_BYTES)?;
    document::read(&path.display().to_string(), &text, |root| {
        root.require(&["scope"]);
        let spool =
            root.table("spool").map_or_else(SpoolSettings::default, |mut table| read_spool(&mut table));
        let scope = Scope::read(&mut root.table("scope")?)?;
        Some(Config { scope, spool })
    })
    .map_err(ConfigError::Mistakes)
}

fn read_spool(table: &mut Reader<'_>) -> SpoolSettings {
    let default = SpoolSettings::default();
    SpoolSettings {
        max_size: table
            .size("max_size", MIN_SIZE..=LARGEST_SPOOL)
            .map_or(default.max_size, |size| size.value),
        max_age: table
            .duration("max_age", SHORTEST_AGE..=LONGEST_AGE)
            .map_or(default.max_age, |age| age.value),
        keep_acked: table
            .duration("keep_acked", Duration::ZERO..=LONGEST_AGE)
            .map_or(default.keep_acked, |age| age.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_of_the_file_are_said_with_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("satellite.toml");
        assert!(load(&path).unwrap_err().to_string().contains("satellite.toml"));
        std::fs::write(&path, "scoop = 1\n[scope]\nallow = [\"10.0.0.0/8\", \"10.0.0.300\"]\nmax_rat = 5\n")
            .unwrap();
        let report = load(&path).unwrap_err().to_string();
        for part in ["satellite.toml:1:", "satellite.toml:3:", "satellite.toml:4:"] {
            assert!(report.contains(part), "{report}");
        }
    }

    #[test]
    fn the_spool_has_defaults_and_its_own_mistakes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("satellite.toml");
        let read = |spool: &str| {
            std::fs::write(&path, format!("[scope]\nallow = []\n{spool}")).unwrap();
            load(&path).map(|config| config.spool).map_err(|error| error.to_string())
        };
        assert_eq!(read(""), Ok(SpoolSettings::default()));
        assert_eq!(read("[spool]\n"), Ok(SpoolSettings::default()));
        let hour = Duration::from_secs(3600);
        assert_eq!(
            read("[spool]\nmax_size = \"8MiB\"\nmax_age = \"2h\"\nkeep_acked = \"1h\"\n"),
            Ok(SpoolSettings { max_size: 8 << 20, max_age: 2 * hour, keep_acked: hour })
        );
        let report = read("[spool]\nmax_size = \"7MiB\"\nmax_age = 7\nkeep = \"1h\"\n").unwrap_err();
        for part in ["from 8MiB to 1TiB", "satellite.toml:5:", "unknown key `keep` in `spool`"] {
            assert!(report.contains(part), "{report}");
        }
        let report = read("[spoool]\n").unwrap_err();
        assert!(report.contains("`spool`") && report.contains("`spoool`"), "{report}");
    }
}
