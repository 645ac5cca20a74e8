//! Builds the code under test over the model stores, as a program would.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Checkpointed, DeadLetter, Deferred, Event, EventId, EventSink, FanOut, FanOutOptions, Filtered,
    JournalOptions, Mapped, RelayOptions, Result, SecondaryOptions, StartAt,
};

use super::system::Engine;
use crate::plan::{Config, SinkConfig, SinkKind, Start, Store};
use crate::world::sink::keeps;
use crate::world::truth::fact;
use crate::world::{FileLog, ModelPrimary, ModelRoster, ModelSink, Process, World};

pub type BoxedSink = Box<dyn EventSink>;

pub fn fan_out_options(world: &Arc<World>, config: &Config, seed: u64) -> FanOutOptions {
    let options = FanOutOptions::default()
        .with_ring(config.ring_events, config.ring_bytes)
        .with_call_timeout(Duration::from_millis(config.call_ms))
        .with_resolve_timeout(Duration::from_millis(config.resolve_ms))
        .with_sync_poll(Duration::from_millis(config.sync_poll_ms))
        .with_clock(clock(world))
        .with_stop_if_stale(config.stop_if_stale)
        .with_seed(seed);
    match config.retain_bytes {
        Some(bytes) => options.with_retain_bytes_max(bytes),
        None => options,
    }
}

/// The system clock moves only when it jumps: nothing may be ordered by it.
fn clock(world: &Arc<World>) -> hydrant::Clock {
    let world = world.clone();
    hydrant::Clock::from_fn(move || {
        let seconds = world.lock().clock_seconds;
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let jumped = if seconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
        jumped.unwrap_or(epoch)
    })
}

pub fn relay_options(world: &Arc<World>, config: &Config, seed: u64) -> RelayOptions {
    RelayOptions::default()
        .with_ring(config.ring_events, config.ring_bytes)
        .with_call_timeout(Duration::from_millis(config.call_ms))
        .with_follow(!world.lock().relay_ends)
        .with_clock(clock(world))
        .with_seed(seed)
}

pub fn journal_options(world: &Arc<World>, config: &Config, seed: u64) -> JournalOptions {
    let append_ms = config.append_ms.unwrap_or(config.call_ms * 2 + config.resolve_ms);
    let (backoff_min, backoff_max) = config.journal_backoff_ms.unwrap_or((10, 500));
    JournalOptions::default()
        .with_in_flight_events_max(config.in_flight_events)
        .with_in_flight_bytes_max(config.in_flight_bytes.unwrap_or(16 << 20))
        .with_append_timeout(Duration::from_millis(append_ms))
        .with_resolve_timeout(Duration::from_millis(config.resolve_ms))
        .with_backoff(Duration::from_millis(backoff_min), Duration::from_millis(backoff_max))
        .with_clock(clock(world))
        .with_seed(seed)
}

pub fn secondary_options(sink: &SinkConfig) -> SecondaryOptions {
    let start = match sink.kind {
        SinkKind::Forgetful => match sink.start {
            None => StartAt::Origin,
            Some(Start::After(id)) => StartAt::After(EventId::new(id)),
            Some(Start::Head) => StartAt::Head,
            Some(Start::OldestSnapshot) => StartAt::OldestSnapshot,
        },
        _ if sink.oldest_snapshot => StartAt::OldestSnapshot,
        _ => StartAt::Checkpoint,
    };
    let mut options = SecondaryOptions::default()
        .with_start(start)
        .with_batch(sink.batch_events, sink.batch_bytes)
        .with_linger_max(Duration::from_millis(sink.linger_ms))
        .with_call_timeout(Duration::from_millis(sink.call_ms))
        .with_backoff(Duration::from_millis(sink.backoff_ms.0), Duration::from_millis(sink.backoff_ms.1));
    // The setter raises them to 1; the fields do not.
    (options.batch_events_max, options.batch_bytes_max) = (sink.batch_events, sink.batch_bytes);
    options.lag_events_max = sink.lag_events;
    options
}

/// The head of the log that the engine knows now, or that a relay's source has.
pub fn known_head(world: &World, engine: &Engine) -> Option<EventId> {
    match engine {
        Engine::FanOut(_) => engine.status().head,
        Engine::Relay(_) => world.lock().head_of_a_reader(),
    }
}

/// A sink as the program attaches it. `head` is the head of the log that is known now.
///
/// # Errors
/// What opening its checkpoint, or its own fan-out, meets.
pub async fn sink(
    process: &Arc<Process>,
    index: u8,
    token: &Arc<()>,
    head: Option<EventId>,
) -> Result<BoxedSink> {
    let config = process.world.lock().config.sinks[usize::from(index)].clone();
    if !config.deferred {
        return open(process.clone(), index, token.clone(), config.kind, head).await;
    }
    let (process, token) = (process.clone(), token.clone());
    Ok(Box::new(Deferred::new(move || open(process.clone(), index, token.clone(), config.kind, head))))
}

fn open(
    process: Arc<Process>,
    index: u8,
    token: Arc<()>,
    kind: SinkKind,
    head: Option<EventId>,
) -> Pin<Box<dyn Future<Output = Result<BoxedSink>> + Send>> {
    Box::pin(async move {
        let plain = || ModelSink::new(process.clone(), index, token.clone(), head);
        let cell = || Arc::new(ModelRoster::new(process.clone(), Store::Cell(index)));
        let name = format!("sink{index}");
        Ok(match kind {
            SinkKind::Plain if process.world.lock().is_on_disk(Store::Sink(index)) => {
                Box::new(FileLog::open(process, Store::Sink(index), Some(token)).await?)
            }
            SinkKind::Plain | SinkKind::Buffered | SinkKind::Forgetful | SinkKind::Picky => {
                Box::new(plain()) as BoxedSink
            }
            SinkKind::Checkpointed => Box::new(Checkpointed::open(plain(), cell(), &name, &name).await?),
            SinkKind::Filtered => {
                let filtered = Filtered::new(plain(), move |event| keeps(kind, fact(event)));
                Box::new(Checkpointed::open(filtered, cell(), &name, &name).await?)
            }
            SinkKind::Mapped => {
                Box::new(Checkpointed::open(Mapped::new(plain(), map), cell(), &name, &name).await?)
            }
            SinkKind::DeadLetter => {
                let dead = ModelSink::dead_letters(process.clone(), index, token.clone());
                Box::new(Checkpointed::open(DeadLetter::new(plain(), dead), cell(), &name, &name).await?)
            }
            SinkKind::Nested => {
                let config = process.world.lock().config.clone();
                let seed = process.world.seed ^ u64::from(index);
                let primary = ModelPrimary::new(process.clone(), Store::Inner(index));
                let inner = FanOut::open(primary, fan_out_options(&process.world, &config, seed)).await?;
                let options = secondary_options(&config.sinks[usize::from(index)]);
                inner.attach(&name, plain(), options).await?;
                Box::new(inner)
            }
        })
    })
}

/// The same number in another shape.
fn map(event: &Event) -> Result<Event> {
    let built = Event::builder(event.id()).payload_json(format!(r#"{{"n":{},"mapped":true}}"#, fact(event)));
    if event.is_snapshot() { built.snapshot().build() } else { built.build() }
}
