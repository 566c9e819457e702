//! Time as the sans-IO cores see it: handed in by the shell, never read.

/// The present, as two clocks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Monotonic, microseconds since an arbitrary start. All timers use it.
    pub mono_us: u64,
    /// Wall clock, milliseconds since 1970. Only block times use it.
    pub wall_ms: u64,
}
