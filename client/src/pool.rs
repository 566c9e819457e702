//! Submission that survives failures: every sender has a home validator, and others take over when
//! it is silent.
//!
//! Senders are spread over the validators by the hash of their account, so that a transaction is
//! normally in one lane only. When its home is not connected, falls silent (see [`Patience`]),
//! refuses for lack of room again and again, or gives no receipt in time, the same bytes go to the
//! next validator, up to *f* + 1 others, of which one at least is correct. How long a receipt may
//! take follows how long receipts took of late. Lanes may then hold a transaction twice; execution
//! takes each nonce once, and the pool finds out where that was: the later lane reports a replay,
//! and the proof names the execution.
//!
//! With the genesis document the pool follows the validators from epoch to epoch ([`Members`]).

use std::collections::HashMap;
use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use bytes::Bytes;
use falconet_types::genesis::Genesis;
use falconet_types::message::Admission;
use falconet_types::proof::TransactionProof;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::transaction::SignedTransaction;
use falconet_types::wire::Wire as _;
use falconet_types::{AccountId, ChainId, Epoch, PublicKey, TxId};

use crate::hub::deadline_after;
use crate::{
    ClientError, ClientEvent, Fate, Hub, LOOK_INTERVAL, Link, Longest, Members, Patience, frames,
};

/// How long a validator may keep a transaction without a receipt before another is asked, at most
/// and unless said otherwise: longer than a round that times out.
pub const FAIL_OVER_AFTER_DEFAULT: Duration = Duration::from_secs(3);
/// A validator may keep a transaction without a receipt for this long at least, however fast
/// receipts were of late: a round may time out.
const RECEIPT_MIN: Duration = Duration::from_secs(1);
/// Offers of one transaction that each double the patience with the next.
const BACKOFF_OFFERS_MAX: u32 = 4;
/// Refusals for lack of room after which another validator is asked.
const BUSY_AT_ONE_MAX: u32 = 3;
/// Events that are taken in before the time is looked at again: a validator that never stops talking
/// does not keep a caller beyond its deadline.
const EVENTS_AT_ONCE_MAX: usize = 1_024;
/// Shortest wait before a transaction is offered again.
const RETRY_MIN: Duration = Duration::from_millis(5);
/// Wait before a proof that was not there is asked for again: some blocks have to follow.
const PROOF_RETRY: Duration = Duration::from_millis(200);

/// Whom to connect to.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Address and key of every validator, in the order of the set: those of genesis, or of a later
    /// epoch.
    pub validators: Vec<(SocketAddrV6, PublicKey)>,
    /// The genesis document, for the pool to follow the validators from epoch to epoch; without it
    /// `validators` are asked for ever.
    pub genesis: Option<Genesis>,
    /// The chain; see `Genesis::chain_id`.
    pub chain_id: ChainId,
    /// How long a validator may keep a transaction without a receipt, at most; less where receipts
    /// were faster of late.
    pub fail_over_after: Duration,
}

/// Connections to all validators.
///
/// Connections that are lost are made again by themselves, as in [`Hub`].
#[derive(Debug)]
pub struct Pool {
    hub: Hub,
    members: Members,
    fail_over_after: Duration,
    /// How long receipts took of late, at most.
    receipts: Longest,
    /// What is known of each validator's silence, by link; times since the pool was opened.
    patience: HashMap<Link, Patience>,
    opened: Instant,
    next_tag: u64,
}

