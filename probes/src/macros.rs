//! What turns the table into functions and a constant.

/// Defines probes: for each a function that fires it, and its row of `PROBES`.
macro_rules! probes {
    ($(
        $stage:literal, $help:literal,
        $name:ident($($arg:ident: $meaning:literal),* $(,)?);
    )*) => {
        $(
            #[doc = concat!($help, " Stage: ", $stage, ".")]
            // Never inlined: one site a probe, see the crate's documentation. Not generic and
            // not exported twice, so there is one copy in a program.
            #[inline(never)]
            pub fn $name($($arg: u64),*) {
                probe::probe!(falconet, $name $(, $arg)*);
            }
        )*

        /// Every probe, in the order of the data's way.
        pub const PROBES: &[crate::Probe] = &[$(crate::Probe {
            name: stringify!($name),
            stage: $stage,
            help: $help,
            args: &[$((stringify!($arg), $meaning)),*],
        }),*];
    };
}
pub(crate) use probes;
