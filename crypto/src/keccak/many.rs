//! SHA3-256 and SHAKE256 over many messages at once.

use super::lanes::{self, Blocks, Lanes, Message, Source, bits};
use super::{RATE, SUFFIX_SHA3, SUFFIX_SHAKE};

/// Which implementation hashes many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// Eight messages at once with AVX-512.
    Avx512,
    /// Four messages at once with AVX2.
    Avx2,
    /// One message after the other, on any CPU.
    Scalar,
}

impl Engine {
    /// The engines that this CPU can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Engine> {
        [Engine::Avx512, Engine::Avx2, Engine::Scalar]
            .into_iter()
            .filter(|engine| match engine {
                #[cfg(target_arch = "x86_64")]
                Engine::Avx512 => crate::cpu::Avx512::detect().is_some(),
                #[cfg(target_arch = "x86_64")]
                Engine::Avx2 => crate::cpu::Avx2::detect().is_some(),
                #[cfg(not(target_arch = "x86_64"))]
                Engine::Avx512 | Engine::Avx2 => false,
                Engine::Scalar => true,
            })
    }

    /// The fastest engine of this CPU.
    pub fn best() -> Engine {
        Self::available()
            .next()
            .expect("the scalar engine is always there")
    }

    /// `out[i]` = SHA3-256(`prefix` ‖ `messages[i]`).
    ///
    /// # Panics
    /// If the lengths differ, or this CPU cannot run the engine.
    pub fn sha3_256_many<T, D>(self, prefix: &[u8], messages: &[T], out: &mut [D])
    where
        T: AsRef<[u8]>,
        D: From<[u8; 32]> + AsMut<[u8]>,
    {
        assert_eq!(messages.len(), out.len(), "one output per message");
        // Most of what is hashed together are nodes of trees and other things of one block: such
        // messages need no state but the one that a permutation leaves.
        if self == Engine::Scalar || messages.len() < 2 {
            return self.squeeze_many(SUFFIX_SHA3, prefix, messages, out);
        }
        let long = match self {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512 => {
                let cpu = crate::cpu::Avx512::detect().expect("this CPU has AVX-512");
                one_block_each(&mut super::avx512::Lanes8::new(cpu), prefix, messages, out)
            }
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => {
                let cpu = crate::cpu::Avx2::detect().expect("this CPU has AVX2");
                one_block_each(&mut super::avx2::Lanes4::new(cpu), prefix, messages, out)
            }
            _ => unreachable!("the scalar engine has returned"),
        };
        if long == messages.len() {
            self.squeeze_many(SUFFIX_SHA3, prefix, messages, out);
        } else if long > 0 {
            let at: Vec<usize> = (0..messages.len())
                .filter(|&i| !is_one_block(prefix, messages[i].as_ref()))
                .collect();
            let messages: Vec<&[u8]> = at.iter().map(|&i| messages[i].as_ref()).collect();
            let mut digests = vec![[0; 32]; long];
            self.squeeze_many(SUFFIX_SHA3, prefix, &messages, &mut digests);
            for (&i, digest) in at.iter().zip(digests) {
                out[i] = D::from(digest);
            }
        }
    }

    /// `out[i]` = the first `N` bytes of SHAKE256(`prefix` ‖ `messages[i]`).
    ///
    /// # Panics
    /// If the lengths differ, or this CPU cannot run the engine.
    pub fn shake256_many<T, const N: usize>(
        self,
        prefix: &[u8],
        messages: &[T],
        out: &mut [[u8; N]],
    ) where
        T: AsRef<[u8]>,
    {
        self.squeeze_many(SUFFIX_SHAKE, prefix, messages, out);
    }

    /// Fills each element of `out`, whatever its length.
    fn squeeze_many<T, D>(self, suffix: u8, prefix: &[u8], messages: &[T], out: &mut [D])
    where
        T: AsRef<[u8]>,
        D: AsMut<[u8]>,
    {
        assert_eq!(messages.len(), out.len(), "one output per message");
        let mut source = Batch {
            suffix,
            prefix,
            messages,
            out,
            next: 0,
            lanes: [Lane {
                message: Message::EMPTY,
                index: 0,
                written: 0,
            }; lanes::LANES_MAX],
        };
        match self {
            #[cfg(target_arch = "x86_64")]
            // A lane costs about an eighth of a permutation of eight; below two it does not pay.
            Engine::Avx512 if messages.len() > 1 => {
                let cpu = crate::cpu::Avx512::detect().expect("this CPU has AVX-512");
                lanes::run(&mut super::avx512::Lanes8::new(cpu), &mut source);
            }
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 if messages.len() > 1 => {
                let cpu = crate::cpu::Avx2::detect().expect("this CPU has AVX2");
                lanes::run(&mut super::avx2::Lanes4::new(cpu), &mut source);
            }
            _ => lanes::run(&mut Lanes1::new(), &mut source),
        }
    }
}

