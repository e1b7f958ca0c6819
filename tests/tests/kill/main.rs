//! Death at any moment: server and satellite are killed under load, again and again. What was acked is there, everything
//! counts once, and each starts by itself.
//!
//! `PORTOLAN_LONG_KILLS` says how many kills in all, of which three quarters hit the server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod satellite;
mod server;

use std::time::Duration;

use portolan_tests::chance::amount;

/// Kills in all, without `--long`.
const KILLS: u64 = 200;

fn kills() -> u64 {
    amount("PORTOLAN_LONG_KILLS", KILLS)
}

/// What so many kills may take.
fn limit(kills: u64) -> Duration {
    Duration::from_secs(240) + Duration::from_millis(2_500) * u32::try_from(kills).unwrap()
}
