//! From `policy apply` to what a satellite is sent, over the wire.

use crate::deployment::{Deployment, Uplink};
use portolan_proto::v1::console_client::ConsoleClient;
use portolan_proto::v1::{self, uplink_down::Message as Down};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::Channel;

/// A satellite has its new assignment within this time of the apply, and a slow machine's share.
const SOON: Duration = Duration::from_secs(2);

fn files(checks: &str) -> Vec<v1::PolicyFile> {
    let text = format!("version = 1\n[segment.office]\ncidrs = [\"10.0.1.0/24\"]\n{checks}");
    vec![v1::PolicyFile { name: "policy.toml".into(), text }]
}

fn check(name: &str) -> String {
    format!(
        "[[check]]\nname = \"{name}\"\nfrom = [\"segment:office\"]\ntargets = [\"10.0.1.10\"]\nopen = \"80\"\n"
    )
}

async fn apply(console: &mut ConsoleClient<Channel>, checks: &str) -> v1::PolicyReport {
    let request =
        v1::ApplyPolicyRequest { files: files(checks), message: "why".into(), ..Default::default() };
    let report = console.apply_policy(request).await.unwrap().into_inner();
    assert_eq!(report.mistakes, []);
    report
}

async fn assignment(uplink: &mut Uplink) -> v1::Assignment {
    uplink
        .until(|message| match message {
            Down::Assignment(assignment) => Some(assignment.clone()),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_satellite_is_sent_what_the_policy_asks_of_it_and_told_to_look_now() {
    let mut deployment = Deployment::start().await;
    let satellite = deployment.enrol("office-1").await;
    let (mut console, _) = deployment.console().await;
    let scope = v1::ScopeReport { allow: vec!["10.0.9.0/24".into()], ..Default::default() };
    let mut uplink = satellite.connect_with(&["connect", "checks"], Some(scope)).await;
    let first = assignment(&mut uplink).await;
    assert_eq!((first.satellite_name.as_str(), first.segment.as_str()), ("office-1", "office"));
    assert!(first.checks.is_empty());

    let began = Instant::now();
    let report = apply(&mut console, &check("shop")).await;
    let second = assignment(&mut uplink).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(second.revision > first.revision && second.checks.len() == 1);
    assert_eq!((second.checks[0].open.as_str(), second.checks[0].every_ms), ("80", 60_000));
    let outside = report.warnings.iter().find(|warning| warning.kind == "outside-scope").unwrap();
    assert_eq!(
        (outside.satellite.as_str(), &outside.add_to_scope[..]),
        ("office-1", &["10.0.1.10/32".into()][..])
    );

    let list = console.list_checks(v1::ListChecksRequest {}).await.unwrap().into_inner();
    assert_eq!((list.policy_version, list.checks.len()), (1, 1));
    assert_eq!(list.checks[0].from, ["segment:office"]);
    let run = |name: &str| v1::RunCheckRequest { name: name.into() };
    let told = console.run_check(run("shop")).await.unwrap().into_inner();
    assert_eq!(told.satellites, ["office-1"]);
    let names = uplink.until(|message| match message {
        Down::RunChecks(run) => Some(run.names.clone()),
        _ => None,
    });
    assert_eq!(names.await, ["shop"]);
    let error = console.run_check(run("shpo")).await.unwrap_err();
    assert!(error.code() == Code::NotFound && error.message().contains("did you mean `shop`"), "{error}");

    let pause = |paused| v1::PauseCheckRequest { name: "shop".into(), paused };
    console.pause_check(pause(true)).await.unwrap();
    assert!(assignment(&mut uplink).await.checks.is_empty());
    assert_eq!(console.run_check(run("shop")).await.unwrap_err().code(), Code::FailedPrecondition);
    console.pause_check(pause(false)).await.unwrap();
    assert_eq!(assignment(&mut uplink).await.checks.len(), 1);

    // One that comes later begins with it, and a tenant's networks are known to whoever enrols.
    let mut late = deployment.enrol("office-2").await.connect_with(&["checks"], None).await;
    assert_eq!(assignment(&mut late).await.checks[0].name, "shop");
    deployment.shutdown.cancel();
    deployment.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_has_who_did_what_and_goes_back() {
    let mut deployment = Deployment::start().await;
    let (mut console, _) = deployment.console().await;
    let missing = console.get_policy(v1::GetPolicyRequest::default()).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    apply(&mut console, &check("shop")).await;
    apply(&mut console, "").await;
    let stale = v1::ApplyPolicyRequest { files: files(""), based_on: Some(1), ..Default::default() };
    assert_eq!(console.apply_policy(stale).await.unwrap_err().code(), Code::Aborted);
    let back = v1::ApplyPolicyRequest { rollback_to: 1, ..Default::default() };
    assert!(console.apply_policy(back).await.unwrap().into_inner().applied);
    let versions = console.list_policy_versions(v1::ListPolicyVersionsRequest {}).await.unwrap().into_inner();
    let heads: Vec<_> =
        versions.versions.iter().map(|v| (v.version, v.rollback_to, v.message.as_str())).collect();
    assert_eq!(heads, [(3, 1, ""), (2, 0, "why"), (1, 0, "why")]);
    assert!(versions.versions[1].changes[0].starts_with("stop check shop"), "{:?}", versions.versions[1]);
    assert!(!versions.versions[0].author.is_empty());
    let kept = console.get_policy(v1::GetPolicyRequest { version: 1 }).await.unwrap().into_inner();
    assert_eq!(kept.files, files(&check("shop")));
    deployment.shutdown.cancel();
    deployment.ended().await.unwrap();
}