/// A transaction on its way.
#[derive(Clone)]
struct Open {
    /// Validators after the home that it was given up at.
    moved: usize,
    /// Where it was offered last.
    at: Option<Link>,
    /// When it was offered last.
    offered: Instant,
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
        let mut hub = Hub::open(config.chain_id)?;
        let members = Members::dial(&mut hub, &config.validators, config.genesis.as_ref())?;
        Ok(Self {
            hub,
            members,
            fail_over_after: config.fail_over_after,
            receipts: Longest::default(),
            patience: HashMap::new(),
            opened: Instant::now(),
            next_tag: 1,
        })
    }

    /// The newest epoch whose validators are known; 0 without a genesis document.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.members.epoch()
    }

    /// Keeps the connections and follows the epochs for a while, with nothing to submit. Whoever
    /// submits rarely should call it now and then: validators that left do not stay for ever.
    pub fn idle(&mut self, time: Duration) -> Result<(), ClientError> {
        let deadline = deadline_after(time);
        loop {
            self.members.ask(&self.hub, Instant::now());
            let wake = self.members.next_ask().min(deadline);
            if let Some((link, event)) = self.hub.poll(Some(wake))? {
                self.epoch_heard(link, &event)?;
            } else if Instant::now() >= deadline {
                return Ok(());
            }
        }
    }

    /// The validator, by its place in the set, whose lane the sender's transactions go to.
    #[must_use]
    pub fn home(&self, sender: &AccountId) -> usize {
        let word = u64::from_le_bytes(sender.0[..8].try_into().expect("eight bytes"));
        let n = self.members.links().len() as u64;
        usize::try_from(word % n).expect("below the number of validators")
    }

    /// Validators beside the home that a transaction may be offered to: one more than may fail.
    #[must_use]
    pub fn others(&self) -> usize {
        let n = self.members.links().len();
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
            self.members.ask(&self.hub, now);
            let silent = self.silent(now);
            self.offer(txs, &mut work, &silent, now)?;
            let wake = work.next_due().min(deadline).min(self.members.next_ask());
            let wake = match self.patience.values().any(Patience::is_waiting) {
                true => wake.min(now + LOOK_INTERVAL),
                false => wake,
            };
            if let Some((link, event)) = self.hub.poll(Some(wake))? {
                self.epoch_heard(link, &event)?;
                self.heard(txs, &mut work, link, event);
            }
            for _ in 0..EVENTS_AT_ONCE_MAX {
                let Some((link, event)) = self.hub.poll(None)? else {
                    break;
                };
                self.epoch_heard(link, &event)?;
                self.heard(txs, &mut work, link, event);
            }
        }
        let fates = work.fates.into_iter();
        Ok(fates.map(|fate| fate.expect("none is open")).collect())
    }

    /// Validators that are passed over for their silence. Nobody is while none of the others is
    /// well: then it is this side, or the network.
    fn silent(&mut self, now: Instant) -> Vec<Link> {
        let at = now - self.opened;
        let all = self.patience.iter_mut();
        let silent: Vec<Link> = all
            .filter_map(|(link, patience)| patience.is_silent(at).then_some(*link))
            .collect();
        let well = |link: &Link| {
            let owes = self.patience.get(link).is_some_and(|one| !one.is_well(at));
            self.hub.is_connected(*link) && !silent.contains(link) && !owes
        };
        match self.members.links().iter().any(well) {
            true => silent,
            false => Vec::new(),
        }
    }

    /// How long a validator may keep a transaction that was offered so often before.
    fn receipt_bound(&self, offers: u32, now: Instant) -> Duration {
        let longest = self.receipts.get(now - self.opened);
        let usual = longest.map_or(self.fail_over_after, |longest| longest * 2);
        let patience = usual.max(RECEIPT_MIN) * (1 << offers.min(BACKOFF_OFFERS_MAX));
        patience.min(self.fail_over_after)
    }

    /// Offers what is due, and asks for proofs that are.
    fn offer(
        &mut self,
        txs: &[SignedTransaction],
        work: &mut Work,
        silent: &[Link],
        now: Instant,
    ) -> Result<(), ClientError> {
        let mut by_link: Vec<Vec<usize>> = vec![Vec::new(); self.members.links().len()];
        let open = work.open.iter_mut().zip(&work.fates).enumerate();
        for (at, (tx, _)) in open.filter(|(_, (_, fate))| fate.is_none()) {
            if let Some((link, when)) = tx.settling
                && when <= now
            {
                tx.settling = Some((link, now + PROOF_RETRY));
                // An error means that the connection is gone: another offer follows.
                let _ = self.hub.request_proof(link, txs[at].id());
            }
            if tx.at.is_some_and(|link| silent.contains(&link)) {
                tx.due = now;
                tx.busy = 0;
            }
            if tx.due > now {
                continue;
            }
            let home = self.home(&txs[at].sender);
            let ring = self.others() + 1;
            if tx.at.is_some() && tx.busy == 0 {
                tx.moved += 1; // the last one gave no receipt
            }
            // The first of those in turn that is connected and speaks, or else is connected.
            let place = |step: usize| (home + step) % self.members.links().len();
            let reachable = (0..ring)
                .map(|step| (tx.moved + step) % ring)
                .map(|step| (step, place(step)))
                .filter(|(_, validator)| self.hub.is_connected(self.members.links()[*validator]));
            let speaks = |(_, validator): &(usize, usize)| {
                !silent.contains(&self.members.links()[*validator])
            };
            let chosen = reachable.clone().find(speaks);
            let chosen = chosen.or_else(|| reachable.clone().next());
            tx.due = now + self.receipt_bound(tx.offers, now);
            tx.offered = now;
            match chosen {
                Some((step, validator)) => {
                    tx.moved = step;
                    tx.at = Some(self.members.links()[validator]);
                    by_link[validator].push(at);
                }
                None => tx.due = now + PROOF_RETRY,
            }
        }
        for (validator, places) in by_link.into_iter().enumerate() {
            self.send(txs, work, self.members.links()[validator], &places, now)?;
        }
        Ok(())
    }

    /// What an event says of the epochs.
    fn epoch_heard(&mut self, link: Link, event: &ClientEvent) -> Result<(), ClientError> {
        if let Some(changed) = self.members.heard(&mut self.hub, link, event)? {
            for link in changed.gone {
                self.patience.remove(&link);
            }
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
                    let patience = self.patience.entry(link).or_default();
                    patience.submitted(now - self.opened, tag);
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
        let patience = self.patience.entry(link).or_default();
        match &event {
            ClientEvent::Disconnected { .. } => patience.lost(),
            ClientEvent::Results { tag, .. } => patience.answered(now - self.opened, *tag),
            _ => patience.heard(now - self.opened),
        }
        match event {
            ClientEvent::Connected | ClientEvent::EpochProof { .. } => {}
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
                    if let Some(took) = work.receipt(link, &receipt, now) {
                        self.receipts.add(now - self.opened, took);
                    }
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
            offered: now,
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

    /// How long it took, if it was offered once only: of two offers nobody knows which was meant.
    fn receipt(&mut self, link: Link, receipt: &Receipt, now: Instant) -> Option<Duration> {
        let index = self.by_id.get(&receipt.tx_id).copied()?;
        if self.fates[index].is_some() {
            return None;
        }
        let tx = &mut self.open[index];
        if receipt.outcome == Outcome::Replayed && tx.offers > 1 {
            tx.last = Some(Fate::Executed(*receipt));
            tx.settling = Some((link, now));
            return None;
        }
        self.fates[index] = Some(Fate::Executed(*receipt));
        (tx.offers == 1).then(|| now.saturating_duration_since(tx.offered))
    }
}
