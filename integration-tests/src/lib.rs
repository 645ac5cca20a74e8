//! What tests of whole processes need: a log like hydra-node's, the program `hydrant` to run and kill, and separate
//! places on real servers.

pub mod hydra_node;
pub mod places;
pub mod program;
