//! A pump: the task of one secondary. It delivers, unless an operator or an error parks it.

use std::sync::Arc;

use super::delivery::Delivery;
use super::guard::caught;
use super::hub::Hub;
use super::options::SecondaryOptions;
use super::progress::{ROSTER_INTERVAL, RosterEntry};
use super::secondary::{Secondary, Wanted};
use crate::mutants::mutant;
use crate::store::CheckpointCell;
use crate::{Error, EventSink, Result};

pub(crate) struct Pump {
    hub: Arc<Hub>,
    secondary: Arc<Secondary>,
    delivery: Delivery,
    entry: RosterEntry,
    options: SecondaryOptions,
    /// Whether the pump was parked, and an operator's `resume` did not reach it yet.
    is_parked: bool,
}

impl Pump {
    pub(crate) fn new(
        hub: Arc<Hub>,
        secondary: Arc<Secondary>,
        sink: Arc<dyn EventSink>,
        options: SecondaryOptions,
        cell: CheckpointCell,
    ) -> Self {
        let entry = RosterEntry::new(cell, options.call_timeout);
        let delivery = Delivery::new(hub.clone(), secondary.clone(), sink, options.clone(), &entry);
        Self { hub, secondary, delivery, entry, options, is_parked: false }
    }

    /// Runs until it is asked to end, or the secondary has everything of a closed log.
    ///
    /// A panic of the sink or the primary parks the pump, also if it happens while a call is dropped.
    pub(crate) async fn run(mut self) {
        if mutant("panic-escapes") {
            return drop(self.serve().await);
        }
        while let Err(panicked) = caught("the primary or the sink", || self.serve()).await {
            self.park(panicked);
        }
    }

    /// Delivers, stays parked or ends, as `wanted` says. Parks on errors that a retry cannot help.
    async fn serve(&mut self) -> Result<()> {
        let mut wanted = self.secondary.wanted.subscribe();
        loop {
            let now = *wanted.borrow_and_update();
            // A change of `wanted` may drop a delivery at any time. Its outcome is then unknown, so the next delivery
            // asks the sink first.
            match now {
                Wanted::Remove => return Ok(()),
                Wanted::Leave => {
                    tokio::select! {
                        biased;
                        _ = wanted.changed() => {}
                        () = self.leave() => return Ok(()),
                    }
                }
                Wanted::Park => {
                    self.is_parked = true;
                    self.secondary.parked();
                    tokio::select! {
                        biased;
                        _ = wanted.changed() => {} // the sender lives in `self.secondary`
                        () = self.stay_parked() => return Ok(()),
                    }
                }
                Wanted::Run => {
                    // A `resume` may come so early that `Park` is never seen here.
                    if std::mem::take(&mut self.is_parked) {
                        // After an operator's `resume`, the entry that the roster has by then counts.
                        self.entry.resume();
                    }
                    // Deliveries do not wait for the roster.
                    let failed = tokio::select! {
                        biased;
                        _ = wanted.changed() => continue,
                        Err(fenced) = self.entry.keep_recording() => fenced,
                        failed = self.delivery.run() => failed,
                    };
                    if self.delivery.is_complete() {
                        self.secondary.want(Wanted::Leave);
                    } else {
                        self.park(failed);
                    }
                }
            }
        }
    }

    /// Records the progress, and returns when the log is closed.
    async fn stay_parked(&mut self) {
        self.leave().await;
        self.hub.signal.until(|| self.hub.feed.is_closed()).await;
    }

    fn park(&mut self, failed: Error) {
        self.is_parked = true;
        tracing::error!(error = %failed, "parked");
        self.secondary.park(failed, self.hub.now());
    }

    /// Records the progress in the roster; does not wait for a sink that hangs.
    async fn leave(&mut self) {
        let patience = self.options.call_timeout.min(ROSTER_INTERVAL);
        match self.delivery.report(patience).await {
            Ok(()) => self.entry.record_last().await,
            Err(error) => tracing::warn!(error = %error, "the newest progress is not in the roster"),
        }
    }
}
