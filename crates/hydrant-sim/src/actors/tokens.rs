//! Counts the handles of sinks that are alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A token for each sink, which all of its handles hold; another one after each `detach`.
#[derive(Default)]
pub struct Tokens(Mutex<BTreeMap<(u8, u32), Arc<()>>>);

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u8, u32), Arc<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token for a new handle of the sink.
    pub fn of(&self, sink: u8) -> Arc<()> {
        let mut tokens = self.lock();
        let round = newest(&tokens, sink).unwrap_or(0);
        tokens.entry((sink, round)).or_default().clone()
    }

    /// Gives later handles of the sink another token, and returns the round of those before.
    pub fn retire(&self, sink: u8) -> u32 {
        let mut tokens = self.lock();
        let round = newest(&tokens, sink).unwrap_or(0);
        tokens.insert((sink, round + 1), Arc::default());
        round
    }

    /// How many handles of a round are alive.
    pub fn alive(&self, sink: u8, round: u32) -> usize {
        self.lock().get(&(sink, round)).map_or(0, |token| Arc::strong_count(token) - 1)
    }

    /// How many handles of each sink are alive.
    pub fn all_alive(&self) -> BTreeMap<u8, usize> {
        let mut alive = BTreeMap::new();
        for ((sink, _), token) in &*self.lock() {
            *alive.entry(*sink).or_default() += Arc::strong_count(token) - 1;
        }
        alive
    }
}

fn newest(tokens: &BTreeMap<(u8, u32), Arc<()>>, sink: u8) -> Option<u32> {
    tokens.range((sink, 0)..=(sink, u32::MAX)).next_back().map(|((_, round), _)| *round)
}
