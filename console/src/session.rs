//! The way to the server: the context that was named, its certificate, one connection.

use crate::errors::ConsoleError;
use crate::output::{text::printable, time};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use portolan_proto::v1::console_client::ConsoleClient;
use portolan_transport::context::{self, Context};
use portolan_transport::dial::Dialer;
use portolan_transport::identity::LeafFacts;
use portolan_transport::{files, tls};
use std::sync::Arc;
use std::time::Duration;
use tonic::Request;
use tonic::transport::Channel;

/// How long the server may take over a question with one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest answer, in bytes: lists of ten thousand alerts or checks with all that is said of each.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The server's API.
pub type Client = ConsoleClient<Channel>;

/// Connects as the named context says.
///
/// # Errors
/// No such context, an expired certificate (found before dialing), no server.
pub async fn open(name: &str) -> Result<Client, ConsoleError> {
    // As an environment variable that is set to nothing says.
    let name = if name.is_empty() { context::DEFAULT } else { name };
    let failed = |source| ConsoleError::Context { name: name.to_owned(), source };
    let path = context::path_of(name).map_err(failed)?;
    let context = Context::load(&path).map_err(failed)?;
    let identity = context.identity(&path).map_err(failed)?;
    let root = context.root(&path).map_err(failed)?;
    if files::is_exposed(&path).unwrap_or(false) {
        crate::output::warn(&format!(
            "others can read {}, which holds your private key: chmod 600 it",
            printable(&path.display().to_string())
        ));
    }
    let facts = identity.facts().map_err(|error| ConsoleError::from((name, error)))?;
    check_validity(name, &facts, Timestamp::now())?;
    let config = tls::client_config(&root, &identity)
        .map_err(|error| ConsoleError::Identity { name: name.to_owned(), reason: error.to_string() })?;
    let dialer = Dialer { servers: context.servers, proxy: None, tls: Arc::new(config) };
    let channel = dialer.connect().await.map_err(|source| ConsoleError::Unreachable {
        name: name.to_owned(),
        path,
        source,
    })?;
    Ok(client(channel))
}

/// The API over a channel.
pub fn client(channel: Channel) -> Client {
    ConsoleClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// A question with one answer, which must come within [`ANSWER`].
pub fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER);
    request
}

/// The server would only break off the handshake; here the operator learns why.
fn check_validity(name: &str, facts: &LeafFacts, now: Timestamp) -> Result<(), ConsoleError> {
    let when = |at| time::local_and_relative(at, now, &TimeZone::system());
    if facts.not_after <= now {
        Err(ConsoleError::Expired { name: name.to_owned(), when: when(facts.not_after) })
    } else if facts.not_before > now {
        Err(ConsoleError::NotYetValid { name: name.to_owned(), when: when(facts.not_before) })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;

    #[test]
    fn an_expired_certificate_is_found_before_dialing() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let facts = |from: Timestamp, to: Timestamp| LeafFacts {
            spiffe_id: "spiffe://portolan/01890a5d-ac96-774b-bcce-b302099a8057/operator/\
                        01890a5d-ac96-774b-bcce-b302099a8057"
                .parse()
                .unwrap(),
            common_name: "ada".into(),
            not_before: from,
            not_after: to,
        };
        let (earlier, later) = (now - 48.hours(), now + 48.hours());
        assert!(check_validity("default", &facts(earlier, later), now).is_ok());
        let expired = check_validity("default", &facts(earlier, earlier), now).unwrap_err();
        assert!(
            expired.to_string().contains("expired") && expired.to_string().contains("2d ago"),
            "{expired}"
        );
        assert!(expired.hint().unwrap().contains("portolan-server admin --data-dir DIR"));
        let early = check_validity("default", &facts(later, later), now).unwrap_err();
        assert!(matches!(early, ConsoleError::NotYetValid { .. }));
    }

    #[tokio::test]
    async fn a_missing_context_is_named_with_its_path() {
        let error = open("/nonexistent/x.toml").await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x.toml does not exist"), "{error}");
    }
}
