//! The server, killed under load from synthetic satellites that keep account of all they sent.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use portolan_tests::chance::Chance;
use portolan_tests::deployment::Deployment;
use portolan_tests::lab::{Lab, Process};
use portolan_tests::load::Load;
use portolan_tests::{figure, in_lab, need};

use super::{kills, limit};

/// Deployments that run side by side.
const SIDE_BY_SIDE: u64 = 3;
/// Satellites of each.
const SATELLITES: u16 = 3;
/// Between two records of one satellite.
const PAUSE: Duration = Duration::from_millis(3);
/// A killed server acks again within this, by itself.
const BACK: Duration = Duration::from_secs(20);
/// Kills between two audits.
const AUDIT: u64 = 17;
/// What starting takes about; kills during the start are spread over it.
const STARTING: Duration = Duration::from_millis(250);

/// When the server dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its process was made: while it reads its files, or opens the store, or listens already.
    Starting(Duration),
    /// As soon as anything in the store's directory comes, goes or changes size, for the n-th time.
    Files(u64),
    /// So long after the first ack of this life.
    Working(Duration),
    /// Right after the n-th ack of this life: the next commit is under way.
    Acks(u64),
}

impl Moment {
    fn any(chance: &mut Chance) -> Self {
        match chance.below(10) {
            0..=1 => Self::Starting(chance.up_to(STARTING)),
            2 => Self::Files(chance.between(1, 6)),
            3..=5 => Self::Working(chance.up_to(Duration::from_millis(200))),
            _ => Self::Acks(chance.between(1, 60)),
        }
    }
}

/// Names and sizes of everything in a directory.
fn files(directory: &Path) -> BTreeSet<(String, u64)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let entry = |entry: fs::DirEntry| {
        let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        (entry.file_name().to_string_lossy().into_owned(), size)
    };
    entries.map(entry).collect()
}

/// Lets the server live until its moment has come; says whether it acked anything.
fn live(load: &Load, server: &mut Process, moment: Moment) -> bool {
    let born = Instant::now();
    let before = load.ledgers();
    let store = load.deployment.data_dir().join("store");
    let acks = |wanted: u64| {
        let end = Instant::now() + BACK;
        let start: u64 = before.iter().map(|ledger| ledger.acked()).sum();
        while load.acked() < start + wanted {
            load.check();
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {wanted} acks within {BACK:?}; {:?}", ends(load));
            load.wait_for_ack(&load.ledgers(), Duration::from_millis(20).min(left));
        }
    };
    match moment {
        Moment::Starting(pause) => thread::sleep(pause),
        Moment::Files(times) => {
            let mut seen = files(&store);
            let mut changes = 0;
            while changes < times && born.elapsed() < STARTING * 4 {
                let now = files(&store);
                changes += u64::from(now != seen);
                seen = now;
                thread::sleep(Duration::from_micros(300));
            }
        }
        Moment::Working(pause) => {
            acks(1);
            thread::sleep(pause);
        }
        Moment::Acks(wanted) => acks(wanted),
    }
    assert!(server.is_running(), "the server ended by itself:\n{}", server.stderr());
    load.ledgers().iter().zip(&before).any(|(now, before)| now.acked() > before.acked())
}

fn ends(load: &Load) -> Vec<String> {
    load.satellites.iter().map(|satellite| satellite.last_end()).collect()
}

/// Kills one deployment's server so often.
fn kill_servers(lab: &Lab, number: u64, kills: u64) {
    let name = format!("server-{number}");
    let mut chance = Chance::of_run(&format!("kill {name}"));
    let load = Load::build(Deployment::on(lab, &lab.host("server", &name), &name), SATELLITES, PAUSE);
    load.send_on();
    load.deployment.crash();
    let mut longest = Duration::ZERO;
    let mut working = 0;
    for cycle in 1..=kills {
        let moment = Moment::any(&mut chance);
        eprintln!("{name} cycle {cycle}: {moment:?}");
        let mut server = load.spawn_server();
        let before = load.ledgers();
        let born = Instant::now();
        if matches!(moment, Moment::Acks(_) | Moment::Working(_)) {
            assert!(
                load.wait_for_ack(&before, BACK),
                "cycle {cycle}: no ack within {BACK:?}: {:?}\n{}",
                ends(&load),
                server.stderr()
            );
            longest = longest.max(born.elapsed());
        }
        working += u64::from(live(&load, &mut server, moment));
        server.crash();
        load.check();
        if cycle % AUDIT == 0 || cycle == kills {
            load.start_server();
            load.audit(&mut chance);
            load.audit_metrics();
            load.deployment.crash();
            load.send_on();
        }
    }
    let ledgers = load.ledgers();
    let sent: u64 = ledgers.iter().map(|ledger| ledger.sent()).sum();
    let repeats: u64 = ledgers.iter().map(|ledger| ledger.repeats()).sum();
    figure!(
        "{name}: {kills} kills, {working} while it worked, {sent} records, {repeats} sent again, longest start to ack {longest:?}"
    );
    assert!(sent > kills, "hardly any load: {sent} records");
    assert!(working * 2 > kills, "most kills hit an idle server: {working} of {kills}");
}

#[test]
fn a_server_killed_at_any_moment_loses_and_repeats_nothing() {
    need!("curl");
    let kills = kills() * 3 / 4;
    in_lab!(within limit(kills), |lab| {
        thread::scope(|scope| {
            let running: Vec<_> = (0..SIDE_BY_SIDE)
                .map(|number| {
                    let share = kills / SIDE_BY_SIDE + u64::from(number < kills % SIDE_BY_SIDE);
                    scope.spawn(move || kill_servers(lab, number, share))
                })
                .collect();
            for one in running {
                one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    });
}
