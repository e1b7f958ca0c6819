//! A satellite's stream, word for word.

use std::time::Duration;

use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{now_ms, within};
use crate::wait::SOON;

/// Messages on their way that this end keeps.
const OUTBOUND: usize = 4;
/// A stream that says nothing for 16 s is ended.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// An open stream. It says only what it is told to say, and heartbeats once it was greeted.
pub struct Uplink {
    handle: Handle,
    up: Option<mpsc::Sender<v1::UplinkUp>>,
    down: Streaming<v1::UplinkDown>,
}

/// What came from the server.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Down),
    /// The end; the status says why, if anything does.
    End(Option<Status>),
    /// Nothing in the time given.
    Nothing,
}

impl Uplink {
    pub(super) fn outbound() -> (mpsc::Sender<v1::UplinkUp>, ReceiverStream<v1::UplinkUp>) {
        let (up, messages) = mpsc::channel(OUTBOUND);
        (up, ReceiverStream::new(messages))
    }

    pub(super) fn new(
        handle: Handle,
        up: mpsc::Sender<v1::UplinkUp>,
        down: Streaming<v1::UplinkDown>,
    ) -> Self {
        Self { handle, up: Some(up), down }
    }

    /// Sends a message; `false` when the stream is over.
    #[track_caller]
    pub fn send(&self, message: Up) -> bool {
        let Some(up) = &self.up else { return false };
        let sent = within(&self.handle, SOON, up.send(v1::UplinkUp { message: Some(message) }));
        sent.expect("the server reads").is_ok()
    }

    /// Says Hello and waits for Welcome.
    #[track_caller]
    pub fn greet(&mut self, hello: v1::Hello) -> v1::Welcome {
        assert!(self.send(Up::Hello(hello)), "the stream is over");
        let welcome = match self.next(SOON) {
            Heard::Message(Down::Welcome(welcome)) => welcome,
            other => panic!("no Welcome: {other:?}"),
        };
        let up = self.up.as_ref().expect("open").downgrade();
        self.handle.spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                let Some(up) = up.upgrade() else { return };
                let beat = v1::Heartbeat { clock_at_ms: now_ms(), ..v1::Heartbeat::default() };
                if up.send(v1::UplinkUp { message: Some(Up::Heartbeat(beat)) }).await.is_err() {
                    return;
                }
            }
        });
        welcome
    }

    /// The next thing that the server says.
    pub fn next(&mut self, limit: Duration) -> Heard {
        match within(&self.handle, limit, self.down.message()) {
            None => Heard::Nothing,
            Some(Ok(Some(v1::UplinkDown { message: Some(message) }))) => Heard::Message(message),
            Some(Ok(Some(_))) => panic!("a message that this test does not know"),
            Some(Ok(None)) => Heard::End(None),
            Some(Err(status)) => Heard::End(Some(status)),
        }
    }

    /// Waits until the server has acked this sequence; returns the one it acked. The end of the stream is an error.
    ///
    /// # Errors
    /// The status that the stream ended with.
    #[track_caller]
    pub fn acked(&mut self, sequence: u64) -> Result<u64, Option<Status>> {
        loop {
            match self.next(SOON) {
                Heard::Message(Down::Ack(ack)) if ack.sequence >= sequence => return Ok(ack.sequence),
                Heard::Message(_) => {}
                Heard::End(status) => return Err(status),
                Heard::Nothing => panic!("waited in vain for the ack of {sequence}"),
            }
        }
    }

    /// Sends a record and waits until it is acked.
    #[track_caller]
    pub fn deliver(&mut self, record: v1::Record) -> u64 {
        let sequence = record.sequence;
        assert!(self.send(Up::Record(record)), "the stream is over");
        self.acked(sequence).unwrap_or_else(|status| panic!("ended before the ack of {sequence}: {status:?}"))
    }

    /// Waits to be told to scan.
    #[track_caller]
    pub fn scan_asked(&mut self) -> v1::StartScan {
        loop {
            match self.next(SOON) {
                Heard::Message(Down::StartScan(scan)) => return scan,
                Heard::Message(_) => {}
                other => panic!("waited in vain to be told to scan: {other:?}"),
            }
        }
    }

    /// Everything that the server still says, with the status at the end.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<Down>, Option<Status>) {
        let mut messages = Vec::new();
        loop {
            match self.next(SOON) {
                Heard::Message(message) => messages.push(message),
                Heard::End(status) => return (messages, status),
                Heard::Nothing => panic!("the stream did not end; heard {messages:?}"),
            }
        }
    }

    /// Closes this end's half: everything sent arrives, and then the stream's end.
    pub fn close(&mut self) {
        self.up = None;
    }
}
