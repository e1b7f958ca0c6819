//! Whether the answers are the target's own. Pure.
//!
//! A middlebox that answers every SYN makes every port look open, and one that resets in the target's name makes ports
//! look closed behind an open path. Both give themselves away: by ports that nobody asked for and that answer all the
//! same, by handshakes no TCP stack would make, by a different number of hops.

use portolan_common::observation::{SuspectKind, Suspicion};

/// How many ports nobody asked for are probed on a host of which every answer said open.
pub(super) const CANARIES: usize = 3;

/// No stack announces a window this small when a connection begins; a tarpit does, to hold the peer.
const TARPIT_WINDOW: u16 = 64;

/// Fewer resets with strange hop counts may be an accident of routing.
const MANY_RESETS: u32 = 3;

/// What was seen of one host's answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    opens: u32,
    resets: u32,
    zero_windows: u32,
    small_windows: u32,
    without_options: u32,
    canaries_open: u32,
    canaries_asked: u32,
    /// Time to live of the first handshake that was answered, and of other answers that only the target gives.
    ttl: Option<u8>,
    /// Resets from elsewhere than that, with the last one's time to live.
    strange_resets: u32,
    strange_ttl: u8,
    /// Resets before anything else was known, by their time to live: the first, and whether all agree.
    first_reset_ttl: Option<u8>,
    resets_disagree: u32,
    /// Ports that were still to be decided when the host stopped answering us.
    shunned: u32,
}

impl Evidence {
    /// A handshake was answered.
    pub(super) fn open(&mut self, ttl: u8, window: u16, options: bool, canary: bool) {
        if canary {
            self.canaries_open += 1;
        }
        self.opens += 1;
        self.zero_windows += u32::from(window == 0);
        self.small_windows += u32::from((1..=TARPIT_WINDOW).contains(&window));
        self.without_options += u32::from(!options);
        self.ttl.get_or_insert(ttl);
    }

    /// A port was reset.
    pub(super) fn reset(&mut self, ttl: u8) {
        self.resets += 1;
        match self.first_reset_ttl {
            None => self.first_reset_ttl = Some(ttl),
            Some(first) if hops(first) != hops(ttl) => {
                self.resets_disagree += 1;
                self.strange_ttl = ttl;
            }
            Some(_) => {}
        }
        if self.ttl.is_some_and(|own| hops(own) != hops(ttl)) {
            self.strange_resets += 1;
            self.strange_ttl = ttl;
        }
    }

    /// The target itself answered otherwise: an echo, say.
    pub(super) fn own(&mut self, ttl: u8) {
        self.ttl.get_or_insert(ttl);
    }

    /// The host answered before and answers us no more; so many ports were still to be decided.
    pub(super) fn shunned(&mut self, ports: u32) {
        self.shunned = ports;
    }

    /// So many ports that nobody asked for were probed.
    pub(super) fn canaries(&mut self, asked: usize) {
        self.canaries_asked = asked as u32;
    }

    /// Whether ports that nobody asked for are worth probing: everything that answered said open.
    pub(super) fn wants_canaries(&self) -> bool {
        self.opens > 0 && self.resets == 0 && self.canaries_asked == 0
    }

    /// Whether a single answer looks like no TCP stack's.
    pub(super) fn is_odd(&self) -> bool {
        self.zero_windows + self.small_windows + self.without_options > 0
    }

    /// What all this comes to.
    pub(super) fn verdict(&self) -> Option<Suspicion> {
        self.stopped_answering()
            .or_else(|| self.answers_for_everything())
            .or_else(|| self.odd_handshakes())
            .or_else(|| self.resets_from_elsewhere())
    }

    fn stopped_answering(&self) -> Option<Suspicion> {
        (self.shunned > 0).then(|| Suspicion {
            kind: SuspectKind::Shunned,
            confidence: 80,
            evidence: format!(
                "it stopped answering with {} ports to go, ports that had answered before too: what is called filtered \
                 may not be",
                self.shunned
            ),
        })
    }

    fn answers_for_everything(&self) -> Option<Suspicion> {
        let Self { canaries_open, canaries_asked, .. } = *self;
        if canaries_asked == 0 || canaries_open < canaries_asked {
            return None;
        }
        let kind = if self.small_windows > 0 { SuspectKind::Tarpit } else { SuspectKind::SynProxy };
        let mut confidence: u8 = if canaries_asked > 1 { 90 } else { 60 };
        if self.is_odd() {
            confidence = confidence.saturating_add(9);
        }
        let oddities = self.oddities();
        let evidence =
            format!("{canaries_open} of {canaries_asked} random high ports answered too{oddities}");
        Some(Suspicion { kind, confidence, evidence })
    }

