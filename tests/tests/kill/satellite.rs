//! The satellite, killed while it scans. A peer between it and its server knows every record that it ever sent, and
//! keeps some of them from the server, so that the satellite alone has them when it dies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use portolan_proto::batch;
use portolan_proto::v1::{self, PortState, uplink_down::Message as Down, uplink_up::Message as Up};
use portolan_tests::chance::Chance;
use portolan_tests::client::{Between, Client, ScanCall, Way, now_ms};
use portolan_tests::deployment::Deployment;
use portolan_tests::lab::{Host, Lab};
use portolan_tests::ports;
use portolan_tests::wait::{SOON, wait_until};
use portolan_tests::{figure, in_lab};
use prost::Message as _;

use super::{kills, limit};

/// Deployments that run side by side.
const SIDE_BY_SIDE: u64 = 2;
/// Where the peer stands.
const BETWEEN: u16 = 7444;
/// Ports of which some listen.
const PORTS: std::ops::Range<u16> = 1000..1016;
/// A killed satellite is back within this, by itself.
const BACK: Duration = Duration::from_secs(20);

/// What passes the peer during one life of the satellite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Everything.
    Nothing,
    /// After so many records no other reaches the server.
    Records(usize),
    /// No ack reaches the satellite.
    Acks,
}

/// When the satellite dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its process was made.
    Starting(Duration),
    /// So long after its scan was asked for.
    Scanning(Duration),
    /// When it has sent so many records in this life.
    Records(usize),
}

impl Moment {
    fn any(chance: &mut Chance) -> Self {
        match chance.below(8) {
            0 => Self::Starting(chance.up_to(Duration::from_millis(200))),
            1..=3 => Self::Scanning(chance.up_to(Duration::from_millis(400))),
            _ => Self::Records(usize::try_from(chance.between(1, 6)).unwrap()),
        }
    }
}

/// Everything that the satellite ever said that must not be lost.
#[derive(Debug, Default)]
struct Seen {
    epoch: Vec<u8>,
    /// By sequence; how long it waited may change.
    records: BTreeMap<u64, v1::Record>,
    /// Acked by the server, whether the satellite heard of it or not.
    acked: u64,
    hold: Option<Hold>,
    connection: u64,
    /// Of this connection: the last sequence, and how many records.
    last: u64,
    count: usize,
    /// Scans that ran to their end.
    completed: u64,
    again: u64,
    wrong: Vec<String>,
}

impl Seen {
    fn hear(&mut self, connection: u64, way: Way, message: Vec<u8>) -> Vec<Vec<u8>> {
        if connection < self.connection {
            return vec![message];
        }
        let pass = match way {
            Way::Up => self.up(connection, &message),
            Way::Down => self.down(&message),
        };
        if pass { vec![message] } else { Vec::new() }
    }

    fn up(&mut self, connection: u64, message: &[u8]) -> bool {
        match v1::UplinkUp::decode(message).expect("a message").message {
            Some(Up::Hello(hello)) => {
                self.connection = connection;
                self.count = 0;
                if self.epoch.is_empty() {
                    self.epoch = hello.epoch;
                } else if self.epoch != hello.epoch {
                    self.wrong.push(format!("another epoch: {:02x?}", hello.epoch));
                    self.epoch = hello.epoch;
                }
                let sent = self.records.keys().next_back().copied().unwrap_or(0);
                if hello.last_sequence < sent {
                    self.wrong
                        .push(format!("Hello says {} is the last, {sent} was sent", hello.last_sequence));
                }
                true
            }
            Some(Up::Record(record)) => {
                self.record(record);
                self.count += 1;
                !matches!(self.hold, Some(Hold::Records(pass)) if self.count > pass)
            }
            _ => true,
        }
    }

    fn record(&mut self, record: v1::Record) {
        let record = v1::Record { waited_ms: 0, ..record };
        if record.first_sequence != 0 || record.dropped.is_some() {
            self.wrong.push(format!("something was dropped: {:?}", record.dropped));
        }
        if record.sequence != self.last + 1 {
            self.wrong.push(format!("{} came after {}", record.sequence, self.last));
        }
        self.last = record.sequence;
        match self.records.get(&record.sequence) {
            Some(known) if *known != record => {
                self.wrong.push(format!("{} came again with other content", record.sequence));
            }
            Some(_) => self.again += 1,
            None => {
                let complete = v1::scan_end::Outcome::Complete;
                self.completed += match &record.body {
                    Some(v1::record::Body::End(end)) => u64::from(end.outcome() == complete),
                    _ => 0,
                };
                self.records.insert(record.sequence, record);
            }
        }
    }

    fn down(&mut self, message: &[u8]) -> bool {
        match v1::UplinkDown::decode(message).expect("a message").message {
            Some(Down::Welcome(welcome)) => {
                self.last = welcome.acked_sequence;
                self.acked = welcome.acked_sequence;
                true
            }
            Some(Down::Ack(ack)) => {
                self.acked = self.acked.max(ack.sequence);
                self.hold != Some(Hold::Acks)
            }
            _ => true,
        }
    }

