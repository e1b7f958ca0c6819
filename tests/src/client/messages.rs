//! What a satellite says, to be bent as a test likes.

use std::net::IpAddr;
use std::time::SystemTime;

use http_body::Frame;
use portolan_proto::batch;
use portolan_proto::v1;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tonic::codegen::Bytes;

/// How much of a body travels together.
const PIECE: usize = 16 * 1024;

/// gRPC's five bytes before a message that is said to have this length, and what of it there is.
pub(super) fn frame(
    claimed: u32,
    bytes: &[u8],
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + use<> {
    let whole = [&[0], &claimed.to_be_bytes()[..], bytes].concat();
    let pieces: Vec<Bytes> = whole.chunks(PIECE).map(|piece| piece.to_vec().into()).collect();
    tokio_stream::iter(pieces).map(|piece| Ok(Frame::data(piece)))
}

/// The time, as the wire has it.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a clock before the year 292,000,000")
}

/// Hello, with an epoch made of one number.
pub fn hello(epoch: u8) -> v1::Hello {
    v1::Hello {
        version: "0.1.0".into(),
        epoch: vec![epoch; 16],
        capabilities: vec!["connect".into()],
        clock_at_ms: now_ms(),
        ..v1::Hello::default()
    }
}

/// TCP ports `first` to `last` in one state.
pub fn run(state: v1::PortState, first: u32, last: u32) -> v1::StateRun {
    let reason = match state {
        v1::PortState::Open => v1::Reason::SynAck,
        v1::PortState::Closed => v1::Reason::ConnRefused,
        _ => v1::Reason::NoResponse,
    };
    v1::StateRun {
        protocol: v1::Protocol::Tcp.into(),
        state: state.into(),
        reason: reason.into(),
        ports: Some(v1::PortSpans { spans: vec![first, last - first] }),
    }
}

/// What was seen at an address just now.
pub fn host(address: impl Into<IpAddr>, runs: Vec<v1::StateRun>) -> v1::HostObservation {
    let address = address.into();
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    v1::HostObservation {
        target: address.to_string(),
        address: bytes,
        up: true,
        observed_at_ms: now_ms(),
        runs,
        ..v1::HostObservation::default()
    }
}

/// A record of hosts; `scan` is empty when nobody asked.
pub fn observations(sequence: u64, scan: &[u8], hosts: &[v1::HostObservation]) -> v1::Record {
    let mut bytes = Vec::new();
    for host in hosts {
        batch::push(&mut bytes, host);
    }
    let body = Some(v1::record::Body::Observations(bytes));
    v1::Record { sequence, scan_id: scan.to_vec(), body, ..v1::Record::default() }
}

/// The record that ends a scan well.
pub fn end(sequence: u64, scan: &[u8]) -> v1::Record {
    let end = v1::ScanEnd {
        outcome: v1::scan_end::Outcome::Complete.into(),
        started_at_ms: now_ms(),
        finished_at_ms: now_ms(),
        method: "connect".into(),
        ..v1::ScanEnd::default()
    };
    let body = Some(v1::record::Body::End(end));
    v1::Record { sequence, scan_id: scan.to_vec(), body, ..v1::Record::default() }
}
