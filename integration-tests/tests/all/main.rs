//! Tests of whole processes.

mod documents;
