//! Law 5 for several handles and for commit points: checkpoints and heads that agree.

use hydrant::{Checkpoint, ErrorKind, Event};

use crate::law::{Expected, Finding, Verdict, broken};
use crate::log::{Log, last, name};
use crate::{Hook, Trial};

pub(super) async fn two_handles(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(7);
    let first = trial.holding(&events[..2]).await?;
    let second = match trial.harness.open(&first.namespace).await {
        Ok(opened) => first.beside(opened),
        Err(error) if error.kind() == ErrorKind::Fenced => {
            trial.skip("two handles on one log: a lock refuses the second");
            return first.close().await;
        }
        Err(error) => return broken("a second handle to open, or to be Fenced", format!("{error:?}")),
    };
    first.append(last(&events[..2]), &events[2..4]).await?;
    reports_one_of(&second, &events[..4], 2, "the other handle's append").await?;
    // The second handle is sent a batch that the log holds, and so sees where the log ends.
    second.append(last(&events[..2]), &events[2..4]).await?;
    reports_one_of(&second, &events[..4], 4, "taking the same batch").await?;
    second.append(last(&events[..4]), &events[4..6]).await?;
    let other = [generator.event(4), generator.event(5)];
    first.fenced(last(&events[..4]), &other).await?;
    reports_one_of(&first, &events[..6], 4, "being Fenced").await?;
    first.close().await?;
    second.close().await?;
    let log = trial.open_once_released(&trial.namespace("")).await?;
    log.holds(&events[..6]).await?;
    log.append(last(&events[..6]), &events[6..]).await?;
    log.holds(&events).await?;
    log.close().await
}

/// Checks that the handle reports one of `events`, from the `least`th on, as its checkpoint. A handle that was fenced
/// may refuse to report instead.
async fn reports_one_of(log: &Log<'_>, events: &[Event], least: usize, after: &str) -> Verdict {
    let late = !log.trial.is_durable();
    let look = || async {
        log.trial.step(after);
        log.trial.calling("reading the checkpoint");
        let seen = match log.trial.call(log.sink().checkpoint()).await? {
            Err(error) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Closed) => return Ok(()),
            seen => seen.expected(|| "a checkpoint".to_owned())?,
        };
        if events[least - 1..].iter().any(|event| seen == Checkpoint::at(event)) {
            return Ok(());
        }
        let wanted = events[least - 1].id();
        let found = broken(
            format!(
                "a checkpoint from event {wanted} to {}, where the log ends",
                events[events.len() - 1].id()
            ),
            format!("the checkpoint {}", name(&seen)),
        );
        found.may_pass(seen.id() < Some(wanted))
    };
    log.trial.settled(late, look).await
}

pub(super) async fn head(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 24);
    let mut log = trial.open().await?;
    if log.commit_point().is_none() {
        trial.skip_without(Hook::CommitPoint);
        return log.close().await;
    }
    head_is(&log, &[]).await?;
    for at in 0..events.len() {
        log.append(last(&events[..at]), &events[at..=at]).await?;
        head_is(&log, &events[..=at]).await?;
        if at % 8 == 7 {
            let beyond = trial.generator().gapped(last(&events), 2);
            log.gap(last(&beyond[..1]), &beyond[1..]).await?;
            head_is(&log, &events[..=at]).await?;
            log = log.reopen().await?;
            head_is(&log, &events[..=at]).await?;
        }
    }
    log.holds(&events).await?;
    log.close().await
}

/// Checks that the head is the last event that was acknowledged, and that the checkpoint is not beyond it.
async fn head_is(log: &Log<'_>, acknowledged: &[Event]) -> Verdict {
    let point = log.commit_point().expect("the case asked for it");
    log.trial.calling("reading the head");
    let head = log.trial.call(point.head()).await?.expected(|| "the store reports its head".to_owned())?;
    let wanted = acknowledged.last().map_or(Checkpoint::Empty, Checkpoint::at);
    if head != wanted {
        return broken(
            format!("the head {}, which was acknowledged", name(&wanted)),
            format!("the head {}", name(&head)),
        );
    }
    let checkpoint = log.checkpoint().await?;
    if checkpoint != head && (log.trial.is_durable() || checkpoint.id() > head.id()) {
        return broken(
            format!("a checkpoint that agrees with the head, {}", name(&head)),
            format!("the checkpoint {}", name(&checkpoint)),
        );
    }
    Ok(())
}
