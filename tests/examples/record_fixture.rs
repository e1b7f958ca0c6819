//! Records what this version writes and says, for later versions to be tested against: run by `fixtures/record.sh`.
//!
//! It takes the binaries from `PORTOLAN_BIN_DIR` (or from beside itself) and writes into the directory that
//! `PORTOLAN_FIXTURE` names; `fixtures/README.md` says what each file is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a fixture that cannot be recorded is an error")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use portolan_proto::v1::{self, uplink_down::Message as Down};
use portolan_tests::client::{Between, Client, Way, wire};
use portolan_tests::deployment::Deployment;
use portolan_tests::lab::{Firewall, Lab, Program, run_ok, tcp};
use portolan_tests::universe;
use portolan_tests::wait::{SOON, wait_until};
use prost::Message as _;

/// Where the recorder stands, between the satellite and the server.
const BETWEEN: u16 = 7444;
/// What is scanned at `shop`.
const PORTS: &str = "20-25,80,443,8080";

type Messages = Arc<Mutex<Vec<(Way, Vec<u8>)>>>;

fn main() -> ExitCode {
    universe::run_program(record)
}

fn record(lab: &Lab) {
    let out =
        PathBuf::from(std::env::var_os("PORTOLAN_FIXTURE").expect("PORTOLAN_FIXTURE names a directory"));
    fs::create_dir_all(out.join("console")).unwrap();
    fs::create_dir_all(out.join("expected")).unwrap();
    // The server first: its address is part of what is recorded.
    let deployment = Deployment::new(lab);
    let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
    pc.set_names(&[("shop.lab", shop.v4())]);
    lab.firewall(&Firewall::open().drop("office", "dmz", tcp("443")));
    deployment.init().ok();
    deployment.start();

    deployment.invite("pending-1", "office", &["--ttl", "1h"]);
    deployment.invite("removed-1", "office", &[]);
    deployment.console(&["satellite", "remove", "removed-1"]).ok();
    deployment.enrolled(&pc, "revoked-1", &[]);
    deployment.console(&["satellite", "revoke", "revoked-1"]).ok();
    let satellite = deployment.enrolled(&pc, "office-1", &["--scope", "10.99.0.0/16"]);
    let kept = deployment.directory().join("satellite");
    run_ok(Program::new("cp").arg("-a").arg(satellite.data_dir()).arg(&kept));

    let messages = Messages::default();
    let recorded = messages.clone();
    let between = Between::start(&deployment, &satellite, BETWEEN, move |connection, way, message| {
        if connection == 1 {
            recorded.lock().unwrap().push((way, message.clone()));
        }
        vec![message]
    });
    satellite.dial_port(BETWEEN);
    satellite.start();
    deployment.wait_for_status("office-1", "online");

    let client = Client::operator(&deployment);
    let console = |file: &str, rpc: &str, request: Vec<u8>| {
        let answers = client.ask_raw(&format!("portolan.v1.Console/{rpc}"), request, SOON * 2).unwrap();
        fs::write(out.join("console").join(file), wire::join(&answers)).unwrap();
    };
    let scan = |target: &str| v1::ScanRequest {
        satellites: vec!["office-1".into()],
        targets: vec![target.into()],
        ports: PORTS.into(),
        method: "auto".into(),
        ..v1::ScanRequest::default()
    };
    let before = shop.listen(&[22, 80]);
    console("scan.bin", "Scan", scan("shop.lab").encode_to_vec());
    drop(before);
    let _after = shop.listen(&[22, 8080]);
    console("scan-again.bin", "Scan", scan(&shop.v4().to_string()).encode_to_vec());
    // One that is cancelled while it meets nothing but silence.
    let silent = v1::ScanRequest { ports: "443,1-2000".into(), ..scan("10.99.3.200-210") };
    let call = client.scan(silent);
    wait_until("the scan to begin", SOON, || {
        let said = messages.lock().unwrap();
        said.iter().any(|(way, message)| *way == Way::Up && said_progress(message))
    });
    drop(call);
    wait_until("its end to be acked", SOON, || {
        let said = messages.lock().unwrap();
        let of = |wanted: Way| said.iter().filter(move |(way, _)| *way == wanted);
        let last = of(Way::Up).filter_map(|(_, message)| sequence(message)).max();
        let acked = of(Way::Down).filter_map(|(_, message)| acked(message)).max();
        last.is_some() && acked == last && cancelled(&said)
    });

    deployment.stop().ok();
    satellite.stop().ok();
    drop(between);
    deployment.start();
    let client = Client::operator(&deployment);
    let console = |file: &str, rpc: &str, request: Vec<u8>| {
        let answers = client.ask_raw(&format!("portolan.v1.Console/{rpc}"), request, SOON).unwrap();
        fs::write(out.join("console").join(file), wire::join(&answers)).unwrap();
    };
    console("status.bin", "Status", Vec::new());
    console("satellites.bin", "ListSatellites", Vec::new());
    console(
        "ports.bin",
        "ListPorts",
        v1::ListPortsRequest { all: true, ..Default::default() }.encode_to_vec(),
    );
    let host = shop.v4().to_string();
    console(
        "history.bin",
        "History",
        v1::HistoryRequest { host: host.clone(), ..Default::default() }.encode_to_vec(),
    );
    let expect = |file: &str, words: &[&str]| {
        let text = serde_json::to_string_pretty(&deployment.ask(words)).unwrap();
        fs::write(out.join("expected").join(file), format!("{text}\n")).unwrap();
    };
    expect("satellite-list.json", &["satellite", "list"]);
    expect("ports-all.json", &["ports", "--all"]);
    expect("history.json", &["history", &host]);
    expect("history-by-name.json", &["history", "shop.lab"]);
    drop(client);
    deployment.stop().ok();

    let said = messages.lock().unwrap();
    for (way, file) in [(Way::Up, "uplink-up.bin"), (Way::Down, "uplink-down.bin")] {
        let these: Vec<Vec<u8>> = said.iter().filter(|(w, _)| *w == way).map(|(_, m)| m.clone()).collect();
        println!("{file}: {} messages", these.len());
        fs::write(out.join(file), wire::join(&these)).unwrap();
    }
    pack(deployment.directory(), &out.join("data.tar.gz"));
}

