//! The nonce window: replay protection that survives reordering across lanes.
//!
//! The sliding window of RFC 4303, section 3.4.3, with 256 bits. Bit i tells whether the nonce
//! `highest - i` was used. A nonce above the highest moves the window; one inside it is accepted
//! once; one below it is refused, used or not.
//!
//! ```text
//!   refused      |  accepted once each      | accepted, moves the window
//!   ------------ [highest-255 .... highest] -------------->  nonce
//! ```
//!
//! A sender that uses 2^64 - 1 leaves itself the 255 nonces below and then none: its own choice.

use falconet_types::transaction::NONCE_WINDOW;
use falconet_types::wire::{Reader, Wire, WireError};

/// 64-bit words of the bitmap.
const WORDS: usize = (NONCE_WINDOW / 64) as usize;

/// Which nonces an account has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NonceWindow {
    /// Highest nonce used; 0 also when none was.
    highest: u64,
    /// Bit i of the 256: `highest - i` was used. All zero when none was.
    used: [u64; WORDS],
}

impl NonceWindow {
    /// Highest nonce used, `None` before the first.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        (self.used != [0; WORDS]).then_some(self.highest)
    }

    /// True when `nonce` may be used now.
    #[must_use]
    pub fn allows(&self, nonce: u64) -> bool {
        match self.highest.checked_sub(nonce) {
            None => true,
            Some(back) => back < NONCE_WINDOW && !self.bit(back),
        }
    }

    /// Uses `nonce`.
    ///
    /// # Panics
    /// If [`NonceWindow::allows`] is false for it.
    pub fn mark(&mut self, nonce: u64) {
        assert!(self.allows(nonce), "nonce {nonce} is used twice");
        if nonce > self.highest {
            self.shift(nonce - self.highest);
            self.highest = nonce;
        }
        let back = self.highest - nonce;
        self.used[(back / 64) as usize] |= 1 << (back % 64);
    }

    fn bit(&self, back: u64) -> bool {
        self.used[(back / 64) as usize] >> (back % 64) & 1 == 1
    }

    /// Moves every bit up by `by` positions; bits that leave the window are forgotten.
    fn shift(&mut self, by: u64) {
        if by >= NONCE_WINDOW {
            self.used = [0; WORDS];
            return;
        }
        let (words, bits) = ((by / 64) as usize, by % 64);
        for i in (0..WORDS).rev() {
            let high = i.checked_sub(words).map_or(0, |j| self.used[j] << bits);
            let low = match i.checked_sub(words + 1) {
                Some(j) if bits > 0 => self.used[j] >> (64 - bits),
                _ => 0,
            };
            self.used[i] = high | low;
        }
    }
}

impl Wire for NonceWindow {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.highest.to_le_bytes());
        for word in self.used {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let highest = r.u64()?;
        let mut used = [0; WORDS];
        for word in &mut used {
            *word = r.u64()?;
        }
        let window = Self { highest, used };
        // One encoding for one window: the highest nonce is used, unless none is; and no bit
        // stands for a nonce below 0.
        let fresh = highest == 0 && used == [0; WORDS];
        let below_zero = (highest + 1..NONCE_WINDOW).any(|back| window.bit(back));
        if !fresh && (!window.bit(0) || below_zero) {
            return Err(WireError::Value("nonce window"));
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn after(nonces: impl IntoIterator<Item = u64>) -> NonceWindow {
        let mut window = NonceWindow::default();
        nonces.into_iter().for_each(|nonce| window.mark(nonce));
        window
    }

    #[test]
    fn a_fresh_window_allows_everything() {
        let window = NonceWindow::default();
        assert_eq!(window.highest(), None);
        assert!(window.allows(0) && window.allows(1) && window.allows(u64::MAX));
    }

    #[test]
    fn reordering_within_the_window_loses_nothing() {
        let window = after((0..256).rev());
        assert!((0..256).all(|nonce| !window.allows(nonce)));
        assert!(window.allows(256));
    }

    #[test]
    fn a_nonce_below_the_window_is_refused_even_if_unused() {
        let window = after([1000]);
        assert!(!window.allows(1000));
        assert!(window.allows(999) && window.allows(1000 - 255));
        assert!(!window.allows(1000 - 256) && !window.allows(0));
    }

    #[test]
    fn a_jump_forgets_what_falls_out_and_keeps_what_stays() {
        let mut window = after([10, 11, 12]);
        window.mark(12 + 254);
        assert!(
            !window.allows(12) && !window.allows(11),
            "still inside: used"
        );
        assert!(!window.allows(10), "below the window");
        assert!(window.allows(13), "inside, unused");
        window.mark(u64::MAX);
        assert!(!window.allows(u64::MAX) && window.allows(u64::MAX - 255));
        assert!(!window.allows(u64::MAX - 256));
    }

    #[test]
    #[should_panic(expected = "used twice")]
    fn marking_twice_is_a_bug() {
        after([7, 7]);
    }

    #[test]
    fn encodings_of_no_window_are_refused() {
        let mut no_highest = after([5]).to_bytes();
        no_highest[8] = 0;
        let mut below_zero = after([5]).to_bytes();
        below_zero[8] |= 1 << 6;
        let mut highest_of_none = NonceWindow::default().to_bytes();
        highest_of_none[0] = 1;
        for bytes in [no_highest, below_zero, highest_of_none] {
            assert!(NonceWindow::from_bytes(&bytes).is_err());
        }
    }

    proptest! {
        /// The reference: the set of all used nonces, and the highest.
        #[test]
        fn behaves_like_a_set_of_used_nonces(steps in proptest::collection::vec(0u64..700, 1..400)) {
            let mut window = NonceWindow::default();
            let mut used = BTreeSet::new();
            for nonce in steps {
                let floor = used.last().copied().unwrap_or(0u64).saturating_sub(NONCE_WINDOW - 1);
                let allowed = nonce >= floor && !used.contains(&nonce);
                prop_assert_eq!(window.allows(nonce), allowed);
                if allowed {
                    window.mark(nonce);
                    used.insert(nonce);
                }
                prop_assert_eq!(window.highest(), used.last().copied());
                prop_assert_eq!(NonceWindow::from_bytes(&window.to_bytes()), Ok(window));
            }
        }
    }
}
