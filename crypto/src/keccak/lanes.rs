//! Many sponges at once: one message per SIMD lane.
//!
//! A permutation works on all lanes together, but messages have different lengths and want
//! different amounts of output. So each lane goes its own way: before a permutation it absorbs a
//! block if its message has one left, afterwards it gives out a block if its message is complete,
//! and when it is done it starts the next message. No lane waits for another, whatever the mix of
//! lengths; an adversary cannot slow a batch down by choosing them.
//!
//! ```text
//!  lane 0   absorb A  squeeze A  squeeze A  absorb C  squeeze C …
//!  lane 1   absorb B  absorb B   squeeze B  squeeze B absorb D  …
//!           ───────── permutation ─────────▶
//! ```

use super::RATE;

/// Most lanes of any implementation.
pub(crate) const LANES_MAX: usize = 8;

/// One block for every lane.
#[repr(C, align(64))]
pub(crate) struct Blocks(pub(crate) [[u8; RATE]; LANES_MAX]);

impl Blocks {
    pub(crate) const ZERO: Self = Self([[0; RATE]; LANES_MAX]);
}

/// The Keccak states of all lanes, and the operations on them. A set of lanes is a bit mask.
pub(crate) trait Lanes {
    /// Number of lanes, at most [`LANES_MAX`].
    const COUNT: usize;

    /// Sets the states of the lanes in `lanes` to zero.
    fn clear(&mut self, lanes: u32);

    /// XORs a block into the state of each lane.
    fn absorb(&mut self, blocks: &Blocks);

    /// Applies Keccak-f\[1600\] to each lane.
    fn permute(&mut self);

    /// Copies the first [`RATE`] bytes of each lane's state.
    fn squeeze(&self, blocks: &mut Blocks);

    /// Hashes one padded block a lane: sets each state to zero, absorbs, permutes, and returns
    /// the first 32 bytes of each.
    fn one_block(&mut self, blocks: &Blocks, digests: &mut [[u8; 32]; LANES_MAX]) {
        self.clear(u32::MAX >> (32 - Self::COUNT));
        self.absorb(blocks);
        self.permute();
        let mut output = Blocks::ZERO;
        self.squeeze(&mut output);
        for (digest, block) in digests.iter_mut().zip(&output.0) {
            digest.copy_from_slice(&block[..32]);
        }
    }
}

/// What the lanes work on.
pub(crate) trait Source {
    /// Starts the next message on `lane`; false if there is none.
    fn start(&mut self, lane: usize) -> bool;

    /// Writes the next block of the padded message of `lane`; true if it was the last.
    fn input(&mut self, lane: usize, block: &mut [u8; RATE]) -> bool;

    /// Takes one more output block of each lane in `lanes`; returns the lanes that want no more.
    fn output(&mut self, lanes: u32, blocks: &Blocks) -> u32;
}

/// Runs every message of `source` through its sponge.
pub(crate) fn run<L: Lanes>(states: &mut L, source: &mut impl Source) {
    let everyone = u32::MAX >> (32 - L::COUNT);
    let mut blocks = Blocks::ZERO;
    let (mut idle, mut absorbing, mut squeezing) = (everyone, 0u32, 0u32);
    let mut exhausted = false;
    loop {
        if idle != 0 && !exhausted {
            let mut started = 0;
            for lane in bits(idle) {
                if !source.start(lane) {
                    exhausted = true;
                    break;
                }
                started |= 1 << lane;
            }
            states.clear(started);
            absorbing |= started;
            idle &= !started;
        }
        if idle == everyone {
            return;
        }
        if absorbing != 0 {
            for lane in bits(everyone & !absorbing) {
                blocks.0[lane].fill(0);
            }
            for lane in bits(absorbing) {
                if source.input(lane, &mut blocks.0[lane]) {
                    absorbing &= !(1 << lane);
                    squeezing |= 1 << lane;
                }
            }
            states.absorb(&blocks);
        }
        states.permute();
        if squeezing != 0 {
            states.squeeze(&mut blocks);
            let done = source.output(squeezing, &blocks);
            squeezing &= !done;
            idle |= done;
        }
    }
}

/// The positions of the one bits.
pub(crate) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let position = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            position
        })
    })
}

/// Cuts `parts` (joined) into padded blocks.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a, const PARTS: usize> {
    parts: [&'a [u8]; PARTS],
    /// First padding byte: it tells SHA3-256 from SHAKE256.
    suffix: u8,
}

impl<'a, const PARTS: usize> Message<'a, PARTS> {
    pub(crate) const EMPTY: Self = Self {
        parts: [&[]; PARTS],
        suffix: 0,
    };

    pub(crate) fn new(parts: [&'a [u8]; PARTS], suffix: u8) -> Self {
        Self { parts, suffix }
    }

    /// Writes the next block; true if it is the last, which holds the padding.
    pub(crate) fn next_block(&mut self, block: &mut [u8; RATE]) -> bool {
        let mut filled = 0;
        for part in &mut self.parts {
            let (head, rest) = part.split_at(part.len().min(RATE - filled));
            block[filled..filled + head.len()].copy_from_slice(head);
            filled += head.len();
            *part = rest;
        }
        if filled == RATE {
            // Even if the message ends here: the padding takes at least one byte.
            return false;
        }
        block[filled..].fill(0);
        block[filled] = self.suffix;
        block[RATE - 1] |= 0x80;
        true
    }
}
