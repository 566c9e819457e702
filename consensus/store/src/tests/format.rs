//! The bytes on disk: any change of them must be a decision.

use falconet_types::receipt::Outcome;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Height, Seq, ValidatorIndex};
use proptest::prelude::*;

use crate::frame::{FRAME_HEADER_LEN, Found, Frame, Nonce, framed_len, padding};
use crate::index::{Entry, Key, decode_table, encode_table};
use crate::record::{Committed, Kind};
use crate::{BlockRow, RECORD_BYTES_MAX, TxLocation};

const KINDS: [Kind; 8] = [
    Kind::Safety,
    Kind::Header,
    Kind::Qc,
    Kind::Tc,
    Kind::Batch,
    Kind::Committed,
    Kind::Sync,
    Kind::Index,
];

#[test]
fn the_layout_of_a_frame_is_fixed() {
    let nonce: Nonce = *b"0123456789abcdef";
    let frame = Frame::for_payload(Kind::Batch, b"payload");
    let bytes = frame.encode(&nonce, 80);
    assert_eq!(bytes[4..12], [7, 0, 0, 0, 5, 0, 0, 0]);
    // CRC32C of "payload", and of nonce, offset and the bytes above; computed independently.
    assert_eq!(
        u32::from_le_bytes(bytes[12..].try_into().unwrap()),
        reference_crc(b"payload")
    );
    let covered = [&nonce[..], &80u64.to_le_bytes(), &bytes[4..]].concat();
    assert_eq!(
        u32::from_le_bytes(bytes[..4].try_into().unwrap()),
        reference_crc(&covered)
    );
    assert_eq!(frame.framed_len(), 24);
    assert_eq!(padding(7), [0]);
}

/// CRC32C bit by bit (RFC 3720, appendix B.4).
fn reference_crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    !crc
}

#[test]
fn the_checksum_is_the_one_of_the_rfc() {
    // RFC 3720, appendix B.4: 32 bytes of zeros, 32 bytes of ones.
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(reference_crc(&[0; 32]), 0x8a91_36aa);
}

fn entry() -> impl Strategy<Value = Entry> {
    let digest = any::<[u8; 32]>().prop_map(Digest);
    let key = (0..6, digest, any::<u64>(), any::<u64>(), any::<u16>()).prop_map(
        |(kind, digest, a, b, lane)| match kind {
            0 => Key::Safety,
            1 => Key::Header {
                id: digest,
                height: Height(a),
            },
            2 => Key::Qc {
                epoch: falconet_types::Epoch(a),
                round: falconet_types::Round(b),
            },
            3 => Key::Tc {
                epoch: falconet_types::Epoch(a),
                round: falconet_types::Round(b),
            },
            4 => Key::Batch {
                hash: digest,
                epoch: falconet_types::Epoch(a),
                lane: ValidatorIndex(lane),
                seq: Seq(b),
            },
            _ => Key::Committed {
                height: Height(a),
                block_id: digest,
            },
        },
    );
    (key, any::<u32>(), any::<u32>()).prop_map(|(key, at, len)| Entry { key, at, len })
}

