//! Enrols a whole fleet before its server starts: what ten thousand join tokens would do in minutes, with the server's
//! own authority and store, in seconds.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use portolan_common::ids::SatelliteId;
use portolan_server::data_dir::DataDir;
use portolan_server::pki::authority::Authority;
use portolan_server::store::{SatelliteRecord, Store};
use portolan_transport::identity::KeyRequest;
use portolan_transport::tls;
use rustls::ClientConfig;
use uuid::Uuid;

/// The life of their certificates: no renewal comes between.
const LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// Records written in one commit.
const AT_ONCE: usize = 1000;

/// The name of a satellite by its number, which counts from 1.
pub(super) fn name_of(number: u16) -> String {
    format!("light-{number:05}")
}

/// Registers satellites and issues their certificates; returns what each connects with.
#[track_caller]
pub(super) fn enrol(data_dir: &Path, count: u16) -> Vec<Arc<ClientConfig>> {
    let data = DataDir::new(data_dir);
    let _lock = data.lock().expect("no server runs on it");
    let (deployment, _) = data.deployment().expect("it was initialised");
    let authority = Authority::load(&data.ca(), deployment).expect("an authority");
    let numbers: Vec<u16> = (1..=count).collect();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let issued: Vec<(SatelliteRecord, Arc<ClientConfig>)> = std::thread::scope(|scope| {
        let of_share =
            |share: &[u16]| -> Vec<_> { share.iter().map(|number| issue(&authority, *number)).collect() };
        let shares = numbers.chunks(numbers.len().div_ceil(cores).max(1));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || of_share(share))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("certificates")).collect()
    });
    let (records, configs): (Vec<_>, Vec<_>) = issued.into_iter().unzip();
    let store = Store::open(&data.store(), 0).expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for share in records.chunks(AT_ONCE) {
        runtime.block_on(store.put_satellites(share.to_vec())).expect("they are written");
    }
    store.close();
    configs
}

fn issue(authority: &Authority, number: u16) -> (SatelliteRecord, Arc<ClientConfig>) {
    let (id, name, now) = (SatelliteId(Uuid::now_v7()), name_of(number), Timestamp::now());
    let request = KeyRequest::generate().expect("a key");
    let issued = authority.issue_satellite(&request.csr_der, id, &name, LIFE, now).expect("a certificate");
    let record = SatelliteRecord {
        id: id.as_bytes().to_vec(),
        name,
        segment: format!("segment-{}", number % 100),
        tenant: "default".into(),
        added_at_ms: now.as_millisecond(),
        enrolled_at_ms: now.as_millisecond(),
        issued_at_ms: now.as_millisecond(),
        certificate_expires_at_ms: issued.not_after.as_millisecond(),
        key_fingerprint: issued.key_fingerprint.to_vec(),
        assignment_revision: 1,
        ..SatelliteRecord::default()
    };
    let identity = request.into_identity(issued.chain).expect("a key");
    let config = tls::client_config(authority.root(), &identity).expect("certificate and key fit");
    (record, Arc::new(config))
}
