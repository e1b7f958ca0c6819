//! Scans with a hub of one satellite, and a reader.

use super::*;
use crate::uplink::Hub;
use uuid::Uuid;

struct Fixture {
    hub: Arc<Hub>,
    scans: Scans,
    satellite: SatelliteId,
    scan: ScanId,
    joined: crate::uplink::Joined,
}

const PROCESS: ProcessId = ProcessId(Uuid::from_u128(1));

fn fixture() -> Fixture {
    let hub = Arc::new(Hub::default());
    let satellite = SatelliteId(Uuid::from_u128(5));
    let address = "127.0.0.1:1".parse().unwrap();
    let hello = v1::Hello { capabilities: vec!["pause".into()], ..v1::Hello::default() };
    let joined = hub.join(satellite, address, &hello, PROCESS, Timestamp::UNIX_EPOCH);
    Fixture { scans: Scans::new(hub.clone()), hub, satellite, scan: ScanId(Uuid::from_u128(9)), joined }
}

impl Fixture {
    fn lose(&self) {
        self.hub.leave(self.satellite, self.joined.session);
        self.scans.disconnected(self.satellite);
    }

    fn start(&self, absent: Option<&str>) -> Events {
        let participant = Participant {
            id: self.satellite,
            name: "a".into(),
            absent: absent.map(str::to_owned),
            notes: vec!["noted".into()],
        };
        self.scans.start(self.scan, "ada", v1::StartScan::default(), vec![participant], vec![]).unwrap()
    }
}

async fn kinds(mut events: Events) -> Vec<String> {
    let mut kinds = Vec::new();
    while let Some(event) = std::future::poll_fn(|context| events.poll_next(context)).await {
        kinds.push(match event.event.unwrap() {
            Event::Started(_) => "started".into(),
            Event::Progress(p) if p.disconnected => "disconnected".into(),
            Event::Progress(_) => "progress".into(),
            Event::Hosts(h) => format!("{} hosts", h.hosts.len()),
            Event::End(e) if e.complete => "complete".into(),
            Event::End(e) if e.probes_sent > 0 => {
                format!("{} ({} hosts, {} probes)", e.error, e.hosts_total, e.probes_sent)
            }
            Event::End(e) => e.error,
            Event::Finished(_) => "finished".into(),
        });
    }
    kinds
}

fn complete() -> v1::ScanEnd {
    v1::ScanEnd { outcome: v1::scan_end::Outcome::Complete.into(), ..v1::ScanEnd::default() }
}

#[tokio::test]
async fn a_scan_runs_to_its_end() {
    let mut f = fixture();
    let events = f.start(None);
    assert!(matches!(f.joined.messages.try_recv().map(|message| *message), Ok(Down::StartScan(_))));
    f.scans.hosts(f.scan, f.satellite, vec![Vec::new()]);
    f.scans.ended(f.scan, f.satellite, complete());
    f.scans.hosts(f.scan, f.satellite, vec![]);
    assert_eq!(kinds(events).await, ["started", "1 hosts", "complete", "finished"]);
    assert_eq!(f.scans.running(), 0);
}

#[tokio::test]
async fn an_absent_satellite_ends_at_once() {
    let f = fixture();
    assert_eq!(kinds(f.start(Some("offline"))).await, ["started", "offline", "finished"]);
}

#[tokio::test]
async fn a_stream_that_breaks_is_waited_for_but_not_for_ever() {
    let f = fixture();
    let events = f.start(None);
    f.lose();
    f.scans.expire(Instant::now() + PATIENCE / 2, true);
    assert_eq!(f.scans.running(), 1);
    f.scans.expire(Instant::now() + PATIENCE * 2, true);
    let kinds = kinds(events).await;
    assert_eq!(kinds[..2], ["started", "disconnected"]);
    assert!(kinds[3].contains("did not come back"), "{kinds:?}");
}

