//! The running server: one task list, built from the data directory, ended in order, each stage within its time.

use crate::config::Config;
use crate::console::ConsoleService;
use crate::control::{Control, ControlSocket};
use crate::data_dir::{self, DataDir, DataDirError, NameError};
use crate::enrollment::EnrollmentService;
use crate::evaluation::Evaluation;
use crate::export::{self, Exports};
use crate::http::{self, HttpState};
use crate::listener::{self, Admission, Closing, Limits, Services, Shared, Turnstile};
use crate::metrics::Metrics;
use crate::peer::Identifier;
use crate::pki::PkiError;
use crate::pki::authority::Authority;
use crate::pki::server_certificate::{Refresh, ServerCertificate};
use crate::policies::Policies;
use crate::problems::Problems;
use crate::registry::Registry;
use crate::scans::Scans;
use crate::store::{Health, Store, StoreError};
use crate::uplink::{Hub, Replays, UplinkService};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use portolan_daemon::{BoxError, TaskFailed, Tasks};
use portolan_proto::v1::console_server::ConsoleServer;
use portolan_proto::v1::enrollment_server::EnrollmentServer;
use portolan_proto::v1::uplink_server::UplinkServer;
use portolan_proto::{MAX_MESSAGE_BYTES, MAX_UPLINK_BYTES};
use portolan_transport::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// The stages of the end and how long each may take, in their order: the port closes; every connection's peer is told
/// that it will close (GOAWAY); streams say goodbye; connections end; …
const ACCEPTING: Duration = Duration::from_secs(1);
const NOTICE: Duration = Duration::from_secs(1);
const STREAMS: Duration = Duration::from_secs(5);
const CONNECTIONS: Duration = Duration::from_secs(5);
/// … what runs by itself stops; and last, when nobody writes to it any more, the store.
const BACKGROUND: Duration = Duration::from_secs(2);
const STORE: Duration = Duration::from_secs(10);
/// How often files are looked at for changes and certificates for their age.
const REFRESH: Duration = Duration::from_secs(10);
/// How often what is too old is dropped.
const RETENTION: Duration = Duration::from_secs(3600);
/// How often scans are looked at for satellites that stay away.
const EXPIRE: Duration = Duration::from_millis(100);
/// What an enrollment may send: a token and a signing request.
const MAX_ENROLLMENT_BYTES: usize = 16 * 1024;

/// Bytes of records that were received and are not committed yet, over all satellites.
const RECEIVED_BYTES: usize = 128 * 1024 * 1024;
/// How often a disk that is too full to open the store is looked at again.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(500);
/// How often it is written when satellites were last seen.
const SEEN: Duration = Duration::from_secs(5);

/// A satellite has one connection, for a while two or three when links break.
const CONNECTIONS_PER_SATELLITE: usize = 8;
/// Scripts may share an operator's certificate.
const CONNECTIONS_PER_OPERATOR: usize = 64;

