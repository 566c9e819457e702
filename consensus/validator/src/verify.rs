//! The verify stage: the only place where signatures of others are checked.
//!
//! Consensus messages come first: a worker looks for them before every piece of bulk work and
//! between pieces, so a lone vote waits for at most [`PIECE_JOBS`] verifications. Bulk work is
//! gathered until [`GATHER_JOBS`] signatures are at hand or nothing more is waiting (never for a
//! time: waiting for company would only add delay when the stage is idle and gain nothing when
//! it is busy), so the batch verifier sees full batches under load and a lone submission is
//! checked at once.
//!
//! What there is no room for is refused before its signature is looked at (see [`crate::room`]),
//! and a batch that comes again is not verified again.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, select_biased};
use falconet_crypto::falcon::{Bitmap, Job, Key, PreparedKey, SIGNING_MESSAGE_LEN, Verifier};
use falconet_dataplane::ConnId;
use falconet_epochs::Place;
use falconet_ledger::{Verdict, Verdicts};
use falconet_probes as probes;
use falconet_probes::{NOBODY, id};
use falconet_types::batch::Batch;
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::receipt::Outcome;
use falconet_types::signing::{self, Invalid, Verified};
use falconet_types::snapshot::SnapshotOffer;
use falconet_types::transaction::{Body, SignedTransaction};
use falconet_types::{Epoch, ValidatorIndex, transaction};

use crate::catchup::{CatchupInput, CatchupSender};
use crate::chain::Chain;
use crate::door::Door;
use crate::metrics::Metrics;
use crate::metrics::stages::{Clock, Queue};
use crate::peers::score::Fault;
use crate::peers::standing::Standing;
use crate::pipeline::{Arrival, Bulk, Checked, CoreInput, ReplyTo, Unverified};
use crate::room::{Reserved, Room};
use crate::trace;
use crate::verdicts::VerdictTable;

/// Signatures that a worker gathers before it verifies.
const GATHER_JOBS: usize = 512;
/// Signatures between two looks at the urgent queue.
const PIECE_JOBS: usize = 128;
/// Urgent messages that are verified together.
const URGENT_MAX: usize = 64;

/// One worker of the stage; several may share the queues.
pub struct VerifyWorker {
    /// Chain, genesis, validator set.
    pub chain: Arc<Chain>,
    /// What the ledger says of a transaction before it is executed.
    pub door: Arc<Door>,
    /// Room for transactions.
    pub room: Arc<Room>,
    /// Where results for batches go.
    pub verdicts: Arc<VerdictTable>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who pays for what does not verify.
    pub standing: Arc<Standing>,
    /// Consensus messages.
    pub urgent: Receiver<Unverified>,
    /// Submissions and batches.
    pub bulk: Receiver<Bulk>,
    /// Where verified things go.
    pub core: Sender<CoreInput>,
    /// Where offers of snapshots go.
    pub catchup: CatchupSender,
    /// Where this thread's time goes.
    pub stage: Clock,
}

/// The process stops.
struct Stopped;

/// A signature to check, with what it belongs to.
struct Pending {
    key: Arc<PreparedKey>,
    message: [u8; SIGNING_MESSAGE_LEN],
    tx: SignedTransaction,
}

impl Pending {
    fn add(tx: SignedTransaction, key: Arc<PreparedKey>, jobs: &mut Vec<Self>) -> Entry {
        jobs.push(Self {
            key,
            message: tx.message(),
            tx,
        });
        Entry::Job(jobs.len() - 1)
    }
}

/// A piece of bulk work between parsing and answer.
enum Parsed {
    Submission {
        reply: ReplyTo,
        entries: Vec<Entry>,
        reserved: Reserved,
    },
    Batch {
        from: ValidatorIndex,
        conn: ConnId,
        batch: Verified<Batch>,
        /// Nothing when the verdicts are known.
        entries: Option<Vec<Entry>>,
        arrival: Arrival,
    },
}

/// A transaction of a piece of bulk work.
enum Entry {
    /// Its signature is job number so-and-so.
    Job(usize),
    /// It needs no signature check.
    Ready(Checked),
    /// Its signature cannot be checked yet or will never verify.
    Verdict(Verdict),
}

/// What a worker takes from its two queues.
enum Work {
    Urgent(Unverified),
    Bulk(Bulk),
}

/// What counts when the lane's queue is full: the fee. What a validator's key says for nothing, and
/// the door believes, comes first.
fn priority(tx: &SignedTransaction) -> u64 {
    match &tx.body {
        Body::Stake(stake) if stake.is_by_validator() => u64::MAX,
        _ => tx.fee,
    }
}

