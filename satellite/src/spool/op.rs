//! What the spool's writer is asked for.

use super::record::Spooled;
use super::retention::cost;
use portolan_common::ids::ScanId;
use portolan_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What the writer is asked for.
#[derive(Debug)]
pub enum Op {
    /// A record.
    Push(Box<Push>),
    /// A scan begins.
    Begin(ScanId, oneshot::Sender<()>),
    /// What is not acked gets a new epoch.
    Renumber(oneshot::Sender<()>),
    /// A reader met damage.
    Damaged(String),
    /// Something changed that may make room.
    Nudge,
    /// Finish what came before, close the file, end.
    Stop(oneshot::Sender<()>),
}

/// A record to be kept.
#[derive(Debug)]
pub struct Push {
    /// `None`: what standing checks saw or say.
    pub scan: Option<ScanId>,
    pub record: v1::Record,
    pub hosts: u32,
    pub ends: bool,
    /// Told once it is durable; the writer's own records tell nobody.
    pub reply: Option<oneshot::Sender<()>>,
    /// Its share of the queue, given back when it is done.
    pub room: Option<OwnedSemaphorePermit>,
}

impl Op {
    /// The record, if it is one.
    pub fn push(&self) -> Option<&Push> {
        if let Self::Push(push) = self { Some(push) } else { None }
    }

    /// What it will take up in the file.
    pub fn cost(&self) -> u64 {
        self.push().map_or(0, Push::cost)
    }
}

impl Push {
    /// Nobody waits for it yet.
    pub fn new(scan: Option<ScanId>, body: v1::record::Body) -> Self {
        let (hosts, ends) = match &body {
            v1::record::Body::Observations(hosts) => {
                (portolan_proto::batch::encoded_hosts(hosts).count(), false)
            }
            v1::record::Body::End(_) => (0, true),
            v1::record::Body::CheckStatus(_) => (0, false),
        };
        Self {
            scan,
            record: v1::Record {
                scan_id: scan.map(|scan| scan.as_bytes().to_vec()).unwrap_or_default(),
                body: Some(body),
                ..v1::Record::default()
            },
            hosts: u32::try_from(hosts).unwrap_or(u32::MAX),
            ends,
            reply: None,
            room: None,
        }
    }

    /// What it will take up in the file.
    pub fn cost(&self) -> u64 {
        cost(Spooled::OVERHEAD + prost::Message::encoded_len(&self.record))
    }

    /// As it is kept.
    pub fn spooled(&self, clock_ms: u64, wall_ms: i64, process: u32) -> Spooled {
        // The record is cloned so that a commit that fails can be tried again.
        Spooled {
            clock_ms,
            wall_ms,
            process,
            hosts: self.hosts,
            confirmations: 0,
            record: self.record.clone(),
        }
    }
}
