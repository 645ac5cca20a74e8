//! Holds the program in the README to what compiles.
#![allow(clippy::doc_markdown, reason = "the README is prose")]
#![doc = include_str!("../README.md")]
