//! Feeds lines to the decoder of the envelope, and holds what it answers to the invariants.
#![no_main]

#[path = "../../tests/it/decoder/invariants.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|line: &[u8]| invariants::check(line));
