//! HashToPoint on Keccak lanes: one job per lane.

use super::super::{Job, NONCE_LEN};
use super::words::Polynomial;
use super::{CHUNK, Kernels};
use crate::keccak::lanes::{self, Blocks, LANES_MAX, Message, Source};
use crate::keccak::{RATE, SUFFIX_SHAKE};

/// Words in a block.
const BLOCK_WORDS: usize = RATE / 2;

/// Room behind a point: a block is appended as a whole while the point is incomplete, with
/// vectors of up to 32 words.
const SLACK: usize = 128;

const _: () = assert!(SLACK >= BLOCK_WORDS + 32);

/// A polynomial under construction.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Point {
    words: Polynomial,
    slack: [i16; SLACK],
}

impl Point {
    pub(crate) const ZERO: Self = Self {
        words: Polynomial::ZERO,
        slack: [0; SLACK],
    };

    /// The coefficients in [0, q).
    pub(crate) fn polynomial(&self) -> &Polynomial {
        &self.words
    }

    /// Where word `at` goes. There is room for a block and a vector from any word of the
    /// polynomial on.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut i16 {
        std::ptr::from_mut(self).cast()
    }
}

/// The points of a chunk.
pub(crate) type Points = [Point; CHUNK];

/// What a lane works on.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// The point that is filled.
    pub(crate) point: usize,
    /// Words that it has.
    pub(crate) count: usize,
}

/// Hashes the jobs of a chunk to points.
pub(crate) struct PointSource<'a, K> {
    pub(crate) kernels: K,
    pub(crate) degree: usize,
    /// All jobs of the batch.
    pub(crate) jobs: &'a [Job<'a>],
    /// Which of them are in this chunk.
    pub(crate) chunk: &'a [usize],
    /// Jobs of the chunk that still have to be hashed; those with a refused encoding are not.
    pub(crate) pending: u32,
    pub(crate) points: &'a mut Points,
    messages: [Message<'a, 2>; LANES_MAX],
    slots: [Slot; LANES_MAX],
}

impl<'a, K: Kernels> PointSource<'a, K> {
    pub(crate) fn new(
        kernels: K,
        degree: usize,
        jobs: &'a [Job<'a>],
        chunk: &'a [usize],
        pending: u32,
        points: &'a mut Points,
    ) -> Self {
        let messages = [Message::EMPTY; LANES_MAX];
        let slots = [Slot { point: 0, count: 0 }; LANES_MAX];
        Self {
            kernels,
            degree,
            jobs,
            chunk,
            pending,
            points,
            messages,
            slots,
        }
    }

    /// Fills the points of all pending jobs.
    pub(crate) fn run(mut self) {
        lanes::run(&mut self.kernels.lanes(), &mut self);
    }
}

impl<K: Kernels> Source for PointSource<'_, K> {
    fn start(&mut self, lane: usize) -> bool {
        let Some(at) = lanes::bits(self.pending).next() else {
            return false;
        };
        self.pending &= self.pending - 1;
        let job = &self.jobs[self.chunk[at]];
        let nonce = &job.signature[1..1 + NONCE_LEN];
        self.messages[lane] = Message::new([nonce, job.message], SUFFIX_SHAKE);
        self.slots[lane] = Slot {
            point: at,
            count: 0,
        };
        true
    }

    fn input(&mut self, lane: usize, block: &mut [u8; RATE]) -> bool {
        self.messages[lane].next_block(block)
    }

    fn output(&mut self, lanes: u32, blocks: &Blocks) -> u32 {
        self.kernels
            .reject(self.degree, lanes, blocks, &mut self.slots, self.points)
    }
}
