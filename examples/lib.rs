//! Compiles the program in the README.
#![allow(clippy::doc_markdown, reason = "the README is prose")]
#![doc = include_str!("../README.md")]
