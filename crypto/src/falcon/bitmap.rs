//! The answer to a batch: one bit per job.

/// A fixed-length sequence of bits. Reusing one for batch after batch does not allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    /// Bit i is bit `i % 64` of word `i / 64`; bits at and above `len` are zero.
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    /// An empty bitmap.
    pub const fn new() -> Self {
        Self {
            words: Vec::new(),
            len: 0,
        }
    }

    /// An empty bitmap that can grow to `len` bits without allocating.
    pub fn with_capacity(len: usize) -> Self {
        Self {
            words: Vec::with_capacity(len.div_ceil(64)),
            len: 0,
        }
    }

    /// Makes this a bitmap of `len` zero bits.
    pub fn reset(&mut self, len: usize) {
        self.words.clear();
        self.words.resize(len.div_ceil(64), 0);
        self.len = len;
    }

    /// Number of bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bit `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Bitmap::len`].
    pub fn get(&self, index: usize) -> bool {
        assert!(
            index < self.len,
            "bit {index} of a bitmap of {} bits",
            self.len
        );
        self.words[index / 64] >> (index % 64) & 1 == 1
    }

    /// Sets bit `index` to one.
    ///
    /// # Panics
    /// If `index` is not below [`Bitmap::len`].
    pub fn set(&mut self, index: usize) {
        assert!(
            index < self.len,
            "bit {index} of a bitmap of {} bits",
            self.len
        );
        self.words[index / 64] |= 1 << (index % 64);
    }

    /// Number of one bits.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Whether every bit is one. True for an empty bitmap.
    pub fn all(&self) -> bool {
        self.count() == self.len
    }

    /// The bits in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = bool> + '_ {
        (0..self.len).map(|index| self.get(index))
    }

    /// The words, to be filled 64 jobs at a time.
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_kept_apart_across_words() {
        let mut bitmap = Bitmap::new();
        assert!(bitmap.all() && bitmap.is_empty());
        bitmap.reset(130);
        for index in [0, 63, 64, 129] {
            bitmap.set(index);
        }
        assert_eq!(bitmap.count(), 4);
        assert!(!bitmap.all());
        let ones: Vec<usize> = bitmap
            .iter()
            .enumerate()
            .filter(|b| b.1)
            .map(|b| b.0)
            .collect();
        assert_eq!(ones, [0, 63, 64, 129]);
        bitmap.reset(3);
        assert_eq!((bitmap.len(), bitmap.count()), (3, 0));
    }

    #[test]
    #[should_panic(expected = "bit 3 of a bitmap of 3 bits")]
    fn a_bit_past_the_end_is_a_bug() {
        let mut bitmap = Bitmap::new();
        bitmap.reset(3);
        bitmap.get(3);
    }
}
