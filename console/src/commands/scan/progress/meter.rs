//! How fast a satellite goes and when it will be done, from what it reported.

use super::line::away;
use crate::output::text::{count, grouped};
use crate::output::time::span;
use portolan_proto::v1::SatelliteProgress;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over how long the rate of probes is measured: short enough to follow, long enough not to flicker.
const WINDOW: Duration = Duration::from_secs(5);
/// The time constant of the average of ports done a second: a sweep goes in bursts, its end is not foretold by one.
const MEMORY: Duration = Duration::from_secs(15);
/// How long there is nothing to foretell from.
const TOO_EARLY: Duration = Duration::from_secs(5);
/// After how long without a port nothing moves.
const STANDSTILL: Duration = Duration::from_secs(5);
/// After how long without a port, while hosts or probes go on, hosts are being looked for.
const LOOKING: Duration = Duration::from_secs(1);
/// What lies further ahead is a guess.
const FORESEEABLE: Duration = Duration::from_secs(24 * 3600);

/// Follows one satellite.
#[derive(Default)]
pub struct Meter {
    /// Time and probes sent, lately.
    probes: VecDeque<(Instant, u64)>,
    pace: Option<Pace>,
}

/// How ports get done.
struct Pace {
    /// When it was begun to watch.
    since: Instant,
    /// The latest report.
    at: Instant,
    ports_done: u64,
    /// Ports a second, averaged.
    rate: f64,
    /// When a port was done last.
    moved_at: Instant,
    /// What had been done of the rest then.
    hosts_done: u64,
    probes_sent: u64,
}

impl Pace {
    fn new(now: Instant, step: &SatelliteProgress) -> Self {
        Self {
            since: now,
            at: now,
            ports_done: step.ports_done,
            rate: 0.0,
            moved_at: now,
            hosts_done: step.hosts_done,
            probes_sent: step.probes_sent,
        }
    }

    fn add(&mut self, now: Instant, step: &SatelliteProgress) {
        let seconds = now.duration_since(self.at).as_secs_f64();
        if seconds > 0.0 {
            let rate = step.ports_done.saturating_sub(self.ports_done) as f64 / seconds;
            let watched = now.duration_since(self.since);
            // Until there is something to forget it is the plain average.
            let weight = if watched < MEMORY {
                seconds / watched.as_secs_f64()
            } else {
                1.0 - (-seconds / MEMORY.as_secs_f64()).exp()
            };
            self.rate += weight * (rate - self.rate);
            self.at = now;
        }
        if step.ports_done > self.ports_done {
            self.moved_at = now;
            (self.hosts_done, self.probes_sent) = (step.hosts_done, step.probes_sent);
        }
        self.ports_done = step.ports_done;
    }

    /// How long it will take at this pace; none where that cannot be told.
    fn left(&self, now: Instant, step: &SatelliteProgress) -> Option<Duration> {
        let ports = step.ports_total.saturating_sub(step.ports_done);
        let is_moving = now.duration_since(self.moved_at) < STANDSTILL && self.rate > 0.0;
        if ports == 0 || !is_moving || now.duration_since(self.since) < TOO_EARLY {
            return None;
        }
        let left = Duration::try_from_secs_f64(ports as f64 / self.rate).ok()?;
        (left <= FORESEEABLE).then_some(left)
    }

    /// Whether probes leave while ports stand still, and hosts get done or no host that is not done has a port that is.
    fn is_finding_hosts(&self, now: Instant, step: &SatelliteProgress) -> bool {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let is_none_begun =
            product(step.ports_done, step.hosts_total) <= product(step.hosts_done, step.ports_total);
        now.duration_since(self.moved_at) >= LOOKING
            && step.probes_sent > self.probes_sent
            && (step.hosts_done > self.hosts_done || is_none_begun && step.hosts_done < step.hosts_total)
    }
}

