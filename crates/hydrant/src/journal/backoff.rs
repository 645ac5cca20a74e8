//! The pauses between attempts.

use std::time::Duration;

/// Capped exponential backoff with full jitter: each pause is drawn evenly between nothing and a limit that
/// doubles from one to the next.
#[derive(Debug)]
pub(super) struct Backoff {
    limit: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { limit: min.min(max), max }
    }

    pub(super) fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let pause = self.limit.mul_f64(rng.f64());
        self.limit = self.limit.saturating_mul(2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_drawn_below_a_limit_that_doubles_up_to_its_cap() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(50));
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let mut backoff = Backoff::new(min, max);
            for limit in [10, 20, 40, 50, 50] {
                assert!(backoff.next(&mut rng) < Duration::from_millis(limit));
            }
        }
        let mut one = Backoff::new(min, max);
        let mut other = Backoff::new(min, max);
        let (mut a, mut b) = (fastrand::Rng::with_seed(7), fastrand::Rng::with_seed(7));
        assert!((0..9).all(|_| one.next(&mut a) == other.next(&mut b)), "one seed, one run");
    }
}
