//! What may be read of a log that this process writes.

use hydrant::{Error, Result};
use tokio::sync::watch;

use crate::stream::{Signal, Views};
use crate::walk::View;
use crate::writer::Published;

/// What could be read when the read began.
pub(super) struct Fixed(pub(super) Result<View>);

impl Views for Fixed {
    fn view(&mut self) -> Result<Option<View>> {
        self.0.clone().map(Some)
    }

    fn changed(&mut self) -> Signal {
        Box::pin(std::future::ready(()))
    }

    fn forget(&mut self) -> bool {
        false
    }
}

/// What can be read now.
pub(super) struct Live {
    published: watch::Receiver<Published>,
    /// No event follows those that were shown.
    is_last: bool,
}

impl Live {
    pub(super) fn new(published: watch::Receiver<Published>) -> Self {
        Self { published, is_last: false }
    }
}

impl Views for Live {
    fn view(&mut self) -> Result<Option<View>> {
        // A writer that ended leaves a reason; one that panicked leaves none.
        let is_gone = self.published.has_changed().is_err();
        // Marked as seen before it is looked at: after would lose a wake-up.
        let published = self.published.borrow_and_update();
        match &published.stopped {
            None if is_gone && self.is_last => {
                let what = "the writer of this log failed inside; report it, and open the log again";
                return Err(Error::bug(what));
            }
            None if is_gone => self.is_last = true,
            Some(stopped) if self.is_last || published.view.current.is_none() => return Err(stopped.clone()),
            Some(_) => self.is_last = true,
            None => {}
        }
        Ok(Some(published.view.clone()))
    }

    fn changed(&mut self) -> Signal {
        if self.is_last {
            return Box::pin(std::future::ready(()));
        }
        let mut published = self.published.clone();
        Box::pin(async move {
            // A writer that is gone has left the reason behind.
            drop(published.changed().await);
        })
    }

    fn forget(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use hydrant::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn a_follower_ends_when_the_writer_panicked() {
        let (writer, published) = watch::channel(Published::default());
        let mut views = Live::new(published);
        assert!(views.view().unwrap().is_some());
        drop(writer);
        views.changed().await;
        assert!(views.view().unwrap().is_some(), "what was shown last is read");
        views.changed().await;
        assert_eq!(views.view().err().map(|error| error.kind()), Some(ErrorKind::Bug));
    }
}
