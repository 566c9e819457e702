//! When to send without a copy in the kernel (`IORING_OP_SENDMSG_ZC`).
//!
//! It pays only where the device takes the pages as they are. Loopback, veth and devices without
//! scatter-gather copy all the same, later and at greater cost, and say so in the notification. So
//! the first large transmissions are tried, and after a few reports of a copy it is given up for
//! good.

use crate::{Stats, stats::Count};

/// Reports of a copy after which it is given up.
const COPIES_MAX: u32 = 8;

/// Shortest transmission worth it, bytes: pinning pages and the second completion cost more than
/// copying less.
const BYTES_MIN: usize = 16 << 10;

/// IORING_SEND_ZC_REPORT_USAGE: the notification says whether the data was copied.
pub(super) const REPORT_USAGE: u16 = 1 << 3;

/// IORING_NOTIF_USAGE_ZC_COPIED, in the result of a notification.
const COPIED: u32 = 1 << 31;

/// The decision of one socket.
#[derive(Debug)]
pub(super) struct ZeroCopy {
    is_on: bool,
    copies: u32,
}

impl ZeroCopy {
    /// To be tried if the kernel has the operation.
    pub(super) fn new(is_supported: bool) -> Self {
        ZeroCopy {
            is_on: is_supported,
            copies: 0,
        }
    }

    /// Whether to send `bytes` this way.
    pub(super) fn is_for(&self, bytes: usize) -> bool {
        self.is_on && bytes >= BYTES_MIN
    }

    /// A notification came.
    pub(super) fn notified(&mut self, result: i32, stats: &Stats) {
        if result as u32 & COPIED == 0 {
            stats.sends_zero_copy.inc();
            return;
        }
        stats.sends_zero_copy_copied.inc();
        self.copies += 1;
        if self.is_on && self.copies >= COPIES_MAX {
            self.is_on = false;
            tracing::debug!("the device copies what it sends; zero-copy sending is given up");
        }
    }

    /// The kernel or the device refused the operation.
    pub(super) fn refused(&mut self) {
        self.is_on = false;
    }

    /// For people.
    pub(super) fn describe(&self) -> &'static str {
        if self.is_on { "tried" } else { "off" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_copies_end_it_for_good() {
        let (mut policy, stats) = (ZeroCopy::new(true), Stats::default());
        assert!(policy.is_for(BYTES_MIN) && !policy.is_for(BYTES_MIN - 1));
        for _ in 0..100 {
            policy.notified(0, &stats);
        }
        for _ in 1..COPIES_MAX {
            policy.notified(COPIED as i32, &stats);
        }
        assert!(policy.is_for(BYTES_MIN));
        policy.notified(COPIED as i32, &stats);
        policy.notified(0, &stats);
        assert!(!policy.is_for(BYTES_MIN));
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.sends_zero_copy, 101);
        assert_eq!(snapshot.sends_zero_copy_copied, u64::from(COPIES_MAX));
    }

    #[test]
    fn a_kernel_without_it_is_never_asked() {
        assert!(!ZeroCopy::new(false).is_for(BYTES_MIN));
        let mut policy = ZeroCopy::new(true);
        policy.refused();
        assert!(!policy.is_for(BYTES_MIN));
    }
}