    fn odd_handshakes(&self) -> Option<Suspicion> {
        let no_options_only = self.zero_windows + self.small_windows == 0;
        // A small stack may go without options, and whoever resets some ports does not answer for everything.
        if self.opens == 0 || !self.is_odd() || self.resets > 0 && no_options_only {
            return None;
        }
        let kind =
            if self.small_windows > self.zero_windows { SuspectKind::Tarpit } else { SuspectKind::SynProxy };
        let confidence = if self.zero_windows > 0 { 60 } else { 40 };
        let evidence = format!("handshakes that no TCP stack makes{}", self.oddities());
        Some(Suspicion { kind, confidence, evidence })
    }

    fn resets_from_elsewhere(&self) -> Option<Suspicion> {
        let strange = self.strange_resets.max(self.resets_disagree);
        if strange == 0 {
            return None;
        }
        // Where only the open ports are forwarded to another machine it looks the same.
        let confidence = if strange >= MANY_RESETS && self.ttl.is_some() { 50 } else { 30 };
        let own = self.ttl.or(self.first_reset_ttl).unwrap_or_default();
        let evidence = format!(
            "{strange} of {} resets came with a time to live of {}, other answers with {own}: a device on the way \
             resets, or forwards the open ports",
            self.resets, self.strange_ttl
        );
        Some(Suspicion { kind: SuspectKind::RstInjection, confidence, evidence })
    }

    fn oddities(&self) -> String {
        let mut text = String::new();
        for (count, what) in [
            (self.zero_windows, "with window 0"),
            (self.small_windows, "with a tiny window"),
            (self.without_options, "without TCP options"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} of {} handshakes {what}", self.opens));
            }
        }
        text
    }
}

/// How many routers a packet passed, if it began with one of the values that systems use. One host may well use several
/// of them, for handshakes and resets say.
fn hops(ttl: u8) -> u8 {
    [32, 64, 128, 255].into_iter().find(|initial| ttl <= *initial).unwrap_or(255) - ttl
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_host_is_not_suspected() {
        let mut seen = Evidence::default();
        seen.open(63, 64_240, true, false);
        assert!(seen.wants_canaries() && !seen.is_odd());
        seen.reset(63);
        // Solaris and many switches reset with 255 what they accept with 64.
        seen.reset(254);
        assert!(!seen.wants_canaries());
        assert_eq!(seen.verdict(), None);
    }

    #[test]
    fn what_answers_for_every_port_is_a_proxy_or_a_tarpit() {
        let mut seen = Evidence::default();
        seen.open(63, 0, false, false);
        assert!(seen.wants_canaries());
        assert_eq!(seen.verdict().map(|s| (s.kind, s.confidence)), Some((SuspectKind::SynProxy, 60)));
        seen.canaries(3);
        for _ in 0..3 {
            seen.open(63, 0, false, true);
        }
        let found = seen.verdict().unwrap();
        assert_eq!((found.kind, found.confidence), (SuspectKind::SynProxy, 99));
        assert!(found.evidence.starts_with("3 of 3 random high ports"), "{}", found.evidence);

        let mut seen = Evidence::default();
        seen.open(63, 10, true, false);
        seen.canaries(3);
        (0..3).for_each(|_| seen.open(63, 10, true, true));
        assert_eq!(seen.verdict().map(|s| s.kind), Some(SuspectKind::Tarpit));

        let mut seen = Evidence::default();
        (0..5).for_each(|_| seen.open(63, 64_240, true, false));
        seen.canaries(3);
        seen.open(63, 64_240, true, true);
        assert_eq!(seen.verdict(), None, "one of three may be a service");
    }

    #[test]
    fn a_reset_from_another_distance_is_a_device_on_the_way() {
        let mut seen = Evidence::default();
        seen.open(63, 64_240, true, false);
        (0..3).for_each(|_| seen.reset(64));
        let found = seen.verdict().unwrap();
        assert_eq!((found.kind, found.confidence), (SuspectKind::RstInjection, 50));
        let mut seen = Evidence::default();
        seen.reset(63);
        seen.reset(64);
        assert_eq!(seen.verdict().map(|s| s.confidence), Some(30));
    }
}