/// Whatever ends a part that began, what was last known of it is told; of one that never began nothing is.
#[tokio::test]
async fn a_part_that_is_lost_ends_with_what_was_known_of_it() {
    let words = |events| async { kinds(events).await.last_chunk::<3>().unwrap().clone() };
    let far = |f: &Fixture| {
        let events = f.start(None);
        let progress = v1::ScanProgress {
            scan_id: f.scan.as_bytes().to_vec(),
            hosts_total: 256,
            probes_sent: 1_234,
            ..v1::ScanProgress::default()
        };
        f.scans.progress(f.satellite, &progress);
        events
    };
    let f = fixture();
    let events = far(&f);
    f.scans.reconnected(f.satellite, ProcessId(Uuid::from_u128(2)), &[]);
    let restarted = "it restarted during the scan (256 hosts, 1234 probes)";
    assert_eq!(words(events).await, ["progress", restarted, "finished"]);

    let f = fixture();
    let events = far(&f);
    let failed = v1::ScanEnd {
        outcome: v1::scan_end::Outcome::Failed.into(),
        error: "no route".into(),
        ..v1::ScanEnd::default()
    };
    f.scans.ended(f.scan, f.satellite, failed);
    assert_eq!(words(events).await, ["progress", "no route (256 hosts, 1234 probes)", "finished"]);

    let f = fixture();
    let events = far(&f);
    f.scans.expire(Instant::now(), false);
    f.scans.expire(Instant::now() + STORE_PATIENCE / 2, false);
    assert_eq!(f.scans.running(), 1, "the store may be back in a moment");
    f.scans.expire(Instant::now() + STORE_PATIENCE * 2, false);
    let [progress, end, _] = words(events).await;
    assert_eq!(progress, "progress");
    assert!(end.contains("its results wait on the satellite") && end.ends_with("1234 probes)"), "{end}");
}

#[tokio::test]
async fn after_a_reconnect_both_sides_agree() {
    let f = fixture();
    let events = f.start(None);
    f.lose();
    let unknown = ScanId(Uuid::from_u128(77));
    let told = f.scans.reconnected(f.satellite, PROCESS, &[f.scan, unknown]);
    assert!(matches!(&told[..], [Down::CancelScan(c)] if c.scan_id == unknown.as_bytes()));
    let told = f.scans.reconnected(f.satellite, PROCESS, &[]);
    assert!(matches!(&told[..], [Down::StartScan(_)]), "it was lost on the way");
    let told = f.scans.reconnected(f.satellite, ProcessId(Uuid::from_u128(2)), &[]);
    assert!(told.is_empty());
    assert_eq!(
        kinds(events).await,
        [
            "started",
            "disconnected",
            "progress",
            "progress",
            "progress",
            "it restarted during the scan",
            "finished"
        ]
    );
}

#[tokio::test]
async fn a_cancel_ends_within_its_time_even_when_unconfirmed() {
    let f = fixture();
    let events = f.start(None);
    assert!(f.scans.cancel(f.scan));
    assert!(!f.scans.cancel(ScanId(Uuid::nil())));
    f.scans.expire(Instant::now() + CANCEL_PATIENCE * 2, true);
    let kinds = kinds(events).await;
    assert!(kinds[2].contains("cancelled"), "{kinds:?}");
    assert!(f.hub.live(f.satellite).is_some());
}

impl Fixture {
    /// Back, as a version that can do this.
    fn back(&mut self, capabilities: &[&str]) -> Vec<Down> {
        let capabilities = capabilities.iter().map(ToString::to_string).collect();
        let hello = v1::Hello { version: "0.2.0".into(), capabilities, ..v1::Hello::default() };
        let address = "127.0.0.1:1".parse().unwrap();
        self.joined = self.hub.join(self.satellite, address, &hello, PROCESS, Timestamp::UNIX_EPOCH);
        self.scans.reconnected(self.satellite, PROCESS, &[self.scan])
    }

    /// What the satellite was told, `StartScan` left out.
    fn pauses(&mut self) -> Vec<bool> {
        let told = std::iter::from_fn(|| self.joined.messages.try_recv().ok());
        told.filter_map(
            |message| if let Down::PauseScan(pause) = *message { Some(pause.paused) } else { None },
        )
        .collect()
    }

