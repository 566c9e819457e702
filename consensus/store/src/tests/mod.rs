//! Tests of the store, on real files. `damage` treats a log as a crash or a bad medium would,
//! `kill` kills a real process, `faults` makes system calls fail.

mod damage;
mod faults;
mod format;
mod kill;
mod opening;
mod pruning;
mod reuse;
mod roundtrip;
mod snapshot;
mod state;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use falconet_crypto::falcon::{Scheme, SigningMessage};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader, genesis_id};
use falconet_types::certificate::{Qc, Tc, TcEntry};
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::signing::Signer;
use falconet_types::{BlockId, Digest, Epoch, Height, Round, Seq, Signature, TxId, ValidatorIndex};

use crate::{
    AccountRows, Committed, Record, Recovered, SEGMENT_BYTES_MIN, StateUpdate, Store, StoreConfig,
};

const CHAIN: Digest = Digest([1; 32]);
const KEY: Digest = Digest([2; 32]);
const EPOCH: Epoch = Epoch(0);

fn config() -> StoreConfig {
    StoreConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        state_cache_bytes: 8 << 20,
        ..StoreConfig::new(CHAIN, KEY)
    }
}

fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(dir, &config()).unwrap()
}

/// Signs everything with one signature: the store checks none.
struct Stamp(Signature);

impl Signer for Stamp {
    fn sign(&self, _: &SigningMessage) -> Signature {
        self.0.clone()
    }
    fn key_id(&self) -> Digest {
        KEY
    }
}

/// Makes the records of a chain of blocks with two lanes, one batch of each a block.
struct Chain {
    stamp: Stamp,
    parent: BlockId,
    cut: Cut,
    height: u64,
    batch_bytes: usize,
}

/// The records of one block.
struct Block {
    safety: Bytes,
    batches: Vec<Batch>,
    header: Arc<SignedHeader>,
    qc: Qc,
    tc: Tc,
    /// Commit mark of the block before.
    committed: Option<Committed>,
}

impl Chain {
    fn new(batch_bytes: usize) -> Self {
        // The header byte and any nonce; equal in each process, which a real signature is not.
        let mut bytes = [0x5a; 666];
        bytes[0] = 0x39;
        let stamp = Stamp(Signature::from_bytes(Scheme::Falcon512, &bytes).unwrap());
        Self {
            stamp,
            parent: genesis_id(CHAIN),
            cut: Cut::empty(2),
            height: 0,
            batch_bytes,
        }
    }

    fn batch(&self, lane: u16, tip: LaneTip, fill: u8) -> Batch {
        let txs: Vec<Bytes> = (0..self.batch_bytes.div_ceil(60_000))
            .map(|_| vec![fill; self.batch_bytes.min(60_000)].into())
            .collect();
        Batch::seal(EPOCH, ValidatorIndex(lane), tip, &txs, CHAIN, &self.stamp)
    }

    fn next(&mut self) -> Block {
        self.height += 1;
        let round = Round(self.height);
        let batches: Vec<Batch> = (0..2u16)
            .map(|lane| self.batch(lane, self.cut.0[usize::from(lane)], self.height as u8))
            .collect();
        self.cut = Cut(batches.iter().map(Batch::tip).collect());
        let parent = self.parent;
        let header = SignedHeader::sign(
            Header {
                epoch: EPOCH,
                round,
                kind: HeaderKind::Normal,
                parent_id: parent,
                parent_round: round.prev(),
                height: Height(self.height),
                cut: self.cut.clone(),
                time_ms: self.height,
                executed: Executed {
                    height: Height(0),
                    root: Digest::ZERO,
                },
                ended_by: Digest::ZERO,
                author: ValidatorIndex(0),
            },
            CHAIN,
            &self.stamp,
        );
        self.parent = header.id();
        let signature = &self.stamp.0;
        let qc = Qc {
            epoch: EPOCH,
            round,
            block_id: header.id(),
            parent_round: round.prev(),
            votes: (0..3)
                .map(|i| (ValidatorIndex(i), signature.clone()))
                .collect(),
        };
        let entry = TcEntry {
            author: ValidatorIndex(1),
            hqc_round: round.prev(),
            hqc_id: parent,
            signature: signature.clone(),
        };
        let tc = Tc {
            epoch: EPOCH,
            round,
            entries: vec![entry],
            max_qc: Qc {
                round: round.prev(),
                ..qc.clone()
            },
        };
        let committed = (self.height > 1).then(|| Committed {
            height: Height(self.height - 1),
            block_id: parent,
            child_id: header.id(),
            child_qc: qc.clone(),
        });
        let safety = Bytes::from(format!("safety {}", self.height).into_bytes());
        Block {
            safety,
            batches,
            header: Arc::new(header),
            qc,
            tc,
            committed,
        }
    }
}

