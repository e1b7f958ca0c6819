//! Retention: what is too old goes by whole months, since sled frees dropped trees but not emptied ones.

use super::{Store, StoreError, keys};
use jiff::{SignedDuration, Timestamp};

impl Store {
    /// Drops the log trees whose every record is older than `keep`, and says which.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn drop_older_than(
        &self,
        keep: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        let oldest_kept = keys::log_tree(now.saturating_sub(keep).unwrap_or(Timestamp::UNIX_EPOCH));
        self.writer
            .write(move |trees| {
                let mut dropped = Vec::new();
                for name in trees.db.tree_names() {
                    if keys::is_log_tree(&name) && name.as_ref() < oldest_kept.as_bytes() {
                        trees.db.drop_tree(&name)?;
                        dropped.push(String::from_utf8_lossy(&name).into_owned());
                    }
                }
                Ok(dropped)
            })
            .await
    }
}
