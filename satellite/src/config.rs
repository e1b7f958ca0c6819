//! `satellite.toml`, the administrator's file: the scope, which nobody else can widen.

use portolan_common::document::Mistakes;
use portolan_common::scope::Scope;
use portolan_transport::files::{self, FileError};
use std::path::Path;

const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has mistakes: all of them.
    #[error("the scope file has mistakes\n{0}")]
    Mistakes(Mistakes),
}

/// Reads the scope from the file.
///
/// # Errors
/// When the file is missing or has mistakes; all of them are reported at once.
pub fn load(path: &Path) -> Result<Scope, ConfigError> {
    Scope::from_toml(&path.display().to_string(), &files::read_text(path, MAX_FILE_BYTES)?)
        .map_err(ConfigError::Mistakes)
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
}
