//! Takes over the scope file when it changes; what is invalid changes nothing and is said.

use crate::config;
use crate::spool::SpoolSettings;
use arc_swap::ArcSwap;
use portolan_common::scope::Guard;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches `file` for ever. `known` is its stamp from before it was read into `guard`, so that no edit in between is
/// missed; `spool` is what was read of the spool.
pub async fn watch(
    file: PathBuf,
    mut known: Option<Stamp>,
    guard: Arc<ArcSwap<Guard>>,
    mut spool: SpoolSettings,
) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = stamp(&file);
        if now == known {
            continue;
        }
        known = now;
        match config::load(&file) {
            Ok(config) => {
                if config.scope != *guard.load().scope() {
                    tracing::info!(file = %file.display(), "the scope changed");
                    guard.store(Arc::new(Guard::new(config.scope)));
                }
                if std::mem::replace(&mut spool, config.spool) != config.spool {
                    tracing::warn!(file = %file.display(), "[spool] changed: it holds from the next start on");
                }
            }
            Err(error) => tracing::error!("the scope stays as it was: {error}"),
        }
    }
}

/// What differs once a file is edited or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// The stamp of a file; `None` while there is none.
pub fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    // The change time, unlike the modification time, cannot be set back.
    Some(Stamp {
        inode: metadata.ino(),
        length: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
