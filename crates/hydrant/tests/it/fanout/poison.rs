//! A poison event parks its sink, and holds back no event before it.

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, Error, ErrorKind, EventId, EventSink, EventSourceExt, FanOut, FanOutOptions,
    MemoryStore, ReadFrom, Result, SecondaryOptions, SecondaryState,
};

use super::{SOON, until};
use crate::support::{batch, events, id};

/// Refuses some events; of several in one batch it names the last.
#[derive(Clone)]
struct Picky {
    store: MemoryStore,
    refused: Vec<EventId>,
}

#[async_trait]
impl EventSink for Picky {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        match batch.events().iter().rfind(|event| self.refused.contains(&event.id())) {
            Some(event) => Err(Error::invalid("not this one").at(event.id())),
            None => self.store.append(batch).await,
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.store.checkpoint().await
    }
}

#[tokio::test(start_paused = true)]
async fn events_before_a_poison_event_are_delivered() {
    for refused in [vec![0], vec![7], vec![19], vec![7, 8], vec![5, 9, 13]] {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        log.append(batch(&events(0..20))).await.unwrap();
        let refused: Vec<_> = refused.into_iter().map(id).collect();
        let sink = Picky { store: MemoryStore::default(), refused: refused.clone() };
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        let parked = until(&log, "sink", SecondaryState::Parked).await;
        assert_eq!(parked.last_error.and_then(|error| error.event()), Some(refused[0]));
        let before = events(0..refused[0].get());
        assert_eq!(sink.store.collect(ReadFrom::Origin).await.unwrap(), before, "{refused:?}");
        assert_eq!(parked.checkpoint, refused[0].prev());
    }
}

/// An error that names an event outside of the batch, or none, delivers nothing by guesswork.
#[tokio::test(start_paused = true)]
async fn an_invalid_batch_without_an_event_parks_at_its_first() {
    struct Vague(Option<EventId>);

    #[async_trait]
    impl EventSink for Vague {
        async fn append(&self, _: Batch<'_>) -> Result<()> {
            let error = Error::invalid("no");
            Err(self.0.map_or(error.clone(), |id| error.at(id)))
        }

        async fn checkpoint(&self) -> Result<Checkpoint> {
            Ok(Checkpoint::Empty)
        }
    }

    for named in [None, Some(id(99))] {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        log.append(batch(&events(0..20))).await.unwrap();
        log.attach("sink", Vague(named), SecondaryOptions::default()).await.unwrap();
        let parked = until(&log, "sink", SecondaryState::Parked).await;
        let error = parked.last_error.unwrap();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, named.or(Some(id(0)))));
        assert_eq!(parked.checkpoint, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_poison_event_delays_no_other_sink() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let picky = Picky { store: MemoryStore::default(), refused: vec![id(3)] };
    log.attach("picky", picky, SecondaryOptions::default()).await.unwrap();
    log.attach("good", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..20))).await.unwrap();
    let laggards = log.delivered(id(19), SOON).await.unwrap_err();
    assert_eq!(laggards.iter().map(|laggard| &*laggard.name).collect::<Vec<_>>(), ["picky"]);
}