impl Block {
    fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Safety(self.safety.clone())];
        records.extend(self.batches.iter().cloned().map(Record::Batch));
        records.push(Record::Header(Arc::clone(&self.header)));
        records.push(Record::Qc(self.qc.clone()));
        records.push(Record::Tc(self.tc.clone()));
        records.extend(self.committed.clone().map(Record::Committed));
        records
    }

    fn append(&self, store: &mut Store) {
        for record in self.records() {
            store.log.append(&record).unwrap();
        }
    }

    fn write(&self, store: &mut Store) {
        self.append(store);
        store.log.sync().unwrap();
    }

    /// Asserts that everything of the block can be read.
    fn assert_in(&self, store: &Store) {
        let reader = &store.reader;
        for batch in &self.batches {
            let header = batch.header();
            // Not assert_eq!, which would print the batches.
            assert!(reader.batch(&batch.hash()).unwrap().as_ref() == Some(batch));
            assert!(reader.batch_bytes(&batch.hash()).unwrap().as_ref() == Some(batch.bytes()));
            let at = reader
                .batch_at(header.epoch, header.lane, header.seq)
                .unwrap();
            assert!(at.as_ref() == Some(batch));
        }
        let header = reader.header(&self.header.id()).unwrap();
        assert_eq!(header.as_ref(), Some(&*self.header));
        assert_eq!(
            reader.qc(EPOCH, self.header.round).unwrap().as_ref(),
            Some(&self.qc)
        );
        assert_eq!(
            reader.tc(EPOCH, self.header.round).unwrap().as_ref(),
            Some(&self.tc)
        );
        if let Some(committed) = &self.committed {
            assert_eq!(reader.block_at(committed.height), Some(committed.block_id));
            let proof = reader.commit_proof(committed.height).unwrap().unwrap();
            assert_eq!(proof.committed, *committed);
            assert_eq!(proof.child, *self.header);
        }
    }
}

fn tx(n: u64) -> TxId {
    falconet_crypto::hash::hash("test/tx", &[&n.to_le_bytes()])
}

fn receipt(id: TxId, height: u64, outcome: Outcome) -> Receipt {
    Receipt {
        tx_id: id,
        height: Height(height),
        lane: ValidatorIndex(1),
        seq: Seq(height),
        index: 0,
        outcome,
    }
}

/// An update that sets account `height % 5` to the height and executes transaction `height`.
fn apply(store: &mut Store, height: u64) {
    let accounts = rows(&[(tx(height % 5), &height.to_le_bytes())]);
    let receipts = [receipt(tx(1_000 + height), height, Outcome::Executed)];
    store
        .state
        .apply(&update(height, &accounts, &receipts))
        .unwrap();
}

fn rows(rows: &[(Digest, &[u8])]) -> AccountRows {
    let mut all = AccountRows::default();
    for (id, row) in rows {
        all.push(*id, |out| out.extend_from_slice(row));
    }
    all
}

fn update<'a>(height: u64, accounts: &'a AccountRows, receipts: &'a [Receipt]) -> StateUpdate<'a> {
    StateUpdate {
        checkpoint: false,
        height: Height(height),
        commitment: tx(height),
        accounts_root: Digest([4; 32]),
        validators_root: Digest([4; 32]),
        registry: &[],
        results: Digest([5; 32]),
        receipts_root: Digest([6; 32]),
        registry_root: None,
        accounts,
        keys: &[],
        receipts,
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