    fn progress(&self, paused: bool) {
        let scan_id = self.scan.as_bytes().to_vec();
        let progress =
            v1::ScanProgress { scan_id, hosts_done: 1, hosts_total: 9, paused, ..Default::default() };
        self.scans.progress(self.satellite, &progress);
    }
}

#[tokio::test]
async fn a_scan_is_paused_listed_and_resumed() {
    let mut f = fixture();
    let _events = f.start(None);
    assert_eq!(f.scans.pause(ScanId(Uuid::nil()), true), None);
    assert_eq!(f.scans.pause(f.scan, true), Some((vec![], false)));
    f.progress(true);
    let listed = f.scans.list().remove(0);
    assert_eq!((listed.scan_id, listed.operator), (f.scan.to_string(), "ada".to_owned()));
    assert!(listed.paused && !listed.cancelled && listed.started_at_ms > 0);
    let office = &listed.satellites[0];
    assert!(office.paused && !office.ended && (office.hosts_done, office.hosts_total) == (1, 9));
    assert_eq!(f.scans.pause(f.scan, false), Some((vec![], false)));
    assert_eq!(f.pauses(), [true, false]);
    assert!(!f.scans.list()[0].paused);
    f.scans.ended(f.scan, f.satellite, complete());
    assert!(f.scans.list().is_empty());
}

/// However long it stands still: its satellite is there.
#[tokio::test]
async fn no_patience_ends_a_scan_that_is_paused() {
    let f = fixture();
    let _events = f.start(None);
    f.scans.pause(f.scan, true);
    f.scans.expire(Instant::now() + PATIENCE * 1000, true);
    assert_eq!(f.scans.running(), 1);
    f.lose();
    f.scans.expire(Instant::now() + PATIENCE * 2, true);
    assert_eq!(f.scans.running(), 0, "a satellite that is gone is given up, paused or not");
}

#[tokio::test]
async fn a_satellite_that_comes_back_is_told_again() {
    let mut f = fixture();
    let _events = f.start(None);
    assert!(f.back(&["pause"]).is_empty(), "nobody paused it");
    f.lose();
    let (failed, is_everywhere) = f.scans.pause(f.scan, true).unwrap();
    assert!(failed[0].error.contains("it is told when it is back") && !is_everywhere, "{failed:?}");
    assert!(matches!(&f.back(&["pause"])[..], [Down::PauseScan(pause)] if pause.paused));
    f.lose();
    f.scans.pause(f.scan, false);
    assert!(matches!(&f.back(&["pause"])[..], [Down::PauseScan(pause)] if !pause.paused));
    // It never heard of the scan: first that, then the rest.
    let told = f.scans.reconnected(f.satellite, PROCESS, &[]);
    assert!(matches!(&told[..], [Down::StartScan(_), Down::PauseScan(_)]), "{told:?}");
}

#[tokio::test]
async fn a_satellite_that_knows_no_pause_goes_on_and_is_named() {
    let mut f = fixture();
    let _events = f.start(None);
    f.lose();
    assert!(f.back(&["connect"]).is_empty());
    let (failed, is_everywhere) = f.scans.pause(f.scan, true).unwrap();
    assert!(is_everywhere && failed[0].satellite == "a", "{failed:?}");
    assert!(failed[0].error.starts_with("its version 0.2.0 cannot pause a scan: update"), "{failed:?}");
    assert!(f.pauses().is_empty() && !f.scans.list()[0].paused);
}

#[tokio::test]
async fn what_a_satellite_passes_over_is_noted_at_its_end() {
    let f = fixture();
    let mut events = f.start(None);
    let end = v1::ScanEnd { notes: vec!["of its own".into(); 100], ..complete() };
    f.scans.ended(f.scan, f.satellite, end);
    let mut notes = Vec::new();
    while let Some(event) = std::future::poll_fn(|context| events.poll_next(context)).await {
        if let Some(Event::End(end)) = event.event {
            notes = end.notes;
        }
    }
    assert_eq!((notes.len(), notes[0].as_str(), notes[1].as_str()), (MAX_NOTES, "noted", "of its own"));
}
