use super::*;
use crate::pki::authority::Authority;
use crate::uplink::Joined;
use jiff::SignedDuration;
use portolan_common::ids::{DeploymentId, ProcessId};
use portolan_transport::identity::KeyRequest;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    policies: Arc<Policies>,
    authority: Authority,
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

async fn load(store: &Store, registry: &Arc<Registry>, hub: &Arc<Hub>, directory: &Path) -> Arc<Policies> {
    let sources = Some(directory.join("sources"));
    Arc::new(Policies::load(store.clone(), registry.clone(), hub.clone(), sources, now()).await.unwrap())
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::create_dir(path.join("sources")).unwrap();
    let authority = Authority::create(&path.join("ca"), DeploymentId(Uuid::new_v4()), now()).unwrap();
    Store::create(&path.join("store")).unwrap();
    let store = Store::open(&path.join("store"), 0).unwrap();
    let registry = Arc::new(Registry::load(store.clone()).unwrap());
    let hub = Arc::new(Hub::default());
    let policies = load(&store, &registry, &hub, path).await;
    Fixture { store, registry, hub, policies, authority, directory }
}

impl Fixture {
    /// An enrolled satellite.
    async fn satellite(&self, name: &str, segment: &str) -> SatelliteId {
        let hash = Store::token_key(name.as_bytes());
        self.registry.add(name, segment, "default", hash, HOUR, now()).await.unwrap();
        let csr = KeyRequest::generate().unwrap().csr_der;
        let redeemed = self.registry.redeem(name.as_bytes(), &csr, &self.authority, HOUR * 24, now());
        let id = redeemed.await.unwrap().0.satellite_id().unwrap();
        self.policies.publish(None, now()).await;
        id
    }

    fn join(&self, satellite: SatelliteId, capabilities: &[&str]) -> Joined {
        let hello = v1::Hello {
            version: "0.2.0".into(),
            capabilities: capabilities.iter().map(|text| (*text).to_owned()).collect(),
            ..v1::Hello::default()
        };
        let process = ProcessId(Uuid::nil());
        self.hub.join(satellite, "127.0.0.1:1".parse().unwrap(), &hello, process, now())
    }

    async fn apply(&self, text: &str) -> v1::PolicyReport {
        let apply = Apply { files: files(text), author: "ada".into(), ..Apply::default() };
        let report = self.policies.apply(apply, now()).await.unwrap();
        assert_eq!(report.mistakes, [], "{text}");
        report
    }

    async fn assigned(&self, satellite: SatelliteId) -> (u64, Vec<String>) {
        let assignment = self.policies.assignment(satellite, 0).await.unwrap();
        (assignment.revision, assignment.checks.into_iter().map(|check| check.name).collect())
    }

    fn problems(&self) -> Vec<(String, String)> {
        self.policies.problems().into_iter().map(|problem| (problem.kind, problem.subject)).collect()
    }

    fn write_source(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join("sources").join(name), text).unwrap();
    }
}

fn files(text: &str) -> Vec<PolicyFile> {
    vec![PolicyFile { name: "policy.toml".into(), text: text.into() }]
}

/// A policy with these checks: name, from, target.
fn policy(checks: &[(&str, &str, &str)]) -> String {
    let mut text = "version = 1\n[segment.office]\ncidrs = [\"10.0.1.0/24\"]\n[segment.dmz]\ncidrs = [\"10.0.2.0/24\"]\n"
        .to_owned();
    for (name, from, target) in checks {
        text += &format!(
            "[[check]]\nname = \"{name}\"\nfrom = [\"{from}\"]\ntargets = [{target}]\nopen = \"80\"\n"
        );
    }
    text
}

const SHOP: (&str, &str, &str) = ("shop", "segment:office", "\"10.0.2.10\"");

