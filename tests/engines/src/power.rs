//! A disk whose power can be cut: an ext4 file system on a loop device, mounted in a mount namespace of this process.
//! Aborting its journal forgets whatever was written and not yet synced, as a machine that loses power does; what a
//! drive keeps in a cache of its own is not modelled. Needs root.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: u64 = 512 * 1024 * 1024;

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
    image: PathBuf,
    mountpoint: PathBuf,
}

impl Disk {
    /// Makes one inside of a directory.
    ///
    /// # Errors
    /// Without root, or without loop devices.
    pub fn make(directory: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(nix::unistd::getuid().is_root(), "cutting the power needs root, for a loop device");
        private_mounts()?;
        let disk = Self { image: directory.join("image"), mountpoint: directory.join("mounted") };
        File::create(&disk.image)?.set_len(BYTES)?;
        fs::create_dir_all(&disk.mountpoint)?;
        command("mkfs.ext4", &["-q".as_ref(), disk.image.as_ref()])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// From now on nothing reaches the disk.
    pub fn cut(&self) -> anyhow::Result<()> {
        command("mount", &["-o".as_ref(), "remount,abort".as_ref(), self.mountpoint.as_ref()])
    }

    /// Starts the machine again: nobody may have a file open on the disk.
    pub fn restore(&self) -> anyhow::Result<()> {
        command("umount", &[self.mountpoint.as_ref()])?;
        // 1 says that something was put right: the note about the aborted journal.
        let checked = Command::new("e2fsck").arg("-p").arg(&self.image).output()?;
        anyhow::ensure!(matches!(checked.status.code(), Some(0 | 1)), "e2fsck: {checked:?}");
        self.mount()
    }

    fn mount(&self) -> anyhow::Result<()> {
        command("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_ref(), self.mountpoint.as_ref()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace goes with the process; this only frees the loop device a little earlier.
        let _ = command("umount", &[self.mountpoint.as_ref()]);
    }
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {}", said.trim());
    Ok(())
}
