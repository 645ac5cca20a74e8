//! One record, put: by one attempt, or by several where the service says that nothing was taken.

use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use hydrant::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep, timeout};

use super::{Caller, Shared};
use crate::error;

/// Why a record was not put.
pub(super) struct NotPut {
    pub(super) error: Error,
    /// Whether the stream may be another one than before under the same name, so that what the sink knows of it may
    /// be wrong: it is not there, or refuses perhaps the number of the record before.
    pub(super) may_be_another: bool,
}

impl From<Error> for NotPut {
    fn from(error: Error) -> Self {
        Self { error, may_be_another: false }
    }
}

impl Shared {
    /// Puts one record behind the one with the number `previous`, and gives back its own number.
    ///
    /// # Errors
    /// `Unavailable` with `Safe` when it was throttled until the deadline, `AfterCheckpoint` when no answer
    /// came, and whatever the service answers.
    ///
    /// # Cancel safety
    /// Dropped, the record may have been put or not.
    pub(super) async fn put(
        &self,
        data: Vec<u8>,
        previous: Option<&str>,
        deadline: Instant,
        rng: &mut fastrand::Rng,
        caller: &mut Caller,
    ) -> Result<String, NotPut> {
        let data = Blob::new(data);
        for attempt in 0.. {
            let put = self.putting.put_record().stream_name(&self.upstream.stream).data(data.clone());
            let put = put.partition_key(&self.wire.log).set_explicit_hash_key(self.wire.hash_key.clone());
            let put = put.set_sequence_number_for_ordering(previous.map(str::to_owned)).send();
            let began = Instant::now();
            let cause = match timeout(self.options.put_timeout, put).await {
                Ok(Ok(answer)) => return Ok(answer.sequence_number),
                Ok(Err(cause)) => cause,
                Err(_) => return Err(self.late().into()),
            };
            let error = error::putting(&cause).at_target(&self.name);
            if !error::is_throttled(&cause) {
                let may_be_another = error::is_missing(&cause) || error.kind() == ErrorKind::Invalid;
                return Err(NotPut { error, may_be_another });
            }
            let pause = self.pause(attempt, rng);
            // A put that the deadline cuts off has an unknown outcome: so none begins that would hardly be answered
            // before it, by the time that this one took.
            if Instant::now() + pause + began.elapsed() * 2 >= deadline {
                return Err(error.into());
            }
            tracing::debug!(log = self.name, ?pause, %error, "throttled");
            tokio::select! {
                biased;
                () = caller.gone() => return Err(error.into()),
                () = sleep(pause) => {}
            }
        }
        unreachable!("the deadline comes before so many attempts")
    }

    /// A random 10 to 100 % of a bound that doubles up to the longest pause. A log has one shard at a time, so this is by shard.
    fn pause(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        let doubled = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let bound = self.options.backoff_initial.saturating_mul(doubled).min(self.options.backoff_max);
        // Never nothing: a service that is asked at once again is asked for ever.
        bound.mul_f64(0.1 + 0.9 * rng.f64())
    }

    fn late(&self) -> Error {
        let message = format!(
            "a record was not acknowledged within {:?}; check the network, or raise `put_timeout`",
            self.options.put_timeout
        );
        Error::outcome_unknown(message).at_target(&self.name)
    }
}
