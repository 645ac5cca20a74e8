//! All of them together, under faults and crashes.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Batch, Checkpointed, DeadLetter, ErrorKind, Event, EventId, EventSink, EventSourceExt, FanOut,
    FanOutOptions, Filtered, Mapped, MemoryCheckpoints, MemoryStore, ReadFrom, Result, SecondaryOptions,
};

use super::{Forgetful, LateJudge, ids};
use crate::support::{Fault, Scripted, batch, event, seeds};

fn keep(event: &Event) -> bool {
    !event.id().get().is_multiple_of(3)
}

fn map(event: &Event) -> Result<Event> {
    Event::builder(event.id()).payload_json(format!("{:?}", String::from_utf8_lossy(event.payload()))).build()
}

fn fault(rng: &mut fastrand::Rng) -> Option<Fault> {
    match rng.u8(..10) {
        0 => Some(Fault::Lost),
        1 => Some(Fault::After),
        2 => Some(Fault::Before(ErrorKind::Unavailable)),
        3 => Some(Fault::Hang { applied: rng.bool() }),
        _ => None,
    }
}

/// The order of the wrappers, innermost first, and what the innermost sink does with poison.
#[derive(Clone, Debug)]
struct Composition {
    layers: [Layer; 3],
    judges_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Filters,
    Maps,
    Buries,
}

impl Composition {
    fn random(rng: &mut fastrand::Rng) -> Self {
        let mut layers = [Layer::Filters, Layer::Maps, Layer::Buries];
        rng.shuffle(&mut layers);
        Self { layers, judges_late: rng.bool() }
    }

    fn around(&self, sink: &Scripted, dead: &Scripted) -> Box<dyn EventSink> {
        let mut wrapped: Box<dyn EventSink> =
            if self.judges_late { Box::new(LateJudge(sink.clone())) } else { Box::new(sink.clone()) };
        for layer in self.layers {
            wrapped = match layer {
                Layer::Filters => Box::new(Filtered::new(wrapped, keep)),
                Layer::Maps => Box::new(Mapped::new(wrapped, map)),
                Layer::Buries => Box::new(DeadLetter::new(wrapped, dead.clone())),
            };
        }
        wrapped
    }

    /// Returns whether a dead letter is the mapped event.
    fn maps_dead_letters(&self) -> bool {
        self.layers.iter().rposition(|layer| *layer == Layer::Maps)
            > self.layers.iter().rposition(|layer| *layer == Layer::Buries)
    }
}

/// A pump in small: asks for the sink's checkpoint, sends from there, and is killed now and then.
async fn pump(
    log: &[Event],
    rng: &mut fastrand::Rng,
    checkpoints: &MemoryCheckpoints,
    open: impl Fn() -> Box<dyn EventSink>,
) {
    'restart: loop {
        let store = Arc::new(checkpoints.clone());
        let sink = Checkpointed::open(open(), store, "some", "memory").await.unwrap();
        loop {
            let next = match sink.checkpoint().await.unwrap().id() {
                Some(id) if id == log[log.len() - 1].id() => return,
                Some(id) => log.partition_point(|event| event.id() <= id),
                None => 0,
            };
            let end = (next + rng.usize(1..8)).min(log.len());
            let after = next.checked_sub(1).map(|before| log[before].id());
            let append = sink.append(Batch::new(after, &log[next..end]).unwrap());
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), append).await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            if rng.u8(..6) == 0 {
                continue 'restart;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn kept_events_arrive_in_order_once_whatever_fails() {
    for seed in seeds(80) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let composition = Composition::random(&mut rng);
        println!("HYDRANT_SEED={seed} {composition:?}");
        let poison: Vec<u64> = (0..100).filter(|_| rng.u8(..6) == 0).collect();
        let text = |id| if poison.contains(&id) { format!("poison {id}") } else { format!("event {id}") };
        let log: Vec<Event> = (0..100).map(|id| Event::new(EventId::new(id), &text(id)).unwrap()).collect();
        let faults = |rng: &mut fastrand::Rng| (0..1_000).map(|_| fault(rng)).collect::<Vec<_>>();
        let (store, dead) = (Scripted::new(faults(&mut rng)), Scripted::new(faults(&mut rng)));
        if !composition.judges_late {
            store.refuse("poison");
        }
        let open = || composition.around(&store, &dead);

        pump(&log, &mut rng, &MemoryCheckpoints::default(), open).await;

        let (letters, held): (Vec<Event>, Vec<Event>) =
            log.into_iter().filter(keep).partition(|event| poison.contains(&event.id().get()));
        let mapped = |events: &[Event]| events.iter().map(|event| map(event).unwrap()).collect::<Vec<_>>();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), mapped(&held));
        let letters = if composition.maps_dead_letters() { mapped(&letters) } else { letters };
        assert_eq!(dead.collect(ReadFrom::Origin).await.unwrap(), letters);
    }
}

#[tokio::test(start_paused = true)]
async fn delivered_ends_although_the_last_events_are_filtered_out() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let (kept, unkept) = (MemoryStore::default(), Forgetful::default());
    let sink = Filtered::new(kept.clone(), |event| event.id() < EventId::new(3));
    let sink = Mapped::new(sink, map);
    let checkpoints = Arc::new(MemoryCheckpoints::default());
    let some = Checkpointed::open(sink, checkpoints.clone(), "some", "memory").await.unwrap();
    let none = Filtered::new(unkept.clone(), |_| false);
    let none = Checkpointed::open(none, checkpoints, "none", "memory").await.unwrap();
    log.attach("some", some, SecondaryOptions::default()).await.unwrap();
    log.attach("none", none, SecondaryOptions::default()).await.unwrap();
    for id in 0..10 {
        log.append(batch(&[event(id)])).await.unwrap();
    }
    log.delivered(EventId::new(9), Duration::from_secs(60)).await.unwrap();
    assert_eq!(ids(&kept).await, [0, 1, 2]);
    assert!(unkept.taken().is_empty());
}
