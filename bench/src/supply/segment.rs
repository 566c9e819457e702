//! One file of pre-signed transfers.
//!
//! ```text
//! offset size field
//!      0    8 magic and version
//!      8   32 chain id
//!     40    1 scheme, then 3 zeros
//!     44    4 accounts
//!     48    4 nonces of each account in this file
//!     52    4 bytes of a record: id (32) and transaction
//!     56    8 first nonce
//!     64   32 digest of everything else that the transactions depend on
//!     96    4 CRC-32 of the header
//!    100    - records: nonce by nonce, within a nonce account by account
//!      -    4 CRC-32 of the records
//! ```
//!
//! So in the order of the file each sender's nonces ascend and the senders take turns.

use bytes::Bytes;
use falconet_crypto::falcon::Scheme;
use falconet_crypto::hash::Digest;
use falconet_types::ChainId;

use super::{Chunk, SupplyTx};

const MAGIC: [u8; 8] = *b"FLCNTXS\x01";
const HEADER_LEN: usize = 100;
const CRC_LEN: usize = 4;
/// Bytes of the id before each transaction.
pub(super) const ID_LEN: usize = 32;

/// What identifies a file: equal keys mean equal transactions, up to the signatures' randomness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentKey {
    pub(super) chain_id: ChainId,
    pub(super) scheme: Scheme,
    pub(super) accounts: u32,
    pub(super) nonces: u32,
    pub(super) record_len: u32,
    pub(super) first_nonce: u64,
    pub(super) rest: Digest,
}

impl SegmentKey {
    /// Number of transactions.
    pub(super) fn len(&self) -> usize {
        self.accounts as usize * self.nonces as usize
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(self.chain_id.as_ref());
        out.extend_from_slice(&[self.scheme.as_byte(), 0, 0, 0]);
        out.extend_from_slice(&self.accounts.to_le_bytes());
        out.extend_from_slice(&self.nonces.to_le_bytes());
        out.extend_from_slice(&self.record_len.to_le_bytes());
        out.extend_from_slice(&self.first_nonce.to_le_bytes());
        out.extend_from_slice(self.rest.as_ref());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }
}

/// Why a file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SegmentError {
    #[error("is damaged")]
    Damaged,
    #[error("belongs to another chain, other accounts or another version")]
    Foreign,
}

/// The transactions of one file.
pub(super) struct Segment {
    records: Bytes,
    record_len: usize,
    accounts: usize,
    targets: usize,
}

impl Segment {
    /// From records made in memory.
    pub(super) fn new(key: &SegmentKey, records: Bytes, targets: usize) -> Self {
        assert_eq!(
            records.len(),
            key.len() * key.record_len as usize,
            "whole records"
        );
        let (record_len, accounts) = (key.record_len as usize, key.accounts as usize);
        Self {
            records,
            record_len,
            accounts,
            targets,
        }
    }

    /// From the bytes of a file.
    pub(super) fn parse(
        key: &SegmentKey,
        file: Bytes,
        targets: usize,
    ) -> Result<Self, SegmentError> {
        let Some(head) = file.get(..HEADER_LEN) else {
            return Err(SegmentError::Damaged);
        };
        if head != key.header() {
            // A header with a good checksum was written on purpose, for something else.
            let (fields, crc) = head.split_at(HEADER_LEN - CRC_LEN);
            let whole = crc32fast::hash(fields).to_le_bytes() == *crc;
            return Err(if whole {
                SegmentError::Foreign
            } else {
                SegmentError::Damaged
            });
        }
        let records_len = key.len() * key.record_len as usize;
        if file.len() != HEADER_LEN + records_len + CRC_LEN {
            return Err(SegmentError::Damaged);
        }
        let records = file.slice(HEADER_LEN..HEADER_LEN + records_len);
        if crc32fast::hash(&records).to_le_bytes() != file[HEADER_LEN + records_len..] {
            return Err(SegmentError::Damaged);
        }
        Ok(Self::new(key, records, targets))
    }

    /// The bytes of the file.
    pub(super) fn encode(&self, key: &SegmentKey) -> Vec<u8> {
        let mut out = key.header();
        out.extend_from_slice(&self.records);
        out.extend_from_slice(&crc32fast::hash(&self.records).to_le_bytes());
        out
    }
}

impl Chunk for Segment {
    fn len(&self) -> usize {
        self.records.len() / self.record_len
    }

    fn get(&self, index: usize) -> SupplyTx {
        let start = index * self.record_len;
        let (id, tx) = (
            start..start + ID_LEN,
            start + ID_LEN..start + self.record_len,
        );
        SupplyTx {
            id: Digest(self.records[id].try_into().expect("32 bytes")),
            bytes: self.records.slice(tx),
            home: (index % self.accounts) % self.targets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SegmentKey {
        SegmentKey {
            chain_id: Digest([1; 32]),
            scheme: Scheme::Falcon512,
            accounts: 3,
            nonces: 2,
            record_len: 40,
            first_nonce: 1,
            rest: Digest([2; 32]),
        }
    }

    fn segment() -> Segment {
        let records: Vec<u8> = (0..6u8).flat_map(|i| [i; 40]).collect();
        Segment::new(&key(), records.into(), 2)
    }

    #[test]
    fn a_file_reads_back() {
        let file: Bytes = segment().encode(&key()).into();
        let read = Segment::parse(&key(), file, 2).unwrap();
        assert_eq!(read.len(), 6);
        let tx = read.get(5);
        assert_eq!(
            (tx.id, tx.bytes.as_ref(), tx.home),
            (Digest([5; 32]), &[5u8; 8][..], 0)
        );
        let homes: Vec<usize> = (0..6).map(|i| read.get(i).home).collect();
        assert_eq!(homes, [0, 1, 0, 0, 1, 0], "a sender keeps its home");
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_found() {
        let file = segment().encode(&key());
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 0x10;
            assert!(Segment::parse(&key(), bad.into(), 2).is_err(), "byte {at}");
            let cut = Bytes::copy_from_slice(&file[..at]);
            assert_eq!(
                Segment::parse(&key(), cut, 2).err(),
                Some(SegmentError::Damaged)
            );
        }
    }

    #[test]
    fn a_file_of_another_chain_is_foreign_not_damaged() {
        let file: Bytes = segment().encode(&key()).into();
        let others = [
            SegmentKey {
                chain_id: Digest([7; 32]),
                ..key()
            },
            SegmentKey {
                first_nonce: 2,
                ..key()
            },
            SegmentKey {
                rest: Digest([7; 32]),
                ..key()
            },
            SegmentKey {
                accounts: 2,
                nonces: 3,
                ..key()
            },
        ];
        for other in others {
            let error = Segment::parse(&other, file.clone(), 2).err();
            assert_eq!(error, Some(SegmentError::Foreign), "{other:?}");
        }
    }
}
