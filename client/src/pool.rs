//! Submission that survives failures: every sender has a home validator, and others take over when
//! it is silent.
//!
//! Senders are spread over the validators by the hash of their account, so that a transaction is
//! normally in one lane only. When its home is not connected, refuses for lack of room again and
//! again, or gives no receipt in time, the same bytes go to the next validator, up to *f* + 1
//! others, of which one at least is correct. Lanes may then hold a transaction twice; execution
//! takes each nonce once, and the pool finds out where that was: the later lane reports a replay,
//! and the proof names the execution.

use std::collections::HashMap;
use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use bytes::Bytes;
use falconet_types::message::Admission;
use falconet_types::proof::TransactionProof;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::transaction::SignedTransaction;
use falconet_types::wire::Wire as _;
use falconet_types::{AccountId, ChainId, PublicKey, TxId};

use crate::hub::deadline_after;
use crate::{ClientError, ClientEvent, Fate, Hub, Link, frames};

/// How long a validator may keep a transaction without a receipt before another is asked, unless
/// said otherwise: longer than a round that times out.
pub const FAIL_OVER_AFTER_DEFAULT: Duration = Duration::from_secs(3);
/// Refusals for lack of room after which another validator is asked.
const BUSY_AT_ONE_MAX: u32 = 3;
/// Shortest wait before a transaction is offered again.
const RETRY_MIN: Duration = Duration::from_millis(5);
/// Wait before a proof that was not there is asked for again: some blocks have to follow.
const PROOF_RETRY: Duration = Duration::from_millis(200);

/// Whom to connect to.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Address and key of every validator, in the order of the set.
    pub validators: Vec<(SocketAddrV6, PublicKey)>,
    /// The chain; see `Genesis::chain_id`.
    pub chain_id: ChainId,
    /// How long a validator may keep a transaction without a receipt.
    pub fail_over_after: Duration,
}

/// Connections to all validators.
///
/// Connections that are lost are made again by themselves, as in [`Hub`].
#[derive(Debug)]
pub struct Pool {
    hub: Hub,
    links: Vec<Link>,
    fail_over_after: Duration,
    next_tag: u64,
}

/// A transaction on its way.
#[derive(Clone)]
struct Open {
    /// Validators after the home that it was given up at.
    moved: usize,
    /// Where it was offered last.
    at: Option<Link>,
    /// Offers that may have brought it into a lane.
    offers: u32,
    busy: u32,
    /// When to offer it again.
    due: Instant,
    /// It was executed somewhere: a proof is asked for, here and then.
    settling: Option<(Link, Instant)>,
    /// What to say when no proof comes.
    last: Option<Fate>,
}

