use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const HOUR: i64 = 3600;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn every(seconds: f64) -> Schedule {
    Schedule::Every(Duration::from_secs_f64(seconds))
}

fn cron(text: &str, zone: &str) -> Schedule {
    Schedule::Cron(Cron::new(text, zone).unwrap())
}

/// Two clocks that a test moves.
struct Clocks {
    start: Instant,
    wall: Timestamp,
    passed: Duration,
    set: SignedDuration,
}

impl Clocks {
    fn at(wall: &str) -> Self {
        Self { start: Instant::now(), wall: time(wall), passed: Duration::ZERO, set: SignedDuration::ZERO }
    }

    fn now(&self) -> Now {
        let passed = SignedDuration::try_from(self.passed).unwrap();
        Now { at: self.start + self.passed, wall: self.wall + passed + self.set }
    }

    /// The wall clock is set.
    fn set(&mut self, seconds: i64) {
        self.set += SignedDuration::from_secs(seconds);
    }

    /// Moves on until nothing is due any more within `seconds`; each run takes `lasts`. When which check began, in
    /// seconds since the beginning.
    fn run(&mut self, table: &mut Timetable, seconds: f64, lasts: Duration) -> Vec<(f64, CheckId)> {
        let end = self.passed + Duration::from_secs_f64(seconds);
        let mut ends: Vec<(Duration, CheckId)> = Vec::new();
        let mut began = Vec::new();
        while self.passed <= end {
            ends.retain(|(at, id)| {
                let over = *at <= self.passed;
                if over {
                    table.finished(*id, self.now());
                }
                !over
            });
            while let Some(id) = table.next_due(self.now()) {
                assert!(ends.iter().all(|(_, running)| *running != id), "it overlaps itself");
                began.push((self.passed.as_secs_f64(), id));
                if lasts.is_zero() {
                    table.finished(id, self.now());
                } else {
                    ends.push((self.passed + lasts, id));
                }
            }
            let wake = table.wake(self.now()).map(|at| at - self.start);
            let next = wake.into_iter().chain(ends.iter().map(|(at, _)| *at)).min();
            self.passed = next.unwrap_or(end).max(self.passed + Duration::from_millis(1)).min(end);
            if self.passed == end {
                break;
            }
        }
        began
    }
}

