//! What is read back from disk: headers and batches for peers that were away, proofs for clients.

use bytes::Bytes;
use crossbeam_channel::Receiver;
use falconet_store::{BlockRow, Reader, StoreError, TxLocation};
use falconet_sync::serving;
use falconet_types::batch::{Batch, BatchHeader};
use falconet_types::block::SignedHeader;
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, ClientMessage, GetBlocks, PeerMessage};
use falconet_types::proof::{CommittedChain, HEADERS_MAX, Pieces, TransactionProof, id_of};
use falconet_types::receipt::{Receipt, StateRoots};
use falconet_types::snapshot::{Chunk, GetChunk, Manifest, SnapshotOffer};
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Height, Seq, TxId, ValidatorIndex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::byzantine::Hoard;
use crate::chain::Chain;
use crate::epochs::Log;
use crate::execute::{parent_cut, payload_of};
use crate::metrics::stages::{Clock, Queue};
use crate::outbound::Outbound;
use crate::pipeline::HistoryRequest;
use crate::snapshots::{Served, Snapshots, StateHead};

/// Bytes of snapshots a second for one validator.
const CHUNK_BYTES_PER_S: u64 = 64 << 20;
/// Bytes of snapshots a second for one follower.
const FOLLOWER_CHUNK_BYTES_PER_S: u64 = 16 << 20;
/// Bytes of snapshots for one peer at once, after a pause.
const CHUNK_BURST_BYTES: i64 = 8 << 20;

/// Answers from the store. Cheap to clone.
#[derive(Clone)]
pub struct History {
    chain: Arc<Chain>,
    reader: Reader,
    snapshots: Arc<Snapshots>,
    /// The lowest height whose block and batches are known to be here; only goes up.
    horizon: Arc<AtomicU64>,
}

impl History {
    /// Reads through `reader`.
    #[must_use]
    pub fn new(chain: Arc<Chain>, reader: Reader, snapshots: Arc<Snapshots>) -> Self {
        let first = reader.first_of_last_run().unwrap_or(Height(1));
        Self {
            chain,
            reader,
            snapshots,
            horizon: Arc::new(AtomicU64::new(first.0)),
        }
    }

    /// The lowest height whose block and batches are here.
    pub fn horizon(&self) -> Result<Height, StoreError> {
        let from = Height(self.horizon.load(Ordering::Relaxed));
        let height = serving::horizon(&Log(&self.reader), from)?;
        self.horizon.store(height.0, Ordering::Relaxed);
        Ok(height)
    }

    /// What this node has to offer to one that fell behind; with the manifest of `wanted`.
    pub fn offer(&self, wanted: Height) -> Result<SnapshotOffer, StoreError> {
        let mut offer = SnapshotOffer {
            horizon: self.horizon()?,
            heights: Vec::new(),
            manifest: None,
        };
        for snapshot in self.snapshots.all() {
            let manifest = self.manifest(&snapshot)?;
            if manifest.is_some() {
                offer.heights.push(snapshot.height());
            }
            if snapshot.height() == wanted {
                offer.manifest = manifest;
            }
        }
        Ok(offer)
    }

    /// What proves a snapshot; `None` while its state is not named by a committed header.
    fn manifest(&self, snapshot: &Served) -> Result<Option<Manifest>, StoreError> {
        let StateHead { head, roots } = &snapshot.head;
        let (height, bytes) = (snapshot.height(), snapshot.rows_bytes());
        serving::manifest(&Log(&self.reader), height, (head, roots), bytes)
    }

    /// A part of a snapshot, if it is still here.
    fn chunk(&self, request: &GetChunk) -> Result<Option<Chunk>, StoreError> {
        let snapshot = self.snapshots.at(request.height);
        snapshot.map(|snapshot| snapshot.chunk(request)).transpose()
    }

    /// The store.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The committed header at a height.
    #[must_use]
    pub fn header_at(&self, height: Height) -> Option<SignedHeader> {
        logged(self.reader.header_at(height)).flatten()
    }

    /// The state commitment after an executed block.
    #[must_use]
    pub fn commitment_at(&self, height: Height) -> Option<Digest> {
        logged(self.reader.block_row(height))
            .flatten()
            .map(|row| row.commitment)
    }

    /// Where a transaction was executed, or refused last.
    #[must_use]
    pub fn receipt(&self, id: &TxId) -> Option<Receipt> {
        let TxLocation {
            height,
            lane,
            seq,
            index,
            outcome,
        } = logged(self.reader.tx_location(id)).flatten()?;
        Some(Receipt {
            tx_id: *id,
            height,
            lane,
            seq,
            index,
            outcome,
        })
    }

    /// The bytes of the proof that an epoch is over; `None` while it goes on.
    #[must_use]
    pub fn epoch_proof(&self, epoch: Epoch) -> Option<Vec<u8>> {
        self.chain.epochs.proof(epoch).map(|proof| proof.to_bytes())
    }

