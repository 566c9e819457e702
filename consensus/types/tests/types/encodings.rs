//! One encoding for one value; nothing shorter, longer or altered passes for it.

use bytes::Bytes;
use falconet_types::batch::{Batch, BatchHeader, SignedBatchHeader, Watermark};
use falconet_types::block::{Cut, Executed, Header, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Tc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::evidence::Evidence;
use falconet_types::message::{
    Admission, CertRef, ClientMessage, GetBatches, GetBlocks, PeerMessage, kind,
};
use falconet_types::proof::{CommittedChain, PortableProof, TransactionProof};
use falconet_types::receipt::{Outcome, Receipt, StateRoots};
use falconet_types::transaction::{SignedTransaction, TX_BYTES_MAX, Transaction};
use falconet_types::validators::Member;
use falconet_types::wire::{Wire, WireError};
use falconet_types::{Digest, Epoch, Height, Round, Seq, ValidatorIndex};
use proptest::prelude::*;

use crate::generate::{Gen, Generate};

/// Encodings longer than this are cut at 256 places instead of everywhere.
const CUT_EVERYWHERE_MAX: usize = 3_000;

/// Round trip, truncations, trailing bytes, and for one flipped bit in each byte: refused, or a
/// different value whose encoding is exactly the altered bytes.
fn strict<T: PartialEq + std::fmt::Debug>(
    value: &T,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, WireError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    assert_eq!(decode(bytes).as_ref(), Ok(value), "round trip");
    let step = if bytes.len() > CUT_EVERYWHERE_MAX {
        bytes.len() / 256
    } else {
        1
    };
    for len in (0..bytes.len()).step_by(step) {
        assert!(
            decode(&bytes[..len]).is_err(),
            "accepted {len} of {} bytes",
            bytes.len()
        );
    }
    assert!(
        decode(&[bytes, &[0]].concat()).is_err(),
        "accepted a trailing byte"
    );
    let mut altered = bytes.to_vec();
    for at in (0..bytes.len()).step_by(step) {
        altered[at] ^= 1 << (at % 8);
        if let Ok(other) = decode(&altered) {
            assert_ne!(other, *value, "byte {at} does not matter");
            assert_eq!(encode(&other), altered, "byte {at}: a second encoding");
        }
        altered[at] = bytes[at];
    }
}

fn wire<T: Wire + Generate + PartialEq + std::fmt::Debug>(seed: u64) {
    let value: T = Gen::new(seed).value();
    strict(&value, &value.to_bytes(), T::from_bytes, T::to_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn numbers_and_small_values(seed: u64) {
        wire::<Epoch>(seed);
        wire::<Round>(seed);
        wire::<Height>(seed);
        wire::<Seq>(seed);
        wire::<ValidatorIndex>(seed);
        wire::<LaneTip>(seed);
        wire::<Executed>(seed);
        wire::<Cut>(seed);
        wire::<Receipt>(seed);
        wire::<Member>(seed);
        wire::<SignedBatchHeader>(seed);
        wire::<Evidence>(seed);
        wire::<StateRoots>(seed);
        wire::<CertRef>(seed);
        wire::<GetBlocks>(seed);
        wire::<GetBatches>(seed);
        wire::<Admission>(seed);
        wire::<Watermark>(seed);
        wire::<BatchHeader>(seed);
    }

    #[test]
    fn headers(seed: u64) {
        wire::<Header>(seed);
        wire::<SignedHeader>(seed);
    }

    #[test]
    fn votes_and_certificates(seed: u64) {
        wire::<Vote>(seed);
        wire::<CommitVote>(seed);
        wire::<Timeout>(seed);
        wire::<Qc>(seed);
        wire::<Tc>(seed);
    }

    #[test]
    fn proofs(seed: u64) {
        wire::<CommittedChain>(seed);
        wire::<TransactionProof>(seed);
        wire::<PortableProof>(seed);
    }

    #[test]
    fn transactions(seed: u64) {
        wire::<Transaction>(seed);
        let signed: SignedTransaction = Gen::new(seed).value();
        let parse = |bytes: &[u8]| SignedTransaction::parse(Bytes::copy_from_slice(bytes));
        strict(&signed, signed.bytes(), parse, |tx| tx.bytes().to_vec());
        prop_assert!(signed.bytes().len() <= TX_BYTES_MAX);
    }

    #[test]
    fn batches(seed: u64) {
        let batch: Batch = Gen::new(seed).value();
        let parse = |bytes: &[u8]| Batch::parse(Bytes::copy_from_slice(bytes));
        strict(&batch, batch.bytes(), parse, |batch| batch.bytes().to_vec());
        prop_assert_eq!(batch.transactions().count(), batch.header().tx_count as usize);
    }

    #[test]
    fn peer_messages(seed: u64) {
        let message: PeerMessage = Gen::new(seed).value();
        let payload = message.payload();
        prop_assert_eq!(&PeerMessage::parse(message.kind(), &payload), &Ok(message.clone()));
        // Batches and relayed transactions are parsed later, by the verify stage; every other
        // message here.
        if ![kind::BATCH, kind::RELAY].contains(&message.kind()) {
            let parse = |bytes: &[u8]| {
                PeerMessage::parse(message.kind(), &Bytes::copy_from_slice(bytes))
            };
            strict(&message, &payload, parse, |message| message.payload().to_vec());
        }
    }

    #[test]
    fn client_messages(seed: u64) {
        let message: ClientMessage = Gen::new(seed).value();
        let payload = message.payload();
        prop_assert_eq!(&ClientMessage::parse(message.kind(), &payload), &Ok(message.clone()));
        // The proof inside a frame is parsed by whoever verifies it.
        if ![kind::PROOF, kind::CLIENT_EPOCH_PROOF].contains(&message.kind()) {
            let parse = |bytes: &[u8]| {
                ClientMessage::parse(message.kind(), &Bytes::copy_from_slice(bytes))
            };
            strict(&message, &payload, parse, |message| message.payload().to_vec());
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(kind: u8, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = Bytes::from(bytes);
        let _ = PeerMessage::parse(kind, &bytes);
        let _ = ClientMessage::parse(kind, &bytes);
        let _ = Batch::parse(bytes.clone());
        let _ = SignedTransaction::parse(bytes.clone());
        let _ = TransactionProof::from_bytes(&bytes);
        let _ = Tc::from_bytes(&bytes);
    }

    #[test]
    fn every_bit_of_a_header_is_part_of_its_identity(seed: u64) {
        let header: Header = Gen::new(seed).value();
        let bytes = header.to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Header::from_bytes(&altered) {
                prop_assert_ne!(other.id(), header.id(), "bit {}", bit);
            }
        }
        let batch: BatchHeader = Gen::new(seed).value();
        let bytes = batch.to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = BatchHeader::from_bytes(&altered) {
                prop_assert_ne!(other.hash(), batch.hash(), "bit {}", bit);
            }
        }
    }
}

#[test]
fn the_id_of_a_transaction_excludes_the_signature_and_nothing_else() {
    let signed: SignedTransaction = Gen::new(4).value();
    let bytes = signed.bytes();
    let unsigned_len = bytes.len() - signed.signature().len();
    for at in 0..bytes.len() {
        let mut altered = bytes.to_vec();
        altered[at] ^= 0x40;
        if let Ok(other) = SignedTransaction::parse(altered.into()) {
            assert_eq!(other.id() == signed.id(), at >= unsigned_len, "byte {at}");
        }
    }
}

#[test]
fn many_transactions_parse_as_one_by_one() {
    let mut txs: Vec<Bytes> = (0..40)
        .map(|seed| Gen::new(seed).value::<SignedTransaction>().bytes().clone())
        .collect();
    txs[3] = Bytes::new();
    txs[17] = txs[17].slice(1..);
    let many = SignedTransaction::parse_many(&txs);
    let single: Vec<_> = txs.into_iter().map(SignedTransaction::parse).collect();
    assert!(single[3].is_err() && single[17].is_err() && single[18].is_ok());
    assert_eq!(many, single);
}

#[test]
fn two_batches_with_one_hash_have_equal_payloads() {
    let batch: Batch = Gen::new(5).value();
    let txs: Vec<Bytes> = batch.transactions().collect();
    let payload_at = batch.bytes().len() - batch.header().payload_len as usize;
    for at in payload_at..batch.bytes().len() {
        let mut altered = batch.bytes().to_vec();
        altered[at] ^= 1;
        assert!(
            Batch::parse(altered.into()).is_err(),
            "byte {at} of {} txs",
            txs.len()
        );
    }
}

#[test]
fn unknown_versions_are_named() {
    let mut header = Gen::new(1).value::<Header>().to_bytes();
    let mut batch = Gen::new(1).value::<Batch>().bytes().to_vec();
    let mut tx = Gen::new(1).value::<SignedTransaction>().bytes().to_vec();
    let mut proof = Gen::new(1).value::<TransactionProof>().to_bytes();
    for bytes in [&mut header, &mut batch, &mut tx, &mut proof] {
        bytes[0] = 9;
    }
    let version = |what| Some(WireError::Version { what, found: 9 });
    assert_eq!(Header::from_bytes(&header).err(), version("header"));
    assert_eq!(Batch::parse(batch.into()).err(), version("batch"));
    assert_eq!(
        SignedTransaction::parse(tx.into()).err(),
        version("transaction")
    );
    assert_eq!(
        TransactionProof::from_bytes(&proof).err(),
        version("transaction proof")
    );
}

/// A count above its limit is refused before anything is allocated for it.
#[test]
fn counts_have_limits() {
    let too_long = |result: Result<(), WireError>, field: &str| match result {
        Err(WireError::TooLong { field: found, .. }) => assert_eq!(found, field),
        other => panic!("{field}: {other:?}"),
    };
    let with = |at: usize, mut bytes: Vec<u8>| {
        bytes[at..at + 2].copy_from_slice(&u16::MAX.to_le_bytes());
        bytes
    };
    let cut = with(0, Cut(vec![]).to_bytes());
    too_long(Cut::from_bytes(&cut).map(drop), "lanes");
    let qc: Qc = Gen::new(1).value();
    too_long(Qc::from_bytes(&with(56, qc.to_bytes())).map(drop), "votes");
    let tc: Tc = Gen::new(1).value();
    too_long(
        Tc::from_bytes(&with(16, tc.to_bytes())).map(drop),
        "timeouts",
    );
    let watermark = Watermark {
        epoch: Epoch(1),
        tips: vec![],
    };
    too_long(
        Watermark::from_bytes(&with(8, watermark.to_bytes())).map(drop),
        "lanes",
    );
    let request: GetBlocks = Gen::new(1).value();
    too_long(
        GetBlocks::from_bytes(&with(40, request.to_bytes())).map(drop),
        "max",
    );
    let parse = |kind, bytes: Vec<u8>| PeerMessage::parse(kind, &bytes.into()).map(drop);
    too_long(parse(kind::CERT_REFS, vec![5, 0]), "certificates");
    too_long(parse(kind::BLOCKS, vec![65, 0]), "headers");
    let offer = [vec![0; 8], vec![5, 0]].concat();
    too_long(parse(kind::SNAPSHOT, offer), "snapshots");
    let siblings = [vec![0; 12], vec![17, 0]].concat();
    too_long(parse(kind::CHUNK, siblings), "siblings");
    let rows = [vec![0; 16], vec![1, 0, 16, 0]].concat();
    too_long(parse(kind::CHUNK, rows), "rows");
    let client = |kind, bytes: Vec<u8>| ClientMessage::parse(kind, &bytes.into()).map(drop);
    too_long(
        client(kind::SUBMIT, [vec![0; 8], vec![1, 4]].concat()),
        "transactions",
    );
    too_long(
        client(kind::RESULTS, [vec![0; 8], vec![1, 4]].concat()),
        "results",
    );
    too_long(client(kind::RECEIPTS, vec![1, 16, 0, 0]), "receipts");
    let mut batch = Gen::new(1).value::<BatchHeader>();
    batch.payload_len = (1 << 20) + 1;
    too_long(
        BatchHeader::from_bytes(&batch.to_bytes()).map(drop),
        "payload",
    );
    batch.payload_len = 1 << 20;
    batch.tx_count = 16_385;
    too_long(
        BatchHeader::from_bytes(&batch.to_bytes()).map(drop),
        "transactions",
    );
}

/// Values that a strict format must not have two ways to say, or that say nothing.
#[test]
fn forbidden_values() {
    let value = |field| Some(WireError::Value(field));
    let tip = |seq, hash| {
        LaneTip {
            seq: Seq(seq),
            hash,
        }
        .to_bytes()
    };
    assert_eq!(
        LaneTip::from_bytes(&tip(0, Digest([1; 32]))).err(),
        value("lane tip")
    );
    assert_eq!(
        LaneTip::from_bytes(&tip(1, Digest::ZERO)).err(),
        value("lane tip")
    );
    let lanes = |a, b| Watermark {
        epoch: Epoch(0),
        tips: [a, b]
            .map(|lane| (ValidatorIndex(lane), LaneTip::default()))
            .into(),
    };
    for watermark in [lanes(1, 1), lanes(2, 1)] {
        assert_eq!(
            Watermark::from_bytes(&watermark.to_bytes()).err(),
            value("lane order")
        );
    }
    let range = |first, last| GetBatches {
        epoch: Epoch(0),
        lane: ValidatorIndex(0),
        first: Seq(first),
        last: Seq(last),
    };
    for range in [range(0, 1), range(3, 2)] {
        assert_eq!(
            GetBatches::from_bytes(&range.to_bytes()).err(),
            value("range")
        );
    }
    let admission = |bytes: [u8; 5]| Admission::from_bytes(&bytes).err();
    assert_eq!(admission([0, 1, 0, 0, 0]), value("admission"));
    assert_eq!(admission([3, 22, 0, 0, 0]), value("outcome"));
    assert_eq!(admission([3, 0, 1, 0, 0]), value("outcome"));
    assert_eq!(Outcome::try_from(22).err(), value("outcome"));
    let empty_submission = [0; 10];
    let parsed = ClientMessage::parse(kind::SUBMIT, &Bytes::copy_from_slice(&empty_submission));
    assert_eq!(parsed.err(), value("transactions"));
    assert_eq!(
        PeerMessage::parse(kind::SUBMIT, &Bytes::new()).err(),
        value("frame kind")
    );
    assert_eq!(
        ClientMessage::parse(kind::VOTE, &Bytes::new()).err(),
        value("frame kind")
    );
}

#[test]
fn a_registration_must_carry_the_senders_key() {
    let mut g = Gen::new(0);
    let tx = loop {
        let tx: Transaction = g.value();
        if matches!(
            tx.body,
            falconet_types::transaction::Body::RegisterKey { .. }
        ) {
            break tx;
        }
    };
    let mut bytes = tx.to_bytes();
    bytes[40] ^= 1;
    let error = Transaction::from_bytes(&bytes).err();
    assert_eq!(
        error,
        Some(WireError::Value("sender of the registered key"))
    );
}

#[test]
fn batches_of_nothing_or_out_of_place_are_refused() {
    let batch: Batch = Gen::new(2).value();
    let with = |change: fn(&mut BatchHeader)| {
        let mut header = batch.header().clone();
        change(&mut header);
        let bytes = [&header.to_bytes(), &batch.bytes()[BatchHeader::LEN..]].concat();
        Batch::parse(bytes.into()).err()
    };
    let value = |field| Some(WireError::Value(field));
    assert_eq!(with(|h| h.seq = Seq::ZERO), value("empty batch"));
    assert_eq!(with(|h| h.tx_count = 0), value("empty batch"));
    assert_eq!(with(|h| h.payload_len -= 1), value("payload length"));
    assert_eq!(
        with(|h| h.tx_root = Digest::ZERO),
        value("transaction root")
    );
    assert_eq!(
        with(|h| (h.seq, h.prev_hash) = (Seq(1), Digest([1; 32]))),
        value("previous hash")
    );
    assert_eq!(
        with(|h| (h.seq, h.prev_hash) = (Seq(2), Digest::ZERO)),
        value("previous hash")
    );
}

/// Millions of tiny transactions would make receipts of many times a block's bytes.
#[test]
fn a_batch_of_tiny_transactions_is_refused() {
    let good: Batch = Gen::new(3).value();
    let tx = [0u8; 61];
    let header = BatchHeader {
        tx_root: falconet_types::batch::tx_root(&[&tx]),
        payload_len: 63,
        tx_count: 1,
        ..good.header().clone()
    };
    let signature_at = BatchHeader::LEN;
    let payload_at = good.bytes().len() - good.header().payload_len as usize;
    let signature = &good.bytes()[signature_at..payload_at];
    let bytes = [&header.to_bytes(), signature, &[61, 0], &tx[..]].concat();
    assert_eq!(
        Batch::parse(bytes.into()).err(),
        Some(WireError::Value("transaction length"))
    );
}