/// A server that cannot start, or that stopped because a part of it failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name in `deployment.toml` is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The listener has no address.
    #[error("the listener failed: {0}")]
    Listener(#[from] std::io::Error),
    /// A task failed, and everything else ended for it.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// Runs a server on `listener` until `shutdown`; `reload` makes it look at its files at once.
///
/// # Errors
/// [`RunError`] when it cannot start, or when one of its tasks fails.
pub async fn run(
    data: DataDir,
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
    reload: Arc<Notify>,
) -> Result<(), RunError> {
    let _lock = data.lock()?;
    let (id, deployment) = data.deployment()?;
    let authority = Arc::new(Authority::load(&data.ca(), id)?);
    let hosts = data_dir::certificate_names(&deployment.names)?;
    let certificate = Arc::new(ServerCertificate::open(&data, &authority, &hosts, Timestamp::now())?);
    let dial_addresses = Arc::new(ArcSwap::from_pointee(data_dir::dial_addresses(&deployment.names)?));
    let Some(store) = open_store(&data, config.min_free, &shutdown).await? else { return Ok(()) };
    let registry = Arc::new(Registry::load(store.clone())?);
    let hub = Arc::new(Hub::default());
    let scans = Arc::new(Scans::new(hub.clone()));
    let metrics = Arc::new(Metrics::default());
    let problems = Arc::new(Problems::load(store.clone(), registry.clone(), hub.clone())?);
    let policies = Policies::load(
        store.clone(),
        registry.clone(),
        hub.clone(),
        config.sources_directory.clone(),
        Timestamp::now(),
    );
    let policies = Arc::new(policies.await?);
    let evaluation = {
        let (store, registry, hub, policies) =
            (store.clone(), registry.clone(), hub.clone(), policies.clone());
        let load = move || Evaluation::load(store, registry, hub, policies);
        Arc::new(tokio::task::spawn_blocking(load).await.map_err(std::io::Error::other)??)
    };

    let mut tasks = Tasks::new(shutdown);
    let accepting = tasks.stage("accepting", ACCEPTING);
    let notice = tasks.stage("notice", NOTICE);
    // Before the connections under them, so that a goodbye still gets through.
    let streams = tasks.stage("streams", STREAMS);
    let connections = tasks.stage("connections", CONNECTIONS);
    let background = tasks.stage("background", BACKGROUND);
    let storing = tasks.stage("store", STORE);
    let sessions = tasks.group(streams, "uplink sessions");
    let watches = tasks.group(streams, "watches of alerts");
    let open = tasks.group(connections, "connections");

    let routes = http::router(Arc::new(HttpState {
        store: store.clone(),
        registry: registry.clone(),
        hub: hub.clone(),
        scans: scans.clone(),
        policies: policies.clone(),
        metrics: metrics.clone(),
    }));
    let enrollment = EnrollmentServer::new(EnrollmentService {
        registry: registry.clone(),
        policies: policies.clone(),
        authority: authority.clone(),
        life: config.satellite_certificate_life,
    })
    .max_decoding_message_size(MAX_ENROLLMENT_BYTES);
    let uplink = UplinkServer::new(UplinkService {
        store: store.clone(),
        registry: registry.clone(),
        hub: hub.clone(),
        scans: scans.clone(),
        authority: authority.clone(),
        life: config.satellite_certificate_life,
        metrics: metrics.clone(),
        policies: policies.clone(),
        evaluation: evaluation.clone(),
        replays: Replays::default(),
        problems: problems.clone(),
        room: Arc::new(Semaphore::new(RECEIVED_BYTES)),
        shutdown: sessions.stop().clone(),
        tasks: sessions,
    })
    .max_decoding_message_size(MAX_UPLINK_BYTES);
    let console = ConsoleServer::new(ConsoleService {
        store: store.clone(),
        registry: registry.clone(),
        hub,
        problems: problems.clone(),
        policies: policies.clone(),
        evaluation: evaluation.clone(),
        scans: scans.clone(),
        watches,
        certificate: certificate.clone(),
        deployment: id,
        started_at: Timestamp::now(),
        dial_addresses: dial_addresses.clone(),
        ca_pin: pin::fingerprint(authority.root()),
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES);

    // Strangers never get more than half of the descriptors.
    let strangers = config.unauthenticated_total.min(descriptor_limit() / 2);
    let shared = Arc::new(Shared {
        tls: Arc::new(listener::server_config(authority.root(), certificate.clone())?),
        services: Services {
            anonymous: routes.clone().merge(Routes::new(enrollment).into_axum_router()),
            satellite: routes.clone().merge(Routes::new(uplink).into_axum_router()),
            operator: routes.merge(Routes::new(console).into_axum_router()),
            public_metrics: config.public_metrics,
        },
        admission: Admission::new(config.unauthenticated_per_address, strangers),
        satellites: Admission::new(CONNECTIONS_PER_SATELLITE, usize::MAX),
        operators: Admission::new(CONNECTIONS_PER_OPERATOR, usize::MAX),
        turnstile: Turnstile::default(),
        identifier: Identifier { deployment: id, registry: registry.clone() },
        limits: Limits::default(),
        metrics,
    });

    let address = listener.local_addr()?;
    warn_of_other_ports(&dial_addresses.load(), address.port());
    tracing::info!(%address, deployment = %id, version = env!("CARGO_PKG_VERSION"), "listening");
    let closing = Closing::default();
    tasks.spawn(accepting, "accept", {
        let closing = closing.clone();
        |stop| async move {
            listener::accept(listener, shared, open, closing, stop).await;
            Ok(())
        }
    });
    tasks.spawn(notice, "notice", |stop| async move {
        stop.cancelled().await;
        closing.tell_all().await;
        Ok(())
    });
    tasks.spawn(streams, "end of scans", {
        let scans = scans.clone();
        |stop| async move {
            stop.cancelled().await;
            scans.end_all();
            Ok(())
        }
    });
    tasks.spawn(background, "last sights", {
        let (registry, problems) = (registry.clone(), problems.clone());
        |stop| write_sights(registry, problems, stop)
    });
    // Nothing grows old any more once the server closes; what is still received is judged.
    tasks.spawn(accepting, "evaluation", {
        let (evaluation, compiled) = (evaluation.clone(), policies.watch());
        |stop| async move {
            evaluation.keep_until(compiled, stop).await;
            Ok(())
        }
    });
    tasks.spawn(background, "alerts", |stop| async move {
        evaluation.write_until(stop).await;
        Ok(())
    });
    tasks.spawn(background, "policy", {
        let policies = policies.clone();
        |stop| async move {
            policies.keep_current(stop).await;
            Ok(())
        }
    });
    tasks.spawn(background, "sources of targets", |stop| async move {
        policies.refresh_sources(stop).await;
        Ok(())
    });
    let ending = tasks.stop(streams);
    tasks.spawn(background, "expiry of scans", {
        let store = store.clone();
        |stop| until(stop, expire_scans(scans, store, ending))
    });
    // A server whose file system has no sockets serves all the same; it is backed up when it is stopped.
    match ControlSocket::bind(&data) {
        Ok(socket) => {
            let (data, store, problems) = (data.clone(), store.clone(), problems.clone());
            let control = Control { data, store, problems, deployment: id };
            tasks.spawn(background, "control", |stop| async move {
                socket.serve(control, stop).await;
                Ok(())
            });
        }
        Err(error) => {
            tracing::warn!(%error, "`portolan-server backup` cannot reach this server while it runs")
        }
    }
    tasks.spawn(background, "export", {
        let (data, store, problems) = (data.clone(), store.clone(), problems.clone());
        let (every, min_free) = (config.export_every, config.min_free);
        let exports = Exports { data, store, problems, deployment: id, every, min_free };
        |stop| async move {
            export::run(exports, stop).await;
            Ok(())
        }
    });
    tasks.spawn(background, "certificate", |stop| {
        until(stop, keep_certificate(data, authority, certificate, dial_addresses, reload))
    });
    tasks.spawn(background, "retention", {
        let store = store.clone();
        |stop| until(stop, drop_old(store, config.retention))
    });
    tasks.spawn(storing, "store", |stop| async move {
        stop.cancelled().await;
        Ok(tokio::task::spawn_blocking(move || store.close()).await?)
    });
    tasks.run().await?;
    tracing::info!("stopped");
    Ok(())
}

/// Runs what never ends by itself until it is stopped. Nothing of it is cut in the middle: it waits nowhere while
/// something is half done.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) -> Result<(), BoxError> {
    stop.run_until_cancelled(task).await;
    Ok(())
}

/// Opens the store; on a full disk it waits until there is room. `None`: asked to end meanwhile.
async fn open_store(
    data: &DataDir,
    min_free: u64,
    shutdown: &CancellationToken,
) -> Result<Option<Store>, StoreError> {
    let mut told = false;
    loop {
        match Store::open(&data.store(), min_free) {
            Ok(store) => return Ok(Some(store)),
            Err(error) if error.is_for_want_of_space() => {
                if !told {
                    tracing::error!(%error, "the disk is too full to open the store: waiting for room");
                    told = true;
                }
            }
            Err(error) => return Err(error),
        }
        if tokio::time::timeout(WAIT_FOR_ROOM, shutdown.cancelled()).await.is_ok() {
            return Ok(None);
        }
    }
}

/// Raises the limit on open descriptors as far as it goes, and says where it stands.
fn descriptor_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}