fn gaps(began: &[(f64, CheckId)]) -> Vec<f64> {
    began.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

#[test]
fn a_check_begins_at_once_and_then_keeps_its_place() {
    let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    let id = CheckId(1);
    table.add(id, &every(3600.0), seed("office-1", "shop"), clocks.now());
    let began = clocks.run(&mut table, 4.0 * 3600.0, Duration::ZERO);
    assert!(began[0].0 < 5.0, "{began:?}");
    assert_eq!(began.len(), 5);
    assert!(gaps(&began)[1..].iter().all(|gap| (gap - 3600.0).abs() < 0.01), "{began:?}");
    // Hours later, after a restart, it has the same place in the hour.
    let place = (began[2].0) % 3600.0;
    let mut clocks = Clocks::at("2026-11-23T01:10:00Z");
    let mut table = Timetable::new(clocks.now());
    table.add(id, &every(3600.0), seed("office-1", "shop"), clocks.now());
    let again = clocks.run(&mut table, 2.0 * 3600.0, Duration::ZERO)[1].0;
    assert!(((again + 600.0) % 3600.0 - place).abs() < 0.01, "{again} and {place}");
}

/// Other names, other places; and no place is crowded.
#[test]
fn checks_are_spread_over_their_interval() {
    let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    for n in 0..1000 {
        table.add(CheckId(n), &every(60.0), seed("office-1", &format!("check-{n}")), clocks.now());
    }
    let first = clocks.run(&mut table, 5.0, Duration::ZERO);
    let minute = clocks.run(&mut table, 60.0, Duration::ZERO);
    let distinct: HashSet<CheckId> = first.iter().map(|(_, id)| *id).collect();
    assert_eq!(distinct.len(), 1000, "all begin at once");
    let mut seconds = [0; 70];
    for (at, _) in &minute {
        seconds[*at as usize] += 1;
    }
    assert!(minute.len() >= 1000 && seconds.iter().all(|count| *count < 50), "{seconds:?}");
    assert!(first.iter().filter(|(at, _)| *at < 1.0).count() < 320, "the beginning is spread too");
}

#[test]
fn what_takes_longer_than_its_interval_misses_turns_and_says_so() {
    let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    let id = CheckId(7);
    table.add(id, &every(1.0), 5, clocks.now());
    let began = clocks.run(&mut table, 30.0, Duration::from_millis(2500));
    assert_eq!(table.takes(id), Some(3));
    assert!(gaps(&began).iter().all(|gap| (gap - 3.0).abs() < 0.01), "{began:?}");
    // It holds again, and says so only once it is sure.
    clocks.run(&mut table, 1.0, Duration::ZERO);
    table.finished(id, clocks.now());
    clocks.run(&mut table, 2.0, Duration::ZERO);
    assert_eq!(table.takes(id), Some(3));
    clocks.run(&mut table, 5.0, Duration::ZERO);
    assert_eq!(table.takes(id), None);
}

#[test]
fn an_order_runs_at_once_or_once_more() {
    let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    let id = CheckId(1);
    table.add(id, &every(86_400.0), 5, clocks.now());
    clocks.run(&mut table, 10.0, Duration::ZERO);
    table.order(id, clocks.now());
    assert_eq!(table.next_due(clocks.now()), Some(id));
    table.order(id, clocks.now());
    table.order(id, clocks.now());
    assert_eq!(table.next_due(clocks.now()), None, "it runs");
    table.finished(id, clocks.now());
    assert_eq!(table.next_due(clocks.now()), Some(id));
    table.finished(id, clocks.now());
    assert_eq!(table.next_due(clocks.now()), None);
    assert_eq!(table.takes(id), None);
    table.remove(id);
    table.order(id, clocks.now());
    assert_eq!(table.next_due(clocks.now()), None);
}

#[test]
fn what_a_blackout_held_back_runs_after_it() {
    let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    for n in 0..100 {
        table.add(CheckId(n), &every(86_400.0), seed("a", &n.to_string()), clocks.now());
    }
    clocks.passed += SPREAD;
    // Some have their place within this hour; they run once all the same.
    for _ in 0..3600 {
        while let Some(id) = table.next_due(clocks.now()) {
            table.defer(id);
        }
        clocks.passed += Duration::from_secs(1);
    }
    table.resume(clocks.now());
    let began = clocks.run(&mut table, 6.0, Duration::ZERO);
    assert_eq!(began.len(), 100);
    let early = began.iter().filter(|(at, _)| at - 3605.0 < 1.0).count();
    assert!(early > 0 && early < 50, "{early}");
}

#[test]
fn replaced_checks_leave_nothing_behind() {
    let clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    for n in 0..10_000 {
        let schedule = if n % 2 == 0 { every(2_592_000.0) } else { cron("0 0 1 * *", "UTC") };
        table.add(CheckId(n), &schedule, n, clocks.now());
        table.remove(CheckId(n));
    }
    assert!(table.turns.len() + table.times.len() < 200);
}

/// When a check by time of day began, as the wall clock said.
fn runs_by_wall(schedule: &Schedule, from: &str, hours: i64) -> Vec<String> {
    let mut clocks = Clocks::at(from);
    let mut table = Timetable::new(clocks.now());
    table.add(CheckId(1), schedule, 0, clocks.now());
    let began = clocks.run(&mut table, (hours * HOUR) as f64, Duration::ZERO);
    let wall = |at: f64| time(from) + SignedDuration::from_secs(at.round() as i64);
    began.iter().map(|(at, _)| wall(*at).to_string()).collect()
}

#[test]
fn days_on_which_clocks_change() {
    let night = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        runs_by_wall(&night, "2026-03-28T00:00:00Z", 72),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
    assert_eq!(
        runs_by_wall(&night, "2026-10-24T00:00:00Z", 72),
        ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // Intervals do not know of it.
    let mut clocks = Clocks::at("2026-03-28T23:00:00Z");
    let mut table = Timetable::new(clocks.now());
    table.add(CheckId(1), &every(600.0), 3, clocks.now());
    let began = clocks.run(&mut table, 6.0 * 3600.0, Duration::ZERO);
    assert!(gaps(&began)[1..].iter().all(|gap| (gap - 600.0).abs() < 0.01));
    // A leap second of the past is a second like others: 2016-12-31T23:59:60Z has no number of its own.
    assert_eq!(runs_by_wall(&cron("0 0 * * *", "UTC"), "2016-12-31T12:00:00Z", 24), ["2017-01-01T00:00:00Z"]);
}

#[test]
fn a_wall_clock_that_is_set_makes_each_time_come_once() {
    let hourly = cron("0 * * * *", "UTC");
    let mut clocks = Clocks::at("2026-11-22T12:30:00Z");
    let mut table = Timetable::new(clocks.now());
    table.add(CheckId(1), &hourly, 0, clocks.now());
    let mut run = |clocks: &mut Clocks, minutes: i64| {
        clocks.run(&mut table, (minutes * 60) as f64, Duration::ZERO).len()
    };
    assert_eq!(run(&mut clocks, 40), 1, "13:00");
    clocks.set(-HOUR);
    assert_eq!(run(&mut clocks, 55), 0, "13:00 has come already");
    assert_eq!(run(&mut clocks, 60), 1, "14:00");
    clocks.set(2 * HOUR);
    assert_eq!(run(&mut clocks, 1), 1, "what it leapt over comes once");
    // A clock that was a year wrong must not hold anything back for a year, nor bring a year's runs.
    clocks.set(365 * 24 * HOUR);
    assert_eq!(run(&mut clocks, 1), 0);
    clocks.set(-365 * 24 * HOUR);
    assert_eq!(run(&mut clocks, 60), 1);
}

proptest! {
    /// Whatever the wall clock does, an interval is an interval: never two runs closer together than that (but for
    /// the first, which comes at once), never none for longer.
    #[test]
    fn intervals_do_not_know_the_wall_clock(
        every_ms in 1_000u64..7_200_000,
        name in "[a-z]{1,8}",
        steps in proptest::collection::vec((0u64..7_200_000, -2 * HOUR..2 * HOUR), 1..20),
    ) {
        let interval = Duration::from_millis(every_ms);
        let mut clocks = Clocks::at("2026-10-25T00:00:00Z");
        let mut table = Timetable::new(clocks.now());
        table.add(CheckId(1), &Schedule::Every(interval), seed("a", &name), clocks.now());
        let mut began = Vec::new();
        for (pass_ms, set) in steps {
            // Not too many turns.
            let pass = Duration::from_millis(pass_ms.min(every_ms * 50));
            began.extend(clocks.run(&mut table, pass.as_secs_f64(), Duration::ZERO));
            clocks.set(set);
        }
        let whole = interval.as_secs_f64();
        prop_assert!(began.first().is_none_or(|(at, _)| *at <= whole.min(5.0)));
        let gaps = gaps(&began);
        prop_assert!(gaps.iter().all(|gap| *gap <= whole + 0.01), "{gaps:?} of {whole}");
        prop_assert!(gaps.iter().skip(1).all(|gap| *gap >= whole - 0.01), "{gaps:?} of {whole}");
        prop_assert!(clocks.passed.as_secs_f64() < whole.min(5.0) || !began.is_empty());
        prop_assert_eq!(table.takes(CheckId(1)), None);
    }

    /// A time of day comes at most once, however the clock is set by up to an hour or two.
    #[test]
    fn a_time_comes_at_most_once(
        minutes in proptest::sample::select(vec!["0", "*/5", "7,23", "30"]),
        steps in proptest::collection::vec((0i64..2 * HOUR, -HOUR..=HOUR), 1..20),
        zone in proptest::sample::select(vec!["UTC", "Europe/Berlin"]),
    ) {
        let schedule = Cron::new(&format!("{minutes} * * * *"), zone).unwrap();
        let mut clocks = Clocks::at("2026-10-24T23:00:00Z");
        let (first, mut latest) = (clocks.now().wall, clocks.now().wall);
        let mut table = Timetable::new(clocks.now());
        table.add(CheckId(1), &Schedule::Cron(schedule.clone()), 0, clocks.now());
        // Where setting the clock back adds up, it is a correction, and its times come again.
        let mut corrected = false;
        let mut runs = 0;
        for (pass, set) in steps {
            runs += clocks.run(&mut table, pass as f64, Duration::ZERO).len();
            latest = latest.max(clocks.now().wall);
            clocks.set(set);
            corrected |= latest.duration_since(clocks.now().wall) > CORRECTION;
        }
        runs += clocks.run(&mut table, 0.0, Duration::ZERO).len();
        latest = latest.max(clocks.now().wall);
        let (mut times, mut next) = (0, first);
        while let Some(at) = schedule.next_after(next).filter(|at| *at <= latest) {
            (times, next) = (times + 1, at);
        }
        prop_assert!(corrected || runs <= times, "{runs} runs, {times} times");
    }

    /// Checks that take longer than their interval never overlap themselves and are never forgotten.
    #[test]
    fn slow_checks_go_on(every_ms in 1_000u64..5_000, lasts_ms in 0u64..20_000) {
        let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
        let mut table = Timetable::new(clocks.now());
        table.add(CheckId(1), &Schedule::Every(Duration::from_millis(every_ms)), 9, clocks.now());
        let began = clocks.run(&mut table, 120.0, Duration::from_millis(lasts_ms));
        let takes = (lasts_ms as f64 / every_ms as f64).ceil().max(1.0) * every_ms as f64 / 1000.0;
        // A run that ends at the very moment of a turn may be in time or not.
        prop_assert!(gaps(&began).iter().all(|gap| *gap <= takes + every_ms as f64 / 1000.0 + 0.01));
        prop_assert!(began.len() as f64 >= (100.0 / (takes + every_ms as f64 / 1000.0)).floor());
    }
}

/// While nothing can be passed on, nothing begins; whoever orders all the while must not fill the memory.
#[test]
fn what_is_due_already_is_not_noted_again() {
    let mut clocks = Clocks::at("2026-11-22T12:00:00Z");
    let mut table = Timetable::new(clocks.now());
    let id = CheckId(1);
    table.add(id, &every(3600.0), 7, clocks.now());
    for _ in 0..1000 {
        clocks.passed += Duration::from_millis(1);
        table.order(id, clocks.now());
    }
    assert!(table.turns.len() <= 3, "{}", table.turns.len());
    assert_eq!(table.next_due(clocks.now()), Some(id));
    assert_eq!(table.next_due(clocks.now()), None);
}
