//! What names stand for, remembered for a little while: many checks may name the same host, and one that runs every
//! second need not ask every time.

use crate::resolve::Unresolved;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long an answer holds at most.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The answers, of names that the assignment has.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, Answer>);

#[derive(Debug)]
struct Answer {
    at: Instant,
    /// Or why there is none.
    addresses: Result<Vec<IpAddr>, String>,
}

/// What the resolver says of names: the addresses of those that have any, and the others.
pub type Answers = (BTreeMap<String, Vec<IpAddr>>, Vec<Unresolved>);

impl Names {
    /// Those of the names that have to be looked up again for a check that runs this often.
    pub fn stale(&self, names: &[String], every: Duration, now: Instant) -> Vec<String> {
        let fresh = |answer: &Answer| now.saturating_duration_since(answer.at) < every.min(MAX_AGE);
        names.iter().filter(|name| !self.0.get(*name).is_some_and(fresh)).cloned().collect()
    }

    /// Takes in what the resolver said.
    pub fn learn(&mut self, (resolved, unresolved): Answers, at: Instant) {
        let resolved = resolved.into_iter().map(|(name, addresses)| (name, Ok(addresses)));
        let unresolved = unresolved.into_iter().map(|Unresolved { name, error }| (name, Err(error)));
        for (name, addresses) in resolved.chain(unresolved) {
            self.0.insert(name, Answer { at, addresses });
        }
    }

    /// What is known of these.
    pub fn known(&self, names: &[String]) -> Answers {
        let mut known = Answers::default();
        for name in names {
            let answer = self.0.get(name).map(|answer| answer.addresses.clone());
            match answer.unwrap_or_else(|| Err("the look-up was interrupted".to_owned())) {
                Ok(addresses) => drop(known.0.insert(name.clone(), addresses)),
                Err(error) => known.1.push(Unresolved { name: name.clone(), error }),
            }
        }
        known
    }

    /// Forgets all others.
    pub fn retain(&mut self, used: &HashSet<&str>) {
        self.0.retain(|name, _| used.contains(name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_as_long_as_the_check_can_bear() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let names = ["a".to_owned(), "b".to_owned()];
        let mut cache = Names::default();
        assert_eq!(cache.stale(&names, second, start), names);
        let unresolved = Unresolved { name: "b".into(), error: "no such name".into() };
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let answers = (BTreeMap::from([("a".to_owned(), vec![address])]), vec![unresolved]);
        cache.learn(answers.clone(), start);
        assert_eq!(cache.known(&names), answers);
        assert!(cache.stale(&names, 60 * second, start + 29 * second).is_empty());
        assert_eq!(cache.stale(&names, 60 * second, start + 30 * second), names);
        assert_eq!(cache.stale(&names, second, start + second), names);
        cache.retain(&HashSet::from(["b"]));
        let (known, unresolved) = cache.known(&names);
        assert!(known.is_empty() && unresolved[0].error.contains("interrupted") && unresolved.len() == 2);
    }
}