#[tokio::test]
async fn a_policy_is_applied_once_and_kept() {
    let f = fixture().await;
    let mut compiled = f.policies.watch();
    assert!(matches!(f.policies.version(0).await, Err(PolicyError::NoVersion { kept: None, .. })));
    let text = policy(&[SHOP]);
    let looked_at = f.policies.check(files(&text), now()).await.unwrap();
    assert_eq!((looked_at.version, looked_at.applied, looked_at.checks), (0, false, 1));
    let report = f.apply(&text).await;
    assert!(report.applied && report.version == 1);
    assert_eq!(compiled.borrow_and_update().version, 1);
    let again = f.apply(&text).await;
    assert!(!again.applied && again.version == 1, "the same once more is no new version");
    let report = f.apply(&format!("{text}# a comment\n")).await;
    assert!(report.applied && report.differences.is_empty(), "the files are others");
    for policies in [&f.policies, &load(&f.store, &f.registry, &f.hub, f.directory.path()).await] {
        assert_eq!(policies.compiled().version, 2);
        assert_eq!(policies.compiled().checks.len(), 1);
        assert_eq!(policies.versions().iter().map(|v| v.number).collect::<Vec<_>>(), [2, 1]);
        let (version, kept) = policies.version(1).await.unwrap();
        assert_eq!((version.author.as_str(), kept), ("ada", files(&text)));
        assert_eq!(policies.cidrs("default").len(), 2);
    }
    assert!(matches!(f.policies.version(9).await, Err(PolicyError::NoVersion { kept: Some((1, 2)), .. })));
}

#[tokio::test]
async fn a_mistake_or_a_dry_run_changes_nothing() {
    let f = fixture().await;
    f.apply(&policy(&[SHOP])).await;
    let wrong = policy(&[SHOP]).replace("80", "99999");
    let apply = |text: &str, dry_run| {
        let apply = Apply { files: files(text), dry_run, ..Apply::default() };
        f.policies.apply(apply, now())
    };
    let report = apply(&wrong, false).await.unwrap();
    assert!(!report.mistakes.is_empty() && report.version == 1 && !report.applied, "{report:?}");
    let report = apply(&policy(&[]), true).await.unwrap();
    assert!(report.mistakes.is_empty() && report.version == 1 && !report.applied, "{report:?}");
    assert_eq!(f.policies.compiled().checks.len(), 1);
    let twice = [files("version = 1"), files("version = 1")].concat();
    for files in [twice, vec![], files(&"#".repeat(4 << 20))] {
        assert!(matches!(f.policies.check(files, now()).await, Err(PolicyError::Invalid(_))));
    }
}

#[tokio::test]
async fn who_came_second_is_told_who_came_first() {
    let f = fixture().await;
    f.apply(&policy(&[SHOP])).await;
    let apply = |based_on| {
        let apply = Apply { files: files(&policy(&[])), based_on: Some(based_on), ..Apply::default() };
        f.policies.apply(apply, now())
    };
    let error = apply(0).await.unwrap_err().to_string();
    assert!(error.starts_with("version 1 was applied by ada at 2026-11-20T12:00:00Z"), "{error}");
    assert!(apply(1).await.unwrap().applied);
}

#[tokio::test]
async fn going_back_is_a_new_version() {
    let f = fixture().await;
    f.apply(&policy(&[SHOP])).await;
    f.apply(&policy(&[])).await;
    let back = |rollback_to| Apply { rollback_to, author: "bob".into(), ..Apply::default() };
    let report = f.policies.apply(back(1), now()).await.unwrap();
    assert!(report.applied && report.version == 3);
    assert!(f.policies.compiled().check("shop").is_some());
    let (version, _) = f.policies.version(0).await.unwrap();
    assert_eq!((version.number, version.rollback_to, version.author.as_str()), (3, 1, "bob"));
    assert!(matches!(f.policies.apply(back(7), now()).await, Err(PolicyError::NoVersion { .. })));
}

#[tokio::test]
async fn an_exception_that_ran_out_does_not_unmake_the_policy() {
    let f = fixture().await;
    let text = policy(&[SHOP])
        + "[[flow]]\nname = \"x\"\nfrom = [\"office\"]\nto = [\"dmz\"]\nallow = \"80\"\nexpires = \"2026-11-21\"\n";
    f.apply(&text).await;
    let later = now() + HOUR * 24 * 30;
    let again =
        Policies::load(f.store.clone(), f.registry.clone(), f.hub.clone(), None, later).await.unwrap();
    assert_eq!(again.compiled().checks.len(), 1);
    assert!(again.problems().is_empty());
    let report = again.check(files(&text), later).await.unwrap();
    assert!(!report.mistakes.is_empty(), "but it is not applied anew");
}

