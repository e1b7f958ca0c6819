//! The first of the two commands: `deploy/quickstart.sh`, with the binaries that are under test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;
use std::time::Duration;

use portolan_tests::deployment::binaries;
use portolan_tests::in_lab;
use portolan_tests::lab::{Finished, Host, Lab};

/// The script on one machine with one home.
struct Quickstart {
    host: Host,
    home: PathBuf,
}

impl Quickstart {
    fn new(lab: &Lab) -> Self {
        // A space in every path that the script handles.
        Self { host: lab.host("office", "pc"), home: lab.directory("a home") }
    }

    fn run(&self, args: &[&str]) -> Finished {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart.sh");
        let [(_, server), ..] = binaries();
        let program = self.host.command("bash").arg(script).args(args.iter().copied());
        let program = program.env("HOME", &self.home).env("PORTOLAN_HOME", self.home.join("quick start"));
        let program = program.env("PORTOLAN_BIN_DIR", server.parent().expect("a file in a directory"));
        program.limit(Duration::from_secs(120)).run()
    }
}

#[test]
fn it_sets_up_scans_reuses_stops_and_cleans() {
    in_lab!(|lab| {
        let quickstart = Quickstart::new(lab);
        let listener = quickstart.host.listen(&[4321]);
        let first = quickstart.run(&[]);
        first.ok();
        for said in ["initialised", "is online", "4321/tcp", "portolan status", "--stop"] {
            assert!(first.stdout.contains(said) || first.stderr.contains(said), "`{said}` is not in {first}");
        }
        let policy = quickstart.home.join("quick start/policy.toml");
        let portolan = binaries().into_iter().find(|(name, _)| *name == "portolan").expect("the console").1;
        let context = quickstart.home.join("quick start/admin.toml");
        let apply = quickstart
            .host
            .command(portolan.to_str().expect("UTF-8"))
            .arg("policy")
            .arg("apply")
            .arg(&policy);
        apply.env("PORTOLAN_CONTEXT", context).limit(Duration::from_secs(30)).run().ok();
        drop(listener);
        let second = quickstart.run(&[]);
        second.ok();
        let text = format!("{}{}", second.stdout, second.stderr);
        assert!(text.contains("already running") && !text.contains("4321/tcp"), "{second}");
        quickstart.run(&["--stop"]).ok();
        let third = quickstart.run(&[]);
        third.ok();
        let text = format!("{}{}", third.stdout, third.stderr);
        assert!(text.contains("using the server") && !text.contains("initialised"), "{third}");
        quickstart.run(&["--clean"]).ok();
        assert!(!quickstart.home.join("quick start").exists(), "its data is still there");
        assert!(!quickstart.home.join(".config").exists(), "it wrote into the user's own configuration");
    });
}

#[test]
fn it_removes_nothing_that_it_did_not_make() {
    in_lab!(|lab| {
        let quickstart = Quickstart::new(lab);
        let foreign = quickstart.home.join("quick start");
        std::fs::create_dir_all(&foreign).unwrap();
        std::fs::write(foreign.join("thesis.tex"), "years of work").unwrap();
        assert_ne!(quickstart.run(&["--clean"]).code, 0);
        assert_ne!(quickstart.run(&[]).code, 0);
        assert_eq!(std::fs::read_to_string(foreign.join("thesis.tex")).unwrap(), "years of work");
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
    });
}