impl Meter {
    /// A satellite got this far.
    pub fn add(&mut self, now: Instant, step: &SatelliteProgress) {
        // A satellite that came back may count anew, and while it is away or paused nothing tells how fast it goes.
        let is_anew = self.probes.back().is_some_and(|(_, probes)| *probes > step.probes_sent);
        if step.paused || step.disconnected || is_anew {
            self.probes.clear();
            self.pace = None;
        }
        while self.probes.len() > 1
            && self.probes.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.probes.pop_front();
        }
        self.probes.push_back((now, step.probes_sent));
        match &mut self.pace {
            Some(pace) => pace.add(now, step),
            None => self.pace = Some(Pace::new(now, step)),
        }
    }

    /// Probes a second.
    fn rate(&self) -> Option<f64> {
        let ((first, probes), (last, probes_now)) = (self.probes.front()?, self.probes.back()?);
        let seconds = last.duration_since(*first).as_secs_f64();
        (seconds > 0.0).then(|| probes_now.saturating_sub(*probes) as f64 / seconds)
    }

    /// What is told of it, with `discovers` that it finds out who is there. What matters most comes first, since a narrow terminal has no room for the last.
    pub fn fields(&self, now: Instant, step: &SatelliteProgress, discovers: bool) -> Vec<String> {
        if step.disconnected {
            return vec![away(&step.satellite)];
        }
        let hosts = format!("{}/{}", grouped(step.hosts_done), count(step.hosts_total, "host"));
        let mut fields = vec![hosts, format!("{} open", grouped(step.open_found))];
        if step.paused {
            fields.push("paused".to_owned());
        } else if let Some(pace) = &self.pace {
            if discovers && pace.is_finding_hosts(now, step) {
                fields.insert(0, "finding hosts".to_owned());
            }
            if let Some(left) = pace.left(now, step) {
                fields.push(format!("{} left", span(left.as_secs_f64().ceil() as i64)));
            }
            if let Some(rate) = self.rate() {
                fields.push(format!("{} probes/s", grouped(rate as u64)));
            }
        }
        fields.push(format!("{}/{}", grouped(step.ports_done), count(step.ports_total, "port")));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ports_done: u64, probes_sent: u64) -> SatelliteProgress {
        SatelliteProgress {
            satellite: "a".into(),
            hosts_done: 1,
            hosts_total: 256,
            ports_done,
            ports_total: 256_000,
            open_found: 3,
            probes_sent,
            ..SatelliteProgress::default()
        }
    }

    /// What is said after reports every quarter of a second, of which each knows the seconds since the first.
    fn after(seconds: f64, report: impl Fn(f64) -> SatelliteProgress) -> String {
        let (start, mut meter) = (Instant::now(), Meter::default());
        let mut said = String::new();
        for tick in 0..=(seconds * 4.0) as u32 {
            let (now, step) = (start + Duration::from_millis(250) * tick, report(f64::from(tick) / 4.0));
            meter.add(now, &step);
            said = meter.fields(now, &step, true).join(", ");
        }
        said
    }

    fn ports_at(rate: f64) -> impl Fn(f64) -> SatelliteProgress {
        move |seconds| step((rate * seconds) as u64, (2.0 * rate * seconds) as u64)
    }

    #[test]
    fn the_rate_follows_the_last_seconds_and_the_end_is_foretold_from_more() {
        assert_eq!(after(0.0, ports_at(1_000.0)), "1/256 hosts, 3 open, 0/256,000 ports");
        assert_eq!(
            after(4.0, ports_at(1_000.0)),
            "1/256 hosts, 3 open, 2,000 probes/s, 4,000/256,000 ports",
            "too early"
        );
        assert_eq!(
            after(10.0, ports_at(1_000.0)),
            "1/256 hosts, 3 open, 4m left, 2,000 probes/s, 10,000/256,000 ports"
        );
        // Bursts: 4,000 ports every fourth second are 1,000 a second.
        let bursts = |seconds: f64| step(4_000 * (seconds / 4.0) as u64, (seconds * 100.0) as u64);
        for seconds in [40.0, 41.0, 42.0, 43.0] {
            let said = after(seconds, bursts);
            assert!(said.contains("3m left") || said.contains("4m left"), "{said}");
        }
    }

    #[test]
    fn no_end_is_foretold_that_cannot_be() {
        // 256,000 ports at 2 a second: 35 hours.
        assert!(!after(60.0, ports_at(2.0)).contains("left"));
        let stuck = |seconds: f64| step((seconds.min(20.0) * 1_000.0) as u64, (seconds * 2_000.0) as u64);
        assert!(after(22.0, stuck).contains("left") && !after(26.0, stuck).contains("left"));
        assert!(!after(60.0, |_| step(256_000, 9)).contains("left"));
    }

    #[test]
    fn looking_for_hosts_is_said() {
        let looking = |seconds: f64| SatelliteProgress {
            hosts_done: 1 + (seconds * 50.0) as u64,
            ..step(7, (seconds * 300.0) as u64)
        };
        assert!(after(3.0, looking).starts_with("finding hosts, 151/256 hosts, 3 open"));
        let first = |seconds: f64| SatelliteProgress { hosts_done: 0, ..step(0, (seconds * 300.0) as u64) };
        assert!(after(1.0, first).starts_with("finding hosts"));
        assert!(!after(10.0, ports_at(1_000.0)).contains("finding"));
        // Those that are passed over are done with all their ports.
        let blocks =
            |seconds: f64| SatelliteProgress { hosts_done: 128, ..step(128_000, (seconds * 300.0) as u64) };
        assert!(after(2.0, blocks).starts_with("finding hosts"));
        let (start, mut meter) = (Instant::now(), Meter::default());
        for seconds in 0..3 {
            meter.add(start + Duration::from_secs(seconds), &first(seconds as f64));
        }
        let said = meter.fields(start + Duration::from_secs(2), &first(2.0), false).join(", ");
        assert!(!said.contains("finding"), "where nobody looks: {said}");
        let waiting = |seconds: f64| step((seconds.min(5.0) * 1_000.0) as u64, (seconds * 300.0) as u64);
        assert!(!after(10.0, waiting).contains("finding"), "probes of silent ports");
    }

    #[test]
    fn who_is_away_is_said_and_a_fresh_start_is_no_negative_rate() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        meter.add(start, &step(100, 100));
        meter.add(start + Duration::from_secs(1), &step(0, 0));
        assert_eq!(meter.rate(), None);
        let now = start + Duration::from_secs(9);
        let paused = SatelliteProgress { paused: true, ..step(64_000, 80_000) };
        meter.add(now, &paused);
        assert_eq!(
            meter.fields(now, &paused, true).join(", "),
            "1/256 hosts, 3 open, paused, 64,000/256,000 ports"
        );
        let lost = SatelliteProgress { disconnected: true, ..step(0, 0) };
        assert_eq!(meter.fields(now, &lost, true), ["a is away; waiting up to 60 s for it"]);
    }
}
