//! Names that must be those of something, somewhere in the files of the policy.

use crate::model::Policy;
use portolan_common::document::{Flaw, Mistakes, closest};
use std::collections::BTreeMap;
use std::ops::Range;

/// How many names a hint lists.
const MAX_LISTED: usize = 8;

/// In how many mistakes of a file the name is compared with all others, of which there may be very many.
const MAX_SUGGESTED: usize = 50;

/// What a name must be the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Segment,
    Service,
    Check,
    Receiver,
}

/// A name and where it stands.
pub(super) struct Reference {
    pub(super) kind: Kind,
    pub(super) name: String,
    span: Range<usize>,
}

impl Reference {
    pub(super) fn new(kind: Kind, name: &str, span: Range<usize>) -> Self {
        Self { kind, name: name.to_owned(), span }
    }

    /// Notes it if nothing has the name.
    pub(super) fn judge(&self, policy: &Policy, report: &mut Mistakes) {
        match self.kind {
            Kind::Segment => self.judge_among("segment", &policy.segments, report),
            Kind::Service => self.judge_among("service", &policy.services, report),
            Kind::Check => self.judge_among("check", &policy.checks, report),
            Kind::Receiver => self.judge_among("receiver", &policy.receivers, report),
        }
    }

    fn judge_among<T>(&self, kind: &str, known: &BTreeMap<String, T>, report: &mut Mistakes) {
        if known.contains_key(&self.name) {
            return;
        }
        let shown: String = self.name.chars().take(80).flat_map(char::escape_debug).collect();
        let flaw = Flaw::new(format!("there is no {kind} `{shown}`"));
        let hint = if report.mistakes.len() < MAX_SUGGESTED {
            closest(&self.name, known.keys().map(String::as_str))
        } else {
            None
        };
        let hint = match hint {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => format!("the policy has no {kind} at all"),
            None if known.len() <= MAX_LISTED => {
                let names: Vec<_> = known.keys().map(|name| format!("`{name}`")).collect();
                format!("the policy has {}", names.join(", "))
            }
            None => format!("the policy has {} of other names", known.len()),
        };
        report.add(self.span.clone(), flaw.hint(hint));
    }
}
