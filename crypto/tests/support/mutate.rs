//! Cases for comparisons: honest, mutated, and extreme ones.

use super::{bytes, pick};
use falconet_crypto::{KeyPair, Scheme};
use fastrand::Rng;

use super::encode::{self, BitWriter};
use super::{Case, forge};

/// Cases to start from: honest ones, and forged ones that are extreme in some way. Making one is
/// far slower than checking it.
pub struct Corpus {
    bases: Vec<Case>,
}

impl Corpus {
    /// `keys` honest keys of each scheme with eight signatures each, and `forged` extreme cases.
    pub fn new(keys: usize, forged: usize) -> Self {
        let mut random = Rng::with_seed(0x00fa_1c0e);
        let mut bases = Vec::new();
        for at in 0..2 * keys {
            let scheme = Scheme::ALL[at % 2];
            let pair = KeyPair::from_seed(scheme, &[at as u8; 32]);
            for _ in 0..8 {
                let len = pick(&mut random, &[0, 1, 32, 48, 95, 96, 97, 150, 231, 232, 500]);
                let message = bytes(&mut random, len);
                let signature = pair
                    .sign_deterministic(&message, &[1; 32])
                    .as_bytes()
                    .to_vec();
                let public_key = pair.public().as_bytes().to_vec();
                bases.push(Case {
                    scheme,
                    public_key,
                    message,
                    signature,
                });
            }
        }
        for at in 0..forged {
            let honest = bases[at % (16 * keys)].clone();
            bases.push(match random.usize(..8) {
                0..=2 => near_the_bound(honest, &mut random),
                3 | 4 => wide(honest, &mut random),
                5 => slowest(honest.scheme, &mut random),
                6 => codewords(honest, &mut random),
                _ => random_key(honest, &mut random),
            });
        }
        Self { bases }
    }

    /// The case that belongs to `seed`: a base, three times out of four with something changed.
    pub fn case(&self, seed: u64) -> Case {
        let mut random = Rng::with_seed(seed);
        let case = self.bases[random.usize(..self.bases.len())].clone();
        match random.usize(..16) {
            0..=3 => case,
            4 => flip(case, &mut random, |case| &mut case.message),
            5 => flip(case, &mut random, |case| &mut case.public_key),
            6..=9 => flip(case, &mut random, |case| &mut case.signature),
            10 => stretch(case, &mut random),
            11 | 12 => overwrite(case, &mut random),
            13 => self.crossed(case, &mut random),
            14 => noise(case, &mut random),
            _ => {
                let once = flip(case, &mut random, |case| &mut case.signature);
                flip(once, &mut random, |case| &mut case.signature)
            }
        }
    }

    fn crossed(&self, mut case: Case, random: &mut Rng) -> Case {
        let other = &self.bases[random.usize(..self.bases.len())];
        case.public_key.clone_from(&other.public_key);
        case
    }
}

fn nonce(random: &mut Rng) -> [u8; 40] {
    bytes(random, 40).try_into().expect("forty bytes")
}

fn flip(mut case: Case, random: &mut Rng, part: impl Fn(&mut Case) -> &mut Vec<u8>) -> Case {
    let bytes = part(&mut case);
    if !bytes.is_empty() {
        // The end of a signature (padding, tail) deserves more than its share.
        let at = if random.usize(..3) == 0 {
            bytes.len() - 1 - random.usize(..bytes.len().min(24))
        } else {
            random.usize(..bytes.len())
        };
        bytes[at] ^= 1 << random.usize(..8);
    }
    case
}

fn stretch(mut case: Case, random: &mut Rng) -> Case {
    match random.usize(..4) {
        0 => case.signature.push(0),
        1 => case
            .signature
            .truncate(random.usize(..case.signature.len())),
        2 => case
            .public_key
            .truncate(random.usize(..case.public_key.len())),
        _ => {
            while case.signature.last() == Some(&0) {
                case.signature.pop();
            }
        }
    }
    case
}

fn overwrite(mut case: Case, random: &mut Rng) -> Case {
    let from = random.usize(..case.signature.len());
    let to = (from + 1 + random.usize(..40)).min(case.signature.len());
    let byte = pick(random, &[0, 0xff, 0x80, 0x01]);
    case.signature[from..to].fill(byte);
    case
}

/// A key with coefficients around the limits of the encoding.
fn random_key(mut case: Case, random: &mut Rng) -> Case {
    let top = pick(random, &[12_288, 12_288, 12_289, 16_383]);
    let coefficients: Vec<u32> = (0..case.scheme.degree())
        .map(|_| pick(random, &[0, 1, 6144, 6145, 12_287, 12_288, top]))
        .collect();
    case.public_key = encode::public_key(case.scheme, &coefficients);
    case
}

