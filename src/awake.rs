//! Time that the process was there to use.
//!
//! A process that is stopped, or whose machine is paused, does not run while its clock may go on: right after, every limit
//! seems to be reached at once. Owns telling the two apart, by a sleep that takes much longer than asked for. Limits that
//! would cut work wait here; what is only a pause between two attempts need not.

use std::time::Duration;
use tokio::time::Instant;

/// Waits are looked at this often, at least; longer ones at an eighth of what is left.
const STEP: Duration = Duration::from_secs(1);
/// And at most this seldom.
const LONGEST_STEP: Duration = Duration::from_secs(10);
/// A busy machine may wake us this late.
const SLACK: Duration = Duration::from_secs(2);

/// For so long the process did not run, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed(pub Duration);

/// Sleeps until then. Cancel-safe.
///
/// # Errors
/// [`Missed`] as soon as it turns out that the process did not run for a while: the caller decides what its limit is now.
pub async fn sleep_until(deadline: Instant) -> Result<(), Missed> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let next = deadline.min(Instant::now() + (left / 8).clamp(STEP, LONGEST_STEP));
        tokio::time::sleep_until(next).await;
        let late = Instant::now().saturating_duration_since(next);
        if late > SLACK {
            return Err(Missed(late));
        }
    }
}

/// Waits for something, but no longer than this much time that the process ran. `None` when it did not come.
pub async fn timeout<F: Future>(within: Duration, future: F) -> Option<F::Output> {
    tokio::pin!(future);
    let mut deadline = Instant::now() + within;
    loop {
        tokio::select! {
            biased;
            output = &mut future => return Some(output),
            slept = sleep_until(deadline) => match slept {
                Ok(()) => return None,
                Err(Missed(missed)) => deadline += missed,
            },
        }
    }
}

/// Resolves once this much time that the process ran is over; never without a deadline.
pub async fn at(deadline: Option<Instant>) {
    let Some(mut deadline) = deadline else { return std::future::pending().await };
    while let Err(Missed(missed)) = sleep_until(deadline).await {
        deadline += missed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// The clock goes on for an hour while nothing of the process runs.
    async fn pause() {
        tokio::time::advance(HOUR).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_is_as_long_as_it_should_be() {
        for seconds in [0, 1, 5, 60, 1800, 100_000] {
            let (began, asked) = (Instant::now(), Duration::from_secs(seconds));
            assert_eq!(sleep_until(began + asked).await, Ok(()));
            assert_eq!(began.elapsed(), asked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_told() {
        let sleeping = tokio::spawn(sleep_until(Instant::now() + Duration::from_mins(30)));
        tokio::time::sleep(Duration::from_mins(10)).await;
        pause().await;
        let Err(Missed(missed)) = sleeping.await.unwrap() else { panic!("not noticed") };
        assert!(missed <= HOUR && missed + LONGEST_STEP >= HOUR, "{missed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_counts_for_nothing() {
        let began = Instant::now();
        let waiting = tokio::spawn(timeout(Duration::from_secs(5), std::future::pending::<()>()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        pause().await;
        assert_eq!(waiting.await.unwrap(), None);
        let ran = began.elapsed().saturating_sub(HOUR);
        assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&ran), "{ran:?}");
    }
}
