//! Sinks that lose their events under a `Checkpointed`, and operators who empty them and resume.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, Checkpointed, DeadLetter, ErrorKind, Event,
    EventSink, EventSourceExt, FanOut, FanOutOptions, Filtered, MemoryCheckpoints, MemoryStore, ReadFrom,
    SecondaryOptions, SecondaryState,
};

use super::{LateJudge, ids};
use crate::fanout::rig::Server;
use crate::support::{batch, event, id};

const SOON: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A fan-out with one secondary.
struct Rig {
    log: FanOut<MemoryStore>,
    checkpoints: MemoryCheckpoints,
}

impl Rig {
    async fn around(sink: impl EventSink + 'static) -> Self {
        let rig = Self::new().await;
        let checkpoints = Arc::new(rig.checkpoints.clone());
        let sink = Checkpointed::open(sink, checkpoints, "sink", "memory").await.unwrap();
        rig.attach(sink).await;
        rig
    }

    async fn new() -> Self {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default().with_seed(1)).await.unwrap();
        Self { log, checkpoints: MemoryCheckpoints::default() }
    }

    async fn attach(&self, sink: impl EventSink + 'static) {
        self.log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    }

    /// Appends events, of which those with an id in `POISON` are refused by a [`LateJudge`].
    async fn append(&self, ids: std::ops::Range<u64>) {
        for at in ids {
            let poison = POISON.contains(&at).then(|| Event::new(id(at), "poison").unwrap());
            self.log.append(batch(&[poison.unwrap_or_else(|| event(at))])).await.unwrap();
        }
    }

    async fn delivers(&self, last: u64) {
        self.log.delivered(id(last), SOON).await.unwrap();
        assert_eq!(self.log.status().secondaries[0].state, SecondaryState::Live);
    }

    /// Waits until the secondary is parked because its sink lost events.
    async fn diverges(&self) {
        for _ in 0..600 {
            let status = self.log.status().secondaries.remove(0);
            if status.state == SecondaryState::Parked {
                assert_eq!(status.last_error.unwrap().kind(), ErrorKind::Diverged);
                // What the pump does as it parks.
                return tokio::time::sleep(SECOND).await;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        panic!("not parked: {:?}", self.log.status().secondaries);
    }

    /// Replaces the sink's checkpoint entry, as an operator does.
    async fn set_entry(&self, to: Option<Checkpoint>) {
        let entry = self.checkpoints.load("sink").await.unwrap().unwrap();
        let to = to.map(|checkpoint| CheckpointEntry::new("sink", "memory", checkpoint));
        self.checkpoints.swap("sink", Some(&entry), to.as_ref()).await.unwrap();
    }

    fn resume(&self) {
        self.log.resume("sink").unwrap();
    }
}

const POISON: [u64; 2] = [1, 5];

#[tokio::test(start_paused = true)]
async fn an_emptied_sink_is_filled_again_after_one_resume() {
    // Before and after the sink's progress is recorded in the roster.
    for pause in [Duration::ZERO, SECOND * 5] {
        let sink = Server::default();
        let rig = Rig::around(sink.clone()).await;
        rig.append(0..3).await;
        rig.delivers(2).await;
        tokio::time::sleep(pause).await;
        sink.fail_over(&[]).await;
        rig.append(3..4).await;
        rig.diverges().await;
        rig.resume();
        rig.diverges().await;
        rig.set_entry(None).await;
        rig.resume();
        rig.delivers(3).await;
        assert_eq!(ids(&sink).await, [0, 1, 2, 3], "{pause:?}");
        rig.append(4..6).await;
        rig.delivers(5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn emptied_dead_letters_are_written_again_after_one_resume() {
    let (sink, dead) = (Server::default(), Server::default());
    let rig = Rig::around(DeadLetter::new(LateJudge(sink.clone()), dead.clone())).await;
    rig.append(0..7).await;
    rig.delivers(6).await;
    assert_eq!((ids(&sink).await, ids(&dead).await), (vec![0, 2, 3, 4, 6], vec![1, 5]));
    sink.fail_over(&[]).await;
    dead.fail_over(&[]).await;
    rig.append(7..8).await;
    rig.diverges().await;
    rig.set_entry(None).await;
    rig.resume();
    rig.delivers(7).await;
    assert_eq!((ids(&sink).await, ids(&dead).await), (vec![0, 2, 3, 4, 6, 7], vec![1, 5]));
}

/// The second sink is compared with what it acknowledged until the source sends from before that.
#[tokio::test(start_paused = true)]
async fn lost_dead_letters_park_until_all_is_emptied() {
    for is_checkpointed in [true, false] {
        let (sink, dead) = (Server::default(), Server::default());
        let wrapped = DeadLetter::new(LateJudge(sink.clone()), dead.clone());
        let rig = if is_checkpointed {
            Rig::around(wrapped).await
        } else {
            let rig = Rig::new().await;
            rig.attach(wrapped).await;
            rig
        };
        rig.append(0..5).await;
        rig.log.delivered(id(4), SOON).await.unwrap();
        dead.fail_over(&[]).await;
        rig.append(5..7).await;
        rig.diverges().await;
        rig.resume();
        rig.diverges().await;
        assert_eq!(ids(&dead).await, [0; 0], "no hole among the dead letters");
        sink.fail_over(&[]).await;
        if is_checkpointed {
            rig.set_entry(None).await;
        }
        rig.resume();
        rig.delivers(6).await;
        assert_eq!((ids(&sink).await, ids(&dead).await), (vec![0, 2, 3, 4, 6], vec![1, 5]));
    }
}

/// The filter skipped the event that the entry names, so the sink ends below it.
#[tokio::test(start_paused = true)]
async fn a_filtered_sink_restored_in_part_continues_from_there() {
    let sink = Server::default();
    let even = |event: &Event| event.id().get().is_multiple_of(2);
    let rig = Rig::around(Filtered::new(sink.clone(), even)).await;
    rig.append(0..6).await;
    rig.delivers(5).await;
    let backup = super::holding(&[0, 2]).await;
    sink.fail_over(&[]).await;
    rig.append(6..7).await;
    rig.diverges().await;
    rig.resume();
    rig.diverges().await;
    assert_eq!(ids(&sink).await, [0; 0], "no hole");
    for event in backup.collect(ReadFrom::Origin).await.unwrap() {
        let after = sink.checkpoint().await.unwrap().id();
        sink.append(Batch::new(after, &[event]).unwrap()).await.unwrap();
    }
    rig.set_entry(Some(Checkpoint::at(&event(3)))).await;
    rig.resume();
    rig.delivers(6).await;
    assert_eq!(ids(&sink).await, [0, 2, 4, 6]);
}

/// Without a `Checkpointed`, the sink's own checkpoint says what is missing, and no operator is needed.
#[tokio::test(start_paused = true)]
async fn without_a_checkpoint_entry_an_emptied_sink_is_filled() {
    let (sink, dead) = (Server::default(), Server::default());
    let rig = Rig::new().await;
    rig.attach(Filtered::new(DeadLetter::new(LateJudge(sink.clone()), dead.clone()), |_| true)).await;
    rig.append(0..6).await;
    rig.delivers(5).await;
    sink.fail_over(&[]).await;
    rig.append(6..8).await;
    rig.delivers(7).await;
    assert_eq!((ids(&sink).await, ids(&dead).await), (vec![0, 2, 3, 4, 6, 7], vec![1, 5]));
}
