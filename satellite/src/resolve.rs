//! Names to addresses, at the satellite and with its system's resolver, so that /etc/hosts, nsswitch and the segment's
//! own DNS hold: a name means what it means where the probes leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long one name may take. The system's resolver may go on for longer behind the scenes.
const LIMIT: Duration = Duration::from_secs(10);

/// Lookups at once in the whole satellite, those included that ran out of time and still hold a thread.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// A name that has no address here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The name as it was asked for.
    pub name: String,
    /// Why, in words for the operator.
    pub error: String,
}

/// Looks up every name: the addresses of each that has any (ascending, each once, IPv4-mapped ones as IPv4), and the
/// other names, ascending. Ends when the last is known or has run out of time; a dropped future asks for no more.
pub async fn resolve_all(names: &[String]) -> (BTreeMap<String, Vec<IpAddr>>, Vec<Unresolved>) {
    resolve_with(names, LIMIT, |name| Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect()))
        .await
}

async fn resolve_with<F>(
    names: &[String],
    limit: Duration,
    look_up: F,
) -> (BTreeMap<String, Vec<IpAddr>>, Vec<Unresolved>)
where
    F: Fn(&str) -> io::Result<Vec<IpAddr>> + Copy + Send + 'static,
{
    let mut lookups = JoinSet::new();
    for name in names.iter().cloned() {
        lookups.spawn(async move {
            let found = look_up_one(&name, limit, look_up).await;
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

async fn look_up_one<F>(name: &str, limit: Duration, look_up: F) -> Result<Vec<IpAddr>, String>
where
    F: Fn(&str) -> io::Result<Vec<IpAddr>> + Send + 'static,
{
    let permit = LOOKUPS.acquire().await.map_err(|_| INTERRUPTED.to_owned())?;
    let asked = name.to_owned();
    let lookup = tokio::task::spawn_blocking(move || {
        let found = look_up(&asked);
        // Held until the system's resolver is done, not until we lose patience with it.
        drop(permit);
        found
    });
    let found = match tokio::time::timeout(limit, lookup).await {
        Ok(Ok(found)) => found.map_err(|error| in_words(&error))?,
        Ok(Err(_)) => return Err(INTERRUPTED.to_owned()),
        Err(_) => return Err(format!("no answer within {} s from this host's resolver", limit.as_secs())),
    };
    let addresses: BTreeSet<IpAddr> = found.iter().map(IpAddr::to_canonical).collect();
    if addresses.is_empty() {
        return Err(NO_ADDRESS.to_owned());
    }
    Ok(addresses.into_iter().collect())
}

const INTERRUPTED: &str = "the look-up was interrupted: the satellite is shutting down";
const NO_ADDRESS: &str = "the name exists, but has no address";

/// The resolver's words (gai_strerror(3)) come without a code and with a preamble of the standard library's.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once("address information: ").map_or(text.as_str(), |(_, reason)| reason);
    match reason {
        "Name or service not known" => "no such name, as far as this host's resolver knows".to_owned(),
        "No address associated with hostname" => NO_ADDRESS.to_owned(),
        "Temporary failure in name resolution" => {
            "this host's resolver got no answer from its name servers (see /etc/resolv.conf)".to_owned()
        }
        "Non-recoverable failure in name resolution" => {
            "the name servers refuse to answer for this name".to_owned()
        }
        other => format!("this host's resolver says: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn the_system_is_asked() {
        let (resolved, unresolved) = resolve_all(&names(&["localhost", "no-such-name.invalid"])).await;
        assert!(resolved["localhost"].iter().all(IpAddr::is_loopback), "{resolved:?}");
        assert_eq!(unresolved.len(), 1);
        assert_eq!(unresolved[0].name, "no-such-name.invalid");
        assert!(!unresolved[0].error.is_empty());
    }

    #[tokio::test]
    async fn all_answers_are_kept_once_and_canonical() {
        let (resolved, _) = resolve_with(&names(&["a"]), LIMIT, |_| {
            Ok(["fd00::1", "10.0.0.2", "::ffff:10.0.0.1", "10.0.0.2"]
                .map(|text| text.parse().unwrap())
                .to_vec())
        })
        .await;
        let expected: Vec<IpAddr> =
            ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(resolved["a"], expected);
    }

    #[tokio::test]
    async fn failures_are_told_by_name() {
        let asked = names(&["slow", "empty", "bad"]);
        let (resolved, unresolved) = resolve_with(&asked, Duration::from_millis(50), |name| match name {
            "bad" => Err(io::Error::other(
                "failed to lookup address information: Temporary failure in name resolution",
            )),
            "slow" => {
                std::thread::sleep(Duration::from_millis(300));
                Ok(vec![])
            }
            _ => Ok(vec![]),
        })
        .await;
        let told: Vec<(&str, &str)> =
            unresolved.iter().map(|u| (u.name.as_str(), u.error.as_str())).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].0 == "bad" && told[0].1.contains("no answer from its name servers"), "{told:?}");
        assert_eq!(told[1], ("empty", NO_ADDRESS));
        assert!(told[2].0 == "slow" && told[2].1.contains("no answer within"), "{told:?}");
        assert!(resolved.is_empty());
    }
}
