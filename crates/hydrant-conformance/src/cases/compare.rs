//! Laws 3 and 4: idempotent, compare-and-append.

use hydrant::{ErrorKind, Event, EventId, ReadFrom};

use crate::law::{Verdict, broken};
use crate::log::{Log, last};
use crate::{Generator, Trial};

#[expect(clippy::unnecessary_wraps, reason = "a position in a log, as a batch names it")]
fn id(id: u64) -> Option<EventId> {
    Some(EventId::new(id))
}

/// Checks that the log takes the next event: a refusal left it whole.
async fn continues(log: Log<'_>, held: &[Event], next: Event) -> Verdict {
    log.holds(held).await?;
    let mut all = held.to_vec();
    all.push(next);
    log.append(last(held), &all[held.len()..]).await?;
    log.holds(&all).await?;
    log.close().await
}

pub(super) async fn again(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 20);
    let mut log = trial.open().await?;
    for at in 0..4 {
        let (from, to) = (at * 5, at * 5 + 5);
        for _ in 0..3 {
            log.append(last(&events[..from]), &events[from..to]).await?;
            log.holds(&events[..to]).await?;
        }
        log = log.reopen().await?;
        log.append(last(&events[..from]), &events[from..to]).await?;
        log.holds(&events[..to]).await?;
    }
    log.close().await
}

pub(super) async fn any_part_again(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 12);
    let log = trial.holding(&events).await?;
    for from in 0..events.len() {
        for to in from + 1..=events.len() {
            log.append(last(&events[..from]), &events[from..to]).await?;
        }
    }
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn overlapping(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 30);
    let log = trial.holding(&events[..10]).await?;
    for (from, to) in [(5, 15), (0, 18), (17, 20), (19, 30)] {
        log.append(last(&events[..from]), &events[from..to]).await?;
        log.holds(&events[..to]).await?;
    }
    log.close().await
}

