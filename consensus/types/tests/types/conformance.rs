//! Wire conformance: the encodings of 2,000 generated values of each type hash to what
//! `tests/conformance.toml` says. An accidental change of a format breaks this test.
//!
//! After an intended change, which needs a new version byte, write the file anew:
//! `FALCONET_CONFORMANCE=write cargo test -p falconet-types --test types conformance`

use std::collections::BTreeMap;
use std::path::Path;

use falconet_crypto::hash::Hasher;
use falconet_types::batch::{Batch, BatchHeader, SignedBatchHeader, Watermark};
use falconet_types::block::{Cut, Executed, Header, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Tc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::epoch::EpochProof;
use falconet_types::evidence::Evidence;
use falconet_types::message::{
    Admission, CertRef, ClientMessage, GetBatches, GetBlocks, PeerMessage,
};
use falconet_types::proof::{CommittedChain, TransactionProof};
use falconet_types::receipt::{Receipt, StateRoots};
use falconet_types::snapshot::{Chunk, GetChunk, GetSnapshot, Manifest, SnapshotOffer};
use falconet_types::transaction::{SignedTransaction, Transaction};
use falconet_types::validators::{Member, members_digest, validators_root};
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Height, Round, Seq, ValidatorIndex};

use crate::generate::{Gen, Generate};
use crate::genesis;

const VALUES: u64 = 2_000;

fn hash_of<T: Generate>(encode: impl Fn(&T) -> Vec<u8>) -> String {
    let mut hasher = Hasher::new("falconet/conformance");
    for seed in 0..VALUES {
        let bytes = encode(&Gen::new(seed).value());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    hasher.finish().to_string()
}

fn wire<T: Generate + Wire>() -> String {
    hash_of(T::to_bytes)
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind], payload].concat()
}

fn found() -> BTreeMap<String, String> {
    let text = |d: Digest| d.to_string();
    let digests = |list: &[Digest]| {
        let mut hasher = Hasher::new("falconet/conformance");
        list.iter().for_each(|d| hasher.update(d.as_ref()));
        hasher.finish().to_string()
    };
    let seeds = || (0..VALUES).map(Gen::new);
    [
        // Encodings.
        ("epoch", wire::<Epoch>()),
        ("round", wire::<Round>()),
        ("height", wire::<Height>()),
        ("seq", wire::<Seq>()),
        ("validator_index", wire::<ValidatorIndex>()),
        ("lane_tip", wire::<LaneTip>()),
        ("cut", wire::<Cut>()),
        ("executed", wire::<Executed>()),
        ("header", wire::<Header>()),
        ("signed_header", wire::<SignedHeader>()),
        ("vote", wire::<Vote>()),
        ("commit_vote", wire::<CommitVote>()),
        ("timeout", wire::<Timeout>()),
        ("qc", wire::<Qc>()),
        ("tc", wire::<Tc>()),
        ("batch_header", wire::<BatchHeader>()),
        ("batch", hash_of(|b: &Batch| b.bytes().to_vec())),
        ("watermark", wire::<Watermark>()),
        ("signed_batch_header", wire::<SignedBatchHeader>()),
        ("evidence", wire::<Evidence>()),
        ("member", wire::<Member>()),
        ("transaction", wire::<Transaction>()),
        (
            "signed_transaction",
            hash_of(|t: &SignedTransaction| t.bytes().to_vec()),
        ),
        ("receipt", wire::<Receipt>()),
        ("state_roots", wire::<StateRoots>()),
        ("cert_ref", wire::<CertRef>()),
        ("get_blocks", wire::<GetBlocks>()),
        ("get_batches", wire::<GetBatches>()),
        ("get_snapshot", wire::<GetSnapshot>()),
        ("snapshot_offer", wire::<SnapshotOffer>()),
        ("manifest", wire::<Manifest>()),
        ("get_chunk", wire::<GetChunk>()),
        ("chunk", hash_of(|c: &Chunk| c.to_payload().to_vec())),
        ("admission", wire::<Admission>()),
        (
            "peer_message",
            hash_of(|m: &PeerMessage| framed(m.kind(), &m.payload())),
        ),
        (
            "client_message",
            hash_of(|m: &ClientMessage| framed(m.kind(), &m.payload())),
        ),
        ("epoch_proof", wire::<EpochProof>()),
        ("committed_chain", wire::<CommittedChain>()),
        ("transaction_proof", wire::<TransactionProof>()),
        // Identities: what is hashed, and in which domain.
        ("header_id", hash_of(|h: &Header| h.id().0.to_vec())),
        ("batch_id", hash_of(|h: &BatchHeader| h.hash().0.to_vec())),
        (
            "transaction_id",
            hash_of(|t: &SignedTransaction| t.id().0.to_vec()),
        ),
        (
            "transaction_message",
            hash_of(|t: &SignedTransaction| t.message().to_vec()),
        ),
        ("receipt_leaf", hash_of(|r: &Receipt| r.leaf().0.to_vec())),
        ("commitment", {
            digests(
                &seeds()
                    .map(|mut g| {
                        let height = g.value();
                        g.value::<StateRoots>().commitment(height)
                    })
                    .collect::<Vec<_>>(),
            )
        }),
        ("validators_root", {
            digests(
                &seeds()
                    .map(|mut g| {
                        let members = g.list(3, Gen::value);
                        validators_root(members_digest(g.value(), &members), g.value())
                    })
                    .collect::<Vec<_>>(),
            )
        }),
        ("results", {
            digests(
                &seeds()
                    .map(|mut g| {
                        falconet_types::receipt::fold_results(g.value(), g.value(), g.value())
                    })
                    .collect::<Vec<_>>(),
            )
        }),
        ("opaque_id", {
            digests(
                &seeds()
                    .map(|mut g| falconet_types::transaction::opaque_id(&g.bytes(100)))
                    .collect::<Vec<_>>(),
            )
        }),
        (
            "genesis_block_id",
            text(falconet_types::block::genesis_id(Digest([7; 32]))),
        ),
        ("epoch_block_id", {
            let id = |epoch, set| {
                let (chain, last) = (Digest([7; 32]), Digest([8; 32]));
                falconet_types::block::epoch_genesis_id(chain, epoch, last, set)
            };
            text(id(Epoch(3), Digest([9; 32])))
        }),
        ("chain_id", text(genesis::example().chain_id())),
    ]
    .map(|(name, hash)| (name.to_owned(), hash))
    .into()
}

#[test]
fn formats_are_what_they_were() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance.toml");
    let found = found();
    if std::env::var_os("FALCONET_CONFORMANCE").is_some_and(|v| v == "write") {
        let mut text = String::from(
            "# SHA3-256 over the encodings of 2,000 generated values a type.\n\
             # A difference means that a format changed: see tests/types/conformance.rs.\n",
        );
        text += &toml::to_string(&found).expect("a table of strings");
        std::fs::write(&path, text).expect("the file can be written");
    }
    let text = std::fs::read_to_string(&path).expect("the file is checked in");
    let expected: BTreeMap<String, String> = toml::from_str(&text).expect("a table of strings");
    for (name, hash) in &found {
        assert_eq!(
            expected.get(name),
            Some(hash),
            "the format of {name} changed"
        );
    }
    assert_eq!(
        expected.len(),
        found.len(),
        "the file names formats that no longer exist"
    );
}
