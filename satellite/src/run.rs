//! The running satellite: scope, engine, outbox, uplink, ended in order.

use crate::assignment::Assignment;
use crate::config::{self, ConfigError};
use crate::data_dir::{DataDir, DataDirError};
use crate::engine::{EngineContext, SharedLimits};
use crate::enroll::{EnrollError, parse_proxy};
use crate::scans::Scans;
use crate::scope_watch;
use crate::uplink::outbox::Outbox;
use crate::uplink::{Uplink, UplinkError};
use arc_swap::ArcSwap;
use portolan_common::ids::Epoch;
use portolan_common::scope::Guard;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Progress messages between the scans and the uplink; more are lost.
const PROGRESS: usize = 16;

/// A satellite that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The scope file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The proxy in the enrollment is no URL.
    #[error(transparent)]
    Proxy(#[from] EnrollError),
    /// The uplink ended for good.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
}

/// Runs until `shutdown`.
///
/// # Errors
/// [`RunError`] when it cannot start, or when the satellite was revoked.
pub async fn run(data: DataDir, config_file: PathBuf, shutdown: CancellationToken) -> Result<(), RunError> {
    let enrollment = data.enrollment()?;
    let _lock = data.lock()?;
    let stamp = scope_watch::stamp(&config_file);
    let scope = config::load(&config_file)?;
    if scope.allow.is_empty() {
        tracing::warn!(file = %config_file.display(), "the scope allows nothing: every scan will be refused");
    }
    let guard = Arc::new(ArcSwap::from_pointee(Guard::new(scope)));
    let context = EngineContext { guard: guard.clone(), limits: Arc::new(SharedLimits::new()) };
    let outbox = Arc::new(Outbox::new(Epoch(Uuid::new_v4())));
    let (progress_sender, progress) = mpsc::channel(PROGRESS);
    let scans = Arc::new(Scans::new(context, outbox.clone(), progress_sender));
    let uplink = Uplink {
        assignment: Assignment::load(&data),
        data,
        servers: enrollment.servers,
        proxy: enrollment.proxy.as_deref().map(parse_proxy).transpose()?,
        outbox,
        scans: scans.clone(),
        progress,
    };
    tracing::info!(satellite = %enrollment.name, version = env!("CARGO_PKG_VERSION"), "starting");
    let watching = tokio::spawn(scope_watch::watch(config_file, stamp, guard));
    let result = uplink.run(shutdown).await;
    watching.abort();
    scans.cancel_all();
    tracing::info!("stopped");
    Ok(result?)
}