#[tokio::test]
async fn a_stored_policy_that_cannot_be_read_stops_no_satellite() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    f.apply(&policy(&[SHOP])).await;
    let before = f.registry.get(id).unwrap().assignment_revision;
    let lost = DocumentWrite { kind: Kind::PolicyFiles, key: 1u64.to_be_bytes().to_vec(), value: None };
    f.store.put_documents(vec![lost], Vec::new(), now()).await.unwrap();
    let again = load(&f.store, &f.registry, &f.hub, f.directory.path()).await;
    assert_eq!(again.problems()[0].kind, "policy-unreadable");
    assert_eq!(f.registry.get(id).unwrap().assignment_revision, before);
    assert!(again.assignment(id, 0).await.is_none());
    let apply = Apply { files: files(&policy(&[SHOP])), ..Apply::default() };
    assert!(again.apply(apply, now()).await.unwrap().applied);
    assert!(again.problems().is_empty() && again.assignment(id, 0).await.is_some());
}

#[tokio::test]
async fn a_satellite_is_told_when_its_own_part_changes() {
    let f = fixture().await;
    let (office, dmz) = (f.satellite("office-1", "office").await, f.satellite("dmz-1", "dmz").await);
    let (mut at_office, mut at_dmz) = (f.join(office, &[CHECKS]), f.join(dmz, &[CHECKS]));
    f.apply(&policy(&[SHOP])).await;
    assert_eq!(*at_office.assigned.borrow_and_update(), 2);
    assert!(!at_dmz.assigned.has_changed().unwrap(), "nothing for it");
    assert_eq!(f.assigned(office).await, (2, vec!["shop".into()]));
    assert!(f.policies.assignment(office, 2).await.is_none(), "it has that");
    assert_eq!(f.assigned(dmz).await, (1, vec![]));
    f.apply(&policy(&[SHOP, ("mail", "segment:dmz", "\"10.0.1.25\"")])).await;
    assert!(!at_office.assigned.has_changed().unwrap(), "its own part is as it was");
    assert_eq!(*at_dmz.assigned.borrow_and_update(), 2);
    f.apply(&policy(&[])).await;
    assert_eq!(f.assigned(office).await, (3, vec![]));
    // A server that starts again gives the same revisions.
    load(&f.store, &Arc::new(Registry::load(f.store.clone()).unwrap()), &f.hub, f.directory.path()).await;
    assert_eq!(*at_office.assigned.borrow_and_update(), 3);
    assert_eq!(f.assigned(office).await.0, 3);
}

#[tokio::test]
async fn a_server_that_went_back_does_not_come_to_the_same_revision_with_something_else() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    f.apply(&policy(&[SHOP])).await;
    let assignment = f.policies.assignment(id, 7).await.unwrap();
    assert_eq!((assignment.revision, assignment.checks.len()), (8, 1));
    assert!(f.policies.assignment(id, 8).await.is_none());
    f.apply(&policy(&[])).await;
    assert_eq!(f.assigned(id).await.0, 9);
    // One that lies harms nobody else.
    assert_eq!(f.policies.assignment(id, u64::MAX).await, None);
    f.apply(&policy(&[SHOP])).await;
}

#[tokio::test]
async fn a_satellite_that_comes_later_is_assigned_what_there_is() {
    let f = fixture().await;
    f.apply(&policy(&[SHOP, ("all", "*", "\"10.0.1.25\"")])).await;
    let stop = CancellationToken::new();
    let keeping = tokio::spawn({
        let (policies, stop) = (f.policies.clone(), stop.clone());
        async move { policies.keep_current(stop).await }
    });
    let mut compiled = f.policies.watch();
    let hash = Store::token_key(b"office-1");
    f.registry.add("office-1", "office", "default", hash, HOUR, now()).await.unwrap();
    let satellites = |compiled: &Arc<Compiled>| compiled.checks[0].satellites.clone();
    compiled.wait_for(|compiled| satellites(compiled) == ["office-1"]).await.unwrap();
    f.registry.revoke("office-1", now(), |_| {}).await.unwrap();
    compiled.wait_for(|compiled| satellites(compiled).is_empty()).await.unwrap();
    stop.cancel();
    keeping.await.unwrap();
}

