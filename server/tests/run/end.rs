//! The order of the end: GOAWAY to every connection, then the streams' last words, then the connections.

use crate::deployment::{Deployment, PATIENCE, dial};
use crate::tap::{DATA, Frames, GOAWAY, HEADERS};
use portolan_proto::v1::{self, scan_event::Event, uplink_down::Message as Down};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

/// The kinds of frames since then, without any GOAWAY after the first: the second one says which streams still count,
/// and comes when the peer has answered a ping.
fn told(frames: &Frames, since: usize) -> Vec<u8> {
    let mut kinds = frames.since(since);
    let first = kinds.iter().position(|kind| *kind == GOAWAY).expect("a GOAWAY");
    let mut number = 0;
    kinds.retain(|kind| {
        number += 1;
        *kind != GOAWAY || number == first + 1
    });
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goaway_comes_first_then_the_last_words_of_every_stream() {
    let mut deployment = Deployment::start().await;
    let mut uplinks = Vec::new();
    for name in ["one", "two", "three"] {
        let mut uplink = deployment.enrol(name).await.connect().await;
        uplink.is_served(1).await;
        uplinks.push(uplink);
    }
    let (mut console, console_frames) = deployment.console().await;
    let request = v1::ScanRequest {
        targets: vec!["192.0.2.1".into()],
        ports: "80".into(),
        satellites: vec!["one".into()],
        method: "connect".into(),
        ..v1::ScanRequest::default()
    };
    let mut events = console.scan(request).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
    uplinks[0].until(|message| matches!(message, Down::StartScan(_)).then_some(())).await;

    let before: Vec<usize> = uplinks.iter().map(|uplink| uplink.frames.count()).collect();
    let console_before = console_frames.count();
    let began = Instant::now();
    deployment.shutdown.cancel();

    for (uplink, before) in uplinks.iter_mut().zip(before) {
        uplink.until(|message| matches!(message, Down::Goodbye(_)).then_some(())).await;
        assert!(matches!(uplink.next().await, Ok(None)), "after the goodbye comes the end, and no error");
        assert_eq!(told(&uplink.frames, before), [GOAWAY, DATA, HEADERS]);
    }
    let cut = events.message().await.unwrap_err();
    assert_eq!(cut.code(), Code::Unavailable);
    assert!(cut.message().contains("shutting down"), "{cut:?}");
    assert_eq!(told(&console_frames, console_before), [GOAWAY, HEADERS]);

    deployment.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "nobody had to be waited for: {:?}", began.elapsed());
    assert!(TcpStream::connect(deployment.address).await.is_err(), "the port is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_is_cut_off_after_its_time() {
    let mut deployment = Deployment::start().await;
    // HTTP/2 begins, and then the peer sends nothing any more: not even the answer to a ping.
    let mut deaf = dial(deployment.address, deployment.operator_tls()).await;
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // The server's settings: it has begun as well.
    let mut settings = [0; 9];
    deaf.read_exact(&mut settings).await.unwrap();
    let began = Instant::now();
    deployment.shutdown.cancel();
    deployment.ended().await.unwrap();
    let took = began.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(8)).contains(&took), "{took:?}");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, deaf.read_to_end(&mut rest)).await.expect("the connection is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_not_said_anything_does_not_hold_up_the_end() {
    let mut deployment = Deployment::start().await;
    let _silent = TcpStream::connect(deployment.address).await.unwrap();
    let _no_request = dial(deployment.address, deployment.operator_tls()).await;
    let began = Instant::now();
    deployment.shutdown.cancel();
    deployment.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