/// A forged case whose norm is the bound, or a little off it.
fn near_the_bound(case: Case, random: &mut Rng) -> Case {
    let scheme = case.scheme;
    let spread = pick(random, &[1, 3, 100, 300]);
    let s2: Vec<i32> = (0..scheme.degree())
        .map(|_| random.usize(..2 * spread + 1) as i32 - spread as i32)
        .collect();
    let norm_s2: u64 = s2.iter().map(|&x| (x * x) as u64).sum();
    let target =
        scheme.squared_norm_max() + pick(random, &[0, 0, 1, 2, 1000]) - pick(random, &[0, 0, 1]);
    let Some(rest) = target.checked_sub(norm_s2) else {
        return case;
    };
    let s1 = forge::with_squared_norm(scheme, rest, random);
    forge::case(scheme, &s1, &s2, &case.message, &nonce(random)).unwrap_or(case)
}

/// A valid signature that is as slow to decode as any can be: as many groups of four codewords as
/// fit the encoding (and the norm) are longer than the decoders' windows. Each has 22 zeros in its
/// unary parts.
pub fn slowest(scheme: Scheme, random: &mut Rng) -> Case {
    let spare_bits = 8 * (scheme.signature_len() - 41) - 9 * scheme.degree();
    let group_norm_max = 2 * (783 * 783 + 655 * 655);
    let groups = (spare_bits / 22).min((scheme.squared_norm_max() / group_norm_max) as usize);
    loop {
        let mut s2 = vec![0; scheme.degree()];
        let mut left = groups;
        while left > 0 {
            let at = 4 * random.usize(..scheme.degree() / 4);
            if s2[at] == 0 {
                for (value, magnitude) in s2[at..at + 4].iter_mut().zip([768, 640, 768, 640]) {
                    *value = pick(random, &[1, -1]) * (magnitude + random.usize(..16) as i32);
                }
                left -= 1;
            }
        }
        let s1 = vec![0; scheme.degree()];
        if let Some(case) = forge::case(scheme, &s1, &s2, &bytes(random, 48), &nonce(random)) {
            return case;
        }
    }
}

/// A forged case with coefficients so large that four codewords exceed a 64-bit window.
fn wide(case: Case, random: &mut Rng) -> Case {
    let scheme = case.scheme;
    let mut s2: Vec<i32> = (0..scheme.degree())
        .map(|_| random.usize(..200) as i32 - 100)
        .collect();
    let groups = 1 + random.usize(..8);
    for _ in 0..groups {
        let at = 4 * random.usize(..scheme.degree() / 4);
        for value in &mut s2[at..at + 4] {
            *value = pick(random, &[1, -1]) * pick(random, &[0, 640, 700, 767, 768, 1500, 2047]);
        }
    }
    let norm_s2: u64 = s2.iter().map(|&x| (x * x) as u64).sum();
    let rest = scheme.squared_norm_max().saturating_sub(norm_s2);
    let s1 = forge::with_squared_norm(scheme, rest, random);
    forge::case(scheme, &s1, &s2, &case.message, &nonce(random)).unwrap_or(case)
}

/// Codewords that break one rule now and then: -0, long unary parts, too few or too many.
fn codewords(mut case: Case, random: &mut Rng) -> Case {
    let scheme = case.scheme;
    let mut bits = BitWriter::default();
    let count = scheme.degree() + pick(random, &[0, 0, 0, 1, 2]) - pick(random, &[0, 0, 0, 1]);
    let rate = pick(random, &[20, 300, 5000]);
    for _ in 0..count {
        match random.usize(..rate) {
            0 => bits.codeword(true, 0, 0),
            1 => bits.codeword(false, random.usize(..128) as u32, 12 + random.usize(..8)),
            2 => bits.codeword(true, random.usize(..128) as u32, 5 + random.usize(..3)),
            3 => bits.codeword(false, 0, pick(random, &[40, 64, 120])),
            _ => bits.coefficient(random.usize(..100) as i32 - 50),
        }
    }
    if let Some(signature) = encode::signature(scheme, &nonce(random), bits) {
        case.signature = signature;
    }
    case
}

fn noise(mut case: Case, random: &mut Rng) -> Case {
    let keep = random.usize(..case.signature.len());
    for byte in &mut case.signature[keep.max(1)..] {
        *byte = random.u8(..);
    }
    case
}