#[tokio::test]
async fn a_satellite_that_runs_no_checks_gets_none_until_it_is_updated() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    f.apply(&policy(&[SHOP])).await;
    let old = f.join(id, &["connect"]);
    assert_eq!(f.assigned(id).await, (3, vec![]), "nobody had said that it cannot");
    assert_eq!(f.problems(), [("satellite-too-old".into(), "office-1".into())]);
    f.hub.leave(id, old.session);
    let _new = f.join(id, &["connect", CHECKS]);
    assert_eq!(f.assigned(id).await, (4, vec!["shop".into()]));
    assert!(f.problems().is_empty());
}

#[tokio::test]
async fn a_paused_check_is_not_assigned_and_forgotten_with_the_check() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    f.apply(&policy(&[SHOP])).await;
    assert!(!f.policies.set_paused("shpo", Some("bob"), now()).await.unwrap());
    assert!(f.policies.set_paused("shop", Some("bob"), now()).await.unwrap());
    assert!(f.assigned(id).await.1.is_empty() && f.policies.compiled().checks[0].paused);
    let again = load(&f.store, &f.registry, &f.hub, f.directory.path()).await;
    assert_eq!(again.paused("shop").unwrap().operator, "bob");
    assert!(f.policies.set_paused("shop", None, now()).await.unwrap());
    assert_eq!(f.assigned(id).await.1, ["shop"]);
    f.policies.set_paused("shop", Some("bob"), now()).await.unwrap();
    f.apply(&policy(&[])).await;
    f.apply(&policy(&[SHOP])).await;
    assert_eq!(f.policies.paused("shop"), None);
    assert!(f.store.documents(Kind::Paused).unwrap().is_empty());
}

#[tokio::test]
async fn what_a_satellite_says_of_checks_is_kept_while_it_has_them() {
    let f = fixture().await;
    let (office, dmz) = (f.satellite("office-1", "office").await, f.satellite("dmz-1", "dmz").await);
    f.apply(&policy(&[SHOP])).await;
    let status = || v1::CheckStatus { check: "shop".into(), method: "syn".into(), ..Default::default() };
    f.policies.note_statuses(office, vec![status()], now()).await.unwrap();
    f.policies.note_statuses(dmz, vec![status()], now()).await.unwrap();
    assert!(f.policies.status("shop", office).is_some());
    assert!(f.policies.status("shop", dmz).is_none(), "it is not one of its checks");
    f.apply(&policy(&[])).await;
    assert!(f.policies.status("shop", office).is_none());
    assert!(f.store.documents(Kind::CheckStatus).unwrap().is_empty());
}

