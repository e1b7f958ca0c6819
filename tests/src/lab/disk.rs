//! A small file system of a test's own, to be filled and emptied while a program uses it.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::process::{Program, run_ok};

/// What is taken page by page at last.
const SLOWLY: u64 = 2 << 20;
const PAGE: usize = 4096;

/// A tmpfs. It lasts as long as the universe.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    filler: PathBuf,
}

impl SmallDisk {
    /// Mounts it on a directory, which is made when it does not exist. What is in the directory already is moved to it.
    #[track_caller]
    pub fn mount(directory: &Path, mebibytes: u64) -> Self {
        let aside = directory.with_extension("before");
        fs::create_dir_all(directory).expect("a directory below /run");
        fs::rename(directory, &aside).expect("a directory below /run");
        fs::create_dir(directory).expect("a directory below /run");
        let options = format!("size={mebibytes}m,mode=0700");
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .unwrap_or_else(|error| panic!("mount a tmpfs on {}: {error}", directory.display()));
        run_ok(Program::new("cp").arg("-a").arg(format!("{}/.", aside.display())).arg(directory));
        Self { path: directory.to_owned(), filler: directory.join("filler") }
    }

    /// Bytes that are free.
    #[track_caller]
    pub fn free(&self) -> u64 {
        let facts = nix::sys::statvfs::statvfs(&self.path).expect("our own mount");
        facts.blocks_available() * facts.fragment_size()
    }

    /// Takes all that is free but so many bytes.
    #[track_caller]
    pub fn fill(&self, spare: u64) {
        // Most of it at once; the rest page by page, since somebody else takes some at the same time.
        let most = self.free().saturating_sub(spare + SLOWLY);
        if most > 0 {
            let program = Program::new("fallocate").args(["-l", &most.to_string()]);
            run_ok(program.arg(&self.filler));
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.filler);
        let mut file = file.expect("a file of our own");
        while self.free() > spare {
            match file.write_all(&[1; PAGE]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("fill {}: {error}", self.path.display()),
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn clear(&self) {
        let _there_may_be_none = fs::remove_file(&self.filler);
    }
}
