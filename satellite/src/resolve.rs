//! Names to addresses, at the satellite and with its system's resolver, so that /etc/hosts and nsswitch hold.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long one name may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Names at once: each occupies a thread in the system's resolver.
const AT_ONCE: usize = 32;

/// Why a name has no address here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The name as it was asked for.
    pub name: String,
    /// Why, in words for the operator.
    pub error: String,
}

/// Resolves names; all answers are kept, IPv4-mapped ones as IPv4.
pub async fn resolve_all(names: &[String]) -> (BTreeMap<String, Vec<IpAddr>>, Vec<Unresolved>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut lookups = JoinSet::new();
    for name in names.iter().cloned() {
        let places = places.clone();
        lookups.spawn(async move {
            let _place = places.acquire().await;
            let found = resolve(&name).await;
            (name, found)
        });
    }
    let mut resolved = BTreeMap::new();
    let mut unresolved = Vec::new();
    while let Some(lookup) = lookups.join_next().await {
        match lookup {
            Ok((name, Ok(addresses))) => {
                resolved.insert(name, addresses);
            }
            Ok((name, Err(error))) => unresolved.push(Unresolved { name, error }),
            Err(error) => tracing::error!(%error, "a look-up stopped unexpectedly"),
        }
    }
    unresolved.sort_by(|a, b| a.name.cmp(&b.name));
    (resolved, unresolved)
}

async fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    // The port is needed by the interface and means nothing.
    let answers = tokio::time::timeout(LIMIT, tokio::net::lookup_host((name, 0)))
        .await
        .map_err(|_| format!("the resolver did not answer within {} s", LIMIT.as_secs()))?
        .map_err(|error| words(&error))?;
    let mut addresses: Vec<IpAddr> = answers.map(|answer| answer.ip().to_canonical()).collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

/// `failed to lookup address information: Name or service not known` says its own name twice.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.rsplit(": ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_answer_is_kept_and_every_failure_said() {
        let names = ["localhost".to_owned(), "no-such-name.invalid".to_owned()];
        let (resolved, unresolved) = resolve_all(&names).await;
        assert!(resolved["localhost"].iter().all(IpAddr::is_loopback), "{resolved:?}");
        assert_eq!(unresolved.len(), 1);
        assert_eq!(unresolved[0].name, "no-such-name.invalid");
        assert!(!unresolved[0].error.is_empty());
    }
}
