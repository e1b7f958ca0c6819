//! How fast one host's UDP ports may be probed when it limits its ICMP errors. Pure.
//!
//! A closed UDP port is known by an ICMP error, and most hosts ration those: Linux sends six to one peer, then one a
//! second (`icmp_ratelimit`, a token bucket); BSD a number a second; others any number. A probe that met an empty
//! bucket looks like one that met a firewall, so two things are needed: to probe as fast as errors come, not faster,
//! and to know which silences mean something.
//!
//! **Pace.** Until a host that sends errors falls silent, nothing is held back: open ports answer at once. From then on
//! a probe leaves when the next token should be there. Where none was, others follow in small steps until an error
//! comes. That one met the token as it came, and two such errors tell the interval exactly, whatever was wasted in
//! between; the bucket fills meanwhile, so the waste costs no time. When probe after probe is answered, the limit may
//! be laxer than thought, and the pace quickens until one is missed.
//!
//! **Proof.** Only errors take tokens, and errors are seen. So a token was there for a probe when for a while before it
//! no other probe drew an error ([`Pacing::proves_silence`]). Silent ports therefore cost no tokens and need no pace:
//! once the host has been quiet for that long, they are all asked in one go.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Errors and probes remembered: one host never takes more than some 2 KiB.
const MEMORY: usize = 64;

/// A token is there after this long without an error, or after twice the learned interval: twice Linux's interval, so
/// that a single error lost on its way does not mislead.
const QUIET: Duration = Duration::from_millis(2200);

/// The longest interval that is taken for granted before it was measured.
const SEARCH: Duration = Duration::from_millis(20);

/// The longest step from a probe that met no token to the next.
const LONGEST_STEP: Duration = Duration::from_millis(25);

/// So long after the first probe, a bucket that an earlier scan left empty has had a token: Linux's interval.
const FIRST_TOKEN: Duration = Duration::from_millis(1100);

/// The step while no error comes anyway.
const TRICKLE: Duration = Duration::from_millis(1);

/// The shortest interval that matters; hosts with more errors to give are as good as unlimited.
const SHORTEST: Duration = Duration::from_micros(50);

/// The longest interval that is believed: where few of many silent ports are closed, errors are rarer than tokens.
const LONGEST: Duration = Duration::from_secs(2);

/// How many probes in a row are answered before the pace quickens.
const STREAK: u32 = 4;

/// Measurements of the interval remembered. The shortest of them is believed: a silent port or a loss only makes one
/// longer.
const SAMPLES: usize = 8;

/// How long an error is waited for before the next probe, at most.
const MAX_PATIENCE: Duration = Duration::from_millis(500);

/// The pace of one host.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Pacing {
    /// Whether a probe went unanswered although the host sends errors.
    limited: bool,
    /// When the first probe left.
    first: Option<Instant>,
    /// When the latest probes left, but those that a datagram answered.
    sent: VecDeque<Instant>,
    /// When the probes left that the latest errors answered.
    errors: VecDeque<Instant>,
    /// The latest of those.
    drew: Option<Instant>,
    /// The latest measurements of the time between two tokens.
    samples: VecDeque<Duration>,
    /// The time from a probe that drew an error to the next one.
    gap: Duration,
    /// How long after a probe its error would be here.
    patience: Duration,
    /// A probe that drew an error just as the token came.
    anchor: Option<Instant>,
    /// Errors since.
    since: u32,
    /// Probes answered in a row.
    streak: u32,
}

impl Pacing {
    /// Of a host of which nothing is known.
    pub(in crate::engine) fn new() -> Self {
        Self::default()
    }

    /// When the next probe may leave: `now`, or later. Ask again when something has come. The first probe to each port
    /// need not wait for it, if only [`Pacing::sent`] is told.
    pub(in crate::engine) fn next_at(&self, now: Instant) -> Instant {
        let (true, Some(last)) = (self.limited, self.sent.back()) else { return now };
        let vain = self.drew.map_or(Duration::ZERO, |drew| last.saturating_duration_since(drew));
        let step = if self.is_quiet(now) {
            TRICKLE
        } else if vain <= self.patience {
            // The answer may be on its way.
            self.gap.min(self.patience)
        } else {
            // The longer there was no token, the longer it may take.
            (vain / 16).min(LONGEST_STEP)
        };
        let token = self.drew.map_or(now, |drew| drew + self.gap);
        now.max(*last + step).max(token)
    }

    /// A probe left.
    pub(in crate::engine) fn sent(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        remember(&mut self.sent, now, MEMORY);
    }

