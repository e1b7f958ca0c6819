//! The assignment: what the server wants this satellite to do and be, kept across restarts and outages.
//!
//! In the file stand a magic number with the format's version, a CRC-32C of the rest, and the wire's message. What cannot
//! be read is asked for again: the satellite then says that it has revision 0.

use crate::data_dir::DataDir;
use portolan_proto::{MAX_ASSIGNMENT_BYTES, v1};
use portolan_transport::files::{self, FileError};
use prost::Message as _;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// Also says the version of the format.
const MAGIC: &[u8; 8] = b"PTLASGN\x01";
/// What stands before the message.
const HEADER: usize = MAGIC.len() + size_of::<u32>();

/// What it says of the satellite itself; revision 0 when none came yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Counts up with every change of the whole.
    pub revision: u64,
    /// The satellite's name.
    pub satellite_name: String,
    /// Where it stands.
    pub segment: String,
    /// Whose address space.
    pub tenant: String,
    /// Seconds between heartbeats, 1 to 10; 0: the default.
    pub heartbeat_seconds: u32,
}

impl From<&v1::Assignment> for Standing {
    fn from(wire: &v1::Assignment) -> Self {
        Self {
            revision: wire.revision,
            satellite_name: wire.satellite_name.clone(),
            segment: wire.segment.clone(),
            tenant: wire.tenant.clone(),
            heartbeat_seconds: wire.heartbeat_seconds,
        }
    }
}

impl Standing {
    /// Time between heartbeats.
    pub fn heartbeat(&self) -> Duration {
        let seconds = if self.heartbeat_seconds == 0 { 5 } else { self.heartbeat_seconds };
        Duration::from_secs(seconds.clamp(1, 10).into())
    }
}

/// The last one that was kept; an empty one when there is none, or none that can be read.
pub fn load(data: &DataDir) -> v1::Assignment {
    let read = |path: &Path, read: fn(&Path) -> Result<v1::Assignment, String>| {
        path.exists().then(|| {
            read(path).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot read the assignment; asking for it again");
                v1::Assignment::default()
            })
        })
    };
    read(&data.assignment_file(), read_file)
        .or_else(|| read(&data.old_assignment_file(), read_old_file))
        .unwrap_or_default()
}

/// Keeps it: on the disk when this returns, and whole whenever the power goes.
///
/// # Errors
/// When the file cannot be written; the one before still stands then.
pub fn store(assignment: &v1::Assignment, data: &DataDir) -> Result<(), FileError> {
    let mut file = Vec::with_capacity(HEADER + assignment.encoded_len());
    file.extend(MAGIC);
    file.extend([0; 4]);
    // The only error is a buffer that is too small, and a vector grows.
    let _ = assignment.encode(&mut file);
    let sum = checksum(file.get(HEADER..).unwrap_or_default());
    if let Some(place) = file.get_mut(MAGIC.len()..HEADER) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    files::write_private(&data.assignment_file(), &file)?;
    // It stays harmless where it cannot be removed: the new file goes first.
    let _ = std::fs::remove_file(data.old_assignment_file());
    Ok(())
}

fn checksum(message: &[u8]) -> u32 {
    crc32c::crc32c(message)
}

fn read_file(path: &Path) -> Result<v1::Assignment, String> {
    let file =
        files::read(path, (HEADER + MAX_ASSIGNMENT_BYTES) as u64).map_err(|error| error.to_string())?;
    let (magic, rest) = file.split_first_chunk().ok_or("it is cut off")?;
    if magic != MAGIC {
        return Err("it is no assignment that this version can read".to_owned());
    }
    let (sum, message) = rest.split_first_chunk().ok_or("it is cut off")?;
    if u32::from_le_bytes(*sum) != checksum(message) {
        return Err("it is damaged: its checksum does not fit".to_owned());
    }
    v1::Assignment::decode(message).map_err(|error| error.to_string())
}

/// Earlier versions kept it as JSON and without its checks: so the whole is asked for again, and until it comes the
/// satellite is what it was.
fn read_old_file(path: &Path) -> Result<v1::Assignment, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Old {
        satellite_name: String,
        segment: String,
        tenant: String,
        heartbeat_seconds: u32,
    }
    let text = files::read_text(path, 64 * 1024).map_err(|error| error.to_string())?;
    let old: Old = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(v1::Assignment {
        satellite_name: old.satellite_name,
        segment: old.segment,
        tenant: old.tenant,
        heartbeat_seconds: old.heartbeat_seconds,
        ..v1::Assignment::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment() -> v1::Assignment {
        v1::Assignment {
            revision: 7,
            satellite_name: "office-1".into(),
            segment: "office".into(),
            tenant: "default".into(),
            heartbeat_seconds: 3,
            checks: vec![v1::CheckAssignment {
                name: "shop-front".into(),
                targets: vec!["10.99.2.10".into()],
                open: "443".into(),
                every_ms: 1000,
                ..v1::CheckAssignment::default()
            }],
            blackouts: vec![v1::Window {
                cron: "0 2 * * *".into(),
                timezone: String::new(),
                lasts_ms: 3_600_000,
            }],
        }
    }

    #[test]
    fn it_survives_a_restart_and_no_damage_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        assert_eq!(load(&data), v1::Assignment::default());
        store(&assignment(), &data).unwrap();
        assert_eq!(load(&data), assignment());
        let whole = std::fs::read(data.assignment_file()).unwrap();
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1;
            std::fs::write(data.assignment_file(), &damaged).unwrap();
            assert_eq!(load(&data).revision, 0, "byte {byte}");
            std::fs::write(data.assignment_file(), &whole[..byte]).unwrap();
            assert_eq!(load(&data).revision, 0, "cut at {byte}");
        }
    }

    #[test]
    fn what_an_older_version_kept_is_read_until_a_new_one_comes() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let old = r#"{"revision":4,"satellite_name":"a","segment":"b","tenant":"c","heartbeat_seconds":9}"#;
        std::fs::write(data.old_assignment_file(), old).unwrap();
        let read = Standing::from(&load(&data));
        assert_eq!((read.revision, read.satellite_name.as_str(), read.heartbeat().as_secs()), (0, "a", 9));
        store(&assignment(), &data).unwrap();
        assert!(!data.old_assignment_file().exists());
        assert_eq!(load(&data), assignment());
        assert_eq!(Standing::default().heartbeat().as_secs(), 5);
    }
}