/// A server that listens elsewhere than its names say is found by nobody.
fn warn_of_other_ports(dial_addresses: &[String], port: u16) {
    let dialled = |address: &String| address.rsplit(':').next().and_then(|p| p.parse::<u16>().ok());
    if !dial_addresses.iter().filter_map(dialled).any(|dialled| dialled == port) {
        tracing::warn!(
            "clients will look for this server at {}, but it listens on port {port}: edit `names` in deployment.toml \
             unless something forwards the port",
            dial_addresses.join(", ")
        );
    }
}

async fn keep_certificate(
    data: DataDir,
    authority: Arc<Authority>,
    certificate: Arc<ServerCertificate>,
    dial_addresses: Arc<ArcSwap<Vec<String>>>,
    reload: Arc<Notify>,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(REFRESH) => {}
            () = reload.notified() => {}
        }
        let refreshed = (|| {
            let (_, deployment) = data.deployment()?;
            let hosts = data_dir::certificate_names(&deployment.names)?;
            dial_addresses.store(Arc::new(data_dir::dial_addresses(&deployment.names)?));
            Ok::<_, RunError>(certificate.refresh(&data, &authority, &hosts, Timestamp::now())?)
        })();
        match refreshed {
            Ok(Refresh::Kept) => {}
            Ok(Refresh::Reloaded) => tracing::info!("the server's certificate was reloaded"),
            Ok(Refresh::Renewed(why)) => tracing::info!(why, "the server's certificate was renewed"),
            Err(error) => {
                tracing::error!(%error, "cannot refresh the server's certificate; the old one stays")
            }
        }
    }
}

async fn expire_scans(scans: Arc<Scans>, store: Store, ending: CancellationToken) {
    loop {
        tokio::time::sleep(EXPIRE).await;
        if ending.is_cancelled() {
            // A connection that is told to close may have a last request under way, and that may be a scan.
            scans.end_all();
        } else {
            scans.expire(Instant::now(), store.health() == Health::Good);
        }
    }
}

/// Writes now and then, and once more at the end, when satellites were last seen and what happened to them.
async fn write_sights(
    registry: Arc<Registry>,
    problems: Arc<Problems>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    loop {
        let is_last = tokio::time::timeout(SEEN, stop.cancelled()).await.is_ok();
        for written in [registry.flush_seen().await, problems.flush().await] {
            if let Err(error) = written {
                tracing::warn!(%error, "cannot write when satellites were last seen and what happened; trying again");
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

async fn drop_old(store: Store, keep: jiff::SignedDuration) {
    loop {
        match store.drop_older_than(keep, Timestamp::now()).await {
            Ok(None) => {}
            Ok(Some(month)) => tracing::warn!(month, "dropped a month that is older than the retention"),
            Err(error) => tracing::error!(%error, "cannot drop what is too old"),
        }
        tokio::time::sleep(RETENTION).await;
    }
}