#[tokio::test]
async fn targets_come_from_files_and_stay_when_these_fail() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    let targets = async || f.policies.assignment(id, 0).await.unwrap().checks.remove(0).targets;
    f.write_source("web.json", r#"[{"targets": ["10.0.2.2:443", "10.0.2.1:443"]}]"#);
    let text = policy(&[("web", "segment:office", "{ file_sd = \"web.json\", refresh = \"10s\" }")]);
    f.apply(&text).await;
    assert_eq!(targets().await, ["10.0.2.1", "10.0.2.2"], "there from the beginning");
    let refresh = async |policies: &Policies| {
        let policy = policies.policy();
        policies.refresh(&policy, sources::wanted(&policy).into_keys().collect()).await;
    };
    f.write_source("web.json", r#"[{"targets": ["10.0.2.3:443"]}]"#);
    refresh(&f.policies).await;
    assert_eq!(targets().await, ["10.0.2.3"]);
    f.write_source("web.json", "<html>");
    refresh(&f.policies).await;
    assert_eq!(targets().await, ["10.0.2.3"], "the last good answer holds");
    assert_eq!(f.problems(), [("source-failed".into(), "file_sd web.json".into())]);
    let report = f.policies.check(files(&text), now()).await.unwrap();
    let warning = report.warnings.iter().find(|warning| warning.kind == "source-failed").unwrap();
    assert!(warning.message.contains("(1 targets)"), "{}", warning.message);
    f.policies.flush().await;
    let again = load(&f.store, &f.registry, &f.hub, f.directory.path()).await;
    assert_eq!(again.compiled().checks[0].targets, ["10.0.2.3"], "a restart knows it");
    assert_eq!(again.problems().len(), 1);
    f.apply(&policy(&[])).await;
    f.policies.flush().await;
    assert!(f.store.documents(Kind::Source).unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_that_is_too_much_is_not_taken_over() {
    let f = fixture().await;
    let list = |hosts: u32| {
        let hosts: Vec<String> = (0..hosts).map(|n| format!("\"h{n}.example:80\"")).collect();
        format!("[{{\"targets\": [{}]}}]", hosts.join(","))
    };
    f.write_source("many.json", &list(10));
    let checks: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let checks: Vec<_> =
        checks.iter().map(|name| (name.as_str(), "*", "{ file_sd = \"many.json\" }")).collect();
    f.apply(&policy(&checks)).await;
    f.write_source("many.json", &list(60_000));
    let wanted = f.policies.policy();
    f.policies.refresh(&wanted, sources::wanted(&wanted).into_keys().collect()).await;
    assert_eq!(f.policies.compiled().checks[0].targets.len(), 10);
    let why = f.policies.problems().remove(0).message;
    assert!(why.contains("1200000 targets over all checks are more than 1048576"), "{why}");
    // A policy that begins with it is refused as a whole.
    let other = policy(&checks).replace("many.json", "m*.json");
    let report = f.policies.check(files(&other), now()).await.unwrap();
    assert!(report.mistakes[0].message.contains("cannot be carried out"), "{report:?}");
}

#[tokio::test]
async fn sources_are_asked_again_by_themselves() {
    let f = fixture().await;
    f.write_source("web.json", r#"[{"targets": ["10.0.2.1"]}]"#);
    f.apply(&policy(&[("web", "*", "{ file_sd = \"web.json\", refresh = \"10s\" }")])).await;
    f.write_source("web.json", r#"[{"targets": ["10.0.2.9"]}]"#);
    // After a restart each is asked at once.
    let again = load(&f.store, &f.registry, &f.hub, f.directory.path()).await;
    let mut compiled = again.watch();
    let stop = CancellationToken::new();
    let asking = tokio::spawn({
        let (again, stop) = (again.clone(), stop.clone());
        async move { again.refresh_sources(stop).await }
    });
    let is_new = |compiled: &Arc<Compiled>| compiled.checks[0].targets == ["10.0.2.9"];
    let waited = tokio::time::timeout(Duration::from_secs(20), compiled.wait_for(is_new)).await;
    assert!(waited.is_ok(), "it was never asked");
    let (due, next) = again.sources.due(&again.policy(), Instant::now());
    assert!(due.is_empty() && next.is_some(), "and again only when it is due");
    stop.cancel();
    asking.await.unwrap();
}

#[tokio::test]
async fn a_scope_is_known_of_satellites_that_are_away() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    let report = v1::ScopeReport { allow: vec!["10.0.9.0/24".into()], ..Default::default() };
    f.policies.note_scope(id, &report);
    f.policies.flush().await;
    let again = load(&f.store, &f.registry, &f.hub, f.directory.path()).await;
    let world = again.world(&Policy::default());
    assert_eq!(world.satellites["office-1"].scope, Some(vec!["10.0.9.0/24".parse().unwrap()]));
}

/// 10,000 checks: nothing in the way of applying them grows faster than they do.
#[tokio::test]
async fn many_checks_are_applied() {
    let f = fixture().await;
    let id = f.satellite("office-1", "office").await;
    let joined = f.join(id, &[CHECKS]);
    let names: Vec<String> = (0..10_000).map(|n| format!("check-{n}")).collect();
    let checks: Vec<_> =
        names.iter().map(|name| (name.as_str(), "segment:office", "\"10.0.2.10\"")).collect();
    let began = Instant::now();
    assert!(f.apply(&policy(&checks)).await.applied);
    let applied = began.elapsed();
    assert!(*joined.assigned.borrow() == 2 && f.assigned(id).await.1.len() == 10_000);
    println!("applied in {applied:?}, assigned in {:?}", began.elapsed() - applied);
    let changes = &f.policies.versions()[0];
    assert!(changes.changes.len() <= 50);
}
