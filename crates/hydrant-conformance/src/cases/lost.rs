//! Law 13: a log that was replaced or lost its end under a follower, and a verification beside a writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use hydrant::{ErrorKind, Event, ReadFrom};
use tokio::time::timeout;

use crate::law::{Expected, Verdict, broken};
use crate::log::{last, same_events};
use crate::{Hook, Trial};

pub(super) async fn replaced(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let (events, other) = (generator.log(20), generator.gapped(None, 40));
    let tail_lost = events[..12].to_vec();
    let other_tail: Vec<Event> =
        events[..12].iter().cloned().chain((12..30).map(|id| generator.event(id))).collect();
    let changes = [("a lost tail", tail_lost), ("another tail", other_tail), ("another log", other)];
    for (nth, (what, now)) in changes.into_iter().enumerate() {
        let log = trial.open_another(&format!("_{nth}")).await?;
        log.append_all(None, &events, 5).await?;
        log.holds(&events).await?;
        let mut follow = log.source().follow(ReadFrom::Origin);
        same_events("a follower", &events, &trial.next(&mut follow, events.len()).await?)?;
        let replaced = trial.harness.replace(&log.namespace, &now).await;
        if !replaced.expected(|| "the harness replaces the log".to_owned())? {
            trial.skip_without(Hook::Replace);
            drop(follow);
            return log.close().await;
        }
        trial.step(format!("{what} under a follower that is at event {:?}", last(&events)));
        // A log that only ends too early may be that of a standby, which catches up.
        let may_catch_up = nth == 0;
        let expected = if may_catch_up {
            "Diverged, Corrupt, Pruned or Unavailable as the next item of the follower"
        } else {
            "Diverged, Corrupt or Pruned as the next item of the follower"
        };
        match timeout(trial.settle_max(), follow.next()).await {
            Ok(Some(Err(error)))
                if matches!(
                    error.kind(),
                    ErrorKind::Diverged | ErrorKind::Corrupt | ErrorKind::Pruned { .. }
                ) || may_catch_up && error.kind() == ErrorKind::Unavailable => {}
            Ok(next) => return broken(expected, format!("{next:?}")),
            Err(_) => return broken(expected, "silence"),
        }
        drop(follow);
        // The writer may have noticed as well.
        drop(log.close().await);
    }
    Ok(())
}

pub(super) async fn verify_beside_a_writer(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(trial.events(200), 5);
    let log = trial.open().await?;
    let Some(verify) = log.verify() else {
        trial.skip_without(Hook::Verify);
        return log.close().await;
    };
    log.append(None, &events[..1]).await?;
    let done = Arc::new(AtomicBool::new(false));
    let verifying = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            while !done.load(Ordering::Relaxed) {
                let found = verify().await.expected(|| "a verification that ends".to_owned())?;
                if !found.is_empty() {
                    return broken("no finding in a healthy log beside its writer", found.join("; "));
                }
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    let written = log.append_all(last(&events[..1]), &events[1..], 2).await;
    done.store(true, Ordering::Relaxed);
    verifying.await.or_else(|panic| broken("no panic", panic.to_string()))??;
    written?;
    log.holds(&events).await?;
    log.close().await
}
