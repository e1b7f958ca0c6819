//! What a panic takes with it: a session's or commit's, that session; a task's of the list, the whole server, which
//! then says which.
//!
//! The code under test is as it is shipped. The panics come from a subscriber of the log, which every part calls.

use crate::deployment::Deployment;
use portolan_proto::v1::{satellite::Status, uplink_down::Message as Down};
use portolan_server::run::RunError;
use std::fmt::{Debug, Write as _};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is said, and by whom (a satellite's name, a path), so that tests beside each other stay apart.
type Trigger = (&'static str, String);

struct Fragile(Mutex<Vec<Trigger>>);

static FRAGILE: LazyLock<&'static Fragile> = LazyLock::new(|| {
    let fragile: &'static Fragile = Box::leak(Box::new(Fragile(Mutex::default())));
    tracing_subscriber::registry().with(fragile).init();
    fragile
});

impl Fragile {
    fn triggers(&self) -> MutexGuard<'_, Vec<Trigger>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever says `words` about `whom` panics from now on.
fn panic_at(words: &'static str, whom: &str) {
    FRAGILE.triggers().push((words, whom.to_owned()));
}

fn panic_no_more(whom: &str) {
    FRAGILE.triggers().retain(|(_, known)| known != whom);
}

#[derive(Default)]
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl<S: Subscriber> Layer<S> for &'static Fragile {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let found =
            self.triggers().iter().any(|(what, whom)| words.0.contains(what) && words.0.contains(whom));
        // The log of the panic itself tells whom it was about, too.
        if found && !words.0.contains("injected") {
            panic!("injected");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_session_ends_that_session_alone() {
    let deployment = Deployment::start().await;
    let (solid, fragile) = (deployment.enrol("solid-1").await, deployment.enrol("fragile-1").await);
    let mut neighbour = solid.connect().await;
    neighbour.is_served(1).await;

    panic_at("message=online", "fragile-1");
    let mut broken = fragile.connect().await;
    assert!(!matches!(broken.next().await, Ok(Some(_))), "its session is gone before it said anything");
    deployment.becomes("fragile-1", Status::Offline).await;

    neighbour.is_served(2).await;
    assert_eq!(deployment.status_of("solid-1").await, Status::Online);
    assert!(deployment.is_running());

    // It comes back as if nothing had happened.
    panic_no_more("fragile-1");
    let mut again = fragile.connect().await;
    again.is_served(1).await;
    assert_eq!(deployment.status_of("fragile-1").await, Status::Online);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_commit_ends_that_session_alone_and_acks_nothing() {
    let deployment = Deployment::start().await;
    let (solid, fragile) = (deployment.enrol("solid-2").await, deployment.enrol("fragile-2").await);
    let mut neighbour = solid.connect().await;
    neighbour.is_served(1).await;
    let mut broken = fragile.connect().await;
    broken.is_served(1).await;

    panic_at("dropped malformed observations", "fragile-2");
    broken.record(2, vec![0xff; 16]).await;
    let end = loop {
        match broken.next().await {
            Ok(Some(Down::Ack(ack))) => assert!(ack.sequence < 2, "what panicked is not acked"),
            Ok(Some(_)) => {}
            Ok(None) => panic!("the satellite is told that something went wrong"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
    deployment.becomes("fragile-2", Status::Offline).await;
    neighbour.is_served(2).await;

    panic_no_more("fragile-2");
    let mut again = fragile.connect().await;
    again.is_served(2).await;
    assert!(deployment.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_listed_task_ends_the_server_in_order_and_names_it() {
    let mut deployment = Deployment::start().await;
    let mut uplink = deployment.enrol("solid-3").await.connect().await;
    uplink.is_served(1).await;

    let file = deployment.deployment_file();
    panic_at("cannot refresh the server's certificate", file.to_str().unwrap());
    std::fs::write(&file, "names = 7").unwrap();
    deployment.reload.notify_one();

    uplink.until(|message| matches!(message, Down::Goodbye(_)).then_some(())).await;
    let error = deployment.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Task(_)), "{error}");
    let words = error.to_string();
    assert!(words.starts_with("the task `certificate` panicked (injected)"), "{words}");
}
