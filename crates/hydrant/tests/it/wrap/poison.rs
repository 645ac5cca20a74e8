//! An error that names an event leaves the events before it delivered, in every composition.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Checkpointed, DeadLetter, Deferred, Error, ErrorKind, Event, EventId, EventSink, FanOut, FanOutOptions,
    Filtered, Mapped, MemoryCheckpoints, MemoryStore, Result, SecondaryOptions,
};

use super::{LateJudge, ids};
use crate::support::{Scripted, batch};

const LEN: u64 = 8;

/// A log in which one event is poison.
fn log(poison: u64) -> Vec<Event> {
    let text = |id| if id == poison { format!("poison {id}") } else { format!("event {id}") };
    (0..LEN).map(|id| Event::new(EventId::new(id), &text(id)).unwrap()).collect()
}

fn keep(event: &Event) -> bool {
    event.id().get() % 4 != 1
}

fn map(event: &Event) -> Result<Event> {
    Event::builder(event.id()).payload_json(format!("{:?}", String::from_utf8_lossy(event.payload()))).build()
}

fn filtered(sink: Box<dyn EventSink>) -> Box<dyn EventSink> {
    Box::new(Filtered::new(sink, keep))
}

fn mapped(sink: Box<dyn EventSink>) -> Box<dyn EventSink> {
    Box::new(Mapped::new(sink, map))
}

/// A map that fails for poison.
fn picky_map(sink: Box<dyn EventSink>) -> Box<dyn EventSink> {
    Box::new(Mapped::new(sink, |event: &Event| {
        if String::from_utf8_lossy(event.payload()).contains("poison") {
            return Err(Error::invalid("this map does not take it"));
        }
        map(event)
    }))
}

fn deferred(sink: Box<dyn EventSink>) -> Box<dyn EventSink> {
    let sink: Arc<dyn EventSink> = sink.into();
    Box::new(Deferred::new(move || {
        let sink = sink.clone();
        async move { Ok(sink) }
    }))
}

async fn checkpointed(sink: Box<dyn EventSink>) -> Checkpointed<Box<dyn EventSink>> {
    Checkpointed::open(sink, Arc::new(MemoryCheckpoints::default()), "some", "memory").await.unwrap()
}

type Layer = fn(Box<dyn EventSink>) -> Box<dyn EventSink>;

/// The wrappers of a composition, innermost first.
struct Layers {
    filters: bool,
    layers: Vec<Layer>,
}

fn compositions() -> Vec<Layers> {
    vec![
        Layers { filters: false, layers: vec![] },
        Layers { filters: true, layers: vec![filtered] },
        Layers { filters: false, layers: vec![mapped] },
        Layers { filters: false, layers: vec![picky_map] },
        Layers { filters: true, layers: vec![filtered, mapped] },
        Layers { filters: true, layers: vec![mapped, filtered] },
        Layers { filters: true, layers: vec![deferred, filtered, mapped] },
        Layers { filters: true, layers: vec![filtered, picky_map, deferred] },
        Layers { filters: true, layers: vec![mapped, filtered, filtered] },
    ]
}

impl Layers {
    fn around(&self, sink: impl EventSink + 'static) -> Box<dyn EventSink> {
        self.layers.iter().fold(Box::new(sink), |sink, layer| layer(sink))
    }

    fn kept(&self, ids: impl Iterator<Item = u64>) -> Vec<u64> {
        ids.filter(|id| !self.filters || id % 4 != 1).collect()
    }
}

/// Without a dead letter, the error is `Invalid`, nothing is delivered, and the part before goes through.
#[tokio::test]
async fn the_part_before_the_event_named_goes_through() {
    for layers in compositions() {
        for poison in [0, 2, 3, LEN - 1] {
            let (store, log) = (LateJudge::<MemoryStore>::default(), log(poison));
            let sink = checkpointed(layers.around(store.clone())).await;
            let error = sink.append(batch(&log)).await.unwrap_err();
            assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(EventId::new(poison))));
            if poison > 0 {
                sink.append(batch(&log[..usize::try_from(poison).unwrap()])).await.unwrap();
            }
            assert_eq!(ids(&store.0).await, layers.kept(0..poison));
            let error = sink.append(batch(&log[usize::try_from(poison).unwrap()..])).await.unwrap_err();
            assert_eq!(error.event(), Some(EventId::new(poison)));
        }
    }
}

/// With a dead letter outside, everything else is delivered; once, and again after a crash.
#[tokio::test]
async fn a_dead_letter_outside_of_each_composition_continues() {
    for layers in compositions() {
        for poison in [0, 2, 3, LEN - 1] {
            let (store, dead) = (LateJudge::<MemoryStore>::default(), MemoryStore::default());
            for from in [0, poison / 2] {
                let sink = DeadLetter::new(layers.around(store.clone()), dead.clone());
                let from = usize::try_from(from).unwrap();
                sink.append(batch(&log(poison)[from..])).await.unwrap();
                let others = layers.kept((0..LEN).filter(|&id| id != poison));
                assert_eq!((ids(&store.0).await, ids(&dead).await), (others, vec![poison]));
            }
        }
    }
}

/// A filter outside of the dead letter skips the poison that it does not keep.
#[tokio::test]
async fn a_filter_outside_of_a_dead_letter_decides_first() {
    for poison in 0..LEN {
        let (store, dead) = (LateJudge::<MemoryStore>::default(), MemoryStore::default());
        for _ in 0..2 {
            let inside = DeadLetter::new(store.clone(), dead.clone());
            let sink = Mapped::new(Filtered::new(inside, keep), map);
            sink.append(batch(&log(poison))).await.unwrap();
        }
        let kept = |id: &u64| id % 4 != 1;
        assert_eq!(ids(&store.0).await, (0..LEN).filter(|id| *id != poison && kept(id)).collect::<Vec<_>>());
        assert_eq!(ids(&dead).await, [poison].into_iter().filter(kept).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_panic_of_the_filter_delivers_what_is_before() {
    for at in [0, 3] {
        let store = MemoryStore::default();
        let sink = Filtered::new(store.clone(), move |event| {
            assert!(event.id().get() != at, "unforeseen");
            event.id().get() != 1
        });
        let sink = checkpointed(Box::new(sink)).await;
        let error = sink.append(batch(&log(99))).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Bug, Some(EventId::new(at))));
        assert_eq!(ids(&store).await, [0, 2][..usize::try_from(at).unwrap() * 2 / 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fan_out_delivers_the_others_past_a_dead_letter() {
    let log_of = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let (store, dead) = (Scripted::default(), MemoryStore::default());
    store.refuse("poison");
    let sink = DeadLetter::new(Mapped::new(store.clone(), map), dead.clone());
    let sink = checkpointed(Box::new(sink)).await;
    log_of.append(batch(&log(3))).await.unwrap();
    log_of.attach("some", sink, SecondaryOptions::default()).await.unwrap();
    log_of.delivered(EventId::new(LEN - 1), Duration::from_secs(60)).await.unwrap();
    assert_eq!((ids(&store).await, ids(&dead).await), (vec![0, 1, 2, 4, 5, 6, 7], vec![3]));
}
