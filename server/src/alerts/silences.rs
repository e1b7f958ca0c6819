//! Silences: what somebody does not want to hear of for a while.

use super::alert::Alert;
use super::error::{AlertsError, shown};
use super::kept::{Document, Kept};
use crate::store::Kind;
use jiff::{SignedDuration, Timestamp};
use portolan_policy::Matcher;
use portolan_proto::convert::time_from_wire;
use portolan_proto::v1;
use prost::Message as _;
use uuid::Uuid;

/// Silences that are kept, those that are over included.
pub const MAX_SILENCES: usize = 10_000;
/// Matchers of one silence.
pub const MAX_MATCHERS: usize = 20;
/// Characters of a reason.
pub const MAX_REASON: usize = 1000;
/// How long one may last.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 366);
/// How long one is kept after its end.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(24 * 30);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// UUIDv7.
    pub id: Uuid,
    /// All must hold; one at least.
    pub matchers: Vec<Matcher>,
    /// Operator.
    pub author: String,
    /// Why.
    pub reason: String,
    /// From when on.
    pub starts: Timestamp,
    /// Until when.
    pub ends: Timestamp,
}

impl Silence {
    /// Reads what an operator asks for.
    ///
    /// # Errors
    /// [`AlertsError::Invalid`].
    pub fn read(request: &v1::AddSilenceRequest, author: &str, now: Timestamp) -> Result<Self, AlertsError> {
        let invalid = |why: String| AlertsError::Invalid(why);
        if request.matchers.is_empty() || request.matchers.len() > MAX_MATCHERS {
            return Err(invalid(format!(
                "a silence has 1 to {MAX_MATCHERS} matchers, such as check=shop-front; without one it would hide \
                 everything"
            )));
        }
        let matchers = read_matchers(&request.matchers)?;
        let reason = request.reason.trim();
        if reason.is_empty() || reason.chars().count() > MAX_REASON {
            return Err(invalid(format!("a silence needs a reason of 1 to {MAX_REASON} characters")));
        }
        let time = |ms| time_from_wire(ms).map_err(|_| invalid("the time is out of range".into()));
        let starts = if request.starts_at_ms == 0 { now } else { time(request.starts_at_ms)? };
        let ends = time(request.ends_at_ms)?;
        if ends <= starts || ends <= now {
            return Err(invalid(format!("the silence would end at {ends}, before it begins or is made")));
        }
        if ends.duration_since(now) > LONGEST {
            return Err(invalid(
                "a silence ends within a year: what is never of interest belongs out of the policy".into(),
            ));
        }
        let (author, reason) = (author.to_owned(), reason.to_owned());
        Ok(Self { id: Uuid::nil(), matchers, author, reason, starts, ends })
    }

    /// Whether it holds back now.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.starts <= now && now < self.ends
    }

    /// Whether it is about an alert.
    pub fn matches(&self, alert: &Alert) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(&alert.labels))
    }

    /// As operators see it.
    pub fn to_wire(&self) -> v1::Silence {
        v1::Silence {
            id: self.id.to_string(),
            matchers: self.matchers.iter().map(Matcher::to_string).collect(),
            author: self.author.clone(),
            reason: self.reason.clone(),
            starts_at_ms: self.starts.as_millisecond(),
            ends_at_ms: self.ends.as_millisecond(),
            alerts: 0,
        }
    }
}

/// Reads matchers.
///
/// # Errors
/// [`AlertsError::Invalid`] naming the first that is none.
pub fn read_matchers(texts: &[String]) -> Result<Vec<Matcher>, AlertsError> {
    if texts.len() > MAX_MATCHERS {
        return Err(AlertsError::Invalid(format!("at most {MAX_MATCHERS} matchers")));
    }
    let read = |text: &String| {
        text.parse::<Matcher>().map_err(|flaw| {
            let hint = flaw.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            AlertsError::Invalid(format!("matcher `{}`: {}{hint}", shown(text), flaw.message))
        })
    };
    texts.iter().map(read).collect()
}

/// The message that operators see is also what is kept.
impl Document for Silence {
    type Key = Uuid;
    const KIND: Kind = Kind::Silence;

    fn key(&self) -> Uuid {
        self.id
    }

    fn name(id: &Uuid) -> Vec<u8> {
        id.as_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record = v1::Silence::decode(bytes).map_err(|error| error.to_string())?;
        let time = |ms| time_from_wire(ms).map_err(|error| error.to_string());
        Ok(Self {
            id: record.id.parse().map_err(|_| "its id".to_owned())?,
            matchers: read_matchers(&record.matchers).map_err(|error| error.to_string())?,
            starts: time(record.starts_at_ms)?,
            ends: time(record.ends_at_ms)?,
            author: record.author,
            reason: record.reason,
        })
    }
}

impl Kept<Silence> {
    /// Removes those that ended long ago.
    pub(super) fn prune(&mut self, now: Timestamp) {
        self.retain(|silence| now.duration_since(silence.ends) < KEPT_FOR);
    }

    /// Makes room for one more: one that is over goes, the first to end first.
    pub(super) fn make_room(&mut self, now: Timestamp) -> Result<(), AlertsError> {
        if self.len() < MAX_SILENCES {
            return Ok(());
        }
        let oldest = self.values().filter(|silence| silence.ends <= now).min_by_key(|silence| silence.ends);
        let oldest = oldest.map(|silence| silence.id).ok_or_else(|| {
            AlertsError::Full(format!(
                "there are {MAX_SILENCES} silences: expire some, or write matchers that cover more"
            ))
        })?;
        self.remove(&oldest);
        Ok(())
    }
}
