//! SHA3-256 and SHAKE256 (FIPS 202), one message at a time and many at once.
//!
//! [`Sha3_256`] and [`Shake256`] take one message in pieces. [`Engine`] takes many whole messages
//! and hashes four or eight of them at a time with SIMD.
//!
//! Both functions use Keccak-f\[1600\] with a rate of 136 bytes; they differ in the suffix that follows the
//! message (0x06 and 0x1f) and in how much output is taken.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod lanes;
mod many;
mod scalar;

pub use many::Engine;
pub use scalar::keccak_f1600;

/// Bytes absorbed or squeezed by one permutation, for SHA3-256 and for SHAKE256.
pub const RATE: usize = 136;

/// First padding byte of SHA3-256 (FIPS 202, section 6.1: suffix 01, then the first pad bit).
const SUFFIX_SHA3: u8 = 0x06;
/// First padding byte of SHAKE256 (FIPS 202, section 6.2: suffix 1111, then the first pad bit).
pub(crate) const SUFFIX_SHAKE: u8 = 0x1f;

/// Streaming SHA3-256.
#[derive(Clone)]
pub struct Sha3_256(Absorber);

impl Sha3_256 {
    /// An empty message.
    pub fn new() -> Self {
        Self(Absorber::new())
    }

    /// Appends `data` to the message.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Ends the message and returns its digest.
    pub fn finish(self) -> [u8; 32] {
        let state = self.0.finish(SUFFIX_SHA3);
        let mut digest = [0; 32];
        for (chunk, word) in digest.chunks_exact_mut(8).zip(state) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

impl Default for Sha3_256 {
    fn default() -> Self {
        Self::new()
    }
}

/// Streaming SHAKE256: absorb with [`Shake256::update`], then squeeze from [`Shake256::finish`].
#[derive(Clone)]
pub struct Shake256(Absorber);

impl Shake256 {
    /// An empty message.
    pub fn new() -> Self {
        Self(Absorber::new())
    }

    /// Appends `data` to the message.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Ends the message; the reader yields as many output bytes as are asked for.
    pub fn finish(self) -> Shake256Reader {
        let state = self.0.finish(SUFFIX_SHAKE);
        Shake256Reader {
            state,
            block: block_bytes(&state),
            used: 0,
        }
    }
}

impl Default for Shake256 {
    fn default() -> Self {
        Self::new()
    }
}

/// The output stream of [`Shake256`].
#[derive(Clone)]
pub struct Shake256Reader {
    state: [u64; 25],
    block: [u8; RATE],
    used: usize,
}

impl Shake256Reader {
    /// Fills `out` with the next bytes of the stream.
    pub fn read(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.used == RATE {
                keccak_f1600(&mut self.state);
                self.block = block_bytes(&self.state);
                self.used = 0;
            }
            let count = out.len().min(RATE - self.used);
            let (head, rest) = out.split_at_mut(count);
            head.copy_from_slice(&self.block[self.used..self.used + count]);
            self.used += count;
            out = rest;
        }
    }
}

impl zeroize::Zeroize for Shake256Reader {
    fn zeroize(&mut self) {
        self.state.zeroize();
        self.block.zeroize();
        self.used = RATE;
    }
}

/// The absorbing half of the sponge.
#[derive(Clone)]
struct Absorber {
    state: [u64; 25],
    /// Bytes of the current block that have been XORed into `state`; always below [`RATE`].
    filled: usize,
}

impl Absorber {
    const fn new() -> Self {
        Self {
            state: [0; 25],
            filled: 0,
        }
    }

    fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.filled == 0 && data.len() >= RATE {
                let (block, rest) = data.split_at(RATE);
                for (word, bytes) in self.state.iter_mut().zip(block.chunks_exact(8)) {
                    *word ^= u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
                }
                keccak_f1600(&mut self.state);
                data = rest;
                continue;
            }
            let count = data.len().min(RATE - self.filled);
            let (head, rest) = data.split_at(count);
            for &byte in head {
                self.xor_byte(self.filled, byte);
                self.filled += 1;
            }
            if self.filled == RATE {
                keccak_f1600(&mut self.state);
                self.filled = 0;
            }
            data = rest;
        }
    }

    /// Pads (FIPS 202, algorithm 9) and permutes: the state holds the first output block.
    fn finish(mut self, suffix: u8) -> [u64; 25] {
        self.xor_byte(self.filled, suffix);
        self.xor_byte(RATE - 1, 0x80);
        keccak_f1600(&mut self.state);
        self.state
    }

    fn xor_byte(&mut self, at: usize, byte: u8) {
        self.state[at / 8] ^= u64::from(byte) << (8 * (at % 8));
    }
}

/// The rate part of the state as bytes: one output block.
pub(crate) fn block_bytes(state: &[u64; 25]) -> [u8; RATE] {
    let mut block = [0; RATE];
    for (chunk, word) in block.chunks_exact_mut(8).zip(state) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests;
