//! Sets of numbers as runs: the arithmetic under an address set, one of these for each family.

/// A run of consecutive numbers, both ends included.
pub(super) type Run = (u128, u128);

/// A set of numbers as ascending, disjoint, non-adjacent runs, with what is needed to find the n-th quickly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Runs {
    runs: Vec<Run>,
    /// How many numbers come before each run. The sets of both families never hold all 2^128 numbers (the
    /// IPv4-mapped ones are left out), so the sums fit.
    before: Vec<u128>,
}

impl Runs {
    /// From runs in any order; those that run backwards are left out.
    pub(super) fn new(mut runs: Vec<Run>) -> Self {
        runs.retain(|(first, last)| first <= last);
        runs.sort_unstable();
        let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
        for (first, last) in runs {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self::from_disjoint(merged)
    }

    fn from_disjoint(runs: Vec<Run>) -> Self {
        let mut sum = 0u128;
        let before = runs
            .iter()
            .map(|(first, last)| {
                let here = sum;
                sum = sum.saturating_add(last - first).saturating_add(1);
                here
            })
            .collect();
        Self { runs, before }
    }

    pub(super) fn as_slice(&self) -> &[Run] {
        &self.runs
    }

    pub(super) fn len(&self) -> u128 {
        match (self.runs.last(), self.before.last()) {
            (Some((first, last)), Some(before)) => before.saturating_add(last - first).saturating_add(1),
            _ => 0,
        }
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        let after = self.runs.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|i| self.runs.get(i)).is_some_and(|(_, last)| *last >= number)
    }

    pub(super) fn nth(&self, index: u128) -> Option<u128> {
        let i = self.before.partition_point(|before| *before <= index).checked_sub(1)?;
        let (first, last) = self.runs.get(i)?;
        let offset = index - self.before.get(i)?;
        (offset <= last - first).then(|| first + offset)
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::new(self.runs.iter().chain(&other.runs).copied().collect())
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&(a1, a2)), Some(&&(b1, b2))) = (a.peek(), b.peek()) {
            let (first, last) = (a1.max(b1), a2.min(b2));
            if first <= last {
                both.push((first, last));
            }
            if a2 <= b2 {
                a.next()
            } else {
                b.next()
            };
        }
        Self::from_disjoint(both)
    }

    pub(super) fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut holes = other.runs.iter().peekable();
        for &(first, last) in &self.runs {
            // The next number of this run that no hole has been found for; `None` once the run is used up.
            let mut next = Some(first);
            while let (Some(from), Some(&&(hole, hole_end))) = (next, holes.peek()) {
                if hole > last {
                    break;
                }
                if hole > from {
                    rest.push((from, hole - 1));
                }
                next = hole_end.max(from.saturating_sub(1)).checked_add(1).filter(|n| *n <= last);
                if hole_end > last {
                    break;
                }
                holes.next();
            }
            if let Some(from) = next {
                rest.push((from, last));
            }
        }
        Self::new(rest)
    }
}
