//! The pauses between attempts of a write.

use std::time::Duration;

/// The longest first pause; it doubles up to the other.
const LONGEST_FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that grow, each taken at random from a tenth to the whole of the longest.
#[derive(Debug)]
pub(crate) struct Backoff<'r> {
    longest: Duration,
    rng: &'r mut fastrand::Rng,
}

impl<'r> Backoff<'r> {
    pub(crate) fn new(rng: &'r mut fastrand::Rng) -> Self {
        Self { longest: LONGEST_FIRST, rng }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.longest.mul_f64(0.1 + 0.9 * self.rng.f64());
        self.longest = LONGEST.min(self.longest * 2);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_never_nothing() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::new(&mut rng);
        let pauses: Vec<_> = (0..20).map(|_| backoff.pause()).collect();
        assert!(
            pauses[0] <= LONGEST_FIRST && pauses.iter().all(|pause| *pause >= LONGEST_FIRST / 10),
            "{pauses:?}"
        );
        assert!(pauses[8..].iter().all(|pause| (LONGEST / 10..=LONGEST).contains(pause)), "{pauses:?}");
    }
}
