//! A rule that a test may turn off, to see that somebody notices. Without the feature `misbehave`
//! nothing here can be turned on, and the compiler removes every trace.

/// Parts of a snapshot are believed as they come (against Z5): for as long as one of these lives,
/// in this thread.
#[derive(Debug)]
pub struct SnapshotRootUnchecked(());

#[cfg(feature = "misbehave")]
mod switch {
    use std::cell::Cell;

    use super::SnapshotRootUnchecked;

    thread_local! {
        static UNCHECKED: Cell<bool> = const { Cell::new(false) };
    }

    impl SnapshotRootUnchecked {
        /// Turns the rule off.
        #[must_use]
        pub fn begin() -> Self {
            UNCHECKED.set(true);
            Self(())
        }
    }

    impl Drop for SnapshotRootUnchecked {
        fn drop(&mut self) {
            UNCHECKED.set(false);
        }
    }

    pub(crate) fn unchecked() -> bool {
        UNCHECKED.get()
    }
}

#[cfg(feature = "misbehave")]
pub(crate) use switch::unchecked;

#[cfg(not(feature = "misbehave"))]
pub(crate) const fn unchecked() -> bool {
    false
}