    /// The proof of a transaction; otherwise why there is none.
    pub fn proof(&self, id: &TxId) -> Result<Vec<u8>, String> {
        let receipt = self
            .receipt(id)
            .ok_or_else(|| format!("transaction {id} is not executed here"))?;
        self.assemble(&receipt)
            .map_err(|error| error.to_string())?
            .map_or_else(
                || Err("the state of its block is not committed yet; try again shortly".into()),
                Ok,
            )
    }

    /// `None` while no committed header names the state of the receipt's height.
    fn assemble(&self, receipt: &Receipt) -> Result<Option<Vec<u8>>, ProofError> {
        let Some((chain, named)) = self.committed_chain(receipt.height)? else {
            return Ok(None);
        };
        let block = self.need(self.reader.header_at(receipt.height)?, "the block's header")?;
        let parent_cut = parent_cut(&self.reader, &block)?;
        let payload = payload_of(&self.reader, &block, &parent_cut)?;
        let batches = self.need(payload, "a batch of the block")?;
        let in_lane = |batch: &&Batch| batch.header().lane == receipt.lane;
        let batch = batches
            .iter()
            .filter(in_lane)
            .find(|b| b.header().seq == receipt.seq);
        let batch = self.need(batch, "the batch")?;
        let later: Vec<BatchHeader> = batches
            .iter()
            .filter(in_lane)
            .map(|batch| batch.header().clone())
            .filter(|header| header.seq > receipt.seq)
            .collect();
        let row = self.row(receipt.height)?;
        let receipts = self.receipts_of(receipt.height, &batches, &row);
        let results_before = match receipt.height.prev() {
            Height::ZERO => Digest::ZERO,
            before => self.row(before)?.results,
        };
        let mut roots = Vec::new();
        for height in receipt.height.0..=named.0 {
            let row = self.row(Height(height))?;
            roots.push(StateRoots {
                receipts: row.receipts_root,
                accounts: row.accounts_root,
                validators: row.validators_root,
                results: row.results,
            });
        }
        let pieces = Pieces {
            receipt: *receipt,
            batch,
            later_batches: &later,
            receipts: &receipts,
            results_before,
            roots: &roots,
            chain,
        };
        let proof = TransactionProof::build(self.chain.genesis.application, &pieces)?;
        Ok(Some(proof.to_bytes()))
    }

    /// Headers from `height` to the first committed one that names the state of `height` or of a
    /// later block, and on to a block with a certified child; with the height that is named.
    fn committed_chain(
        &self,
        height: Height,
    ) -> Result<Option<(CommittedChain, Height)>, ProofError> {
        let found = serving::committed_headers(&Log(&self.reader), height, HEADERS_MAX)?;
        Ok(found.map(|(headers, qc, named)| {
            let headers = headers.iter().map(|h| h.header().clone()).collect();
            (CommittedChain { headers, qc }, named)
        }))
    }

    /// The receipts of a block, made again from its batches and the outcomes that are stored.
    fn receipts_of(&self, height: Height, batches: &[Batch], row: &BlockRow) -> Vec<Receipt> {
        let application = self.chain.genesis.application;
        let positions = batches.iter().flat_map(|batch| {
            let header = batch.header();
            (0u32..)
                .zip(batch.transactions())
                .map(move |(index, tx)| Receipt {
                    tx_id: id_of(&tx, application),
                    height,
                    lane: header.lane,
                    seq: header.seq,
                    index,
                    outcome: falconet_types::receipt::Outcome::Executed,
                })
        });
        positions
            .zip(&row.outcomes)
            .map(|(receipt, outcome)| Receipt {
                outcome: *outcome,
                ..receipt
            })
            .collect()
    }

    fn row(&self, height: Height) -> Result<BlockRow, ProofError> {
        self.need(self.reader.block_row(height)?, "the block's result")
    }

    fn need<T>(&self, found: Option<T>, what: &'static str) -> Result<T, ProofError> {
        found.ok_or(ProofError::Pruned(what))
    }

    /// Headers from the one that is asked for towards genesis.
    fn blocks(&self, request: &GetBlocks) -> Result<Vec<SignedHeader>, StoreError> {
        let mut headers = Vec::new();
        let mut id = request.from;
        while headers.len() < usize::from(request.max).min(BLOCKS_PER_ANSWER_MAX) {
            let Some(header) = self.reader.header(&id)? else {
                break;
            };
            if header.height <= request.stop_height {
                break;
            }
            id = header.parent_id;
            headers.push(header);
        }
        Ok(headers)
    }

