//! Which record goes next, how many may be on their way, and what the two ends owe one another after a break. Plain
//! numbers, no clock and no I/O: what a simulation drives is what the satellite runs.
//!
//! All numbers are sequences of the epoch. A connection goes [`Flow::hello`], [`Flow::welcome`], then any number of
//! [`Flow::want`], [`Flow::sent`], [`Flow::ack`] and [`Flow::credit`].

use std::collections::VecDeque;

/// Records that may be on their way when the server says nothing of it.
pub const DEFAULT_CREDIT: u32 = 64;

/// Records on their way at most, whatever the server would take: it bounds what is remembered of them.
pub const MAX_IN_FLIGHT: usize = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The last sequence that was given out.
    last: u64,
    /// The server of this epoch has everything up to here.
    acked: u64,
    /// The highest that any server ever acked.
    ever: u64,
    /// The last that was sent on this connection, or that the server had when it began.
    sent: u64,
    /// The highest that a server of this epoch can have: what an earlier process may have sent, or this one did. What
    /// was given out here and not sent yet is not among it: after a snapshot was restored the server has other
    /// records under these numbers.
    sent_ever: u64,
    connected: bool,
    credit: u32,
    in_flight: VecDeque<Sent>,
    bytes: u64,
    max_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u64,
    bytes: u64,
    records: u64,
}

/// What the hello says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The highest sequence that a server ever acked.
    pub acked: u64,
    /// The last sequence that was given out.
    pub last: u64,
}

/// What the welcome means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The server has what was acked to us, or more of what was sent.
    Even,
    /// The server has less than it acked: it went back, and gets the rest again.
    Behind {
        /// What it has.
        server: u64,
        /// What had been acked.
        acked: u64,
    },
    /// The server has more than was ever sent: this satellite went back. Nothing is sent in this epoch.
    Ahead {
        /// What it has.
        server: u64,
        /// The most that it can have from this satellite as it is now.
        last: u64,
    },
}

/// What an ack took off the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Records that were kept.
    pub records: u64,
    /// Their size as [`Flow::sent`] was told.
    pub bytes: u64,
}