    fn sent(&self) -> u64 {
        self.records.keys().next_back().copied().unwrap_or(0)
    }

    /// Every observation of a host, in the order of the records.
    fn observations(&self, address: IpAddr) -> impl Iterator<Item = v1::HostObservation> {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let hosts = self.records.values().filter_map(|record| match &record.body {
            Some(v1::record::Body::Observations(hosts)) => Some(hosts),
            _ => None,
        });
        let hosts = hosts.flat_map(|hosts| batch::hosts(hosts).map(Result::unwrap));
        hosts.filter(move |host| host.address == bytes)
    }

    /// When a host was looked at, and what was open then.
    fn looks(&self, address: IpAddr) -> Vec<(i64, BTreeSet<u16>)> {
        let open = |host: &v1::HostObservation| -> BTreeSet<u16> {
            let runs = host.runs.iter().filter(|run| run.state() == PortState::Open);
            runs.flat_map(ports_of).map(|port| u16::try_from(port).unwrap()).collect()
        };
        self.observations(address).map(|host| (host.observed_at_ms, open(&host))).collect()
    }

    /// What the records tell of a host: every change of a port, oldest first; what was seen together by port.
    fn changes(&self, address: IpAddr) -> Vec<(u16, bool)> {
        let mut known: BTreeMap<u32, PortState> = BTreeMap::new();
        let mut changes = Vec::new();
        for host in self.observations(address) {
            let mut together = BTreeMap::new();
            for run in &host.runs {
                for port in ports_of(run) {
                    if known.insert(port, run.state()).is_some_and(|before| before != run.state()) {
                        together.insert(u16::try_from(port).unwrap(), run.state() == PortState::Open);
                    }
                }
            }
            changes.extend(together);
        }
        changes
    }
}

fn ports_of(run: &v1::StateRun) -> Vec<u32> {
    let mut next = 0;
    let span = |pair: &[u32]| {
        let first = next + pair[0];
        next = first + pair[1] + 1;
        first..next
    };
    run.ports.iter().flat_map(|ports| ports.spans.chunks(2)).flat_map(span).collect()
}

/// One deployment with one satellite, and all that is known of it.
struct Stage {
    seen: Arc<Mutex<Seen>>,
    between: Between,
}

impl Stage {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics with it")
    }

    #[track_caller]
    fn check(&self, when: &str) {
        let seen = self.seen();
        assert!(seen.wrong.is_empty(), "{when}: {:#?}", seen.wrong);
    }
}

fn request(target: &str) -> v1::ScanRequest {
    v1::ScanRequest {
        satellites: vec!["office-1".into()],
        targets: vec![target.to_owned()],
        ports: format!("{}-{}", PORTS.start, PORTS.end - 1),
        method: "connect".into(),
        ..v1::ScanRequest::default()
    }
}

/// Some of the ports.
fn some_ports(chance: &mut Chance) -> Vec<u16> {
    PORTS.filter(|_| chance.below(2) == 0).collect()
}