    /// Batches of a lane from the newest to the oldest, until enough bytes are read.
    fn batches(
        &self,
        (epoch, lane): (Epoch, ValidatorIndex),
        first: Seq,
        last: Seq,
        bytes_max: u64,
        mut send: impl FnMut(Bytes),
    ) -> Result<(), StoreError> {
        let mut sent = 0;
        let mut next = self.reader.batch_hash_at(epoch, lane, last);
        let mut seq = last;
        while seq >= first
            && sent < bytes_max
            && let Some(hash) = next
            && let Some(batch) = self.reader.batch(&hash)?
        {
            sent += batch.bytes().len() as u64;
            send(batch.bytes().clone());
            seq = seq.prev();
            next = Some(batch.header().prev_hash);
        }
        Ok(())
    }
}

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
enum ProofError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Proof(#[from] falconet_types::proof::ProofError),
    #[error("{0} is no longer kept here; ask a validator with a longer history")]
    Pruned(&'static str),
}

fn logged<T>(result: Result<T, StoreError>) -> Option<T> {
    result
        .inspect_err(|error| tracing::error!(%error, "reading the store failed"))
        .ok()
}

/// The thread that answers requests for history, so that the log never waits for reads.
pub struct HistoryThread {
    /// The store.
    pub history: History,
    /// Requests.
    pub requests: Receiver<HistoryRequest>,
    /// The way out.
    pub outbound: Outbound,
    /// What an actor keeps back.
    pub hoard: Hoard,
    /// Where this thread's time goes.
    pub stage: Clock,
}

impl HistoryThread {
    /// Runs until all who ask have stopped.
    pub fn run(self) {
        let mut allowances = HashMap::new();
        while let Ok(request) = self.stage.recv(&self.requests) {
            self.stage.depth(Queue::History, self.requests.len());
            match request {
                HistoryRequest::Blocks { to, request } => {
                    if let Some(headers) = logged(self.history.blocks(&request)) {
                        self.send(to, PeerMessage::Blocks(headers));
                    }
                }
                HistoryRequest::EpochProof { to, epoch } => {
                    if let Some(proof) = self.history.chain.epochs.proof(epoch) {
                        self.send(to, PeerMessage::EpochProof(Box::new(proof)));
                    }
                }
                HistoryRequest::ClientEpochProof { conn, epoch } => {
                    let proof = self.history.epoch_proof(epoch).unwrap_or_default().into();
                    self.outbound
                        .client(conn, &ClientMessage::EpochProof { epoch, proof });
                }
                HistoryRequest::Batches {
                    to,
                    epoch,
                    lane,
                    first,
                    last,
                    bytes_max,
                } => {
                    let send = |bytes| self.send(to, PeerMessage::Batch(bytes));
                    logged(
                        self.history
                            .batches((epoch, lane), first, last, bytes_max, send),
                    );
                }
                HistoryRequest::Snapshot { to, request } => {
                    if let Some(offer) = logged(self.history.offer(request.height)) {
                        self.send(to, PeerMessage::Snapshot(Box::new(offer)));
                    }
                }
                HistoryRequest::Chunk { to, request } => self.chunk(to, &request, &mut allowances),
                HistoryRequest::Proof { conn, tx_id } => {
                    let proof = self.history.proof(&tx_id).unwrap_or_default().into();
                    self.outbound
                        .client(conn, &ClientMessage::Proof { tx_id, proof });
                }
            }
        }
    }

    fn send(&self, to: ValidatorIndex, answer: PeerMessage) {
        if let Some(answer) = self.hoard.left(answer) {
            self.outbound.send(to, &answer);
        }
    }

    /// A part of a snapshot, as far as the peer has not had its share; without the snapshot, what
    /// there is instead.
    fn chunk(
        &self,
        to: ValidatorIndex,
        request: &GetChunk,
        allowances: &mut HashMap<ValidatorIndex, Allowance>,
    ) {
        let share = if to.follower_slot().is_some() {
            FOLLOWER_CHUNK_BYTES_PER_S
        } else {
            CHUNK_BYTES_PER_S
        };
        // One entry a validator and a follower's slot.
        let allowance = allowances.entry(to).or_insert_with(Allowance::full);
        if !allowance.refill(share) {
            return;
        }
        match logged(self.history.chunk(request)) {
            Some(Some(chunk)) => {
                allowance.bytes -= chunk.rows.len() as i64;
                self.send(to, PeerMessage::Chunk(chunk));
            }
            Some(None) => {
                if let Some(offer) = logged(self.history.offer(Height::ZERO)) {
                    self.send(to, PeerMessage::Snapshot(Box::new(offer)));
                }
            }
            None => {}
        }
    }
}

/// Bytes of a snapshot that a peer may still ask for.
struct Allowance {
    bytes: i64,
    since: Instant,
}

impl Allowance {
    fn full() -> Self {
        Self {
            bytes: CHUNK_BURST_BYTES,
            since: Instant::now(),
        }
    }

    /// Adds what the time since the last call is worth; false when nothing is left.
    fn refill(&mut self, bytes_per_s: u64) -> bool {
        let passed_us = self.since.elapsed().as_micros().min(1_000_000) as u64;
        self.since = Instant::now();
        let more = (bytes_per_s * passed_us / 1_000_000) as i64;
        self.bytes = (self.bytes + more).min(CHUNK_BURST_BYTES);
        self.bytes > 0
    }
}
