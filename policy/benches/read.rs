//! How long a policy of 10,000 checks takes: `cargo bench -p portolan-policy --bench read [CHECKS]`.

use jiff::Timestamp;
use portolan_policy::compile::SatelliteFacts;
use portolan_policy::{PolicyFile, World, compile, differences, inactive, load, read, warnings};
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

const CHECKS: usize = 10_000;
const SEGMENTS: usize = 40;

fn main() {
    let checks = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(CHECKS);
    let files = [PolicyFile { name: "policy.toml".to_owned(), text: text(checks) }];
    let (world, now) = (world(), Timestamp::now());
    println!("{checks} checks, {} KiB, {} satellites", files[0].text.len() >> 10, world.satellites.len());
    let all = Instant::now();
    let policy = timed("read", || read(&files, now));
    let Ok(policy) = policy else {
        println!("the policy has mistakes");
        return;
    };
    timed("compile", || compile(&policy, &world));
    timed("warnings", || warnings(&policy, &world, now));
    timed("load", || load(&policy, &world, now));
    timed("inactive", || inactive(&policy));
    timed("differences to nothing", || differences(None, &policy));
    println!("{:>24}: {:7.1} ms", "all", all.elapsed().as_secs_f64() * 1e3);
    timed("differences to itself", || differences(Some(&policy), &policy));
    let mut edited = policy.clone();
    edited.checks.values_mut().for_each(|check| check.confirm += 1);
    timed("differences everywhere", || differences(Some(&policy), &edited));
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = black_box(work());
    println!("{what:>24}: {:7.1} ms", started.elapsed().as_secs_f64() * 1e3);
    done
}

fn text(checks: usize) -> String {
    let mut text = "version = 1\n".to_owned();
    for n in 0..SEGMENTS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "[segment.s{n}]\ncidrs = [\"10.{n}.0.0/16\", \"fd00:{n}::/48\"]");
    }
    for n in 0..checks {
        let (from, to) = (n % SEGMENTS, n * 7 % SEGMENTS);
        let (third, fourth) = (n / 250 % 250, n % 250 + 1);
        let _ = write!(
            text,
            "\n[[check]]\nname     = \"check-{n}\"\nfrom     = [\"segment:s{from}\"]\n\
             targets  = [\"10.{to}.{third}.{fourth}\", \"10.{to}.{third}.0/29\"]\nopen     = \"80,443\"\n\
             closed   = \"23,5432,6379\"\nblocked  = \"3306\"\nevery    = \"30s\"\nlabels   = {{ team = \"t{to}\" }}\n"
        );
    }
    text
}

fn world() -> World {
    let satellite = |n: usize| {
        let facts = SatelliteFacts {
            segment: format!("s{}", n % SEGMENTS),
            tenant: "default".to_owned(),
            runs_checks: Some(true),
            scope: "10.0.0.0/9".parse().ok().map(|network| vec![network]),
            ..SatelliteFacts::default()
        };
        (format!("satellite-{n}"), facts)
    };
    World { satellites: (0..2 * SEGMENTS).map(satellite).collect(), ..World::default() }
}
