//! HashToPoint: from nonce and message to a polynomial (specification, section 3.7).
//!
//! SHAKE256 output is read as big-endian 16-bit words; words below 5q = 61,445 are reduced modulo
//! q, the others are skipped. Nonce and message are public, so there is nothing to hide in time.

use super::field::Q;
use crate::keccak::{RATE, Shake256};

/// Words from here on are skipped, so that the reduced ones are uniform.
const WORD_LIMIT: u16 = 5 * Q as u16;

/// Fills `out` with coefficients in [0, q).
pub(super) fn hash_to_point(nonce: &[u8], message: &[u8], out: &mut [i16]) {
    let mut shake = Shake256::new();
    shake.update(nonce);
    shake.update(message);
    let mut stream = shake.finish();
    let mut block = [0; RATE];
    let mut count = 0;
    while count < out.len() {
        stream.read(&mut block);
        for pair in block.chunks_exact(2) {
            let word = u16::from_be_bytes([pair[0], pair[1]]);
            if count == out.len() {
                break;
            }
            // Always stored, kept only if accepted: the branch would be mispredicted.
            out[count] = (word % Q as u16) as i16;
            count += usize::from(word < WORD_LIMIT);
        }
    }
}
