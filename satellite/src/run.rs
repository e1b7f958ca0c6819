//! The running satellite: scope, engine, spool, uplink; one task list, ended in order, each stage within its time.

use crate::assignment::{self, Standing};
use crate::checks::outside::Engine;
use crate::checks::{self, Orders};
use crate::config::{self, ConfigError};
use crate::data_dir::{DataDir, DataDirError};
use crate::engine::{EngineContext, SharedLimits, Standing as Prober};
use crate::enroll::{EnrollError, parse_proxy};
use crate::scans::Scans;
use crate::scope_watch;
use crate::spool::Spool;
use crate::uplink::Uplink;
use arc_swap::ArcSwap;
use portolan_common::scope::Guard;
use portolan_daemon::{TaskFailed, Tasks};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Progress messages between the scans and the uplink; more are lost.
const PROGRESS: usize = 16;

/// The stages of the end and how long each may take, in their order: scans and checks stop, their last results still go
/// up; the
/// uplink ends; what is spooled is on the disk; what runs by itself stops.
const SCANS: Duration = Duration::from_secs(2);
const UPLINK: Duration = Duration::from_secs(2);
const SPOOL: Duration = Duration::from_secs(3);
const BACKGROUND: Duration = Duration::from_secs(1);

/// A satellite that cannot run, or that stopped because a part of it failed.
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
    /// The spool's thread cannot be started.
    #[error("cannot start the spool's thread: {0}")]
    Spool(#[source] std::io::Error),
    /// The prober of checks cannot be started.
    #[error("cannot start the prober of checks: {0}")]
    Prober(#[source] std::io::Error),
    /// A task failed, and everything else ended for it. Of a satellite that was revoked it is the uplink.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// Runs until `shutdown`.
///
/// # Errors
/// [`RunError`] when it cannot start, or when one of its tasks fails: the uplink when the satellite was revoked.
pub async fn run(data: DataDir, config_file: PathBuf, shutdown: CancellationToken) -> Result<(), RunError> {
    let enrollment = data.enrollment()?;
    let _lock = data.lock()?;
    let stamp = scope_watch::stamp(&config_file);
    let config = config::load(&config_file)?;
    if config.scope.allow.is_empty() {
        tracing::warn!(file = %config_file.display(), "the scope allows nothing: every scan will be refused");
    }
    let guard = Arc::new(ArcSwap::from_pointee(Guard::new(config.scope)));
    let context = EngineContext { guard: guard.clone(), limits: Arc::new(SharedLimits::new()) };
    let spool = Arc::new(Spool::open(&data.spool_dir(), config.spool).map_err(RunError::Spool)?);
    // Until its looks are given up, it serves.
    let prober = Prober::start(context.clone(), CancellationToken::new()).map_err(RunError::Prober)?;
    let engine = Engine { context: context.clone(), standing: prober.clone() };
    let assignment = assignment::load(&data);
    let standing = Standing::from(&assignment);
    let orders = Arc::new(Orders::default());
    // Without waiting for the server.
    orders.assign(assignment);
    let (progress_sender, progress) = mpsc::channel(PROGRESS);
    let scans = Arc::new(Scans::new(context, spool.clone(), progress_sender, orders.darkness()));
    let uplink = Uplink {
        standing,
        orders: orders.clone(),
        unkept: None,
        guard: guard.clone(),
        data,
        servers: enrollment.servers,
        proxy: enrollment.proxy.as_deref().map(parse_proxy).transpose()?,
        spool: spool.clone(),
        scans: scans.clone(),
        progress,
        process: Uuid::new_v4(),
        reconnect_spread: Duration::ZERO,
    };
    tracing::info!(satellite = %enrollment.name, version = env!("CARGO_PKG_VERSION"), "starting");
    let mut tasks = Tasks::new(shutdown);
    let stopping_scans = tasks.stage("scans", SCANS);
    let ending_uplink = tasks.stage("uplink", UPLINK);
    let closing_spool = tasks.stage("spool", SPOOL);
    let background = tasks.stage("background", BACKGROUND);
    let last_results = spool.clone();
    tasks.spawn(stopping_scans, "end of scans", |stop| async move {
        stop.cancelled().await;
        scans.stop().await;
        // The uplink still stands; what it does not get rid of goes after the next start.
        last_results.settled().await;
        Ok(())
    });
    let check_spool = spool.clone();
    tasks.spawn(stopping_scans, "checks", |stop| async move {
        checks::run(orders, engine, check_spool, stop).await;
        Ok(())
    });
    tasks.spawn(stopping_scans, "prober of checks", |stop| async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            // A satellite that looks at nothing any more must not seem well: whoever watches over it starts it anew.
            why = prober.ended() => Err(why.into()),
        }
    });
    tasks.spawn(ending_uplink, "uplink", |stop| async move { Ok(uplink.run(stop).await?) });
    tasks.spawn(closing_spool, "spool", |stop| async move {
        tokio::select! {
            () = stop.cancelled() => spool.close().await,
            () = spool.ended() => return Err("its thread ended; nothing can be kept any more".into()),
        }
        Ok(())
    });
    tasks.spawn(background, "scope file", |stop| async move {
        stop.run_until_cancelled(scope_watch::watch(config_file, stamp, guard, config.spool)).await;
        Ok(())
    });
    tasks.run().await?;
    tracing::info!("stopped");
    Ok(())
}
