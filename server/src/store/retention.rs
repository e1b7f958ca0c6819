//! Retention: what is too old goes by whole months, since sled frees dropped trees but not emptied ones.

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
        self.writer
            .write(move |trees| {
                let oldest = trees.db.tree_names().into_iter().filter(|name| keys::is_log_tree(name)).min();
                match oldest {
                    Some(oldest) if oldest.as_ref() < oldest_kept.as_bytes() => {
                        trees.db.drop_tree(&oldest)?;
                        Ok(Some(String::from_utf8_lossy(&oldest).into_owned()))
                    }
                    _ => Ok(None),
                }
            })
            .await
    }
}