    /// An ICMP port unreachable came from the host itself, about a probe that left at `sent`. Where several probes may
    /// have drawn it, the latest of them is the safe choice.
    pub(in crate::engine) fn unreachable(&mut self, sent: Instant, now: Instant) {
        let round_trip = now.saturating_duration_since(sent);
        let patience = round_trip * 2 + Duration::from_millis(5);
        self.patience = patience.max(self.patience * 7 / 8).min(MAX_PATIENCE);
        remember(&mut self.errors, sent, MEMORY);
        let before = self.drew.replace(self.drew.map_or(sent, |drew| drew.max(sent)));
        self.since = self.since.saturating_add(1);
        let Some(before) = before.filter(|before| self.limited && *before < sent) else { return };
        if self.sent.iter().any(|other| before < *other && *other < sent) {
            // The one before met no token.
            if let Some(anchor) = self.anchor {
                self.learn(sent.saturating_duration_since(anchor), self.since);
            }
            (self.anchor, self.since, self.streak) = (Some(sent), 0, 0);
        } else {
            self.streak = self.streak.saturating_add(1);
            if self.streak >= STREAK {
                self.gap = (self.gap * 2 / 3).max(SHORTEST);
            }
        }
    }

    /// A probe was not answered in time.
    pub(in crate::engine) fn silent(&mut self, now: Instant) {
        let Some(first) = self.errors.front() else { return };
        if !self.limited {
            self.limited = true;
            // The rate so far, the silence included.
            let rate = now.saturating_duration_since(*first) / self.errors.len().max(1) as u32;
            self.gap = rate.clamp(SHORTEST, SEARCH);
        }
    }

    /// A datagram answered the probe that left at `sent`: it drew no error, and was not in vain.
    pub(in crate::engine) fn answered(&mut self, sent: Instant) {
        if let Some(place) = self.sent.iter().rposition(|other| *other == sent) {
            self.sent.remove(place);
        }
    }

    /// Whether the host sends ICMP errors and may limit them: then a silence proves nothing by itself.
    pub(in crate::engine) fn is_limited(&self) -> bool {
        self.limited
    }

    /// The learned time between two errors, 50 us to 2 s; `None` before it was measured. It is the shortest of the
    /// latest measurements, and too short where tokens had piled up.
    pub(in crate::engine) fn interval(&self) -> Option<Duration> {
        self.samples.iter().min().copied()
    }

    /// Whether silence to a probe that left at `sent` counts: were the port closed, the host would have said so. To be
    /// asked when the probe has timed out, so that the errors of the probes around it are here.
    ///
    /// It counts if no probe drew an error in the 2.2 s (or two learned intervals, if longer) before it, nor was the
    /// first probe of all sent in that time: then a token had come in between, and nobody took it. Where the host has
    /// sent no errors at all, it counts from 1.1 s after the first probe: a scan just before may have drained the
    /// bucket. It holds for limits of an error every 2 s or better; where errors get lost too, of one every 1.1 s. As
    /// ever, one silence may be a loss: a port needs as many that count as it would need on a host without limits,
    /// spread over a second at least.
    pub(in crate::engine) fn proves_silence(&self, sent: Instant) -> bool {
        let Some(first) = self.first.filter(|first| *first <= sent) else { return false };
        if self.drew.is_none() {
            return sent - first >= FIRST_TOKEN;
        }
        let calm = |drew: &Instant| *drew > sent || sent.saturating_duration_since(*drew) >= self.quiet();
        let forgotten = self.errors.len() == MEMORY && self.errors.iter().all(|drew| *drew > sent);
        !forgotten && self.errors.iter().all(calm) && calm(&first)
    }

    // --- private ---

    /// How long a host must have sent no error for a token to be there.
    fn quiet(&self) -> Duration {
        QUIET.max(self.interval().unwrap_or_default() * 2)
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.drew.is_none_or(|drew| now.saturating_duration_since(drew) >= self.quiet())
    }

    /// Takes one measurement: this many tokens came in this time.
    fn learn(&mut self, time: Duration, tokens: u32) {
        let mut sample = (time / tokens.max(1)).clamp(SHORTEST, LONGEST);
        if self.streak >= STREAK {
            // It was measured at the pace of the probes, up to the one that was missed.
            sample = sample.min(self.gap * 3 / 2);
        }
        remember(&mut self.samples, sample, SAMPLES);
        self.gap = self.interval().unwrap_or(sample);
    }
}

fn remember<T>(things: &mut VecDeque<T>, thing: T, most: usize) {
    if things.len() == most {
        things.pop_front();
    }
    things.push_back(thing);
}