proptest! {
    #[test]
    fn a_frame_is_read_as_written_and_only_where_it_was_written(
        nonce: Nonce,
        other: Nonce,
        offset: u64,
        kind in 0..8usize,
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        bit in 0..FRAME_HEADER_LEN * 8,
        distance in 1..1_000_000u64,
    ) {
        let frame = Frame::for_payload(KINDS[kind], &payload);
        let mut bytes = frame.encode(&nonce, offset);
        prop_assert_eq!(Frame::decode(&nonce, offset, &bytes), Found::Frame(frame));
        let moved = Frame::decode(&nonce, offset.wrapping_add(distance), &bytes);
        prop_assert!(matches!(moved, Found::Bad(_)));
        if nonce != other {
            prop_assert!(matches!(Frame::decode(&other, offset, &bytes), Found::Bad(_)));
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(matches!(Frame::decode(&nonce, offset, &bytes), Found::Bad(_)));
    }

    #[test]
    fn any_bytes_are_a_frame_or_not_without_panic(
        nonce: Nonce, offset: u64, bytes: [u8; FRAME_HEADER_LEN],
    ) {
        if let Found::Frame(frame) = Frame::decode(&nonce, offset, &bytes) {
            prop_assert!(frame.len as usize <= RECORD_BYTES_MAX || frame.kind == Kind::Index);
        }
    }

    #[test]
    fn frames_are_aligned_and_padded(len in 0..RECORD_BYTES_MAX) {
        prop_assert_eq!(framed_len(len) % 8, 0);
        prop_assert_eq!(FRAME_HEADER_LEN + len + padding(len).len(), framed_len(len) as usize);
    }

    #[test]
    fn a_table_keeps_all_but_older_safety_records(
        entries in proptest::collection::vec(entry(), 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encode_table(&entries);
        let newest = entries.iter().rposition(|e| e.key == Key::Safety);
        let kept: Vec<_> = entries.iter().enumerate()
            .filter(|(i, e)| e.key != Key::Safety || Some(*i) == newest)
            .map(|(_, e)| *e)
            .collect();
        prop_assert_eq!(decode_table(&bytes).unwrap(), kept);
        let cut = cut.index(bytes.len());
        prop_assert!(decode_table(&bytes[..cut]).is_err());
    }

    #[test]
    fn rows_survive_and_reject_truncation(
        heights: [u64; 2], lane: u16, index: u32, outcome in 0..12usize,
        outcomes in proptest::collection::vec(0..12usize, 0..50), cut in any::<prop::sample::Index>(),
    ) {
        let outcome = Outcome::ALL[outcome];
        let location = TxLocation {
            height: Height(heights[0]), lane: ValidatorIndex(lane), seq: Seq(heights[1]), index, outcome,
        };
        let bytes = location.to_bytes();
        prop_assert_eq!(TxLocation::from_bytes(&bytes).unwrap(), location);
        prop_assert!(TxLocation::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        let row = BlockRow {
            commitment: Digest([1; 32]),
            accounts_root: Digest([2; 32]),
            validators_root: Digest([2; 32]),
            results: Digest([3; 32]),
            receipts_root: Digest([4; 32]),
            outcomes: outcomes.into_iter().map(|i| Outcome::ALL[i]).collect(),
            registry_root: None,
        };
        let bytes = row.to_bytes();
        prop_assert_eq!(BlockRow::from_bytes(&bytes).unwrap(), row.clone());
        prop_assert!(BlockRow::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        let noted = BlockRow { registry_root: Some(Digest([5; 32])), ..row };
        let longer = noted.to_bytes();
        prop_assert_eq!(BlockRow::from_bytes(&longer).unwrap(), noted);
        let cut = bytes.len() + 1 + cut.index(31);
        prop_assert!(BlockRow::from_bytes(&longer[..cut]).is_err());
    }
}

#[test]
fn the_encodings_have_not_changed() {
    let mut chain = super::Chain::new(100);
    chain.next();
    let committed = Committed {
        child_qc: falconet_types::certificate::Qc::genesis(
            super::EPOCH,
            falconet_types::block::genesis_id(super::CHAIN),
        ),
        ..chain.next().committed.unwrap()
    };
    assert_eq!(
        Committed::from_bytes(&committed.to_bytes()).unwrap(),
        committed
    );
    let mut fixed = Committed {
        block_id: Digest([8; 32]),
        child_id: Digest([9; 32]),
        ..committed
    };
    fixed.child_qc.block_id = Digest([7; 32]);
    let entries = [
        Entry {
            key: Key::Safety,
            at: 80,
            len: 3,
        },
        Entry {
            key: Key::Header {
                id: Digest([1; 32]),
                height: Height(2),
            },
            at: 104,
            len: 4,
        },
        Entry {
            key: Key::Committed {
                height: Height(1),
                block_id: Digest([2; 32]),
            },
            at: 9,
            len: 5,
        },
    ];
    let bytes = [fixed.to_bytes(), encode_table(&entries)].concat();
    let hash = falconet_crypto::hash::hash("test/format", &[&bytes]);
    assert_eq!(
        hash.to_string(),
        "8106867e853ceeb57c595ce376813afe0c8a2674078a1a83753efca165571d8e"
    );
}
