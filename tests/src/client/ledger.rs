//! What a satellite knows of its records, as pure state: which were given out, which are acked, which may go next, and
//! whether the server ever says what cannot be true.
//!
//! The records themselves are a function of their sequence, so every one can be sent again, however old.

use portolan_proto::v1;

/// Records on their way when Welcome says nothing of it.
const DEFAULT_CREDIT: u32 = 64;

/// What a server must never say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It acked this much, and on a later connection had less.
    Lost {
        /// The highest sequence that was acked.
        acked: u64,
        /// What Welcome said.
        has: u64,
    },
    /// It claims to have what was never sent.
    Invented {
        /// The highest sequence ever sent.
        sent: u64,
        /// What it claims.
        claims: u64,
    },
    /// An ack went back within a connection.
    Backwards {
        /// The ack before.
        from: u64,
        /// The ack.
        to: u64,
    },
}

/// One epoch of one satellite.
#[derive(Clone, Debug)]
pub struct Ledger {
    sent: u64,
    acked: u64,
    goal: u64,
    credit: u32,
    next: u64,
    stream_acked: u64,
    may_rewind: bool,
    rewinds: u64,
    greeted_with: Option<u64>,
    repeats: u64,
}

impl Ledger {
    /// Nothing sent yet, and nothing to be sent until a goal is set.
    pub fn new() -> Self {
        Self {
            sent: 0,
            acked: 0,
            goal: 0,
            credit: 0,
            next: 1,
            stream_acked: 0,
            may_rewind: false,
            rewinds: 0,
            greeted_with: None,
            repeats: 0,
        }
    }

    /// From now on the server may have less than it acked: it was restored from a backup.
    pub fn allow_rewinds(&mut self) {
        self.may_rewind = true;
    }

    /// A connection began.
    ///
    /// # Errors
    /// When the server lost or invented something.
    pub fn welcome(&mut self, welcome: &v1::Welcome) -> Result<(), Breach> {
        let has = welcome.acked_sequence;
        if has > self.sent {
            return Err(Breach::Invented { sent: self.sent, claims: has });
        }
        if has < self.acked {
            if !self.may_rewind {
                return Err(Breach::Lost { acked: self.acked, has });
            }
            self.rewinds += 1;
        }
        self.acked = has;
        self.stream_acked = has;
        self.next = has + 1;
        self.credit = welcome.credit.unwrap_or(DEFAULT_CREDIT);
        self.greeted_with.get_or_insert(has);
        Ok(())
    }

    /// The next sequence to send on this connection, if there is one and credit for it.
    pub fn next_to_send(&mut self) -> Option<u64> {
        let on_their_way = self.next - 1 - self.stream_acked;
        if on_their_way >= u64::from(self.credit) || self.next > self.last() {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.repeats += u64::from(sequence <= self.sent);
        self.sent = self.sent.max(sequence);
        Some(sequence)
    }

    /// The server acked.
    ///
    /// # Errors
    /// When it acked what was not sent, or less than before.
    pub fn ack(&mut self, sequence: u64) -> Result<(), Breach> {
        if sequence > self.sent {
            return Err(Breach::Invented { sent: self.sent, claims: sequence });
        }
        if sequence < self.stream_acked {
            return Err(Breach::Backwards { from: self.stream_acked, to: sequence });
        }
        self.stream_acked = sequence;
        self.acked = self.acked.max(sequence);
        // What it has from an earlier connection need not be sent again.
        self.next = self.next.max(sequence + 1);
        Ok(())
    }

    /// The server changed the window.
    pub fn set_credit(&mut self, records: u32) {
        self.credit = records;
    }

    /// How far sequences may be given out.
    pub fn set_goal(&mut self, goal: u64) {
        self.goal = goal;
    }

    /// No sequence is given out beyond those that were.
    pub fn stop_growing(&mut self) {
        self.goal = self.sent;
    }

    /// Whether its goal asks for more than was sent yet.
    pub fn has_more(&self) -> bool {
        self.goal > self.sent
    }

    /// The last sequence that there is, sent or waiting to be.
    pub fn last(&self) -> u64 {
        self.goal.max(self.sent)
    }

    /// The highest sequence ever sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The highest sequence ever acked, or had by the server at the last Welcome.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Records sent more than once.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Times that the server came back with less than it had acked, where that is allowed.
    pub fn rewinds(&self) -> u64 {
        self.rewinds
    }

    /// Forgets what the first Welcome said; the next one is the first of a new life of the server.
    pub fn begin_life(&mut self) {
        self.greeted_with = None;
    }

    /// What the first Welcome of this life said.
    pub fn greeted_with(&self) -> Option<u64> {
        self.greeted_with
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn welcome(has: u64) -> v1::Welcome {
        v1::Welcome { acked_sequence: has, ..v1::Welcome::default() }
    }

    /// A server that counts, over a link that loses everything after a while, again and again.
    #[test]
    fn every_record_arrives_once_over_broken_connections() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let mut ledger = Ledger::new();
            ledger.set_goal(500);
            let mut counted = 0;
            while ledger.acked() < 500 {
                let credit = Some(u32::try_from(chance.between(1, 20)).unwrap());
                ledger.welcome(&v1::Welcome { credit, ..welcome(counted) }).unwrap();
                for _ in 0..chance.below(80) {
                    if let Some(sequence) = ledger.next_to_send() {
                        assert_eq!(sequence, counted + 1, "in order and without gaps");
                        counted = sequence;
                    }
                    // The ack may get lost with the connection.
                    if chance.below(3) == 0 {
                        ledger.ack(counted).unwrap();
                    }
                }
            }
            assert_eq!((counted, ledger.sent()), (500, 500));
        }
    }

    #[test]
    fn credit_bounds_what_is_on_its_way() {
        let mut ledger = Ledger::new();
        ledger.set_goal(100);
        ledger.welcome(&v1::Welcome { credit: Some(0), ..welcome(0) }).unwrap();
        assert_eq!(ledger.next_to_send(), None);
        ledger.set_credit(2);
        assert_eq!(
            [ledger.next_to_send(), ledger.next_to_send(), ledger.next_to_send()],
            [Some(1), Some(2), None]
        );
        ledger.ack(1).unwrap();
        assert_eq!([ledger.next_to_send(), ledger.next_to_send()], [Some(3), None]);
    }

    #[test]
    fn a_server_that_loses_or_invents_is_found_out() {
        let mut ledger = Ledger::new();
        ledger.set_goal(10);
        ledger.welcome(&welcome(0)).unwrap();
        while ledger.next_to_send().is_some() {}
        ledger.ack(7).unwrap();
        assert_eq!(ledger.ack(6), Err(Breach::Backwards { from: 7, to: 6 }));
        assert_eq!(ledger.ack(11), Err(Breach::Invented { sent: 10, claims: 11 }));
        assert_eq!(ledger.welcome(&welcome(6)), Err(Breach::Lost { acked: 7, has: 6 }));
        assert_eq!(ledger.welcome(&welcome(11)), Err(Breach::Invented { sent: 10, claims: 11 }));
        ledger.allow_rewinds();
        ledger.welcome(&welcome(3)).unwrap();
        assert_eq!((ledger.next_to_send(), ledger.rewinds()), (Some(4), 1));
    }
}