/// True when prefix, message and padding fill at most one block.
fn is_one_block(prefix: &[u8], message: &[u8]) -> bool {
    prefix.len() + message.len() < RATE
}

/// Hashes the messages of one block with SHA3-256, as many at a time as there are lanes. Returns
/// how many are longer; those are left out.
fn one_block_each<L, T, D>(states: &mut L, prefix: &[u8], messages: &[T], out: &mut [D]) -> usize
where
    L: Lanes,
    T: AsRef<[u8]>,
    D: From<[u8; 32]>,
{
    let mut blocks = Blocks::ZERO;
    let mut digests = [[0; 32]; lanes::LANES_MAX];
    // Which message a lane holds, and how long the one is whose padding its block has.
    let mut held = [0; lanes::LANES_MAX];
    let mut padded = [usize::MAX; lanes::LANES_MAX];
    let (mut filled, mut long) = (0, 0);
    let mut flush = |blocks: &Blocks, held: &[usize]| {
        states.one_block(blocks, &mut digests);
        for (&i, digest) in held.iter().zip(digests) {
            out[i] = D::from(digest);
        }
    };
    for (i, message) in messages.iter().enumerate() {
        let message = message.as_ref();
        if !is_one_block(prefix, message) {
            long += 1;
            continue;
        }
        let block = &mut blocks.0[filled];
        if padded[filled] == message.len() {
            block[prefix.len()..][..message.len()].copy_from_slice(message);
        } else {
            padded[filled] = message.len();
            Message::new([prefix, message], SUFFIX_SHA3).next_block(block);
        }
        held[filled] = i;
        filled += 1;
        if filled == L::COUNT {
            flush(&blocks, &held[..filled]);
            filled = 0;
        }
    }
    if filled > 0 {
        flush(&blocks, &held[..filled]);
    }
    long
}

/// Messages on their way through the lanes.
struct Batch<'a, T, D> {
    suffix: u8,
    prefix: &'a [u8],
    messages: &'a [T],
    out: &'a mut [D],
    next: usize,
    lanes: [Lane<'a>; lanes::LANES_MAX],
}

#[derive(Clone, Copy)]
struct Lane<'a> {
    message: Message<'a, 2>,
    index: usize,
    written: usize,
}

impl<T: AsRef<[u8]>, D: AsMut<[u8]>> Source for Batch<'_, T, D> {
    fn start(&mut self, lane: usize) -> bool {
        let Some(message) = self.messages.get(self.next) else {
            return false;
        };
        let message = Message::new([self.prefix, message.as_ref()], self.suffix);
        self.lanes[lane] = Lane {
            message,
            index: self.next,
            written: 0,
        };
        self.next += 1;
        true
    }

    fn input(&mut self, lane: usize, block: &mut [u8; RATE]) -> bool {
        self.lanes[lane].message.next_block(block)
    }

    fn output(&mut self, lanes: u32, blocks: &Blocks) -> u32 {
        let mut done = 0;
        for at in bits(lanes) {
            let lane = &mut self.lanes[at];
            let rest = &mut self.out[lane.index].as_mut()[lane.written..];
            let count = rest.len().min(RATE);
            rest[..count].copy_from_slice(&blocks.0[at][..count]);
            lane.written += count;
            if count == rest.len() {
                done |= 1 << at;
            }
        }
        done
    }
}

/// A single state, as lanes.
struct Lanes1 {
    state: [u64; 25],
}

impl Lanes1 {
    fn new() -> Self {
        Self { state: [0; 25] }
    }
}

impl Lanes for Lanes1 {
    const COUNT: usize = 1;

    fn clear(&mut self, lanes: u32) {
        if lanes != 0 {
            self.state = [0; 25];
        }
    }

    fn absorb(&mut self, blocks: &Blocks) {
        for (word, bytes) in self.state.iter_mut().zip(blocks.0[0].chunks_exact(8)) {
            *word ^= u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
    }

    fn permute(&mut self) {
        super::keccak_f1600(&mut self.state);
    }

    fn squeeze(&self, blocks: &mut Blocks) {
        blocks.0[0] = super::block_bytes(&self.state);
    }
}
