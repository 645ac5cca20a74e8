//! The laws of Hydrant's sinks and sources as tests, for every store.
//!
//! One line enrols a store and yields a named test for each case of each law, each on a runtime and in a
//! namespace of its own, so that one failure hides no other:
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Mutex;
//!
//! use hydrant::{Capabilities, MemoryStore, MemoryStoreOptions, Result};
//! use hydrant_conformance::{Harness, Opened};
//!
//! /// Opens the store for the kit: here logs in memory, kept by name so that they can be opened again.
//! #[derive(Default)]
//! struct InMemory(Mutex<HashMap<String, MemoryStore>>);
//!
//! #[async_trait::async_trait]
//! impl Harness for InMemory {
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities::ALL
//!     }
//!
//!     async fn open(&self, namespace: &str) -> Result<Opened> {
//!         let options = MemoryStoreOptions::default().with_event_bytes_max(self.limits().event_bytes_max);
//!         let mut logs = self.0.lock().expect("no test panics while it opens");
//!         let log = logs.entry(namespace.to_owned()).or_insert_with(|| MemoryStore::new(options));
//!         Ok(Opened::primary(log.clone()))
//!     }
//! }
//!
//! hydrant_conformance::store_suite!(InMemory::default());
//! ```
//!
//! # Which suite
//!
//! | macro | for | opened as |
//! |---|---|---|
//! | [`store_suite!`] | a sink that can be read | [`Opened::store`]; [`Opened::prunable`] with segments; [`Opened::primary`] with a roster |
//! | [`sink_suite!`] | a sink alone | [`Opened::sink`], best with [`Opened::seen_as`] |
//! | [`source_suite!`] | a source alone | [`Opened::source`], with any writing side |
//! | [`checkpoints_suite!`] | a store of checkpoints alone | [`Opened::checkpoints`] |
//!
//! The argument is an expression that makes the harness; every test makes its own. A second suite in the
//! same file goes into a module of its own. A store with several modes of durability enrols once for each.
//!
//! # Cases by capability
//!
//! Each case has the number of its law in its name. A case runs if the store declares what it needs:
//!
//! | declared | a sink is tried on | a source, or a store, is tried on |
//! |---|---|---|
//! | nothing | events held byte for byte, batches of every size up to [`Limits::batch_events_max`], gaps in ids, appends that are dropped, `event_bytes_max`, deadlines, the same handle after an error, threads that are not blocked, what close and drop release | |
//! | `SOURCE` | | reads and followers from everywhere (`Origin`, `After`, `At`, `Snapshot`), beside writers, given up and resumed; bounded memory; damage; a log that was replaced; a verification beside a writer; lineage as a primary |
//! | `IDEMPOTENT` | the same batch again, any part of it, overlaps, many at once | |
//! | `FENCING` | holes, other events, skipped ids, second writers, rivals, starting at a snapshot | an error is the last item |
//! | `MEMORY` | the checkpoint: after each append, a crash, an error, a drop; lineage as a secondary | what was shown survives a crash, and is not beyond the checkpoint |
//! | `ATOMIC` | batches are whole in all cases above, else prefixes | |
//! | `SEGMENTS` | below the floor; a prune that is dropped | the floor; reads that meet a prune |
//! | `MEMORY` and `FENCING` | two handles; the head of a commit point | |
//!
//! A store with a roster is also tried on its checkpoints: compare-and-swap, swaps that are dropped, runners that swap
//! at once, entries of every name in order, and what is kept beside a checkpoint, with members that another version
//! wrote.
//!
//! # Hooks
//!
//! Two methods enrol a store. With these the kit tries more of the laws:
//!
//! | hook | tries |
//! |---|---|
//! | [`Opened::closed_by`] | law 9: what `close()` releases |
//! | [`Opened::crashed_by`] | laws 1, 5, 6, 12: what a power cut leaves; without it a drop is tried instead |
//! | [`Opened::primary`], [`Opened::with_commit_point`] | law 5: the head; law 11: the stated `event_bytes_max` |
//! | [`Opened::primary`], [`Opened::with_roster`] | laws 5, 6 and 8: checkpoints that it keeps for sinks |
//! | [`Opened::verified_by`] | law 13: a verification beside a writer finds nothing |
//! | [`Harness::damage`] | law 13: damage inside, a torn tail |
//! | [`Harness::replace`] | law 13: a follower of a log that was replaced or lost its tail |
//! | [`Harness::fail_next_write`], with [`Harness::unfired`] and [`Harness::heal`] | law 7: errors of the server or disk, and the same handle after them |
//! | [`Harness::stops`] | law 7: a failure after which the log has to be opened again |
//! | [`Harness::delay`] | law 7: a deadline before the server answers; law 8: a thread that waits for it |
//! | [`Harness::durability`] | `Accepted` for weaker durability: nothing may be shown before it is durable |
//! | [`Harness::impossible`] | none: says why the store cannot have one of these |
//! | [`Harness::unavailable`], [`Harness::remove`] | none: for a store on a server that may be missing, and keeps what tests left |
//! | [`Harness::limits`] | the largest event, batch, id and log of a case, and how long one may take |
//!
//! For a store on a server, the feature `proxy` gives most of them: `proxy::Tcp` breaks connections in each way, and
//! `server::Server` runs the server for the test and ends it with the test.
//!
//! # What a run reports
//!
//! What a store does not declare is no failure, and is reported. Past the capture of the test runner, the
//! run prints `not declared: Fencing (law_04_a_hole_is_a_gap)` for each case that had nothing to try, and
//! `not exercised: ...` for what needs a hook, or `not possible: ...` with the reason of [`Harness::impossible`]. A test
//! that has nothing declared to try also prints `skipped: ...` into its own output. Everything that a store declares is
//! tried: if its suite cannot try it, a test fails.
//!
//! A failure names the law, its sentence, what was expected, what was seen, the operations before it, and the seed:
//!
//! ```text
//! law 6 is broken. Whole batches: a crash or a dropped future leaves all of a batch or none, or else a prefix.
//!   expected: the checkpoint 12 (digest 5f..), which the handle reported, to stay
//!   saw:      the checkpoint 17 (digest 9a..), 100ms later and without a call
//!   after:    an append of events 13 to 17 dropped at poll 2, then reading the checkpoint
//!   case:     law_06_an_append_dropped_at_any_await_is_whole (run it again with HYDRANT_SEED=7)
//! ```
//!
//! A broken sink fails in seconds. Five faults that a sink on a server had, planted in the kit's own sink, with the
//! default of [`Limits::patience`] (`cargo test -p hydrant-conformance --test mutants in_seconds -- --show-output`, two
//! busy cores):
//!
//! | fault | case | seconds |
//! |---|---|---|
//! | a dead connection that is kept | `law_07_a_handle_works_again_after_a_retryable_error` | 5.1 |
//! | a command that lands late | the same | 0.2 |
//! | a task of a dropped call that takes its turn inside | `law_06_an_append_dropped_at_any_await_is_whole` | 0.4 |
//! | truncation to 1,024 events | `law_01_batches_above_the_default_of_a_fan_out_are_held` | 6.7 |
//! | a call that blocks its thread | `law_08_no_call_blocks_its_thread` | 1.2 |
//!
//! Test data is random; `HYDRANT_SEED` in the environment of the test run brings a run's data back. An armed fault
//! that does not fire fails its case. A call that does not return fails within a sixth of [`Limits::patience`].
//!
//! # Beside the suites
//!
//! - [`faults`]: sinks and sources that fail on command.
//! - `proxy` and `server` (feature `proxy`): connections that break, and servers that end with their test.
//! - [`Generator`]: events of every shape, from a seed.
//! - [`drop_after`]: drops a future at each of its awaits.
//! - [`cases`] and [`check`]: the laws as functions. The kit's own tests hold them against mutants, stores
//!   that are broken in one way each; the tests fail if a case has none that it catches.

