//! Retention: what is too old goes by whole months, since sled frees dropped trees but not emptied ones.

use super::view::Writes;
use super::writer::Class;
use super::{Store, StoreError, keys};
use jiff::{SignedDuration, Timestamp};

impl Store {
    /// Drops the oldest log tree if its every record is older than `keep`, and says which. One at a time: a clock that
    /// is years ahead for an hour must not take all evidence with it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn drop_older_than(
        &self,
        keep: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let oldest_kept = keys::log_tree(now.saturating_sub(keep).unwrap_or(Timestamp::UNIX_EPOCH));
        let Some(oldest) = self.trees()?.log_names().into_iter().next() else { return Ok(None) };
        if oldest >= oldest_kept {
            return Ok(None);
        }
        self.writer
            .write(Class::Urgent, move |_| {
                let writes = Writes { drops: vec![oldest.clone()], ..Writes::default() };
                Ok((Some(oldest.clone()), writes))
            })
            .await
    }
}
