//! `revocations.log`: one line for each revocation, only ever added to, beside the store. A satellite that is named there
//! is revoked whatever the store says, so that neither a store that went back nor a restored one lets it in again.

use jiff::Timestamp;
use portolan_common::ids::SatelliteId;
use portolan_transport::files::FileError;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Its name in the data directory.
pub const FILE: &str = "revocations.log";

/// Where it is, beside the store.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// When each was revoked first.
    pub revoked: BTreeMap<SatelliteId, Timestamp>,
    /// The numbers of lines whose checksum is wrong; an id that can be read in one counts all the same.
    pub damaged: Vec<usize>,
}

impl Journal {
    /// Names the file; touches nothing.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it; where there is none, nobody was revoked.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Revocations, FileError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Revocations::default()),
            Err(error) => Err(FileError::on("read", &self.path)(error)),
        }
    }

    /// Adds a line, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&self, satellite: SatelliteId, at: Timestamp) -> Result<(), FileError> {
        let append = || {
            let is_new = !self.path.exists();
            let mut file =
                OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(&self.path)?;
            // A line that was torn must not take this one with it; an empty line is none.
            let gap = if file.metadata()?.len() > 0 && !ends_with_newline(&file)? { "\n" } else { "" };
            file.write_all(format!("{gap}{}", line(satellite, at)).as_bytes())?;
            file.sync_all()?;
            if is_new && let Some(directory) = self.path.parent() {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        };
        append().map_err(FileError::on("write", &self.path))
    }

    /// Adds what another one has and this one has not.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn merge(&self, other: &Revocations) -> Result<(), FileError> {
        let known = self.read()?.revoked;
        for (satellite, at) in &other.revoked {
            if !known.contains_key(satellite) {
                self.append(*satellite, *at)?;
            }
        }
        Ok(())
    }
}

fn ends_with_newline(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    file.read_exact_at(&mut last, file.metadata()?.len() - 1)?;
    Ok(last == *b"\n")
}

fn line(satellite: SatelliteId, at: Timestamp) -> String {
    let text = format!("{at:.0} {}", satellite.0);
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// Reads the lines of a journal.
pub fn parse(text: &str) -> Revocations {
    let mut revocations = Revocations::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (content, checksum) = line.rsplit_once(' ').unwrap_or((line, ""));
        let intact =
            u32::from_str_radix(checksum, 16).is_ok_and(|sum| sum == crc32c::crc32c(content.as_bytes()));
        if !intact {
            revocations.damaged.push(number + 1);
        }
        let mut words = line.split(' ');
        let at = words.next().and_then(|time| time.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        // Nobody else has this id: to keep somebody out by mistake takes more than a flipped bit.
        if let Some(id) = words.next().and_then(|id| id.parse().ok()) {
            revocations.revoked.entry(SatelliteId(id)).or_insert(at);
        }
    }
    revocations
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const ONE: SatelliteId = SatelliteId(Uuid::from_u128(1));
    const TWO: SatelliteId = SatelliteId(Uuid::from_u128(2));

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    #[test]
    fn lines_add_up_and_a_torn_one_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().join(FILE));
        assert_eq!(journal.read().unwrap(), Revocations::default());
        journal.append(ONE, at(0)).unwrap();
        let half = line(TWO, at(1));
        let mut torn = fs::read_to_string(journal.path()).unwrap();
        torn.push_str(&half[..30]);
        fs::write(journal.path(), torn).unwrap();
        assert_eq!(journal.read().unwrap().damaged, [2]);
        journal.append(TWO, at(2)).unwrap();
        journal.append(TWO, at(3)).unwrap();
        let read = journal.read().unwrap();
        assert_eq!(read.revoked, BTreeMap::from([(ONE, at(0)), (TWO, at(2))]), "the first time counts");
        let other = Journal::at(dir.path().join("other"));
        other.append(TWO, at(9)).unwrap();
        other.merge(&read).unwrap();
        assert_eq!(other.read().unwrap().revoked, BTreeMap::from([(ONE, at(0)), (TWO, at(9))]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = line(ONE, at(0));
        for bit in 0..(good.len() - 1) * 8 {
            let mut bytes = good.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = parse(&String::from_utf8_lossy(&bytes));
            // In the checksum, capital letters are the same number.
            let same = bytes.eq_ignore_ascii_case(good.as_bytes());
            assert!(!read.damaged.is_empty() || same, "bit {bit}");
        }
    }
}
