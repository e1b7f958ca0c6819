//! The server's wish that every connection closes: HTTP/2 peers get a GOAWAY. Streams end only after every connection
//! was told, so that a client never takes the end of its stream for a reason to open another one here.

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    wanted: CancellationToken,
    untold: TaskTracker,
}

/// A connection's own end of it; dropped once the peer was told.
pub(super) struct Notice {
    wanted: CancellationToken,
    _untold: TaskTrackerToken,
}

impl Closing {
    /// Returns when every connection has told its peer, or has tried to where the peer reads nothing.
    pub async fn tell_all(&self) {
        self.wanted.cancel();
        self.untold.close();
        self.untold.wait().await;
    }

    pub(super) fn notice(&self) -> Notice {
        Notice { wanted: self.wanted.clone(), _untold: self.untold.token() }
    }
}

impl Notice {
    /// Ends when the connection is to close.
    pub(super) fn wanted(&self) -> WaitForCancellationFuture<'_> {
        self.wanted.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn it_waits_for_every_connection() {
        let closing = Closing::default();
        let (first, second) = (closing.notice(), closing.notice());
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, first.wanted()).await.is_err(), "nobody wants that yet");
        assert!(timeout(soon, closing.tell_all()).await.is_err());
        first.wanted().await;
        drop(first);
        assert!(timeout(soon, closing.tell_all()).await.is_err());
        second.wanted().await;
        drop(second);
        closing.tell_all().await;
    }
}
