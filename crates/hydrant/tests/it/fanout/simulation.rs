//! The whole fan-out under faults, replayable from one printed seed.

use std::time::Duration;

use hydrant::{
    Batch, Event, EventId, EventSink, EventSourceExt, FanOut, FanOutOptions, Prune, ReadFrom,
    SecondaryOptions,
};

use crate::support::{Faulty, Mode};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// One run: a primary and three sinks that misbehave, a fan-out that crashes and comes back.
struct Run {
    rng: fastrand::Rng,
    primary: Faulty,
    sinks: [Faulty; 3],
    log: FanOut<Faulty>,
    /// What the primary acknowledged to its caller.
    acknowledged: Vec<Event>,
    next: u64,
    closed: bool,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let primary = Faulty::new(Mode::Chance(rng.fork()));
        let sinks = [(); 3].map(|()| Faulty::new(Mode::Chance(rng.fork())));
        let log = Self::open(&primary, &mut rng).await;
        let mut run = Self { rng, primary, sinks, log, acknowledged: vec![], next: 0, closed: false };
        run.attach_all().await;
        run
    }

    async fn open(primary: &Faulty, rng: &mut fastrand::Rng) -> FanOut<Faulty> {
        let options = FanOutOptions::default()
            .with_ring(rng.usize(1..40), 1 << 20)
            .with_call_timeout(Duration::from_secs(1))
            .with_resolve_timeout(Duration::from_secs(rng.u64(1..20)))
            .with_seed(rng.u64(..));
        FanOut::open(primary.clone(), options).await.unwrap()
    }

    async fn attach_all(&mut self) {
        for (name, sink) in NAMES.iter().zip(&self.sinks) {
            let options = SecondaryOptions::default()
                .with_batch(self.rng.usize(1..20), 1 << 20)
                .with_call_timeout(Duration::from_secs(1))
                .with_backoff(Duration::from_millis(10), Duration::from_secs(1));
            self.log.attach(name, sink.clone(), options).await.unwrap();
        }
    }

    async fn step(&mut self) {
        match self.rng.u8(..100) {
            0..70 => self.append().await,
            70..78 => tokio::time::sleep(Duration::from_millis(self.rng.u64(..3_000))).await,
            78..84 => {
                let name = NAMES[self.rng.usize(..3)];
                self.log.park(name).unwrap();
            }
            84..92 => self.resume_all(),
            92..96 => self.log.prune(EventId::new(self.rng.u64(..=self.next))).await.unwrap(),
            _ => self.crash().await,
        }
    }

    fn resume_all(&self) {
        for name in NAMES {
            self.log.resume(name).unwrap();
        }
    }

    /// The process dies and comes back: every task is dropped at its await.
    async fn crash(&mut self) {
        self.log = Self::open(&self.primary, &mut self.rng).await;
        // What the dead process still had in flight ends before the next one begins.
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.attach_all().await;
        self.closed = false;
        self.forget_unknown().await;
    }

    /// Reads from the primary what became of a write with an open outcome.
    async fn forget_unknown(&mut self) {
        let held = self.primary.inner.checkpoint().await.unwrap().id();
        self.next = held.map_or(0, |id| id.get() + 1);
    }

    async fn append(&mut self) {
        if self.closed {
            return self.crash().await;
        }
        let mut events = Vec::new();
        let mut id = self.next;
        for _ in 0..self.rng.usize(1..8) {
            id += u64::from(self.rng.u8(..4) == 0); // gaps are allowed
            let payload = self.rng.u64(..);
            let builder = Event::builder(EventId::new(id)).payload(&payload).unwrap();
            let is_snapshot = events.is_empty() && self.rng.u8(..2) == 0;
            events.push(if is_snapshot { builder.snapshot() } else { builder }.build().unwrap());
            id += 1;
        }
        let after = self.primary.inner.checkpoint().await.unwrap().id();
        let batch = Batch::new(after, &events).unwrap();
        let appended = if self.rng.u8(..10) == 0 {
            let patience = Duration::from_millis(self.rng.u64(..1_500));
            // A dropped append: whole or absent, and the next call on the handle finds out which.
            let Ok(appended) = tokio::time::timeout(patience, self.log.append(batch)).await else {
                drop(self.log.checkpoint().await);
                self.closed = self.log.status().stopped.is_some();
                return self.forget_unknown().await;
            };
            appended
        } else {
            self.log.append(batch).await
        };
        match appended {
            Ok(()) => {
                self.next = id;
                self.acknowledged.extend(events);
            }
            Err(_) => self.closed = self.log.status().stopped.is_some(),
        }
        self.forget_unknown().await;
    }

    async fn check(mut self) {
        self.primary.set(Mode::Fine);
        self.sinks.iter().for_each(|sink| sink.set(Mode::Fine));
        self.crash().await;
        self.resume_all();
        let last = [Event::new(EventId::new(self.next), "the end").unwrap()];
        let after = self.primary.inner.checkpoint().await.unwrap().id();
        self.log.append(Batch::new(after, &last).unwrap()).await.unwrap();
        if let Err(laggards) = self.log.delivered(last[0].id(), Duration::from_secs(600)).await {
            panic!("not delivered: {laggards:?}");
        }
        // The first sink never prunes, so it holds the whole log.
        let whole = self.sinks[0].inner.collect(ReadFrom::Origin).await.unwrap();
        for sink in &self.sinks {
            assert_eq!(sink.inner.collect(ReadFrom::Origin).await.unwrap(), whole, "a sink differs");
        }
        let kept = self.primary.inner.collect(ReadFrom::Snapshot).await.unwrap();
        assert!(whole.ends_with(&kept), "the primary differs");
        let mut stored = whole.iter();
        for event in &self.acknowledged {
            assert!(stored.any(|stored| stored == event), "acknowledged, but not there in order: {event}");
        }
    }
}

#[test]
fn every_acknowledged_event_reaches_every_sink_in_order() {
    let chosen = std::env::var("HYDRANT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = chosen.map_or(0..150, |seed| seed..seed + 1);
    for seed in seeds {
        println!("HYDRANT_SEED={seed}");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new(seed).await;
            for _ in 0..150 {
                run.step().await;
            }
            run.check().await;
        });
    }
}