pub(super) async fn many_at_once(trial: &Trial) -> Verdict {
    let events = trial.generator().log(8);
    let log = trial.holding(&events[..4]).await?;
    let appends = (0..10).map(|_| log.append(last(&events[..4]), &events[4..]));
    for verdict in futures_util::future::join_all(appends).await {
        verdict?;
    }
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn hole(trial: &Trial) -> Verdict {
    let events = trial.generator().log(9);
    let log = trial.holding(&events[..4]).await?;
    log.gap(last(&events[..5]), &events[5..6]).await?;
    log.gap(last(&events[..6]), &events[6..]).await?;
    continues(log, &events[..4], events[4].clone()).await
}

pub(super) async fn hole_in_nothing(trial: &Trial) -> Verdict {
    let events = trial.generator().log(3);
    let log = trial.open().await?;
    log.gap(last(&events[..1]), &events[1..]).await?;
    continues(log, &[], events[0].clone()).await
}

pub(super) async fn other_event_at_the_head(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(6);
    let log = trial.holding(&events[..5]).await?;
    let other = generator.event(4);
    log.fenced(last(&events[..4]), std::slice::from_ref(&other)).await?;
    log.fenced(last(&events[..4]), &[other, events[5].clone()]).await?;
    continues(log, &events[..5], events[5].clone()).await
}

pub(super) async fn other_event_inside(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(10);
    let log = trial.holding(&events[..9]).await?;
    let other = generator.event(3);
    log.fenced(last(&events[..3]), std::slice::from_ref(&other)).await?;
    // Its neighbours are held, and the last of them is the head.
    let mut diverging = events.clone();
    diverging[3] = other;
    log.fenced(None, &diverging[..9]).await?;
    log.fenced(last(&events[..2]), &diverging[2..]).await?;
    continues(log, &events[..9], events[9].clone()).await
}

pub(super) async fn every_part_counts(trial: &Trial) -> Verdict {
    let event = |id: u64| Event::builder(EventId::new(id)).payload_json("1");
    let base = |id: u64| event(id).time("t").metadata_json("2");
    let build = |event: hydrant::EventBuilder| event.build().expect("the parts are valid");
    let held = [base(0), base(1), base(2)].map(build);
    let log = trial.holding(&held).await?;
    // Inside of the log, and at its head.
    for (after, at) in [(id(0), 1), (id(1), 2)] {
        for other in [
            base(at).payload_json("1.0"),
            base(at).time("u"),
            base(at).metadata_json("3"),
            base(at).member("m", "1"),
            base(at).snapshot(),
            event(at).time("t"),
            event(at).metadata_json("2"),
        ] {
            log.fenced(after, &[build(other)]).await?;
        }
    }
    continues(log, &held, trial.generator().event(3)).await
}

pub(super) async fn skipped(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let held = [2, 4, 8].map(|id| generator.event(id));
    let log = trial.holding(&held).await?;
    let event = |generator: &mut Generator, id| [generator.event(id)];
    // Ids that the log skipped, each after its true predecessor.
    for (after, skipped) in [(None, 0), (id(2), 3), (id(4), 5), (id(4), 7)] {
        log.fenced(after, &event(&mut generator, skipped)).await?;
    }
    // New events after an id that the log skipped, or after one that is no longer the last.
    for after in [None, id(2), id(3), id(4), id(7)] {
        log.fenced(after, &event(&mut generator, 9)).await?;
    }
    let straddling = [generator.event(7), generator.event(9)];
    log.fenced(id(4), &straddling).await?;
    let next = generator.event(9);
    continues(log, &held, next).await
}

pub(super) async fn outdated_snapshot(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(6);
    let log = trial.holding(&events[..5]).await?;
    // A snapshot of the state behind event 3, while event 4 is there already.
    let outdated = [generator.snapshot(5)];
    log.fenced(id(3), &outdated).await?;
    continues(log, &events[..5], events[5].clone()).await
}

pub(super) async fn second_writer(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(4);
    let first = trial.holding(&events[..1]).await?;
    let opened = trial.harness.open(&first.namespace).await;
    let second = match opened {
        // A lock refuses the second writer when it opens the log.
        Err(error) if error.kind() == ErrorKind::Fenced => {
            return continues(first, &events[..1], events[1].clone()).await;
        }
        Err(error) => {
            return broken("a second writer to open, or to be Fenced", format!("{error:?}"));
        }
        Ok(opened) => first.beside(opened),
    };
    second.append(id(0), &events[1..2]).await?;
    let other = [generator.event(1)];
    first.fenced(id(0), &other).await?;
    second.append(id(1), &events[2..3]).await?;
    // The first writer may also be fenced for good. In both cases the log holds nothing of it.
    let behind = [generator.event(2)];
    first.fenced(id(1), &behind).await?;
    second.holds(&events[..3]).await?;
    first.close().await?;
    continues(second, &events[..3], events[3].clone()).await
}

pub(super) async fn race_of_writers(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let mut held = vec![generator.event(0)];
    let log = trial.holding(&held).await?;
    for at in 1..30 {
        let rivals: Vec<_> = (0..4).map(|_| [generator.event(at)]).collect();
        let appends = rivals.iter().map(|event| log.try_append(id(at - 1), event));
        let results = futures_util::future::try_join_all(appends).await?;
        let won: Vec<_> = (0..rivals.len()).filter(|&rival| results[rival].is_ok()).collect();
        let lost_well = results
            .iter()
            .all(|result| result.as_ref().map_or_else(|error| error.kind() == ErrorKind::Fenced, |()| true));
        // Two rivals may have drawn the same event; then both are right.
        let one_event = won.iter().all(|&rival| rivals[rival] == rivals[won[0]]);
        if won.is_empty() || !one_event || !lost_well {
            return broken(
                "one of four rivals for an id to be Ok, the others Fenced",
                format!("{results:?}"),
            );
        }
        held.extend_from_slice(&rivals[won[0]]);
    }
    log.holds(&held).await?;
    log.close().await
}

pub(super) async fn starts_at_a_snapshot(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = [generator.snapshot(7), generator.event(8), generator.event(9)];
    let log = trial.open().await?;
    log.append(id(5), &events[..2]).await?;
    let log = log.reopen().await?;
    log.append(id(8), &events[2..]).await?;
    log.holds(&events).await?;
    // The snapshot is the floor: the sink cannot compare what is below it, and returns `Pruned`.
    let below = [generator.event(3)];
    let pruned = |kind| kind == ErrorKind::Pruned { oldest: events[0].id() };
    log.refused(id(2), &below, "Pruned, naming 7 as the oldest,", pruned).await?;
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn below_the_floor(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(31, 10);
    let log = trial.holding(&events[..30]).await?;
    log.pruned(20).await?;
    let pruned = |kind| matches!(kind, ErrorKind::Pruned { .. });
    log.refused(None, &events[..1], "Pruned", pruned).await?;
    log.refused(None, &events[..10], "Pruned", pruned).await?;
    log.append_all(last(&events[..29]), &events[29..], 10).await?;
    log.reads(ReadFrom::After(EventId::new(19)), &events[20..]).await?;
    log.close().await
}