fn pack(directory: &Path, to: &Path) {
    let tar = Program::new("tar").args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--exclude=lock",
    ]);
    let tar = tar.args(["-I", "gzip -9n", "-cf"]).arg(to).arg("-C").arg(directory);
    run_ok(tar.args(["data", "satellite", "admin-context"]));
    println!("{}: {} bytes", to.display(), fs::metadata(to).unwrap().len());
    // Whoever records as root leaves files that anyone may read: they are test keys.
    run_ok(Program::new("chmod").args(["-R", "a+rX"]).arg(to.parent().unwrap()));
}

fn up(message: &[u8]) -> Option<v1::uplink_up::Message> {
    v1::UplinkUp::decode(message).ok()?.message
}

fn said_progress(message: &[u8]) -> bool {
    matches!(up(message), Some(v1::uplink_up::Message::Progress(progress)) if progress.hosts_total == 11)
}

fn sequence(message: &[u8]) -> Option<u64> {
    match up(message)? {
        v1::uplink_up::Message::Record(record) if record.sequence > 0 => Some(record.sequence),
        _ => None,
    }
}

fn acked(message: &[u8]) -> Option<u64> {
    match v1::UplinkDown::decode(message).ok()?.message? {
        Down::Ack(ack) => Some(ack.sequence),
        _ => None,
    }
}

fn cancelled(said: &[(Way, Vec<u8>)]) -> bool {
    let ends = said.iter().filter(|(way, _)| *way == Way::Up).filter_map(|(_, message)| match up(message)? {
        v1::uplink_up::Message::Record(v1::Record { body: Some(v1::record::Body::End(end)), .. }) => {
            Some(end)
        }
        _ => None,
    });
    ends.filter(|end| end.outcome() == v1::scan_end::Outcome::Cancelled).count() == 1
}
