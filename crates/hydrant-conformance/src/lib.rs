//! The laws of Hydrant's sinks and sources as tests, for our stores and everybody else's.
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
//! /// How the kit reaches the store: here logs in memory, kept by name so that they can be opened again.
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
//! | [`store_suite!`] | a sink that can be read | [`Opened::store`], or [`Opened::prunable`] with segments |
//! | [`sink_suite!`] | a sink alone | [`Opened::sink`], best with [`Opened::seen_as`] |
//! | [`source_suite!`] | a source alone | [`Opened::source`], with any writing side |
//!
//! The argument is an expression that makes the harness; every test makes its own. A second suite in the
//! same file goes into a module of its own. A store with several modes of durability enrols once for each.
//!
//! # Hooks
//!
//! Two methods enrol a store. More laws are tried in earnest with these:
//!
//! | hook | tries |
//! |---|---|
//! | [`Opened::closed_by`] | law 9: what `close()` releases |
//! | [`Opened::crashed_by`] | laws 1, 5, 6, 12: what a power cut leaves; without it a drop stands in |
//! | [`Harness::damage`] | law 13: damage inside, a torn tail |
//! | [`Harness::fail_next_write`] | law 7: errors of the server or disk |
//! | [`Harness::acknowledges`] | `Accepted` for weaker durability: nothing may be shown before it is durable |
//! | [`Harness::unavailable`], [`Harness::remove`] | none: where a store lives on a server that may be missing, and remembers |
//! | [`Harness::limits`] | the largest event, id and log of a case, and how long one may take |
//!
//! # What a run says
//!
//! What a store does not declare is no failure, and never silent. Past the capture of the test runner the
//! run says `not declared: Fencing (law_04_a_hole_is_a_gap)` for each case that had nothing to try, and
//! `not exercised: ...` for what would have needed a hook. A test that had nothing at all to try also prints
//! `skipped: ...` into its own output. Whatever is declared is tried, or the suite is the wrong one and fails.
//!
//! A failure names the law, its sentence, what was expected, what was seen, and the seed. Test data is
//! random; `HYDRANT_SEED` in the environment of the test run brings a run's data back.
//!
//! # Beside the suites
//!
//! - [`faults`]: sinks and sources that fail on command, for anybody's tests.
//! - [`Generator`]: events of every shape, from a seed.
//! - [`drop_after`]: drops a future at each of its awaits.
//! - [`cases`] and [`check`]: the laws as functions. The kit's own tests hold them against mutants, stores
//!   that are broken in one way each; the tests fail if a law has none that it catches.

mod cancel;
mod cases;
pub mod faults;
mod generate;
mod harness;
mod law;
mod log;
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
pub use harness::{Damage, Harness, Limits};
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
        $crate::__declares!($harness, Sink Source Store);
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
}

#[doc(hidden)]
#[macro_export]
macro_rules! __declares {
    ($harness:expr, $($side:ident)*) => {
        #[test]
        fn what_it_declares_is_said() {
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