impl Flow {
    /// Not connected. `last` was given out by earlier processes, who may have sent all of it; the server has `acked`,
    /// and `ever` is the most that it ever had. At most `max_bytes` are on their way, or one record.
    pub fn new(acked: u64, ever: u64, last: u64, max_bytes: u64) -> Self {
        Self {
            last,
            acked,
            ever: ever.max(acked),
            sent: acked,
            sent_ever: last,
            connected: false,
            credit: 0,
            in_flight: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// In an epoch that is just made: `last` was given out, and nobody was sent any of it.
    pub fn fresh(last: u64, max_bytes: u64) -> Self {
        let mut flow = Self::new(0, 0, 0, max_bytes);
        flow.committed(last);
        flow
    }

    /// The server of this epoch has everything up to here.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The highest that any server ever acked.
    pub fn ever(&self) -> u64 {
        self.ever
    }

    /// The last sequence that was given out.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether a welcome stands.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Up to here everything is acked or on its way.
    pub fn sent_up_to(&self) -> u64 {
        self.sent.max(self.acked)
    }

    /// Records on their way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The connection is gone: what was on its way is to be sent again.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.credit = 0;
        self.in_flight.clear();
        self.bytes = 0;
        self.sent = self.acked;
    }

    /// A new connection begins with this.
    pub fn hello(&mut self) -> Greeting {
        self.disconnected();
        Greeting { acked: self.ever, last: self.last }
    }

    /// The server's answer to the hello. `credit` of `None` is the default.
    pub fn welcome(&mut self, server: u64, credit: Option<u32>) -> Standing {
        self.disconnected();
        if server > self.sent_ever {
            return Standing::Ahead { server, last: self.sent_ever };
        }
        let acked = self.acked;
        self.acked = server;
        self.sent = server;
        self.ever = self.ever.max(server);
        self.connected = true;
        self.credit = credit.unwrap_or(DEFAULT_CREDIT);
        if server < acked { Standing::Behind { server, acked } } else { Standing::Even }
    }

    /// How many records may be on their way from now on.
    pub fn credit(&mut self, records: u32) {
        if self.connected {
            self.credit = records;
        }
    }

    /// Sequences up to `last` are durable and may be sent.
    pub fn committed(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// The lowest sequence that is to be sent now. The record that is sent may have a higher one, if it stands for
    /// those before it as well.
    pub fn want(&self) -> Option<u64> {
        let allowed = usize::try_from(self.credit).unwrap_or(usize::MAX).min(MAX_IN_FLIGHT);
        let room = self.in_flight.len() < allowed && (self.bytes < self.max_bytes || self.bytes == 0);
        (self.connected && room && self.sent < self.last).then_some(self.sent + 1)
    }

    /// A record was sent, with its size and how many kept records it is: 1, or 0 when it only stands for others.
    pub fn sent(&mut self, sequence: u64, bytes: u64, records: u64) {
        if self.connected && sequence > self.sent && sequence <= self.last {
            self.sent = sequence;
            self.sent_ever = self.sent_ever.max(sequence);
            self.bytes = self.bytes.saturating_add(bytes);
            self.in_flight.push_back(Sent { sequence, bytes, records });
        }
    }

    /// The server has everything up to `sequence`; what was not sent on this connection cannot be acked on it.
    pub fn ack(&mut self, sequence: u64) -> Acked {
        let mut taken = Acked::default();
        if !self.connected {
            return taken;
        }
        let sequence = sequence.min(self.sent);
        while let Some(first) = self.in_flight.front().copied().filter(|first| first.sequence <= sequence) {
            self.in_flight.pop_front();
            self.bytes = self.bytes.saturating_sub(first.bytes);
            taken.records += first.records;
            taken.bytes += first.bytes;
        }
        self.acked = self.acked.max(sequence);
        self.ever = self.ever.max(self.acked);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn connected(last: u64, credit: u32) -> Flow {
        let mut flow = Flow::new(0, 0, last, u64::MAX);
        flow.hello();
        assert_eq!(flow.welcome(0, Some(credit)), Standing::Even);
        flow
    }

    fn send(flow: &mut Flow) -> Option<u64> {
        let sequence = flow.want()?;
        flow.sent(sequence, 10, 1);
        Some(sequence)
    }

    #[test]
    fn credit_bounds_what_is_on_its_way() {
        let mut flow = connected(10, 0);
        assert_eq!(send(&mut flow), None);
        flow.credit(2);
        assert_eq!((send(&mut flow), send(&mut flow), send(&mut flow)), (Some(1), Some(2), None));
        assert_eq!(flow.ack(1), Acked { records: 1, bytes: 10 });
        assert_eq!((send(&mut flow), send(&mut flow)), (Some(3), None));
        // What is on its way stays there when the credit shrinks.
        flow.credit(1);
        flow.ack(2);
        assert_eq!(send(&mut flow), None);
        flow.ack(3);
        assert_eq!(send(&mut flow), Some(4));
        let mut absent = Flow::new(0, 0, 100, u64::MAX);
        absent.hello();
        absent.welcome(0, None);
        assert_eq!(std::iter::from_fn(|| send(&mut absent)).count(), DEFAULT_CREDIT as usize);
    }

    #[test]
    fn bytes_bound_it_too_but_never_to_nothing() {
        let mut flow = Flow::new(0, 0, 10, 15);
        flow.hello();
        flow.welcome(0, None);
        assert_eq!((send(&mut flow), send(&mut flow), send(&mut flow)), (Some(1), Some(2), None));
        flow.ack(2);
        let sequence = flow.want().unwrap();
        flow.sent(sequence, 1_000_000, 1);
        assert_eq!(flow.want(), None);
        flow.ack(sequence);
        assert!(flow.want().is_some());
    }

    #[test]
    fn nothing_is_sent_before_welcome_and_nothing_acked_that_was_not_sent() {
        let mut flow = Flow::new(3, 3, 10, u64::MAX);
        assert_eq!(flow.want(), None);
        assert_eq!(flow.ack(9), Acked::default());
        assert_eq!(flow.hello(), Greeting { acked: 3, last: 10 });
        flow.welcome(4, None);
        assert_eq!((flow.acked(), send(&mut flow)), (4, Some(5)));
        flow.ack(u64::MAX);
        assert_eq!(flow.acked(), 5, "an ack of more than was sent is an ack of what was sent");
        assert_eq!(send(&mut flow), Some(6));
    }

    #[test]
    fn a_server_that_went_back_gets_it_again_and_one_ahead_gets_nothing() {
        let mut flow = Flow::new(7, 7, 10, u64::MAX);
        flow.hello();
        assert_eq!(flow.welcome(2, None), Standing::Behind { server: 2, acked: 7 });
        assert_eq!(send(&mut flow), Some(3));
        assert_eq!(flow.hello(), Greeting { acked: 7, last: 10 });
        assert_eq!(flow.welcome(2, None), Standing::Even, "said once");
        flow.hello();
        // Given out after the hello, so the server cannot mean these.
        flow.committed(20);
        assert_eq!(flow.welcome(12, None), Standing::Ahead { server: 12, last: 10 });
        assert_eq!((flow.want(), flow.acked()), (None, 2));
    }

    /// A snapshot was restored and wrote on before it was connected: what it gave out since is not what the server has.
    #[test]
    fn records_that_were_never_sent_do_not_make_a_server_even() {
        let mut flow = Flow::new(8, 8, 10, u64::MAX);
        flow.committed(20);
        assert_eq!(flow.hello(), Greeting { acked: 8, last: 20 });
        assert_eq!(flow.welcome(15, None), Standing::Ahead { server: 15, last: 10 });
        assert_eq!((flow.want(), flow.acked()), (None, 8));
        // What the file held may have been sent by an earlier process, …
        flow.hello();
        assert_eq!(flow.welcome(10, None), Standing::Even);
        // … and what was sent here counts over every later connection.
        assert_eq!((send(&mut flow), send(&mut flow)), (Some(11), Some(12)));
        flow.hello();
        assert_eq!(flow.welcome(13, None), Standing::Ahead { server: 13, last: 12 });
        flow.hello();
        assert_eq!(flow.welcome(12, None), Standing::Even);
        let mut fresh = Flow::fresh(5, u64::MAX);
        assert_eq!(fresh.hello(), Greeting { acked: 0, last: 5 });
        assert_eq!(fresh.welcome(1, None), Standing::Ahead { server: 1, last: 0 });
    }

    proptest! {
        /// A server that commits in order and forgets at will, over connections that break at any point, with any
        /// credit and with records that stand for several sequences.
        #[test]
        fn every_record_arrives_and_none_out_of_order(
            steps in proptest::collection::vec((0u8..7, 0u32..6), 1..400),
        ) {
            let mut flow = Flow::new(0, 0, 0, 35);
            let (mut server, mut credit, mut connected) = (0u64, 0u32, false);
            let mut wire: Vec<(u64, u64)> = Vec::new();
            for (step, n) in steps {
                match step {
                    0 | 1 => flow.committed(flow.last() + u64::from(n)),
                    2 => if let Some(first) = flow.want() {
                        prop_assert!(wire.len() < credit as usize || flow.in_flight() < credit as usize);
                        let sequence = (first + u64::from(n % 3)).min(flow.last());
                        flow.sent(sequence, 10, 1);
                        wire.push((first, sequence));
                    },
                    3 if connected => {
                        let cut = wire.len().min(n as usize);
                        for (first, sequence) in wire.drain(..cut) {
                            prop_assert!(first <= server + 1, "a gap before {first}");
                            server = server.max(sequence);
                        }
                        flow.ack(server);
                        prop_assert!(flow.acked() <= server);
                    }
                    4 if connected => {
                        credit = n;
                        flow.credit(n);
                    }
                    5 => {
                        wire.clear();
                        // Restored from a backup.
                        server = server.saturating_sub(u64::from(n));
                        flow.hello();
                        credit = n;
                        let standing = flow.welcome(server, Some(credit));
                        prop_assert!(!matches!(standing, Standing::Ahead { .. }), "{:?}", standing);
                        connected = true;
                    }
                    _ => {
                        wire.clear();
                        connected = false;
                        flow.disconnected();
                        prop_assert_eq!(flow.want(), None);
                    }
                }
                prop_assert!(flow.acked() <= flow.ever() && flow.ever() <= flow.last());
            }
            flow.hello();
            flow.welcome(server, Some(1));
            while let Some(sequence) = flow.want() {
                prop_assert_eq!(sequence, server + 1);
                flow.sent(sequence, 10, 1);
                server = sequence;
                flow.ack(server);
            }
            prop_assert_eq!(server, flow.last());
        }
    }
}
