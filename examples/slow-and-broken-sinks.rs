//! Shows isolation: one log and five sinks, of which four misbehave.
//!
//! ```console
//! $ cargo run --example slow-and-broken-sinks
//! ```
//!
//! A writer appends, and waits for no sink. `quick` keeps up with it, because no sink waits for another.
//! The other sinks are slow, hang, fail, and panic. After six seconds they are mended. Each continues from its own
//! checkpoint, until all hold the same log.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, Error, Event, EventId, EventSink, FanOut, FanOutOptions, FanOutStatus, MemoryStore,
    Result, SecondaryOptions,
};
use tokio::time::{Instant, interval, sleep};

const MENDED_AFTER: Duration = Duration::from_secs(6);
const WRITES_FOR: Duration = Duration::from_secs(8);

/// What is wrong with a sink.
#[derive(Clone, Copy)]
enum Trouble {
    None,
    Slow,
    Hangs,
    Fails,
    Panics,
}

/// A sink with a trouble, over a store without one. A sink needs two methods only.
struct Troubled {
    store: MemoryStore,
    trouble: Trouble,
    mended: Arc<AtomicBool>,
}

#[async_trait]
impl EventSink for Troubled {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        // The first thousand events succeed, so that there is a checkpoint to continue from.
        let well = self.mended.load(Ordering::Relaxed) || batch.last().id() < EventId::new(1000);
        match self.trouble {
            _ if well => {}
            Trouble::None => {}
            Trouble::Slow => sleep(Duration::from_millis(300)).await,
            Trouble::Hangs => std::future::pending().await,
            // A sink reports whether a retry can help. Here it can: the fan-out retries with backoff.
            Trouble::Fails => {
                return Err(Error::unavailable("the connection was reset"));
            }
            // A bug. It parks this sink only, until an operator resumes it.
            Trouble::Panics => panic!("index out of bounds"),
        }
        self.store.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.store.checkpoint().await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // The panic above is on purpose: do not print it over the table.
    std::panic::set_hook(Box::new(|_| {}));

    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await?;
    let mended = Arc::new(AtomicBool::new(false));
    let options = SecondaryOptions::default()
        .with_batch(64, 1 << 20)
        .with_call_timeout(Duration::from_millis(500)) // a call that hangs longer is dropped, and retried
        .with_backoff(Duration::from_millis(50), Duration::from_secs(1));
    for (name, trouble) in [
        ("quick", Trouble::None),
        ("slow", Trouble::Slow),
        ("hanging", Trouble::Hangs),
        ("failing", Trouble::Fails),
        ("panicking", Trouble::Panics),
    ] {
        let sink = Troubled { store: MemoryStore::default(), trouble, mended: mended.clone() };
        log.attach(name, sink, options.clone()).await?;
    }

    let writer = tokio::spawn(write(log.clone()));
    let started = Instant::now();
    let mut table = Table::new();
    let mut tick = interval(table.every);
    while !writer.is_finished() {
        tick.tick().await;
        if started.elapsed() > MENDED_AFTER && !mended.swap(true, Ordering::Relaxed) {
            // A parked sink waits for an operator. The other sinks recover without one.
            log.resume("panicking")?;
        }
        table.show(&log.status(), started.elapsed());
    }
    let last = writer.await.expect("the writer does not panic")?;

    let all = log.delivered(last, Duration::from_secs(30)).await;
    table.show(&log.status(), started.elapsed());
    match all {
        Ok(()) => println!("\nAll five hold every event up to {last}, in order."),
        Err(laggards) => laggards.iter().for_each(|laggard| println!("{laggard}")),
    }
    drop(log.close(Duration::from_secs(1)).await);
    Ok(())
}

/// Appends ten events every five milliseconds, whatever the sinks do.
async fn write(log: FanOut<MemoryStore>) -> Result<EventId> {
    let mut tick = interval(Duration::from_millis(5));
    let (started, mut last) = (Instant::now(), None);
    loop {
        let first = last.map_or(0, |last: EventId| last.get() + 1);
        let events: Vec<_> = (first..first + 10)
            .map(|id| Event::new(EventId::new(id), &("tick", id)))
            .collect::<Result<_>>()?;
        log.append(Batch::new(last, &events)?).await?;
        last = events.last().map(Event::id);
        match last {
            Some(last) if started.elapsed() > WRITES_FOR => return Ok(last),
            _ => tick.tick().await,
        };
    }
}

/// The status as a table. It is redrawn in place on a terminal, and printed at intervals elsewhere.
struct Table {
    every: Duration,
    redraw: bool,
    drawn: bool,
}

impl Table {
    fn new() -> Self {
        let redraw = std::io::stdout().is_terminal();
        let every = if redraw { Duration::from_millis(100) } else { Duration::from_secs(2) };
        Self { every, redraw, drawn: false }
    }

    fn show(&mut self, status: &FanOutStatus, elapsed: Duration) {
        let head = status.head.map_or(0, EventId::get);
        let mut lines = vec![
            format!("{:>4.1} s, the log ends at event {head}", elapsed.as_secs_f32()),
            "sink       state        has                         behind  retries  last error".to_owned(),
        ];
        for sink in &status.secondaries {
            let has = sink.checkpoint.map_or(0, EventId::get);
            let bar = "█".repeat(usize::try_from(has * 20 / head.max(1)).unwrap_or(20));
            let error = sink.last_error.as_ref().map(|error| error.message().to_owned()).unwrap_or_default();
            lines.push(format!(
                "{:<10} {:<12} {bar:░<20} {has:>5} {:>7}  {:>7}  {error:.52}",
                sink.name, sink.state, sink.lag_events, sink.retries
            ));
        }
        let table = lines.join("\n\x1b[2K"); // each line is cleared before it is written again
        match (self.redraw, self.drawn) {
            (false, false) => println!("{}", lines.join("\n")),
            (false, true) => println!("\n{}", lines.join("\n")),
            // Long lines are cut at the edge of the terminal: wrapped lines would move the table down.
            (true, false) => println!("\x1b[?7l{table}\x1b[?7h"),
            (true, true) => println!("\x1b[{}A\x1b[?7l\x1b[2K{table}\x1b[?7h", lines.len()),
        }
        self.drawn = true;
        // If the reader of standard output is gone, the error does not matter.
        drop(std::io::stdout().flush());
    }
}
