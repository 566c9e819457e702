//! The only clock reader of the consensus path: turns the machine's clocks into
//! [`Now`], which everything else is handed.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use falconet_types::time::Now;

/// Milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A clock whose monotonic part starts when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at 1 second, so that "a second ago" never underflows.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now {
            mono_us: elapsed_us.saturating_add(1_000_000),
            wall_ms: wall_ms(),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
