//! What tests of whole processes need: a log like hydra-node's, and the program `hydrant` to run and kill.

pub mod hydra_node;
pub mod program;