mod cancel;
mod cases;
pub mod faults;
mod generate;
mod harness;
mod law;
mod log;
#[cfg(feature = "proxy")]
mod machine;
mod opened;
#[cfg(feature = "proxy")]
pub mod proxy;
mod resources;
mod run;
#[cfg(all(feature = "proxy", unix))]
pub mod server;
mod trial;

pub use cancel::drop_after;
pub use generate::Generator;
pub use harness::{Damage, Harness, Hook, Limits};
pub use law::{Case, Law, Side, Violation};
pub use opened::Opened;
pub use run::{Report, cases, check, declare, run, seed};
use trial::Trial;

/// Enrols a store: a named test for each case of every law. The argument makes the [`Harness`].
///
/// See the [crate] for an example.
#[macro_export]
macro_rules! store_suite {
    ($harness:expr $(,)?) => {
        $crate::__cases!($crate::__tests!(store, $harness));
    };
}

/// Enrols a sink alone: a named test for each case of the laws of a sink. The argument makes the
/// [`Harness`], which opens an [`Opened::sink`].
#[macro_export]
macro_rules! sink_suite {
    ($harness:expr $(,)?) => {
        $crate::__cases!($crate::__tests!(sink, $harness));
    };
}

/// Enrols a store of checkpoints alone: a named test for each case of the laws of a roster. The argument makes the
/// [`Harness`], which declares nothing and opens [`Opened::checkpoints`].
#[macro_export]
macro_rules! checkpoints_suite {
    ($harness:expr $(,)?) => {
        $crate::__cases!($crate::__tests!(checkpoints, $harness));
    };
}

/// Enrols a source alone: a named test for each case of the laws of a source. The argument makes the
/// [`Harness`], which opens an [`Opened::source`].
#[macro_export]
macro_rules! source_suite {
    ($harness:expr $(,)?) => {
        $crate::__cases!($crate::__tests!(source, $harness));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ((store, $harness:expr) $($side:ident $cases:tt)*) => {
        $crate::__declares!($harness, Sink Source Store Roster);
        $($crate::__each!($harness, $cases);)*
    };
    ((sink, $harness:expr) Sink $cases:tt $($side:ident $others:tt)*) => {
        $crate::__declares!($harness, Sink);
        $crate::__each!($harness, $cases);
    };
    ((source, $harness:expr) Sink $sinks:tt Source $cases:tt $($side:ident $others:tt)*) => {
        $crate::__declares!($harness, Source);
        $crate::__each!($harness, $cases);
    };
    ((checkpoints, $harness:expr) Sink $sinks:tt Source $sources:tt Store $stores:tt Roster $cases:tt) => {
        $crate::__declares!($harness, Roster);
        $crate::__each!($harness, $cases);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __declares {
    ($harness:expr, $($side:ident)*) => {
        #[test]
        fn what_it_declares_is_reported() {
            $crate::declare(|| $harness, &[$($crate::Side::$side),*]);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __each {
    ($harness:expr, { $($law:literal $name:ident [$($needs:ident)*] $($run:ident)::+;)* }) => {
        $(
            #[test]
            fn $name() {
                $crate::run(|| $harness, stringify!($name));
            }
        )*
    };
}
