//! Reading a model log, event by event, with faults on the way.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use hydrant::{Error, ErrorKind, EventId, EventStream, ReadFrom, Result, Retry};

use super::Process;
use super::process::{denied, refused, unknown};
use crate::plan::{Broken, Call, Effect, Site, Store};

/// One read under way.
struct Reading {
    process: Arc<Process>,
    store: Store,
    position: Option<EventId>,
    /// The end of the log when the read began.
    end: Option<EventId>,
    epoch: u64,
    /// A fault that strikes after so many events.
    fault: Option<(u32, Effect)>,
}

pub(crate) fn read(process: Arc<Process>, store: Store, from: ReadFrom) -> EventStream {
    let stream = stream::unfold(Some(Err((process, store, from))), |step| async move {
        let opened = match step? {
            Ok(reading) => Ok(reading),
            Err((process, store, from)) => open(process, store, from).await,
        };
        let mut reading = match opened {
            Ok(reading) => reading,
            Err(error) => return Some((Err(error), None)),
        };
        match reading.next().await {
            Ok(Some(event)) => Some((Ok(event), Some(Ok(reading)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Box::pin(stream)
}

async fn open(process: Arc<Process>, store: Store, from: ReadFrom) -> Result<Reading> {
    process.alive().await;
    let site = Site { store, call: Call::Read };
    let (mut nth, effect) = process.world.with(|state| {
        let entered = state.enter(site, Some(&process.held));
        state.note(|| match entered.1 {
            Some(effect) => format!("**   {site} #{} {from:?}: {effect:?}", entered.0),
            None => format!("     {site} #{} {from:?}", entered.0),
        });
        entered
    });
    let effect = match effect {
        Some(Effect::Lose { .. } | Effect::Fork { .. } | Effect::Restore | Effect::Forget) => {
            process.world.with(|state| state.shift(site, effect.expect("it is some")));
            None
        }
        Some(Effect::Crash | Effect::CrashAfter) => {
            process.kill();
            pending().await
        }
        effect => effect,
    };
    nth %= 4; // the fault strikes at the first event, or a little later
    let (position, end, epoch) = process.world.with(|state| {
        let log = state.log(store);
        log.start(from).map(|start| (start, log.durable_id(), log.epoch))
    })?;
    Ok(Reading { process, store, position, end, epoch, fault: effect.map(|effect| (nth, effect)) })
}

impl Reading {
    async fn next(&mut self) -> Result<Option<hydrant::Event>> {
        self.process.alive().await;
        if let Some((after, effect)) = &mut self.fault {
            if *after == 0 {
                let effect = *effect;
                self.fault = None;
                match effect {
                    Effect::End => return Ok(None),
                    Effect::Hang | Effect::HangAfter => {
                        self.process.world.hang().await;
                        return Err(unknown());
                    }
                    Effect::Slow { ms } | Effect::SlowAfter { ms } | Effect::Late { ms } => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                    }
                    Effect::Panic | Effect::PanicAfter => panic!("sim: a read panics"),
                    Effect::Deny => return Err(denied()),
                    Effect::Refuse => return Err(refused()),
                    _ => return Err(unknown()),
                }
            } else {
                *after -= 1;
            }
        }
        self.process.world.with(|state| {
            let log = state.log(self.store);
            if log.epoch != self.epoch {
                let message = "the connection broke: the server failed over";
                return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, message));
            }
            if self.position < log.after
                && let Some(oldest) = log.events.first()
            {
                return Err(Error::pruned(oldest.id()));
            }
            let index = log.behind(self.position);
            let event = log.events[..log.durable].get(index).filter(|event| Some(event.id()) <= self.end);
            if let Some(event) = event {
                self.position = Some(event.id());
            }
            let event = event.map(|event| self.process.held.copy(event));
            if state.config.broken == Some(Broken::ReadsHoard) {
                std::mem::forget(event.clone());
            }
            Ok(event)
        })
    }
}
