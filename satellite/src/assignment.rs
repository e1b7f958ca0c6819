//! The assignment: what the server wants this satellite to do and be, kept across restarts and outages.

use crate::data_dir::DataDir;
use portolan_proto::v1;
use portolan_transport::files::{self, FileError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The desired state, by revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Assignment {
    /// 0: none came yet.
    pub revision: u64,
    /// The satellite's name.
    pub satellite_name: String,
    /// Where it stands.
    pub segment: String,
    /// Whose address space.
    pub tenant: String,
    /// Seconds between heartbeats, 1 to 10.
    pub heartbeat_seconds: u32,
}

impl Default for Assignment {
    fn default() -> Self {
        Self {
            revision: 0,
            satellite_name: String::new(),
            segment: String::new(),
            tenant: String::new(),
            heartbeat_seconds: 5,
        }
    }
}

impl From<v1::Assignment> for Assignment {
    fn from(wire: v1::Assignment) -> Self {
        Self {
            revision: wire.revision,
            satellite_name: wire.satellite_name,
            segment: wire.segment,
            tenant: wire.tenant,
            heartbeat_seconds: wire.heartbeat_seconds,
        }
    }
}

impl Assignment {
    /// The last one that was kept. One that cannot be read is asked for again.
    pub fn load(data: &DataDir) -> Self {
        let path = data.assignment_file();
        if !path.exists() {
            return Self::default();
        }
        let read = files::read_text(&path, MAX_FILE_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
        read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read the assignment; asking for it again");
            Self::default()
        })
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, data: &DataDir) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        files::write_private(&data.assignment_file(), text.as_bytes())
    }

    /// Time between heartbeats.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds.clamp(1, 10).into())
    }
}
