//! Payloads for a chain whose application is opaque: unique by a counter, the rest filled from a
//! seed, so that nothing on the way can compress or share them.
//!
//! ```text
//! offset size field
//!      0    8 counter
//!      8    8 run: differs between runs on one chain
//!     16    - filler
//! ```

use bytes::Bytes;
use falconet_types::TxId;
use falconet_types::transaction::opaque_ids;

use super::{Ahead, Chunk, Supply, SupplyTx};

/// Bytes of a payload in benchmarks, as the systems that we compare with use.
pub const PAYLOAD_BYTES: usize = 512;
/// Smallest payload: counter and run.
pub const PAYLOAD_BYTES_MIN: usize = 16;
/// Payloads made at a time.
const CHUNK_TXS: usize = 8_192;

/// Payloads of `payload_bytes` (at least [`PAYLOAD_BYTES_MIN`]), spread over `targets`
/// validators in turn. Two supplies with different `run` never yield the same payload.
pub fn supply(payload_bytes: usize, targets: usize, run: u64) -> std::io::Result<impl Supply> {
    assert!(
        payload_bytes >= PAYLOAD_BYTES_MIN && targets > 0,
        "checked by the caller"
    );
    let mut first = 0u64;
    let ahead = Ahead::start("opaque-supply", move || {
        let chunk = OpaqueChunk::make(first, run, payload_bytes, targets);
        first += CHUNK_TXS as u64;
        Some(chunk)
    })?;
    Ok(ahead.warm())
}

struct OpaqueChunk {
    first: u64,
    payload_bytes: usize,
    targets: usize,
    buffer: Bytes,
    ids: Vec<TxId>,
}

impl OpaqueChunk {
    fn make(first: u64, run: u64, payload_bytes: usize, targets: usize) -> Self {
        let mut buffer = Vec::with_capacity(CHUNK_TXS * payload_bytes);
        let mut filler = fastrand::Rng::with_seed(run ^ first.rotate_left(32));
        for counter in first..first + CHUNK_TXS as u64 {
            let end = buffer.len() + payload_bytes;
            buffer.extend_from_slice(&counter.to_le_bytes());
            buffer.extend_from_slice(&run.to_le_bytes());
            let filled = buffer.len();
            buffer.resize(end, 0);
            filler.fill(&mut buffer[filled..]);
        }
        let payloads: Vec<&[u8]> = buffer.chunks_exact(payload_bytes).collect();
        let ids = opaque_ids(&payloads);
        Self {
            first,
            payload_bytes,
            targets,
            buffer: buffer.into(),
            ids,
        }
    }
}

impl Chunk for OpaqueChunk {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn get(&self, index: usize) -> SupplyTx {
        let start = index * self.payload_bytes;
        let counter = self.first + index as u64;
        SupplyTx {
            id: self.ids[index],
            bytes: self.buffer.slice(start..start + self.payload_bytes),
            home: usize::try_from(counter % self.targets as u64).expect("below targets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use falconet_types::transaction::opaque_id;

    use super::*;

    #[test]
    fn payloads_are_unique_within_and_between_runs() {
        let mut seen = HashSet::new();
        for run in [1, 2] {
            for first in [0, CHUNK_TXS as u64] {
                let chunk = OpaqueChunk::make(first, run, 100, 3);
                for index in 0..chunk.len() {
                    let tx = chunk.get(index);
                    assert_eq!(tx.bytes.len(), 100);
                    assert_eq!(tx.id, opaque_id(&tx.bytes));
                    assert_eq!(tx.home as u64, (first + index as u64) % 3);
                    assert!(seen.insert(tx.id));
                }
            }
        }
    }

    #[test]
    fn the_supply_goes_on_over_chunks() {
        let mut supply = supply(PAYLOAD_BYTES_MIN, 1, 7).unwrap();
        let mut counters = Vec::new();
        while counters.len() < 2 * CHUNK_TXS + 1 {
            if let Some(tx) = supply.next() {
                counters.push(u64::from_le_bytes(tx.bytes[..8].try_into().unwrap()));
            } else {
                std::thread::yield_now();
            }
        }
        assert!(counters.iter().copied().eq(0..counters.len() as u64));
    }
}
