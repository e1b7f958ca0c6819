//! The operator's context file, taken apart without knowing its format: PEM blocks stand in it either as they are or with
//! their line ends written as `\n`.

use std::fs;
use std::path::{Path, PathBuf};

use super::openssl::{Identity, blocks_in};

/// An operator's credential.
#[derive(Clone, Debug)]
pub struct AdminContext {
    text: String,
}

impl AdminContext {
    /// Reads a context file.
    #[track_caller]
    pub fn read(file: &Path) -> Self {
        let text =
            fs::read_to_string(file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        Self { text }
    }

    /// The operator's certificate and key.
    #[track_caller]
    pub fn identity(&self) -> Identity {
        Identity::leaf_of(&blocks_in(&self.text))
    }

    /// The same context with another certificate in place of the operator's own.
    #[track_caller]
    pub fn with_certificate(&self, certificate: &str) -> Self {
        self.with(self.identity().certificate(), certificate)
    }

    /// The same context for a server at another address.
    #[track_caller]
    pub fn with_address(&self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "the context does not name {from}");
        Self { text: self.text.replace(from, to) }
    }

    /// The same context for a server at this address alone.
    pub fn with_server(&self, address: &str) -> Self {
        let line = |line: &str| match line.starts_with("servers = ") {
            true => format!("servers = [\"{address}\"]\n"),
            false => format!("{line}\n"),
        };
        Self { text: self.text.lines().map(line).collect() }
    }

    /// Writes it where a console can be pointed to.
    pub fn write(&self, file: PathBuf) -> PathBuf {
        fs::write(&file, &self.text).expect("a file below /run");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).expect("our own file");
        file
    }

    #[track_caller]
    fn with(&self, old: &str, new: &str) -> Self {
        let (old, new) = (old.trim_end(), new.trim_end());
        let escape = |pem: &str| pem.replace('\n', "\\n");
        let text = match self.text.contains(old) {
            true => self.text.replace(old, new),
            false => self.text.replace(&escape(old), &escape(new)),
        };
        assert_ne!(text, self.text, "the certificate was not found in the context");
        Self { text }
    }
}
