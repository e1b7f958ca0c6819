//! Much of it, and more of it than is followed.

use super::fixture::*;
use crate::evaluate::*;
use portolan_common::addresses::AddressRange;

#[test]
fn what_is_as_it_should_be_needs_no_machines() {
    let range: AddressRange = "10.0.0.0-10.0.3.255".parse().unwrap();
    let mut stage = Stage::new([CheckSpec { addresses: range.into(), ..check("22", "1-21,23-65535") }]);
    for number in 0..1024u32 {
        let at = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        stage.see(1, &host(&at, &at, "22", "1-21,23-1000", "1001-65535"));
    }
    assert_eq!(stage.counts().ok, 1024 * 65535);
    assert_eq!(stage.evaluator.machines(), 1024);
}

#[test]
fn of_a_host_where_everything_deviates_some_is_followed_and_the_rest_counted() {
    let mut stage = Stage::new([check("22", "1-21,23-65535")]);
    let told = stage.look(1, "-", "", "");
    assert_eq!(told.len(), 1024);
    let summary = stage.evaluator.summary("web").unwrap();
    assert_eq!((summary.counts.ok, summary.counts.firing, summary.untracked), (1, 1024, 65534 - 1024));
    assert_eq!(summary.counts.unknown, 65534 - 1024);
    let told = stage.look(1, "22", "1-21,23-65535", "");
    assert_eq!(told.len(), 1024);
    assert_eq!(
        (stage.counts().ok, stage.evaluator.machines()),
        (65535, 1024 + 1),
        "what lately fired is kept a while"
    );
    stage.wait(1801);
    assert_eq!(stage.evaluator.machines(), 1);
}

#[test]
fn ports_that_are_seen_one_by_one_stay_few_records() {
    let mut stage = Stage::new([check("", "1-1000")]);
    for port in 1..=1000 {
        stage.look(1, "", &port.to_string(), "");
    }
    stage.wait(1);
    let runs = stage.evaluator.runs("web");
    assert!(runs <= 64, "{runs}");
}

#[test]
fn where_names_lead_has_an_end() {
    let names = ["shop", "mail"].map(str::to_owned).into();
    let mut stage = Stage::new([CheckSpec { addresses: Default::default(), names, ..check("80", "") }]);
    for number in 0..1000 {
        let address = format!("10.1.{}.{}", number / 250, number % 250);
        stage.see(1, &host("shop", &address, "80", "", ""));
    }
    assert_eq!(stage.evaluator.summary("web").unwrap().vantages[0].addresses, 512);
    // Those that it leads to no more make room.
    stage.wait(3 * INTERVAL - 2);
    stage.see(1, &host("shop", "10.1.0.0", "80", "", ""));
    stage.wait(3);
    stage.see(1, &host("shop", "10.1.9.9", "80", "", ""));
    assert_eq!(stage.evaluator.summary("web").unwrap().vantages[0].addresses, 2);
}
