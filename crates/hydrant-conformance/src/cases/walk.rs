//! A random walk over all calls of a sink, against a model that is a list.

use hydrant::{Batch, Event, EventId};

use crate::law::{Verdict, broken};
use crate::log::{Log, last};
use crate::{Generator, Trial, drop_after};

const STEPS: usize = 150;
const BATCH_EVENTS_MAX: usize = 12;

/// The events that the log must hold.
struct Model {
    held: Vec<Event>,
    generator: Generator,
}

impl Model {
    /// New events after those that are held, at times opened by a snapshot event.
    fn fresh(&mut self) -> Vec<Event> {
        let count = 1 + self.generator.below(BATCH_EVENTS_MAX);
        let mut events = self.generator.gapped(last(&self.held), count);
        if self.generator.below(3) == 0 {
            events[0] = self.generator.snapshot(events[0].id().get());
        }
        events
    }

    /// A part of the held events that one batch can hold, not empty, as positions.
    fn part(&mut self) -> (usize, usize) {
        let from = self.generator.below(self.held.len());
        let segment = Batch::segments(&self.held[from..]).next().map_or(0, <[Event]>::len);
        (from, from + 1 + self.generator.below(segment))
    }

    fn after(&self, position: usize) -> Option<EventId> {
        last(&self.held[..position])
    }
}

pub(super) async fn random(trial: &Trial) -> Verdict {
    let mut model = Model { held: Vec::new(), generator: trial.generator() };
    let mut log = trial.open().await?;
    let first = model.fresh();
    log.append(None, &first).await?;
    model.held = first;
    for step in 0..STEPS {
        let kind = model.generator.below(12);
        log = match kind {
            0..=2 => append(log, &mut model).await?,
            3 => again(log, &mut model).await?,
            4 => overlap(log, &mut model).await?,
            5 => diverge(log, &mut model).await?,
            6 => skip(log, &mut model).await?,
            7 => leave_a_hole(log, &mut model).await?,
            8 | 9 => cancel(log, &mut model).await?,
            10 => {
                log.holds(&model.held).await?;
                log.reopen().await?
            }
            _ => {
                log.holds(&model.held).await?;
                log.crash().await?
            }
        };
        if step.is_multiple_of(5) {
            log.holds(&model.held).await?;
        }
    }
    log.holds(&model.held).await?;
    log.close().await
}

async fn append<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let fresh = model.fresh();
    log.append(last(&model.held), &fresh).await?;
    model.held.extend(fresh);
    Ok(log)
}

async fn again<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let (from, to) = model.part();
    log.append(model.after(from), &model.held[from..to]).await?;
    Ok(log)
}

async fn overlap<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let (from, _) = model.part();
    let fresh = model.fresh();
    model.held.extend(fresh);
    log.append_all(model.after(from), &model.held[from..], usize::MAX).await?;
    Ok(log)
}

async fn diverge<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let (from, to) = model.part();
    let mut other = model.held[from..to].to_vec();
    let at = model.generator.below(other.len());
    other[at] = model.generator.sized(other[at].id().get(), 100 + at);
    log.fenced(model.after(from), &other).await?;
    Ok(log)
}

async fn skip<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let hole = (1..model.held.len()).rev().find(|&at| {
        let (before, behind) = (model.held[at - 1].id().get(), model.held[at].id().get());
        behind > before + 1
    });
    if let Some(at) = hole {
        let skipped = model.generator.event(model.held[at - 1].id().get() + 1);
        log.fenced(model.after(at), std::slice::from_ref(&skipped)).await?;
    }
    Ok(log)
}

async fn leave_a_hole<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let fresh = model.fresh();
    // A batch that begins with a snapshot leaves a hole as well.
    let behind = model.generator.snapshot(fresh[fresh.len() - 1].id().get() + 1);
    log.gap(last(&fresh), std::slice::from_ref(&behind)).await?;
    Ok(log)
}

async fn cancel<'t>(log: Log<'t>, model: &mut Model) -> Verdict<Log<'t>> {
    let before = model.held.len();
    let mut possible = model.held.clone();
    possible.extend(model.fresh());
    let polls = model.generator.below(4);
    log.trial.step(format!("an append dropped at poll {polls}"));
    let sink = log.sink();
    let batch = Batch::new(last(&possible[..before]), &possible[before..]).expect("ids grow");
    let appended = drop_after(polls, sink.append(batch)).await;
    drop(sink);
    if let Some(Err(error)) = appended {
        return broken("Ok for an append that was not dropped", format!("{error:?}"));
    }
    let held = log.prefix(&possible).await?;
    if held < before && log.trial.is_durable() {
        return broken(format!("{before} events, held before"), format!("{held}"));
    }
    // The same bytes again settle what is open.
    log.append(last(&possible[..before]), &possible[before..]).await?;
    model.held = possible;
    Ok(log)
}
