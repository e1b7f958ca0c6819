//! The lab that Portolan is tested in, and the fixtures that drive its real binaries there.
//!
//! - [`universe`]: each lab test runs again as its own process in namespaces of its own; nothing leaks or collides.
//! - [`lab`]: segments, hosts, a router with a firewall, loss, delay, listeners, processes.
//! - [`judge`]: nmap as the independent opinion on what is open, closed and filtered.
//! - [`scene`]: the scene that most end-to-end tests play in.
//! - [`deployment`]: a Portolan server, its operator and its satellites, as an administrator would set them up.
//! - [`client`]: a peer that says on the wire what no honest program would, or that keeps account of all it said.
//! - [`load`]: a server under a load that can be checked.
//! - [`measure`]: what benchmarks read off processes, and how they tell it.
//! - [`chance`]: what is random in a test, and can be repeated.
//!
//! A test reads like this:
//!
//! ```no_run
//! use portolan_tests::{in_lab, judge, lab::Firewall, lab::tcp};
//!
//! # #[allow(clippy::test_attr_in_doctest)]
//! #[test]
//! fn a_dropped_port_is_filtered() {
//!     in_lab!(|lab| {
//!         let prober = lab.host("office", "prober");
//!         let shop = lab.host("dmz", "shop");
//!         let _http = shop.listen(&[80, 81]);
//!         lab.firewall(&Firewall::open().drop("office", "dmz", tcp("81")));
//!         let seen = judge::nmap_connect(&prober, &[shop.v4()], "79-81");
//!         assert_eq!(seen.of(shop.v4()).to_string(), "open 80; closed 79; filtered 81");
//!     });
//! }
//! ```
//!
//! What the lab, the judge and the deployment know of Portolan is what an operator can see; they use none of the crates
//! under test. [`client`] alone does: it speaks the wire format, and judges nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a lab that cannot be built is a failed test")]

pub mod chance;
pub mod client;
pub mod deployment;
pub mod judge;
pub mod lab;
pub mod load;
pub mod measure;
pub mod ports;
pub mod scene;
pub mod universe;
pub mod wait;

/// Runs the body of a `#[test]` in a universe of its own; see [`universe`].
///
/// The body is a closure over a [`lab::Lab`]. With `rootless` in front, the universe is made by an unprivileged user,
/// also when the tests run as root. With `within` and a duration, that is how long it may take in all.
#[macro_export]
macro_rules! in_lab {
    (rootless, $body:expr) => {{
        fn here() {}
        $crate::universe::run($crate::universe::test_path(here), $crate::universe::User::Unprivileged, $body)
    }};
    (within $limit:expr, $body:expr) => {{
        fn here() {}
        let limit: std::time::Duration = $limit;
        $crate::universe::run_within(
            limit,
            $crate::universe::test_path(here),
            $crate::universe::User::Current,
            $body,
        )
    }};
    ($body:expr) => {{
        fn here() {}
        $crate::universe::run($crate::universe::test_path(here), $crate::universe::User::Current, $body)
    }};
}

/// Ends the test here, counted as skipped and said aloud, not as passed.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::universe::announce_skip(&format!($($reason)+));
        return;
    }};
}

/// Tells what the test measured, also when it passes.
#[macro_export]
macro_rules! figure {
    ($($text:tt)+) => {
        $crate::universe::announce_figure(&format!($($text)+))
    };
}

/// Skips the test unless every one of these programs is installed.
#[macro_export]
macro_rules! need {
    ($($program:expr),+ $(,)?) => {
        for program in [$($program),+] {
            if $crate::lab::find_program(program).is_none() {
                $crate::skip!("{program} is not installed");
            }
        }
    };
}
