//! A disk whose power can be cut. It is an ext4 file system on a loop device whose image lies on another ext4. Freezing
//! that other one stops every write to the image at one moment, so that no sync can succeed any more; the image as it
//! then is holds what a machine that loses power would find. (Aborting the file system's journal would be simpler, but
//! then an fsync under way can report success and be wrong.) What a drive keeps in a cache of its own is not modelled.
//! Needs root.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const OUTER_BYTES: u64 = 256 * 1024 * 1024;
const BYTES: u64 = 160 * 1024 * 1024;

/// A mount namespace in which this process may mount; as root a plain one, else with a user namespace around it.
pub fn private_mounts() -> anyhow::Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNS)?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// The disk, mounted.
pub struct Disk {
    outer: PathBuf,
    image: PathBuf,
    found: PathBuf,
    mountpoint: PathBuf,
}

impl Disk {
    /// Makes one inside of a directory, which had better be in memory.
    ///
    /// # Errors
    /// Without root, or without loop devices.
    pub fn make(directory: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(nix::unistd::getuid().is_root(), "cutting the power needs root, for a loop device");
        private_mounts()?;
        let outer = directory.join("outer");
        let disk = Self {
            image: outer.join("image"),
            found: directory.join("found"),
            mountpoint: directory.join("mounted"),
            outer,
        };
        fs::create_dir_all(&disk.outer)?;
        fs::create_dir_all(&disk.mountpoint)?;
        let below = directory.join("below");
        File::create(&below)?.set_len(OUTER_BYTES)?;
        command("mkfs.ext4", &["-q".as_ref(), below.as_ref()])?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), below.as_ref(), disk.outer.as_ref()])?;
        File::create(&disk.image)?.set_len(BYTES)?;
        command("mkfs.ext4", &["-q".as_ref(), disk.image.as_ref()])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Cuts the power. When this returns, the disk as it was at the cut is set aside; what is written from now on is
    /// forgotten. `meanwhile` runs while nothing can be written or synced: whoever spoke of a success before it did so
    /// rightly.
    pub fn cut<T>(&self, meanwhile: impl FnOnce() -> T) -> anyhow::Result<T> {
        command("fsfreeze", &["-f".as_ref(), self.outer.as_ref()])?;
        let copied = fs::copy(&self.image, &self.found);
        let value = meanwhile();
        command("fsfreeze", &["-u".as_ref(), self.outer.as_ref()])?;
        copied?;
        Ok(value)
    }

    /// Starts the machine again: nobody may have a file open on the disk.
    pub fn restore(&self) -> anyhow::Result<()> {
        command("umount", &[self.mountpoint.as_ref()])?;
        fs::copy(&self.found, &self.image)?;
        self.mount()
    }

    fn mount(&self) -> anyhow::Result<()> {
        command("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_ref(), self.mountpoint.as_ref()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace goes with the process; this only frees the loop devices a little earlier.
        for mounted in [&self.mountpoint, &self.outer] {
            let _ = command("umount", &[mounted.as_ref()]);
        }
    }
}

fn command(program: &str, arguments: &[&OsStr]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {}", said.trim());
    Ok(())
}
