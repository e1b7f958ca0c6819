//! Versions beside one another: what an earlier one stored and said is understood, what a later one may add does no
//! harm. `fixtures/README.md` says what was recorded and how.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod earlier;
mod later;

use portolan_tests::deployment::Deployment;

/// Where a peer of another version is made of one of this version.
const BETWEEN: u16 = 7444;

/// Starts a server that keeps everything, however old the fixture has become, and whose numbers anyone may read.
fn start(deployment: &Deployment) {
    deployment.start_with(&deployment.config("metrics = \"anyone\"\nretention = \"3660d\"\n"));
}
