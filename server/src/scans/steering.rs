//! What operators see of the scans that run, and how they pause them.

use super::{Part, Running, Scans};
use crate::uplink::Hub;
use portolan_common::ids::{SatelliteId, ScanId};
use portolan_proto::v1::{self, uplink_down::Message as Down};

/// The capability of satellites that know what a pause is: those of 0.2 do not.
pub(super) const PAUSE: &str = "pause";

/// What to tell a satellite.
pub(super) fn pause(id: ScanId, paused: bool) -> Down {
    Down::PauseScan(v1::PauseScan { scan_id: id.as_bytes().to_vec(), paused })
}

impl Scans {
    /// Those that run, oldest first.
    pub fn list(&self) -> Vec<v1::RunningScan> {
        let mut scans: Vec<v1::RunningScan> =
            self.running_scans().iter().map(|(id, running)| running.describe(*id)).collect();
        scans.sort_by(|a, b| (a.started_at_ms, &a.scan_id).cmp(&(b.started_at_ms, &b.scan_id)));
        scans
    }

    /// Pauses or resumes a scan. A satellite that is away is told when it is back. `None` when no such scan runs;
    /// otherwise where it goes on as before, and whether that is everywhere.
    pub fn pause(&self, id: ScanId, paused: bool) -> Option<(Vec<v1::SatelliteFailure>, bool)> {
        let mut scans = self.running_scans();
        let running = scans.get_mut(&id)?;
        let mut parts: Vec<(&SatelliteId, &Part)> =
            running.parts.iter().filter(|(_, part)| !part.ended).collect();
        parts.sort_by_key(|(_, part)| part.place);
        let (mut failed, mut is_any_willing) = (Vec::new(), false);
        for (satellite, part) in parts {
            match tell(&self.hub, *satellite, pause(id, paused)) {
                Ok(()) => is_any_willing = true,
                Err(Untold { why, later }) => {
                    is_any_willing |= later;
                    failed.push(v1::SatelliteFailure { satellite: part.name.clone(), error: why });
                }
            }
        }
        if is_any_willing {
            running.paused = Some(paused);
        }
        Some((failed, !is_any_willing))
    }
}

/// Why a satellite was not told.
struct Untold {
    why: String,
    /// It is told when it is back.
    later: bool,
}

fn tell(hub: &Hub, satellite: SatelliteId, message: Down) -> Result<(), Untold> {
    let Some(live) = hub.live(satellite) else {
        return Err(Untold { why: "it is not connected; it is told when it is back".into(), later: true });
    };
    if !live.can(PAUSE) {
        let why = format!(
            "its version {} cannot pause a scan: update portolan-satellite there, or cancel the scan",
            live.version
        );
        return Err(Untold { why, later: false });
    }
    if hub.send(satellite, message) {
        Ok(())
    } else {
        Err(Untold { why: "it does not read what it is told: try again in a moment".into(), later: false })
    }
}

impl Running {
    fn describe(&self, id: ScanId) -> v1::RunningScan {
        let mut parts: Vec<&Part> = self.parts.values().collect();
        parts.sort_by_key(|part| part.place);
        let progress =
            |part: &Part| v1::SatelliteProgress { ended: part.ended, ..part.last_progress.clone() };
        v1::RunningScan {
            scan_id: id.to_string(),
            started_at_ms: self.started_at.as_millisecond(),
            operator: self.operator.clone(),
            satellites: parts.into_iter().map(progress).collect(),
            paused: self.paused == Some(true),
            cancelled: self.cancelled_at.is_some(),
        }
    }
}