impl Pool {
    /// Dials every validator. Nothing is waited for: who is not there is passed over.
    ///
    /// # Panics
    /// If there is no validator.
    pub fn open(config: &PoolConfig) -> Result<Self, ClientError> {
        assert!(!config.validators.is_empty(), "at least one validator");
        let mut hub = Hub::open(config.chain_id)?;
        let links = config
            .validators
            .iter()
            .map(|(addr, key)| hub.dial(*addr, key))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            hub,
            links,
            fail_over_after: config.fail_over_after,
            next_tag: 1,
        })
    }

    /// The validator, by its place in the set, whose lane the sender's transactions go to.
    #[must_use]
    pub fn home(&self, sender: &AccountId) -> usize {
        let word = u64::from_le_bytes(sender.0[..8].try_into().expect("eight bytes"));
        let n = self.links.len() as u64;
        usize::try_from(word % n).expect("below the number of validators")
    }

    /// Validators beside the home that a transaction may be offered to: one more than may fail.
    #[must_use]
    pub fn others(&self) -> usize {
        let n = self.links.len();
        ((n - 1) / 3 + 1).min(n - 1)
    }

    /// Submits any number of transactions and waits until each has its fate, in the order given.
    /// Succeeds as long as one of the validators that it turns to works and the chain goes on.
    pub fn submit_and_wait(
        &mut self,
        txs: &[SignedTransaction],
        timeout: Duration,
    ) -> Result<Vec<Fate>, ClientError> {
        let deadline = deadline_after(timeout);
        let mut work = Work {
            by_id: txs.iter().enumerate().map(|(i, tx)| (tx.id(), i)).collect(),
            open: vec![Open::new(Instant::now()); txs.len()],
            fates: vec![None; txs.len()],
            tags: HashMap::new(),
            first_tag: self.next_tag,
        };
        while work.fates.iter().any(Option::is_none) {
            let now = Instant::now();
            if now >= deadline && !work.give_up() {
                return Err(ClientError::Timeout {
                    what: "receipts",
                    after: timeout,
                });
            }
            if work.fates.iter().all(Option::is_some) {
                break;
            }
            self.offer(txs, &mut work, now)?;
            let wake = work.next_due().min(deadline);
            if let Some((link, event)) = self.hub.poll(Some(wake))? {
                self.heard(txs, &mut work, link, event);
            }
            while let Some((link, event)) = self.hub.poll(None)? {
                self.heard(txs, &mut work, link, event);
            }
        }
        let fates = work.fates.into_iter();
        Ok(fates.map(|fate| fate.expect("none is open")).collect())
    }

    /// Offers what is due, and asks for proofs that are.
    fn offer(
        &mut self,
        txs: &[SignedTransaction],
        work: &mut Work,
        now: Instant,
    ) -> Result<(), ClientError> {
        let mut by_link: Vec<Vec<usize>> = vec![Vec::new(); self.links.len()];
        let open = work.open.iter_mut().zip(&work.fates).enumerate();
        for (at, (tx, _)) in open.filter(|(_, (_, fate))| fate.is_none()) {
            if let Some((link, when)) = tx.settling
                && when <= now
            {
                tx.settling = Some((link, now + PROOF_RETRY));
                // An error means that the connection is gone: another offer follows.
                let _ = self.hub.request_proof(link, txs[at].id());
            }
            if tx.due > now {
                continue;
            }
            let home = self.home(&txs[at].sender);
            let ring = self.others() + 1;
            if tx.at.is_some() && tx.busy == 0 {
                tx.moved += 1; // the last one gave no receipt
            }
            // The first of those in turn that is connected.
            let reachable = (0..ring).map(|step| (tx.moved + step) % ring);
            let place = |step: usize| (home + step) % self.links.len();
            let chosen = reachable
                .map(|step| (step, place(step)))
                .find(|(_, validator)| self.hub.is_connected(self.links[*validator]));
            tx.due = now + self.fail_over_after;
            match chosen {
                Some((step, validator)) => {
                    tx.moved = step;
                    tx.at = Some(self.links[validator]);
                    by_link[validator].push(at);
                }
                None => tx.due = now + PROOF_RETRY,
            }
        }
        for (validator, places) in by_link.into_iter().enumerate() {
            self.send(txs, work, self.links[validator], &places, now)?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        txs: &[SignedTransaction],
        work: &mut Work,
        link: Link,
        places: &[usize],
        now: Instant,
    ) -> Result<(), ClientError> {
        let bytes: Vec<Bytes> = places.iter().map(|at| txs[*at].bytes().clone()).collect();
        let mut rest = places;
        for frame in frames(&bytes) {
            let (these, later) = rest.split_at(frame.len());
            rest = later;
            let tag = self.next_tag;
            self.next_tag += 1;
            match self.hub.submit(link, tag, frame) {
                Ok(()) => {
                    work.tags.insert(tag, these.to_vec());
                    for at in these {
                        work.open[*at].offers += 1;
                    }
                }
                Err(ClientError::Overrun | ClientError::NotConnected) => {
                    for at in these {
                        work.open[*at].due = now + RETRY_MIN;
                        work.open[*at].busy += 1;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn heard(
        &mut self,
        txs: &[SignedTransaction],
        work: &mut Work,
        link: Link,
        event: ClientEvent,
    ) {
        let now = Instant::now();
        match event {
            ClientEvent::Connected => {}
            ClientEvent::Disconnected { .. } => {
                for tx in work.open.iter_mut().filter(|tx| tx.at == Some(link)) {
                    tx.due = now;
                    tx.busy = 0;
                }
            }
            ClientEvent::Results { tag, results } if tag >= work.first_tag => {
                let indices = work.tags.remove(&tag).unwrap_or_default();
                for (index, admission) in indices.into_iter().zip(results) {
                    work.admission(index, link, admission, now);
                }
            }
            ClientEvent::Results { .. } => {}
            ClientEvent::Receipts(receipts) => {
                for receipt in receipts {
                    work.receipt(link, &receipt, now);
                }
            }
            ClientEvent::Proof { tx_id, proof } => {
                let Some(index) = work.by_id.get(&tx_id).copied() else {
                    return;
                };
                let proof = TransactionProof::from_bytes(&proof).ok();
                let ours = proof.filter(|proof| {
                    proof.receipt.tx_id == tx_id && proof.tx == *txs[index].bytes()
                });
                if let Some(proof) = ours {
                    work.fates[index] = Some(Fate::Executed(proof.receipt));
                }
            }
        }
    }
}

impl Open {
    fn new(now: Instant) -> Self {
        Self {
            moved: 0,
            at: None,
            offers: 0,
            busy: 0,
            due: now,
            settling: None,
            last: None,
        }
    }
}

/// What a call of [`Pool::submit_and_wait`] has under way.
struct Work {
    by_id: HashMap<TxId, usize>,
    open: Vec<Open>,
    fates: Vec<Option<Fate>>,
    /// Which transactions a submission without results held.
    tags: HashMap<u64, Vec<usize>>,
    first_tag: u64,
}

impl Work {
    fn next_due(&self) -> Instant {
        let open = self.open.iter().zip(&self.fates);
        let open = open.filter(|(_, fate)| fate.is_none());
        let due = open.flat_map(|(tx, _)| [Some(tx.due), tx.settling.map(|(_, when)| when)]);
        due.flatten().min().expect("something is open")
    }

    /// Time is up: what is known of a transaction without a proof has to do. False when nothing is
    /// known of some.
    fn give_up(&mut self) -> bool {
        for (fate, tx) in self.fates.iter_mut().zip(&self.open) {
            *fate = fate.or(tx.last);
        }
        self.fates.iter().all(Option::is_some)
    }

    fn admission(&mut self, index: usize, link: Link, admission: Admission, now: Instant) {
        if self.fates[index].is_some() {
            return;
        }
        let tx = &mut self.open[index];
        match admission {
            Admission::Accepted => tx.busy = 0,
            // It waits there since an earlier offer, or was executed.
            Admission::Duplicate => {
                tx.busy = 0;
                if tx.offers > 1 {
                    tx.settling = Some((link, now));
                } else {
                    self.fates[index] = Some(Fate::NotAdmitted(admission));
                }
            }
            Admission::Busy { retry_after_ms } => {
                let wait = Duration::from_millis(retry_after_ms.into()).max(RETRY_MIN);
                tx.offers -= 1;
                tx.busy += 1;
                if tx.busy >= BUSY_AT_ONE_MAX {
                    tx.busy = 0; // the next one in turn is asked
                }
                tx.due = now + wait;
            }
            // Refused here because another lane was faster?
            Admission::Refused(_) if tx.offers > 1 => {
                tx.last = Some(Fate::NotAdmitted(admission));
                tx.settling = Some((link, now));
            }
            Admission::Refused(_) => self.fates[index] = Some(Fate::NotAdmitted(admission)),
        }
    }

    fn receipt(&mut self, link: Link, receipt: &Receipt, now: Instant) {
        let Some(index) = self.by_id.get(&receipt.tx_id).copied() else {
            return;
        };
        if self.fates[index].is_some() {
            return;
        }
        let tx = &mut self.open[index];
        if receipt.outcome == Outcome::Replayed && tx.offers > 1 {
            tx.last = Some(Fate::Executed(*receipt));
            tx.settling = Some((link, now));
        } else {
            self.fates[index] = Some(Fate::Executed(*receipt));
        }
    }
}