fn kill_satellites(lab: &Lab, number: u64, kills: u64) {
    let mut chance = Chance::of_run(&format!("kill satellite-{number}"));
    let host = |segment: &str, name: &str| -> Host { lab.host(segment, &format!("{name}-{number}")) };
    let (place, pc, shop) = (host("server", "server"), host("office", "pc"), host("dmz", "shop"));
    let deployment = Deployment::on(lab, &place, &format!("deployment-{number}"));
    deployment.init().ok();
    deployment.start();
    let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16,127.0.0.0/8"]);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let hands = seen.clone();
    let between = Between::start(&deployment, &satellite, BETWEEN, move |connection, way, message| {
        hands.lock().expect("nobody panics with it").hear(connection, way, message)
    });
    let stage = Stage { seen, between };
    satellite.dial_port(BETWEEN);
    let client = Client::operator(&deployment);
    // Scanned side by side, so that several have something to keep at any moment.
    let targets = [shop.v4().to_string(), "127.0.0.0/23".into(), "127.0.2.0/24".into()];
    let mut listener = shop.listen(&[]);
    let mut listened: Vec<(i64, BTreeSet<u16>)> = Vec::new();
    let (mut with_records, mut longest) = (0, Duration::ZERO);

    for cycle in 1..=kills {
        let hold = match chance.below(3) {
            0 => Hold::Nothing,
            1 => Hold::Records(usize::try_from(chance.below(3)).unwrap()),
            _ => Hold::Acks,
        };
        let moment = Moment::any(&mut chance);
        eprintln!("satellite-{number} cycle {cycle}: {hold:?} {moment:?}");
        drop(listener);
        let open = some_ports(&mut chance);
        listener = shop.listen(&open);
        listened.push((now_ms(), open.into_iter().collect()));
        let (known, completed, connections) = {
            let mut seen = stage.seen();
            seen.hold = Some(hold);
            (seen.sent(), seen.completed, stage.between.connections())
        };
        satellite.start();
        let born = Instant::now();
        if let Moment::Starting(pause) = moment {
            thread::sleep(pause);
        } else {
            wait_until("the satellite to be back", BACK, || {
                assert!(satellite.is_running(), "it ended by itself:\n{}", satellite.log());
                let seen = stage.seen();
                seen.connection > connections && stage.between.connections() == seen.connection
            });
            wait_until("the server to see it", BACK, || deployment.status_of("office-1") == "online");
            longest = longest.max(born.elapsed());
            let calls = targets.each_ref().map(|target| client.scan(request(target)));
            match moment {
                Moment::Scanning(pause) => thread::sleep(pause),
                Moment::Records(count) => {
                    // Fewer than asked for are enough when the scans are over.
                    wait_until("its records", SOON, || {
                        let seen = stage.seen();
                        let over = calls.iter().all(ScanCall::is_over);
                        seen.count >= count || seen.completed >= completed + calls.len() as u64 || over
                    });
                }
                Moment::Starting(_) => {}
            }
        }
        assert!(satellite.is_running(), "it ended by itself:\n{}", satellite.log());
        satellite.crash();
        with_records += u64::from(stage.seen().sent() > known);
        stage.check(&format!("satellite-{number} cycle {cycle}"));
    }

    // Everything that it ever sent arrives, and what is open is open.
    stage.seen().hold = None;
    satellite.start();
    deployment.wait_for_status("office-1", "online");
    let mut last = client.scan(request(&targets[0]));
    let ended = last.wait(SOON * 2).expect("the last scan ends").expect("and well").expect("with an end");
    assert!(ended.complete, "{ended:?}");
    wait_until("everything to be acked", SOON, || {
        let seen = stage.seen();
        seen.acked == seen.sent()
    });
    stage.check("at the end");
    let seen = stage.seen();
    let looked = compare_with_truth(&seen, shop.v4(), &listened);
    for address in [shop.v4(), "127.0.0.1".parse().unwrap()] {
        compare_history(&deployment, address, &seen.changes(address));
    }
    let open = deployment.ask(&["ports", "--host", &shop.v4().to_string()]);
    let open: BTreeSet<u16> = open
        .as_array()
        .unwrap()
        .iter()
        .map(|port| u16::try_from(port["port"].as_u64().unwrap()).unwrap())
        .collect();
    let listening: BTreeSet<u16> = PORTS.filter(|port| answers(&shop, *port)).collect();
    assert_eq!(ports::format(&open), ports::format(&listening));
    drop(listener);
    figure!(
        "satellite-{number}: {kills} kills, {with_records} of them after new records, {} records, {} sent again, \
         {looked} looks at the listener, longest start to online {longest:?}",
        seen.records.len(),
        seen.again
    );
    assert!(with_records * 2 > kills, "most kills hit nothing: {with_records} of {kills}");
}

fn answers(host: &Host, port: u16) -> bool {
    host.inside(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
}

/// Fails unless every look at a host found open what listened at that time; says how many looks there were.
#[track_caller]
fn compare_with_truth(seen: &Seen, address: IpAddr, listened: &[(i64, BTreeSet<u16>)]) -> usize {
    let looks = seen.looks(address);
    for (at, open) in &looks {
        let truth = listened.iter().rev().find(|(since, _)| since <= at).map(|(_, ports)| ports);
        let truth = truth.unwrap_or_else(|| panic!("something was seen before there was anything, at {at}"));
        assert_eq!(ports::format(open), ports::format(truth), "open on {address} at {at}");
    }
    looks.len()
}

/// Fails unless the console tells exactly these changes.
#[track_caller]
fn compare_history(deployment: &Deployment, address: IpAddr, expected: &[(u16, bool)]) {
    let mut told: Vec<(String, u16, bool)> = deployment
        .history(&address.to_string())
        .iter()
        .map(|change| {
            let port = u16::try_from(change["port"].as_u64().unwrap()).unwrap();
            (change["at"].as_str().unwrap().to_owned(), port, change["to"] == "open")
        })
        .collect();
    // What was seen together may be told in any order.
    for together in told.chunk_by_mut(|a, b| a.0 == b.0) {
        together.sort();
    }
    let told: Vec<(u16, bool)> = told.into_iter().map(|(_, port, open)| (port, open)).collect();
    assert_eq!(told, expected, "history of {address}");
}

#[test]
fn a_satellite_killed_at_any_moment_loses_and_repeats_nothing() {
    let kills = kills() / 4;
    in_lab!(within limit(kills), |lab| {
        thread::scope(|scope| {
            let running: Vec<_> = (0..SIDE_BY_SIDE)
                .map(|number| {
                    let share = kills / SIDE_BY_SIDE + u64::from(number < kills % SIDE_BY_SIDE);
                    scope.spawn(move || kill_satellites(lab, number, share))
                })
                .collect();
            for one in running {
                one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    });
}
