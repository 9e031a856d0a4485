//! Named points at which a test may have the process killed.
//!
//! Owns nothing in a release: without the feature `failpoints`, which only tests turn on, a point is an empty function.

/// Tells that a point was reached.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: &str) {}

#[cfg(feature = "failpoints")]
pub use armed::{arm, reach};

#[cfg(feature = "failpoints")]
mod armed {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: OnceLock<(String, AtomicU64)> = OnceLock::new();

    /// Has the process kill itself at `POINT`, or with `POINT:N` when it comes there for the N-th time.
    pub fn arm(asked: &str) {
        let (point, times) = asked.split_once(':').unwrap_or((asked, "1"));
        let _ = ASKED.set((point.to_owned(), AtomicU64::new(times.parse().unwrap_or(1))));
    }

    /// Tells that a point was reached.
    pub fn reach(point: &str) {
        if let Some((name, left)) = ASKED.get()
            && name == point
            && left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            // As `kill -9` from outside: nothing of ours runs any more.
            let _ = kill(getpid(), Signal::SIGKILL);
        }
    }
}
