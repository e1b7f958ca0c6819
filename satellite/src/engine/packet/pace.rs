//! How fast probes may leave, to one host or along one path. Pure.
//!
//! A window of probes in flight, as TCP has it, needs answers to count, and most of what a scanner sends is never
//! answered: a firewall that drops is not a path that is full. So this is a rate. It doubles until loss is seen, or
//! until more probes bring no more answers (the way BBR leaves its startup), and from then on follows the share that
//! arrives: where each answer took one probe and a half, two thirds of the rate is what passes. Loss is known from
//! answers alone, never from silence. And where answers take longer and longer, a queue is filling somewhere: the rate
//! falls before anything is lost, and before probes are sent again whose answers are only late (as TCP Vegas has it).

use std::time::{Duration, Instant};

/// How fast what nobody answers may be asked: faster only where answers show that it passes, …
const MODEST: f64 = 50_000.0;
/// … which have come within this time.
const FRESH: Duration = Duration::from_millis(400);

/// How long doubling takes while nothing is lost.
const DOUBLING: Duration = Duration::from_millis(10);

/// So many answers in that time are enough to see whether more probes bring more of them, …
const ENOUGH: u32 = 16;
/// … which they do if there are more by this factor, …
const MORE: f64 = 1.25;
/// … or else did not so many times in a row.
const PLATEAU: u32 = 2;

/// Once it has stopped doubling, the rate grows by this share in a second.
const GROWTH: f64 = 0.5;

/// What may leave at once after a pause. Threads sleep no finer.
const BURST: Duration = Duration::from_millis(2);

/// The shortest wait for a token: what is left of one after rounding is not worth less.
const SHORTEST: Duration = Duration::from_micros(5);

/// How many lost probes it takes to judge, and …
const MIN_LOST: u32 = 8;
/// … which share of all is congestion rather than loss by chance.
const CONGESTED: f64 = 0.125;
/// The most that is ever taken for chance.
const MAX_TOLERATED: f64 = 0.7;

/// What is left of the rate when nothing arrives any more.
const BLIND: f64 = 0.25;

/// Answers that take this much longer than they need have stood in a queue; …
const QUEUED: Duration = Duration::from_millis(20);
/// … so many of them all did so, …
const MIN_QUEUED: u32 = 8;
/// … and this much of the rate is left then, or this much of what is answered if that is more.
const RELIEF: f64 = 0.7;
const EMPTYING: f64 = 0.8;

/// What is sent in place of all that would pass, so that a queue on the way empties.
const DRAIN: f64 = 0.95;

/// Bounds of a rate, in packets a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Where it begins.
    pub(super) start: f64,
    /// What loss leaves of it.
    pub(super) min: f64,
    /// How far it grows.
    pub(super) max: f64,
}

/// One host's bounds.
pub(super) const HOST: Bounds = Bounds { start: 20_000.0, min: 5.0, max: 1_000_000.0 };

/// The bounds of all hosts of one network together.
pub(super) const PATH: Bounds = Bounds { start: 40_000.0, min: 100.0, max: 1_000_000.0 };

/// What was seen since the rate was last cut.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    since: Instant,
    sent: u32,
    answered: u32,
    lost: u32,
}

/// A cut, in case it turns out to have been useless.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// What was sent and what was answered before it, a second.
    sent: f64,
    answered: f64,
}

/// A rate that adapts.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    bounds: Bounds,
    rate: f64,
    doubling: bool,
    /// When the rate last grew, the answers since and those of the time before, and how often they were no more.
    stepped: Instant,
    answers: u32,
    answers_before: u32,
    plateau: u32,
    /// When something was last answered, to the nearest step.
    heard: Option<Instant>,
    /// The shortest that an answer since then stood in a queue, and how many say so.
    queued: Duration,
    queued_of: u32,
    /// When the rate may fall again for that.
    relieved_until: Instant,
    /// Tokens at `refilled`; a probe takes one.
    tokens: f64,
    refilled: Instant,
    /// Whether the rate held anything back since then: only then it has shown itself to be bearable.
    limiting: bool,
    stretch: Stretch,
    cut: Option<Cut>,
    /// The share of loss that is taken for chance.
    tolerated: f64,
    era: u8,
    /// The rate when the era began.
    era_rate: f64,
}

