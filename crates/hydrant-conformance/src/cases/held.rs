//! Law 1: acknowledged is held.

use hydrant::{Checkpoint, Event, EventId};

use crate::law::{Verdict, broken};
use crate::log::{last, name};
use crate::{Generator, Trial};

pub(super) async fn reopening(trial: &Trial) -> Verdict {
    let events = trial.generator().log(12);
    let mut log = trial.open().await?;
    for (at, event) in events.iter().enumerate() {
        log.append(last(&events[..at]), std::slice::from_ref(event)).await?;
        if at % 4 == 3 {
            log = log.reopen().await?;
            log.holds(&events[..=at]).await?;
        }
    }
    log.close().await
}

pub(super) async fn crash(trial: &Trial) -> Verdict {
    let events = trial.generator().log(30);
    let mut log = trial.open().await?;
    let mut held = 0;
    for batch in [1, 7, 2, 20] {
        let appended = held + batch;
        log.append(last(&events[..held]), &events[held..appended]).await?;
        let promised =
            if trial.is_durable() { last(&events[..appended]) } else { log.checkpoint().await?.id() };
        log = log.crash().await?;
        let found = log.prefix(&events[..appended]).await?;
        if last(&events[..found]) < promised {
            return broken(
                format!("the events up to {promised:?}, which were promised before the crash"),
                format!("only those up to {:?}", last(&events[..found])),
            );
        }
        // What was accepted but not promised is sent again.
        if found < appended {
            log.append(last(&events[..found]), &events[found..appended]).await?;
        }
        held = appended;
    }
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn batches_of_every_size(trial: &Trial) -> Verdict {
    let sizes = [1, 2, 999, 1_000, 1_001].map(|size| trial.limits.batch_events_max.min(size));
    let events = trial.generator().log(trial.events(sizes.iter().sum()));
    let log = trial.open().await?;
    let mut rest = events.as_slice();
    let mut after = None;
    for size in sizes {
        let (batch, behind) = rest.split_at(size.min(rest.len()));
        if !batch.is_empty() {
            log.append(after, batch).await?;
            after = last(batch);
        }
        rest = behind;
    }
    log.holds(&events).await?;
    let log = log.reopen().await?;
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn large_batches(trial: &Trial) -> Verdict {
    let largest = trial.events(trial.limits.batch_events_max);
    for size in [1_024, 1_025, largest] {
        let size = size.min(largest);
        let events = trial.generator().log(size + 1);
        let log = trial.open_another(&format!("_{size}")).await?;
        log.append(None, &events[..size]).await?;
        log.holds(&events[..size]).await?;
        log.append(last(&events[..size]), &events[size..]).await?;
        let log = log.reopen().await?;
        log.holds(&events).await?;
        log.close().await?;
        if size == largest {
            break;
        }
    }
    Ok(())
}

pub(super) async fn payloads(trial: &Trial) -> Verdict {
    let bytes_max = trial.limits.event_bytes_max.saturating_sub(64);
    let payloads = Generator::payloads(bytes_max);
    let event = |(id, payload): (usize, String)| {
        Event::builder(EventId::new(id as u64)).payload_json(payload).build().expect("the payloads are JSON")
    };
    let events: Vec<_> = payloads.into_iter().enumerate().map(event).collect();
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    let log = log.reopen().await?;
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn ten_mebibytes(trial: &Trial) -> Verdict {
    let bytes = (10 << 20).min(trial.limits.event_bytes_max);
    let mut generator = trial.generator();
    let events = [generator.event(0), generator.sized(1, bytes), generator.event(2)];
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    let log = log.reopen().await?;
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn envelopes(trial: &Trial) -> Verdict {
    let build = |id: u64| Event::builder(EventId::new(id)).payload_json(r#"{"b":1.0,"a":[]}"#);
    let events = [
        build(0),
        build(1).time("2026-01-05T09:00:00.000000000789Z"),
        build(2).time("not a time at all, but kept: é \u{1F6B0}"),
        build(3).time(""),
        build(4).metadata_json(r#"{"trace":"00-1","n":1.0,"a":1e400}"#),
        build(5).metadata_json("null"),
        build(6).member("origin", r#"{"z":9007199254740993,"a":"\u0041"}"#).member("a \"name\"\n", "null"),
        build(7).snapshot(),
        build(8).snapshot().time("1970-01-01T00:00:00Z").metadata_json("[]").member("x", "1.50"),
        build(9).member("tag", "\"Checkpoint\""),
    ];
    let events: Vec<_> = events.map(|event| event.build().expect("the parts are valid")).into();
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    let log = log.reopen().await?;
    log.holds(&events).await?;
    log.close().await
}

/// Law 2: gaps, large ids, order.
pub(super) async fn gapped_ids(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let mut events = generator.gapped(None, 200);
    let end = trial.limits.id_max.get();
    for id in [end / 2, end / 2 + 1, end - 1, end] {
        events.push(generator.event(id));
    }
    let log = trial.open().await?;
    log.append_all(None, &events, 7).await?;
    log.holds(&events).await?;
    let log = log.reopen().await?;
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn first_id_is_anything(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    for (suffix, id) in [("_a", 0), ("_b", 1), ("_c", 41)] {
        let events = [generator.event(id), generator.event(id + 1)];
        let log = trial.open_another(suffix).await?;
        log.append(None, &events[..1]).await?;
        log.append(last(&events[..1]), &events[1..]).await?;
        log.holds(&events).await?;
        log.close().await?;
    }
    Ok(())
}

pub(super) async fn order_of_arrival(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(trial.events(500));
    let log = trial.open().await?;
    let mut at = 0;
    while at < events.len() {
        let end = events.len().min(at + 1 + generator.below(40));
        log.append(last(&events[..at]), &events[at..end]).await?;
        at = end;
    }
    log.holds(&events).await?;
    log.close().await
}

/// Law 5: the checkpoint.
pub(super) async fn empty(trial: &Trial) -> Verdict {
    let log = trial.open().await?;
    for _ in 0..2 {
        match log.checkpoint().await? {
            Checkpoint::Empty => {}
            other => return broken("Empty for a log without events", format!("{other:?}")),
        }
    }
    let log = log.reopen().await?;
    log.holds(&[]).await?;
    log.close().await
}

pub(super) async fn checkpoint_follows(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 40);
    let mut log = trial.open().await?;
    for at in 0..events.len() {
        log.append(last(&events[..at]), &events[at..=at]).await?;
        let seen = log.checkpoint().await?;
        let appended = Checkpoint::at(&events[at]);
        if trial.is_durable() && seen != appended {
            return broken(
                format!("the checkpoint {} right after Ok", name(&appended)),
                format!("the checkpoint {}", name(&seen)),
            );
        }
        if seen.id() > appended.id() {
            return broken(
                format!("a checkpoint no higher than {}, where the log ends", name(&appended)),
                format!("the checkpoint {}", name(&seen)),
            );
        }
        if at % 10 == 9 {
            log = log.reopen().await?;
            log.holds(&events[..=at]).await?;
        }
    }
    log.close().await
}

pub(super) async fn checkpoint_is_durable(trial: &Trial) -> Verdict {
    let events = trial.generator().log(16);
    let mut log = trial.open().await?;
    let (mut held, mut waits) = (0, false);
    while held < events.len() {
        log.append(last(&events[..held]), &events[held..held + 4]).await?;
        if waits {
            // Else each crash could come before the store has synced, for ever.
            log.holds(&events[..held + 4]).await?;
        }
        let promised = log.checkpoint().await?;
        log = log.crash().await?;
        let found = log.checkpoint().await?;
        if found.id() < promised.id() {
            return broken(
                format!(
                    "after a crash at least the checkpoint that was reported before, {}",
                    name(&promised)
                ),
                format!("the checkpoint {}", name(&found)),
            );
        }
        let before = held;
        held = events.iter().take_while(|event| Some(event.id()) <= found.id()).count();
        waits = held == before;
        log.holds(&events[..held]).await?;
    }
    log.close().await
}

pub(super) async fn refusals_do_not_move_it(trial: &Trial) -> Verdict {
    let events = trial.generator().log(9);
    let log = trial.holding(&events[..4]).await?;
    log.holds(&events[..4]).await?;
    log.gap(last(&events[..6]), &events[6..]).await?;
    log.holds(&events[..4]).await?;
    let log = log.reopen().await?;
    log.holds(&events[..4]).await?;
    log.close().await
}

pub(super) async fn unknown_without_memory(trial: &Trial) -> Verdict {
    let log = trial.holding(&trial.generator().log(1)).await?;
    let reported = log.checkpoint().await?;
    let remembers = trial.has(hydrant::Capabilities::MEMORY);
    match reported {
        Checkpoint::Unknown if remembers => {
            broken("a checkpoint from a sink that declares Memory", "Unknown")
        }
        Checkpoint::At { .. } | Checkpoint::Empty if !remembers => {
            broken("Unknown from a sink that does not declare Memory", name(&reported))
        }
        _ => log.close().await,
    }
}
