//! Encoders for signatures and public keys, with room for mistakes.

use falconet_crypto::Scheme;

/// Bits, most significant first.
#[derive(Default)]
pub struct BitWriter {
    bits: Vec<bool>,
}

impl BitWriter {
    pub fn push(&mut self, value: u32, count: u32) {
        self.bits
            .extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
    }

    /// A codeword with any sign bit, low bits and length of the unary part.
    pub fn codeword(&mut self, negative: bool, low: u32, zeros: usize) {
        self.push(negative.into(), 1);
        self.push(low, 7);
        self.bits.extend(std::iter::repeat_n(false, zeros));
        self.bits.push(true);
    }

    pub fn coefficient(&mut self, value: i32) {
        let magnitude = value.unsigned_abs();
        self.codeword(value < 0, magnitude & 0x7f, (magnitude >> 7) as usize);
    }

    pub fn len(&self) -> usize {
        self.bits.len()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bits
            .chunks(8)
            .map(|byte| {
                byte.iter()
                    .enumerate()
                    .map(|(at, &bit)| u8::from(bit) << (7 - at))
                    .sum()
            })
            .collect()
    }
}

/// Header, nonce, the given bits, zeros up to the padded length. `None` if the bits do not fit.
pub fn signature(scheme: Scheme, nonce: &[u8; 40], compressed: BitWriter) -> Option<Vec<u8>> {
    let mut bytes = vec![scheme.signature_header()];
    bytes.extend_from_slice(nonce);
    bytes.extend(compressed.into_bytes());
    if bytes.len() > scheme.signature_len() {
        return None;
    }
    bytes.resize(scheme.signature_len(), 0);
    Some(bytes)
}

/// A signature with these coefficients. `None` if they do not fit the padded length.
pub fn signature_of(scheme: Scheme, nonce: &[u8; 40], s2: &[i32]) -> Option<Vec<u8>> {
    let mut bits = BitWriter::default();
    s2.iter().for_each(|&value| bits.coefficient(value));
    signature(scheme, nonce, bits)
}

/// A public key with these coefficients, which may be q or more.
pub fn public_key(scheme: Scheme, coefficients: &[u32]) -> Vec<u8> {
    let mut bits = BitWriter::default();
    bits.push(scheme.public_key_header().into(), 8);
    coefficients.iter().for_each(|&value| bits.push(value, 14));
    bits.into_bytes()
}
