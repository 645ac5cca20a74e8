//! Simulates Hydrant under faults, crashes and operators.
//!
//! A seed makes a [`Plan`](plan::Plan): a configuration, the operations of several actors, and faults, each at a
//! numbered call of a site. [`run`](run::run) executes the plan on one paused runtime, so the same plan gives the same
//! trace. The code under test is the real one; stores on servers are models, and the file store runs on a simulated disk. See the README for how to read a failure.

#![allow(missing_docs, reason = "an internal tool: names and module docs say what there is to say")]
#![allow(clippy::missing_errors_doc, reason = "errors are what the models and the code under test return")]
#![allow(missing_debug_implementations, reason = "handles of the world have nothing to show")]

pub mod actors;
pub mod check;
pub mod child;
pub mod coverage;
pub mod minimise;
pub mod mutants;
pub mod one_cpu;
pub mod plan;
pub mod report;
pub mod run;
mod watchdog;
pub mod world;

pub use watchdog::EXIT_STUCK;
