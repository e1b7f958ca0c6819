//! Repairs of damage that is made on purpose; `bit_flips` makes it at random.

use super::super::record::encode;
use super::super::{About, sample};
use super::*;
use std::fs;

const DEPLOYMENT: DeploymentId = DeploymentId(uuid::Uuid::from_u128(77));

#[test]
fn a_revocation_and_the_use_of_a_token_hold_whichever_side_knows_of_them() {
    let good = sample::satellite_record(1);
    let revoked = SatelliteRecord { revoked_at_ms: 7, ..good.clone() };
    let renamed = SatelliteRecord { address: "newer".into(), ..good.clone() };
    let merged = merge_satellites(&encode(&renamed), &encode(&revoked)).unwrap();
    let expected = SatelliteRecord { revoked_at_ms: 7, ..renamed.clone() };
    assert_eq!(decode::<SatelliteRecord>(&merged).unwrap(), expected);
    assert_eq!(merge_satellites(&encode(&renamed), &encode(&good)).unwrap(), encode(&renamed));
    let fresh = TokenRecord { expires_at_ms: 9, ..TokenRecord::default() };
    let used = TokenRecord { used_at_ms: 3, ..fresh.clone() };
    for (first, second) in [(&fresh, &used), (&used, &fresh)] {
        assert_eq!(merge_tokens(&encode(first), &encode(second)).unwrap(), encode(&used));
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    key: Vec<u8>,
}

impl Fixture {
    /// A store with an export that lost an entry of its history since.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        Store::create(&path).unwrap();
        let store = Store::open(&path, 0).unwrap();
        sample::fill(&store, 8, 1..=8).await;
        let trees = store.trees().unwrap();
        let log = trees.tree("log-2026-10").unwrap();
        let (key, _) = log.iter().nth(3).unwrap().unwrap();
        let exported = tokio::task::spawn_blocking({
            let (store, export) = (store.clone(), dir.path().join("export"));
            move || {
                let now = Timestamp::now();
                let about = About { deployment: DEPLOYMENT, created_at: now, files: Vec::new() };
                store.dump(&about, File::create(export).unwrap(), &|| false).unwrap();
            }
        });
        exported.await.unwrap();
        store.ingest(sample::batch(0, 9, sample::october(900))).await.unwrap();
        log.remove(&key).unwrap();
        trees.flush().unwrap();
        drop((log, trees));
        store.close();
        let error = Store::open(&path, 0).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        Self { dir, key: key.to_vec() }
    }

    /// What came to the history after the export.
    fn lose_what_came_later(&self) {
        let mut known = std::collections::BTreeSet::new();
        dump::read(&self.dir.path().join("export"), |part| {
            if let Part::Changes(_, changes) = part {
                known.extend(changes.into_keys());
            }
            Ok(())
        })
        .unwrap();
        let trees = Trees::open_patiently(&self.dir.path().join("store")).unwrap();
        let log = trees.tree("log-2026-10").unwrap();
        let keys: Vec<_> = log.iter().keys().map(Result::unwrap).collect();
        let later: Vec<_> = keys.into_iter().filter(|key| !known.contains(key.as_ref())).collect();
        assert!(!later.is_empty(), "something came after the export");
        for key in later {
            log.remove(&key).unwrap();
        }
        trees.flush().unwrap();
    }

    fn repair(&self, exports: &[&str], deployment: DeploymentId) -> Repaired {
        let (store, work) = (self.dir.path().join("store"), self.dir.path().join("work"));
        fs::create_dir(&work).unwrap();
        let exports: Vec<_> = exports.iter().map(|name| self.dir.path().join(name)).collect();
        let damage = Damage { store: &store, exports: &exports, deployment, work: &work, stop: &|| false };
        Store::repair(&damage, Timestamp::now()).unwrap()
    }

    fn has_entry(&self) -> bool {
        let store = Store::open(&self.dir.path().join("store"), 0).unwrap();
        let content = sample::content(&store).unwrap();
        store.close();
        content.contains_key(&("log-2026-10".to_owned(), self.key.clone()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_is_lost_comes_from_an_export_that_is_intact_and_of_this_server() {
    let f = Fixture::new().await;
    let repaired = f.repair(&["export"], DEPLOYMENT);
    assert!(matches!(repaired.base, Base::State { missing: 0, .. }) && f.has_entry(), "{repaired:?}");

    let f = Fixture::new().await;
    fs::copy(f.dir.path().join("export"), f.dir.path().join("export.1")).unwrap();
    let mut bytes = fs::read(f.dir.path().join("export")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(f.dir.path().join("export"), bytes).unwrap();
    let repaired = f.repair(&["export", "export.1"], DEPLOYMENT);
    assert!(matches!(repaired.base, Base::State { missing: 0, .. }) && f.has_entry(), "{repaired:?}");

    // Lost in both, the export is still whole in itself, and satellites send what came after it.
    let f = Fixture::new().await;
    f.lose_what_came_later();
    let repaired = f.repair(&["export"], DEPLOYMENT);
    assert!(matches!(repaired.base, Base::Export { .. }) && f.has_entry(), "{repaired:?}");

    let f = Fixture::new().await;
    let repaired = f.repair(&["export"], DeploymentId(uuid::Uuid::from_u128(78)));
    assert!(
        matches!(repaired.base, Base::State { missing: 1, .. }),
        "another server's is none: {repaired:?}"
    );
    assert!(!f.has_entry());
}