impl VerifyWorker {
    /// Runs until the queues close.
    pub fn run(self) {
        let mut verifier = Verifier::new();
        loop {
            let work = self.stage.waiting(|| {
                select_biased! {
                    recv(self.urgent) -> message => message.map(Work::Urgent),
                    recv(self.bulk) -> work => work.map(Work::Bulk),
                }
            });
            let done = match work {
                Ok(Work::Urgent(message)) => self.urgent(message, &mut verifier),
                Ok(Work::Bulk(work)) => self.bulk(work, &mut verifier),
                Err(_) => Err(Stopped),
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Verifies the message and all others that wait, in one batch.
    fn urgent(&self, first: Unverified, verifier: &mut Verifier) -> Result<(), Stopped> {
        let info = self.chain.info();
        let mut froms = Vec::with_capacity(URGENT_MAX);
        let mut leases = Vec::with_capacity(URGENT_MAX);
        let mut messages = Vec::with_capacity(URGENT_MAX);
        let mut next = Some(first);
        while let Some(Unverified {
            from,
            conn,
            message,
            lease,
        }) = next
        {
            leases.push(lease);
            if let PeerMessage::EpochProof(proof) = message {
                self.proof((from, conn), *proof, &info, verifier)?;
            } else if let PeerMessage::Snapshot(offer) = message {
                self.offer((from, conn), *offer, verifier);
            } else if let Some(message) = self.of_epoch(conn, message, info.start.epoch)? {
                froms.push((from, conn));
                messages.push(message);
            }
            next = match messages.len() < URGENT_MAX {
                true => self.urgent.try_recv().ok(),
                false => None,
            };
        }
        self.stage.depth(Queue::Urgent, self.urgent.len());
        let start = Instant::now();
        probes::verify_start(messages.len() as u64, 1);
        let (results, signatures) =
            signing::verify_many_counted(messages, self.chain.id, &info.set, verifier);
        let valid = results.iter().filter(|result| result.is_ok()).count();
        probes::verify_end(results.len() as u64, 1, valid as u64);
        self.count(signatures, start);
        for ((from, conn), result) in froms.into_iter().zip(results) {
            match result {
                Ok(message) => self.pass(conn, message)?,
                Err(error) => {
                    self.metrics.refused("signature");
                    self.standing.fault(from, fault_of(&error), 1);
                    tracing::debug!(validator = from.0, %error, "message refused");
                }
            }
        }
        Ok(())
    }

    fn pass(&self, conn: ConnId, message: Verified<PeerMessage>) -> Result<(), Stopped> {
        self.to_core(CoreInput::Peer { conn, message })
    }

    /// A message of the current epoch (rule N4: each is judged by its own epoch's validators only).
    /// One of the next epoch waits at the core; of one of another epoch only that is passed on.
    fn of_epoch(
        &self,
        conn: ConnId,
        message: PeerMessage,
        current: Epoch,
    ) -> Result<Option<PeerMessage>, Stopped> {
        match Place::of(message.epoch(), current) {
            Place::Here => return Ok(Some(message)),
            Place::Next => self.to_core(CoreInput::Early { conn, message })?,
            Place::Elsewhere(epoch) => self.to_core(CoreInput::OtherEpoch { conn, epoch })?,
        }
        Ok(None)
    }

    /// What a peer has to offer to a node that fell behind: a manifest is judged by the validators of
    /// its own epoch, if they are known here (rule Z9).
    fn offer(
        &self,
        (from, conn): (ValidatorIndex, ConnId),
        offer: SnapshotOffer,
        verifier: &mut Verifier,
    ) {
        let epoch = offer.manifest.as_ref().map(|m| m.anchor().epoch);
        let epochs = &self.chain.epochs;
        let Some(info) = epochs.info(epoch.unwrap_or_default()).or_else(|| {
            // Without a manifest there is nothing to judge.
            epoch.is_none().then(|| epochs.current())
        }) else {
            return; // of an epoch that this node has not been shown yet, or that is long over
        };
        match signing::verify(offer, self.chain.id, &info.set, verifier) {
            // One that finds no place is asked for again.
            Ok(offer) => {
                self.catchup.said(CatchupInput::Offer { conn, offer });
            }
            Err(error) => {
                self.metrics.refused("signature");
                self.standing.fault(from, fault_of(&error), 1);
                tracing::debug!(validator = from.0, %error, "offer of a snapshot refused");
            }
        }
    }

    /// A proof that the current epoch is over, or the newest one that is known to a node that fell
    /// behind; others are of no use here.
    fn proof(
        &self,
        (from, conn): (ValidatorIndex, ConnId),
        proof: EpochProof,
        info: &EpochInfo,
        verifier: &mut Verifier,
    ) -> Result<(), Stopped> {
        let newest = self.chain.epochs.newest_known();
        let is_current = proof.epoch() == info.start.epoch;
        let is_newest = proof.epoch() == newest.start.epoch;
        if !is_current && !is_newest {
            return Ok(());
        }
        let judge = if is_current { info } else { &*newest };
        let params = &self.chain.genesis.params;
        if let Err(error) = proof.verify(self.chain.id, params, judge, verifier) {
            self.metrics.refused("signature");
            self.standing.fault(from, Fault::Invalid, 1);
            tracing::debug!(validator = from.0, %error, "proof of an epoch refused");
            return Ok(());
        }
        if is_newest {
            let proof = Verified::trusted(proof.clone());
            // One that finds no place is asked for again.
            self.catchup.said(CatchupInput::EpochProof { conn, proof });
        }
        if !is_current {
            return Ok(());
        }
        let message = PeerMessage::EpochProof(Box::new(proof));
        let message = Verified::trusted(message); // just checked
        self.to_core(CoreInput::Peer { conn, message })
    }

    /// Gathers bulk work, verifies it in pieces, and passes it on.
    fn bulk(&self, first: Bulk, verifier: &mut Verifier) -> Result<(), Stopped> {
        let info = self.chain.info();
        let mut jobs = Vec::with_capacity(GATHER_JOBS);
        let mut parsed = Vec::new();
        let mut batches = Vec::new();
        let mut origins = Vec::new();
        let mut in_batches = 0;
        let mut leases = Vec::new();
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                Bulk::Submission { reply, txs, lease } => {
                    leases.extend(lease);
                    let (conn, tag) = trace::submitter(&reply);
                    probes::submission_received(conn, tag, txs.len() as u64);
                    let (entries, reserved) = self.at_the_door(conn, txs, &mut jobs);
                    parsed.push(Parsed::Submission {
                        reply,
                        entries,
                        reserved,
                    });
                }
                Bulk::Batch {
                    from,
                    conn,
                    bytes,
                    lease,
                    arrival,
                } => {
                    leases.push(lease);
                    let frame = bytes.as_ptr() as u64;
                    match Batch::parse(bytes.clone()) {
                        Ok(batch) if batch.header().epoch == info.start.epoch => {
                            in_batches += self.jobs_in(&batch);
                            batches.push(batch);
                            origins.push((from, conn, frame, arrival));
                        }
                        // The owner is in another epoch, this node will be or has been.
                        Ok(batch) if batch.header().epoch == info.start.epoch.next() => {
                            let message = PeerMessage::Batch(bytes);
                            self.to_core(CoreInput::Early { conn, message })?;
                        }
                        Ok(_) => {}
                        Err(error) => self.refuse_batch(from, &error),
                    }
                }
            }
            next = if jobs.len() + in_batches < GATHER_JOBS {
                self.bulk.try_recv().ok()
            } else {
                None
            };
        }
        self.stage.depth(Queue::Bulk, self.bulk.len());
        // The owners' signatures first, in one piece: what is not theirs is not looked into.
        let start = Instant::now();
        let signed = signing::verify_many(batches, self.chain.id, &info.set, verifier);
        if !signed.is_empty() {
            self.count(signed.len(), start);
        }
        for (batch, (from, conn, frame, arrival)) in signed.into_iter().zip(origins) {
            match batch {
                Ok(batch) => {
                    let header = batch.header();
                    probes::batch_received(
                        header.lane.0.into(),
                        header.seq.0,
                        id(&batch.hash().0),
                        header.tx_count.into(),
                        frame,
                        from.0.into(),
                    );
                    // One that was asked for may have come by itself meanwhile.
                    let known = self.verdicts.knows(&batch.hash());
                    let entries = (!known).then(|| self.in_batch(&batch, &mut jobs));
                    parsed.push(Parsed::Batch {
                        from,
                        conn,
                        batch,
                        entries,
                        arrival,
                    });
                }
                Err(error) => self.refuse_batch(from, &error),
            }
        }
        let valid = self.verify(&jobs, verifier)?;
        let mut jobs: Vec<Option<SignedTransaction>> =
            jobs.into_iter().map(|job| Some(job.tx)).collect();
        for work in parsed {
            self.answer(work, &valid, &mut jobs)?;
        }
        Ok(())
    }

    /// Signatures to check for a batch that is not known yet, at most: its owner's and, unless
    /// payloads are opaque, its transactions'.
    fn jobs_in(&self, batch: &Batch) -> usize {
        match self.door.is_opaque() {
            true => 1,
            false => 1 + batch.header().tx_count as usize,
        }
    }

    fn refuse_batch(&self, from: ValidatorIndex, error: &dyn std::fmt::Display) {
        self.metrics.refused("batch");
        self.standing.fault(from, Fault::Invalid, 1);
        tracing::debug!(validator = from.0, %error, "batch refused");
    }

    /// Verifies in pieces; urgent messages overtake between them.
    fn verify(&self, jobs: &[Pending], verifier: &mut Verifier) -> Result<Vec<bool>, Stopped> {
        let mut valid = Vec::with_capacity(jobs.len());
        let mut bits = Bitmap::with_capacity(PIECE_JOBS);
        for piece in jobs.chunks(PIECE_JOBS) {
            if let Ok(message) = self.urgent.try_recv() {
                self.urgent(message, verifier)?;
            }
            let start = Instant::now();
            let piece: Vec<Job<'_>> = piece
                .iter()
                .map(|job| Job {
                    key: Key::Prepared(&job.key),
                    message: &job.message,
                    signature: job.tx.signature(),
                })
                .collect();
            probes::verify_start(piece.len() as u64, 0);
            verifier.verify_batch(&piece, &mut bits);
            let passed = valid.len() + bits.iter().filter(|valid| *valid).count();
            probes::verify_end(piece.len() as u64, 0, (passed - valid.len()) as u64);
            self.count(piece.len(), start);
            valid.extend(bits.iter());
        }
        Ok(valid)
    }

    /// Transactions of a client: those for which there is room, and every rule that can be checked
    /// now. `conn` is the number of the client's connection.
    fn at_the_door(
        &self,
        conn: u64,
        txs: Vec<Bytes>,
        jobs: &mut Vec<Pending>,
    ) -> (Vec<Entry>, Reserved) {
        let refused = |outcome| Entry::Ready(Checked::Refused(Admission::Refused(outcome)));
        let busy = |retry_after_ms| {
            let admission = Admission::Busy { retry_after_ms };
            Entry::Ready(Checked::Refused(admission))
        };
        let conn = (conn != NOBODY).then_some(conn);
        if self.door.is_opaque() {
            let offers = txs.iter().map(|tx| (tx.len(), 0));
            let (reserved, answers) = self.room.reserve(conn, offers);
            let judged: Vec<_> = txs
                .into_iter()
                .zip(answers)
                .map(|(tx, answer)| match self.door.check_opaque(&tx) {
                    Err(outcome) => Err(refused(outcome)),
                    Ok(()) => answer.map_or(Ok(tx), |retry_after_ms| Err(busy(retry_after_ms))),
                })
                .collect();
            let taken: Vec<&Bytes> = judged.iter().filter_map(|tx| tx.as_ref().ok()).collect();
            let mut ids = transaction::opaque_ids(&taken).into_iter();
            let entries = judged
                .into_iter()
                .map(|tx| {
                    tx.map_or_else(
                        |refused| refused,
                        |bytes| {
                            Entry::Ready(Checked::Good {
                                id: ids.next().expect("one for each that is taken"),
                                bytes,
                                sender: None,
                                priority: 0,
                            })
                        },
                    )
                })
                .collect();
            return (entries, reserved);
        }
        let now_ms = crate::clock::wall_ms();
        let txs = SignedTransaction::parse_many(&txs);
        let parsed = txs.iter().filter_map(|tx| tx.as_ref().ok());
        let offers = parsed.map(|tx| (tx.bytes().len(), priority(tx)));
        let (reserved, answers) = self.room.reserve(conn, offers);
        let mut answers = answers.into_iter();
        let mut judge = |tx| match tx {
            Err(_) => refused(Outcome::Malformed),
            Ok(tx) => match answers.next().expect("one for each that parsed") {
                Some(retry_after_ms) => busy(retry_after_ms),
                None => match self.door.check(&tx, now_ms) {
                    Ok(key) => Pending::add(tx, key, jobs),
                    Err(outcome) => refused(outcome),
                },
            },
        };
        let entries = txs.into_iter().map(&mut judge).collect();
        (entries, reserved)
    }

    /// Transactions in a peer's batch: only the signatures matter here, execution judges the
    /// rest.
    fn in_batch(&self, batch: &Batch, jobs: &mut Vec<Pending>) -> Vec<Entry> {
        if self.door.is_opaque() {
            let count = batch.header().tx_count as usize;
            return (0..count).map(|_| Entry::Verdict(Verdict::Valid)).collect();
        }
        let judge = |tx: Result<SignedTransaction, _>| match tx {
            Err(_) => Entry::Verdict(Verdict::Invalid),
            Ok(tx) => match self.door.key(&tx) {
                Some(key) => Pending::add(tx, key, jobs),
                None => Entry::Verdict(Verdict::Unknown),
            },
        };
        SignedTransaction::parse_many(&batch.transactions().collect::<Vec<_>>())
            .into_iter()
            .map(judge)
            .collect()
    }

    fn answer(
        &self,
        work: Parsed,
        valid: &[bool],
        jobs: &mut [Option<SignedTransaction>],
    ) -> Result<(), Stopped> {
        let input = match work {
            Parsed::Submission {
                reply,
                entries,
                reserved,
            } => {
                let txs = entries
                    .into_iter()
                    .map(|entry| match entry {
                        Entry::Job(i) if valid[i] => {
                            let tx = jobs[i].take().expect("each job belongs to one entry");
                            Checked::Good {
                                id: tx.id(),
                                bytes: tx.bytes().clone(),
                                sender: Some(tx.sender),
                                priority: priority(&tx),
                            }
                        }
                        Entry::Job(_) | Entry::Verdict(_) => {
                            Checked::Refused(Admission::Refused(Outcome::BadSignature))
                        }
                        Entry::Ready(checked) => checked,
                    })
                    .collect::<Vec<_>>();
                let (conn, tag) = trace::submitter(&reply);
                let good = |tx: &&Checked| matches!(tx, Checked::Good { .. });
                let passed = txs.iter().filter(good).count();
                let refused = txs.len() - passed;
                probes::submission_verified(conn, tag, passed as u64, refused as u64);
                CoreInput::Submission {
                    reply,
                    txs,
                    reserved,
                }
            }
            Parsed::Batch {
                from,
                conn,
                batch,
                entries,
                arrival,
            } => {
                let Some(entries) = entries else {
                    let input = CoreInput::Batch {
                        conn,
                        batch,
                        arrival,
                    };
                    return self.to_core(input);
                };
                let verdicts = entries
                    .iter()
                    .map(|entry| match entry {
                        Entry::Job(i) if valid[*i] => Verdict::Valid,
                        Entry::Job(_) | Entry::Ready(_) => Verdict::Invalid,
                        Entry::Verdict(verdict) => *verdict,
                    })
                    .collect::<Vec<_>>();
                // Execution needs the ids too, if all are known.
                let ids = entries.iter().map(|entry| match entry {
                    Entry::Job(i) => jobs[*i].as_ref().map(SignedTransaction::id),
                    Entry::Verdict(_) | Entry::Ready(_) => None,
                });
                let ids: Option<Vec<_>> = ids.collect();
                let passed = verdicts.iter().filter(|v| **v == Verdict::Valid).count();
                let forged = verdicts.iter().filter(|v| **v == Verdict::Invalid).count();
                if forged > 0 && from == batch.header().lane {
                    // The owner's door lets none of these in.
                    self.standing.fault(from, Fault::Useless, forged as u64);
                }
                let (lane, seq) = (batch.header().lane, batch.header().seq);
                probes::batch_verified(lane.0.into(), seq.0, id(&batch.hash().0), passed as u64);
                let verdicts = match ids {
                    Some(ids) => Verdicts::with_ids(verdicts, ids),
                    None => Verdicts::new(verdicts),
                };
                self.verdicts.put(batch.hash(), verdicts);
                CoreInput::Batch {
                    conn,
                    batch,
                    arrival,
                }
            }
        };
        self.to_core(input)
    }

    fn to_core(&self, input: CoreInput) -> Result<(), Stopped> {
        self.stage
            .send(Queue::Core, &self.core, input)
            .map_err(|_| Stopped)
    }

    fn count(&self, signatures: usize, start: Instant) {
        self.metrics.signatures_verified.inc_by(signatures as u64);
        self.metrics.verify_batch_size.observe(signatures as f64);
        self.metrics
            .verify_time
            .observe(start.elapsed().as_secs_f64());
    }
}

/// How bad it is to send what does not verify. Another epoch's message may come from somebody who
/// is behind, or ahead.
fn fault_of(error: &Invalid) -> Fault {
    match error {
        Invalid::Epoch { .. } => Fault::Late,
        _ => Fault::Invalid,
    }
}