impl Pace {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        let rate = bounds.start.min(bounds.max);
        Self {
            rate,
            bounds,
            doubling: true,
            stepped: now,
            answers: 0,
            answers_before: 0,
            plateau: 0,
            heard: None,
            queued: Duration::MAX,
            queued_of: 0,
            relieved_until: now,
            tokens: 1.0,
            refilled: now,
            limiting: false,
            stretch: Stretch { since: now, sent: 0, answered: 0, lost: 0 },
            cut: None,
            tolerated: CONGESTED,
            era: 0,
            era_rate: rate,
        }
    }

    /// Counts, wrapping, how often the rate fell by half: a probe that was sent in an earlier era may have been lost
    /// because far too many were sent, so silence after it proves nothing.
    pub(super) fn era(&self) -> u8 {
        self.era
    }

    /// How many probes may leave now.
    pub(super) fn allowance(&mut self, now: Instant) -> u32 {
        self.refill(now);
        if self.tokens < 1.0 {
            self.limiting = true;
        }
        self.tokens as u32
    }

    /// When the next probe may leave: `now` or later.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        let missing = 1.0 - self.tokens;
        if missing <= 0.0 {
            return now;
        }
        // Never just now: whoever asks would ask for ever.
        let wait = Duration::from_secs_f64(missing / self.rate).max(SHORTEST);
        (self.refilled + wait).max(now + SHORTEST)
    }

    /// Probes left.
    pub(super) fn take(&mut self, probes: u32) {
        self.tokens -= f64::from(probes);
        self.stretch.sent = self.stretch.sent.saturating_add(probes);
    }

    /// A probe was answered, so much later than the host needs for it; `None`: that cannot be told.
    pub(super) fn answered(&mut self, queued: Option<Duration>) {
        if let Some(queued) = queued {
            self.queued = self.queued.min(queued);
            self.queued_of += 1;
        }
        self.stretch.answered = self.stretch.answered.saturating_add(1);
        self.answers = self.answers.saturating_add(1);
    }

    /// An answer shows that a probe sent at `sent` was lost.
    pub(super) fn lost(&mut self, sent: Instant, now: Instant) {
        // What was sent before the last cut says nothing about the rate since.
        if sent < self.stretch.since {
            return;
        }
        self.stretch.lost += 1;
        let Stretch { since, sent, answered, lost } = self.stretch;
        let share = f64::from(lost) / f64::from(answered + lost);
        if lost < MIN_LOST || share <= self.tolerated {
            return;
        }
        let seconds = now.saturating_duration_since(since).as_secs_f64().max(0.001);
        let (sent, answered) = (f64::from(sent) / seconds, f64::from(answered) / seconds);
        self.stretch = Stretch { since: now, sent: 0, answered: 0, lost: 0 };
        self.doubling = false;
        if let Some(cut) = self.cut.take() {
            // Where a path is full, fewer probes bring as many answers; where loss is chance, as many fewer.
            let (sent, answered) = (sent / cut.sent, answered / cut.answered.max(1.0));
            if sent < 0.9 && answered < sent + (1.0 - sent) * 0.3 {
                self.rate = cut.sent.clamp(self.bounds.min, self.bounds.max);
                self.tolerated = (share * 1.25).min(MAX_TOLERATED);
                return;
            }
        }
        self.cut = Some(Cut { sent, answered });
        // More than was sent says nothing.
        // Where nothing at all arrives, it may be an outage as well: not all of the rate goes at once.
        let passes = if answered > 0.0 { (1.0 - share) * DRAIN } else { BLIND };
        self.rate = (self.rate.min(sent) * passes).max(self.bounds.min);
        self.tokens = self.tokens.min(0.0);
        if self.rate * 2.0 < self.era_rate {
            self.era = self.era.wrapping_add(1);
            self.era_rate = self.rate;
        }
    }

    /// An outage is over, which said nothing about the rate: it doubles again, from where it is.
    pub(super) fn restart(&mut self) {
        (self.doubling, self.plateau, self.cut) = (true, 0, None);
    }

    /// This host has no room for as much.
    pub(super) fn relieve(&mut self) {
        self.rate = (self.rate * RELIEF).max(self.bounds.min);
        self.doubling = false;
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        if passed.is_zero() {
            return;
        }
        self.refilled = now;
        let most = (self.rate * BURST.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + self.rate * passed.as_secs_f64()).min(most);
        let since = now.saturating_duration_since(self.stepped);
        if since < DOUBLING {
            return;
        }
        self.stepped = now;
        let (answers, before) = (std::mem::take(&mut self.answers), self.answers_before);
        self.answers_before = answers;
        if answers > 0 {
            self.heard = Some(now);
        }
        let (queued, of) =
            (std::mem::replace(&mut self.queued, Duration::MAX), std::mem::take(&mut self.queued_of));
        if of >= MIN_QUEUED && queued > QUEUED {
            if now >= self.relieved_until {
                // What leaves from now on shows its effect only when the queue has been passed.
                self.relieved_until = now + queued + QUEUED;
                // What comes out of the queue passes; a little less lets it empty.
                let passes = f64::from(answers.max(before)) / since.as_secs_f64() * EMPTYING;
                self.rate = (self.rate * RELIEF).max(passes.min(self.rate)).max(self.bounds.min);
                self.doubling = false;
            }
            return;
        }
        if !std::mem::take(&mut self.limiting) {
            // Something else held it back: this rate was not tried.
            self.plateau = 0;
            return;
        }
        let unheard = self.heard.is_none_or(|heard| now.saturating_duration_since(heard) > FRESH);
        if unheard && self.rate >= MODEST {
            return;
        }
        if !self.doubling {
            self.rate = (self.rate * (1.0 + GROWTH * since.min(DOUBLING).as_secs_f64())).min(self.bounds.max);
            return;
        }
        let no_more = before >= ENOUGH && f64::from(answers) < f64::from(before) * MORE;
        self.plateau = if no_more { self.plateau + 1 } else { 0 };
        if self.plateau >= PLATEAU {
            self.doubling = false;
            // What is answered passes, and perhaps what is not answered with it.
            self.rate = (self.rate / 2.0).max(f64::from(answers.max(before)) / since.as_secs_f64());
        } else {
            self.rate = (self.rate * 2.0).min(self.bounds.max);
        }
        self.era_rate = self.era_rate.max(self.rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends all that may leave, every millisecond.
    fn run(pace: &mut Pace, from: Instant, ms: u32, mut sent: impl FnMut(&mut Pace, u32, Instant)) -> u32 {
        let mut total = 0;
        for i in 1..=ms {
            let now = from + MS * i;
            let n = pace.allowance(now);
            pace.take(n);
            // Sees that it is held back.
            pace.allowance(now);
            total += n;
            sent(pace, n, now);
        }
        total
    }

    #[test]
    fn doubles_until_it_is_fast() {
        let start = Instant::now();
        let mut pace = Pace::new(HOST, start);
        let first = run(&mut pace, start, 10, |_, _, _| ());
        assert!((200..=320).contains(&first), "{first} in the first 10 ms");
        // Without any answer it stays modest.
        run(&mut pace, start + 10 * MS, 90, |_, _, _| ());
        let later = run(&mut pace, start + 100 * MS, 100, |_, _, _| ());
        assert!((4000..=8000).contains(&later), "{later} in 100 ms");
        run(&mut pace, start + 200 * MS, 100, |pace, _, _| pace.answered(None));
        let later = run(&mut pace, start + 300 * MS, 1, |_, _, _| ());
        assert!(later >= 1000, "{later} in a millisecond");
    }

    #[test]
    fn a_path_that_passes_a_part_is_found() {
        let start = Instant::now();
        let mut pace = Pace::new(PATH, start);
        // 50,000 a second pass: of a millisecond's probes 50 are answered, the rest is lost and found out 100 ms later.
        let mut lost: Vec<(Instant, Instant)> = Vec::new();
        run(&mut pace, start, 3000, |pace, n, now| {
            for _ in 0..n.min(50) {
                pace.answered(None);
            }
            lost.extend((50..n).map(|_| (now, now + 100 * MS)));
            lost.retain(|(sent, known)| {
                if *known <= now {
                    pace.lost(*sent, now);
                }
                *known > now
            });
        });
        assert!((20_000.0..=75_000.0).contains(&pace.rate), "{}", pace.rate);
        assert!(pace.era() > 0);
    }

    #[test]
    fn a_limit_on_answers_is_followed_far_down() {
        let start = Instant::now();
        let mut pace = Pace::new(HOST, start);
        let mut credit = 0.0;
        let mut lost: Vec<(Instant, Instant)> = Vec::new();
        run(&mut pace, start, 20_000, |pace, n, now| {
            credit = f64::min(credit + 0.2, 2.0);
            for _ in 0..n {
                if credit >= 1.0 {
                    credit -= 1.0;
                    // Half of what is answered had been sent in vain before.
                    match lost.iter().position(|(_, known)| *known <= now) {
                        Some(i) => {
                            let (sent, _) = lost.swap_remove(i);
                            pace.answered(None);
                            pace.lost(sent, now);
                        }
                        None => pace.answered(None),
                    }
                } else if lost.len() < 5000 {
                    lost.push((now, now + 100 * MS));
                }
            }
        });
        assert!(pace.rate < 1000.0, "{}", pace.rate);
    }

    #[test]
    fn loss_by_chance_is_borne() {
        for percent in [2, 5, 30] {
            let start = Instant::now();
            let mut pace = Pace::new(Bounds { max: 50_000.0, ..PATH }, start);
            let mut i = 0;
            let mut lost: Vec<(Instant, Instant)> = Vec::new();
            run(&mut pace, start, 4000, |pace, n, now| {
                for _ in 0..n {
                    i += 1;
                    if i * 37 % 100 < percent {
                        lost.push((now, now + 100 * MS));
                    } else {
                        pace.answered(None);
                    }
                }
                lost.retain(|(sent, known)| {
                    if *known <= now {
                        pace.lost(*sent, now);
                    }
                    *known > now
                });
            });
            assert!(pace.rate > 15_000.0, "{percent} % left {}", pace.rate);
        }
    }

    #[test]
    fn what_was_sent_before_a_cut_is_not_held_against_it() {
        let start = Instant::now();
        let mut pace = Pace::new(HOST, start);
        let sent = start + MS;
        for _ in 0..100 {
            pace.lost(sent, start + 100 * MS);
        }
        assert_eq!(pace.era(), 1);
    }
}
