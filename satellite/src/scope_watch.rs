//! Takes over the scope file when it changes; what is invalid changes nothing and is said.

use crate::config;
use arc_swap::ArcSwap;
use portolan_common::scope::Guard;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches `file` for ever.
pub async fn watch(file: PathBuf, guard: Arc<ArcSwap<Guard>>) {
    let mut known = stamp(&file);
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = stamp(&file);
        if now == known {
            continue;
        }
        known = now;
        match config::load(&file) {
            Ok(scope) if scope == *guard.load().scope() => {}
            Ok(scope) => {
                tracing::info!(file = %file.display(), "the scope changed");
                guard.store(Arc::new(Guard::new(scope)));
            }
            Err(error) => tracing::error!("the scope stays as it was: {error}"),
        }
    }
}

/// A file that is replaced or edited differs in one of these.
fn stamp(file: &std::path::Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
