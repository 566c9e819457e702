//! A blocking client of one validator.

use std::collections::VecDeque;
use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_dataplane::{CloseCode, CloseReason};
use falconet_types::epoch::{EpochProof, EpochTrail};
use falconet_types::genesis::Genesis;
use falconet_types::message::Admission;
use falconet_types::proof::{ProvenReceipt, TransactionProof};
use falconet_types::receipt::Receipt;
use falconet_types::transaction::SignedTransaction;
use falconet_types::wire::Wire as _;
use falconet_types::{ChainId, Epoch, PublicKey, TxId};

use crate::hub::deadline_after;
use crate::{ClientError, ClientEvent, Hub, Link, frames};

/// How long [`Client::connect`] tries unless said otherwise.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Events that wait while a caller waits for another one; the oldest are dropped beyond.
pub const EVENTS_KEPT_MAX: usize = 4_096;
/// Shortest wait before a busy validator is asked again.
const BUSY_WAIT_MIN: Duration = Duration::from_millis(5);

/// Whom to connect to.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The validator's STOQ address.
    pub addr: SocketAddrV6,
    /// The validator's key, which it must prove. Genesis lists it.
    pub key: PublicKey,
    /// The chain; see `Genesis::chain_id`.
    pub chain_id: ChainId,
    /// How long to try.
    pub connect_timeout: Duration,
}

impl ClientConfig {
    /// A configuration with the default time-out.
    #[must_use]
    pub fn new(addr: SocketAddrV6, key: PublicKey, chain_id: ChainId) -> Self {
        Self {
            addr,
            key,
            chain_id,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
        }
    }
}

/// What became of a submitted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Ordered and executed; the receipt's outcome says with what effect.
    Executed(Receipt),
    /// Refused at the door, or known there already.
    NotAdmitted(Admission),
}

impl Fate {
    /// The receipt of a transaction that took effect.
    #[must_use]
    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Executed(receipt) => Some(receipt),
            Self::NotAdmitted(_) => None,
        }
    }
}

/// A connection to one validator.
///
/// Each event is delivered once: a waiting call takes what it waits for and leaves the rest for
/// [`Client::poll`] and for later waits, up to [`EVENTS_KEPT_MAX`].
///
/// ```no_run
/// # use falconet_client::{Client, ClientConfig, ClientError, Fate, Wallet};
/// # use falconet_types::{AccountId, KeyPair, genesis::Genesis};
/// # fn example(
/// #     addr: std::net::SocketAddrV6, genesis: &Genesis, key: KeyPair, to: AccountId,
/// # ) -> Result<Vec<Fate>, ClientError> {
/// let validator = genesis.validators[0].key.clone();
/// let mut client = Client::connect(&ClientConfig::new(addr, validator, genesis.chain_id()))?;
/// let mut wallet = Wallet::new(key, genesis.chain_id(), Wallet::nonce_from_clock());
/// let payments = [wallet.transfer(to, 25), wallet.transfer(to, 17)];
/// client.submit_and_wait(&payments, std::time::Duration::from_secs(10))
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    hub: Hub,
    link: Link,
    kept: VecDeque<ClientEvent>,
    next_tag: u64,
}

impl Client {
    /// Connects, and waits until the connection stands.
    pub fn connect(config: &ClientConfig) -> Result<Self, ClientError> {
        let mut hub = Hub::open(config.chain_id)?;
        let link = hub.dial(config.addr, &config.key)?;
        let mut client = Self {
            hub,
            link,
            kept: VecDeque::new(),
            next_tag: 1,
        };
        client.wait_connected(config.connect_timeout)?;
        Ok(client)
    }

    /// Whether the connection stands now. When it is lost the client connects again by itself.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.hub.is_connected(self.link)
    }

    /// Waits until the connection stands (again).
    pub fn wait_connected(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let deadline = deadline_after(timeout);
        let mut last = "no answer".to_owned();
        while !self.is_connected() {
            match self.hub.poll(Some(deadline))? {
                Some((_, ClientEvent::Disconnected { reason, .. })) => {
                    // Such refusals do not go away by trying again.
                    if let Some(hint) = hint_if_final(&reason) {
                        return Err(self.connect_error(reason.to_string(), hint));
                    }
                    last = reason.to_string();
                }
                Some((_, ClientEvent::Connected)) => {}
                Some((_, event)) => self.keep(event),
                None => {
                    let hint =
                        "check that it runs, and that the address is its [stoq] listen address";
                    return Err(self.connect_error(last, hint));
                }
            }
        }
        Ok(())
    }

    /// Submits transactions in one frame and returns the frame's tag at once; see
    /// [`crate::frames`] for what fits. Results and receipts come as events.
    pub fn submit(&mut self, txs: &[SignedTransaction]) -> Result<u64, ClientError> {
        let txs: Vec<Bytes> = txs.iter().map(|tx| tx.bytes().clone()).collect();
        self.submit_bytes(&txs)
    }

    /// [`Client::submit`] for transactions as bytes, also for chains that order opaque bytes.
    pub fn submit_bytes(&mut self, txs: &[Bytes]) -> Result<u64, ClientError> {
        let tag = self.next_tag;
        self.hub.submit(self.link, tag, txs)?;
        self.next_tag += 1;
        Ok(tag)
    }

    /// The next event, waiting up to `timeout`. With [`Duration::ZERO`] it only looks.
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<ClientEvent>, ClientError> {
        if let Some(event) = self.kept.pop_front() {
            return Ok(Some(event));
        }
        let deadline = (!timeout.is_zero()).then(|| deadline_after(timeout));
        Ok(self.hub.poll(deadline)?.map(|(_, event)| event))
    }

    /// Waits for what came of a submission at the door.
    pub fn wait_for_results(
        &mut self,
        tag: u64,
        timeout: Duration,
    ) -> Result<Vec<Admission>, ClientError> {
        let wanted =
            |event: &ClientEvent| matches!(event, ClientEvent::Results { tag: t, .. } if *t == tag);
        match self.wait(wanted, "answer to the submission", timeout)? {
            ClientEvent::Results { results, .. } => Ok(results),
            other => unreachable!("{other:?} was not waited for"),
        }
    }

    /// Waits for the receipt of a transaction that was submitted over this connection.
    pub fn wait_for_receipt(
        &mut self,
        id: TxId,
        timeout: Duration,
    ) -> Result<Receipt, ClientError> {
        let wanted = |event: &ClientEvent| matches!(event, ClientEvent::Receipts(receipts) if receipts.iter().any(|r| r.tx_id == id));
        let ClientEvent::Receipts(mut receipts) = self.wait(wanted, "receipt", timeout)? else {
            unreachable!("only receipts are waited for")
        };
        let at = receipts
            .iter()
            .position(|r| r.tx_id == id)
            .expect("waited for it");
        let receipt = receipts.remove(at);
        if !receipts.is_empty() {
            self.keep(ClientEvent::Receipts(receipts));
        }
        Ok(receipt)
    }

    /// Submits any number of transactions and waits until each has its fate, in the order given.
    /// A validator that is busy is asked again after the time that it names. When the connection
    /// is lost the call fails; calling again with the same transactions is safe.
    pub fn submit_and_wait(
        &mut self,
        txs: &[SignedTransaction],
        timeout: Duration,
    ) -> Result<Vec<Fate>, ClientError> {
        let deadline = deadline_after(timeout);
        let mut fates: Vec<Option<Fate>> = vec![None; txs.len()];
        let mut open: Vec<usize> = (0..txs.len()).collect();
        while !open.is_empty() {
            let (admitted, busy, wait) = self.offer(txs, &open, &mut fates, deadline, timeout)?;
            for index in admitted {
                let receipt = self.wait_for_receipt(txs[index].id(), left(deadline))?;
                fates[index] = Some(Fate::Executed(receipt));
            }
            open = busy;
            if !open.is_empty() {
                if left(deadline) <= wait {
                    return Err(ClientError::Timeout {
                        what: "room at the validator",
                        after: timeout,
                    });
                }
                std::thread::sleep(wait);
            }
        }
        Ok(fates
            .into_iter()
            .map(|fate| fate.expect("none is open"))
            .collect())
    }

    /// The proof of an executed transaction, as the validator sends it: checked by nobody yet.
    pub fn proof_bytes(&mut self, id: TxId, timeout: Duration) -> Result<Bytes, ClientError> {
        self.hub.request_proof(self.link, id)?;
        let wanted =
            |event: &ClientEvent| matches!(event, ClientEvent::Proof { tx_id, .. } if *tx_id == id);
        match self.wait(wanted, "proof", timeout)? {
            ClientEvent::Proof { proof, .. } if proof.is_empty() => Err(ClientError::NoProof(id)),
            ClientEvent::Proof { proof, .. } => Ok(proof),
            other => unreachable!("{other:?} was not waited for"),
        }
    }

    /// The proof that an epoch is over, as the validator sends it: checked by nobody yet.
    pub fn epoch_proof_bytes(
        &mut self,
        epoch: Epoch,
        timeout: Duration,
    ) -> Result<Bytes, ClientError> {
        self.hub.request_epoch_proof(self.link, epoch)?;
        let wanted = |event: &ClientEvent| matches!(event, ClientEvent::EpochProof { epoch: e, .. } if *e == epoch);
        match self.wait(wanted, "proof of an epoch", timeout)? {
            ClientEvent::EpochProof { proof, .. } if proof.is_empty() => {
                Err(ClientError::EpochGoesOn(epoch))
            }
            ClientEvent::EpochProof { proof, .. } => Ok(proof),
            other => unreachable!("{other:?} was not waited for"),
        }
    }

    /// Follows the proofs of epochs, one after the other, until `trail` knows the validators of
    /// `epoch`. Neither this validator nor any other need be trusted.
    pub fn follow(
        &mut self,
        trail: &mut EpochTrail,
        epoch: Epoch,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let deadline = deadline_after(timeout);
        while trail.newest().start.epoch < epoch {
            let ending = trail.newest().start.epoch;
            let bytes = self.epoch_proof_bytes(ending, left(deadline))?;
            let bad = |reason: String| ClientError::BadEpochProof {
                epoch: ending,
                reason,
            };
            let proof = EpochProof::from_bytes(&bytes).map_err(|e| bad(e.to_string()))?;
            let followed = trail.follow(&proof, &mut Verifier::new());
            followed.map_err(|e| bad(e.to_string()))?;
        }
        Ok(())
    }

    /// Fetches the proof of an executed transaction and verifies it against genesis, which must
    /// come from a source that the caller trusts. The validator need not be trusted. For a
    /// transaction of a later epoch the proofs of all epochs before it are fetched and verified
    /// too; [`Client::proof_on`] spares that to who asks more than once.
    pub fn proof(
        &mut self,
        id: TxId,
        genesis: &Genesis,
        timeout: Duration,
    ) -> Result<(TransactionProof, ProvenReceipt), ClientError> {
        let trail = EpochTrail::new(genesis);
        let mut trail = trail.map_err(|error| ClientError::BadProof {
            id,
            reason: error.to_string(),
        })?;
        self.proof_on(id, &mut trail, timeout)
    }

    /// As [`Client::proof`], going on from the epochs that `trail` knows already. A trail remembers
    /// the newest [`falconet_types::epoch::TRAIL_EPOCHS_KEPT`] epochs: for a transaction of an older
    /// one begin anew.
    pub fn proof_on(
        &mut self,
        id: TxId,
        trail: &mut EpochTrail,
        timeout: Duration,
    ) -> Result<(TransactionProof, ProvenReceipt), ClientError> {
        let deadline = deadline_after(timeout);
        let bytes = self.proof_bytes(id, timeout)?;
        let bad = |reason: String| ClientError::BadProof { id, reason };
        let proof = TransactionProof::from_bytes(&bytes).map_err(|e| bad(e.to_string()))?;
        self.follow(trail, proof.epoch(), left(deadline))?;
        let proven = proof.verify_on(trail).map_err(|e| bad(e.to_string()))?;
        if proven.tx_id != id {
            return Err(bad(format!(
                "it proves transaction {} instead",
                proven.tx_id
            )));
        }
        Ok((proof, proven))
    }

    /// Submits the open transactions once. Returns those that were admitted, those to offer
    /// again, and how long to wait before.
    fn offer(
        &mut self,
        txs: &[SignedTransaction],
        open: &[usize],
        fates: &mut [Option<Fate>],
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(Vec<usize>, Vec<usize>, Duration), ClientError> {
        let bytes: Vec<Bytes> = open
            .iter()
            .map(|index| txs[*index].bytes().clone())
            .collect();
        let (mut admitted, mut busy, mut wait) = (Vec::new(), Vec::new(), BUSY_WAIT_MIN);
        let mut rest = open;
        for frame in frames::frames(&bytes) {
            let (now, later) = rest.split_at(frame.len());
            rest = later;
            let tag = loop {
                match self.submit_bytes(frame) {
                    Err(ClientError::Overrun) if left(deadline) > BUSY_WAIT_MIN => {
                        std::thread::sleep(BUSY_WAIT_MIN);
                    }
                    other => break other?,
                }
            };
            let results = self
                .wait_for_results(tag, left(deadline))
                .map_err(|e| longer(e, timeout))?;
            for (index, result) in now.iter().zip(results) {
                match result {
                    Admission::Accepted => admitted.push(*index),
                    Admission::Busy { retry_after_ms } => {
                        busy.push(*index);
                        wait = wait.max(Duration::from_millis(retry_after_ms.into()));
                    }
                    // A duplicate within this call is pending and gets its receipt; one from
                    // before may have been executed long ago, and nothing would come.
                    other => fates[*index] = Some(Fate::NotAdmitted(other)),
                }
            }
        }
        Ok((admitted, busy, wait))
    }

    /// Waits for an event, keeping others. Fails when the connection ends meanwhile.
    fn wait(
        &mut self,
        wanted: impl Fn(&ClientEvent) -> bool,
        what: &'static str,
        timeout: Duration,
    ) -> Result<ClientEvent, ClientError> {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return Ok(self.kept.remove(at).expect("found"));
        }
        if !self.is_connected() {
            return Err(ClientError::NotConnected);
        }
        let deadline = deadline_after(timeout);
        loop {
            match self.hub.poll(Some(deadline))? {
                None => {
                    return Err(ClientError::Timeout {
                        what,
                        after: timeout,
                    });
                }
                Some((_, event)) if wanted(&event) => return Ok(event),
                Some((_, ClientEvent::Disconnected { reason, .. })) => {
                    return Err(ClientError::Disconnected {
                        reason: reason.to_string(),
                    });
                }
                Some((_, event)) => self.keep(event),
            }
        }
    }

    fn keep(&mut self, event: ClientEvent) {
        if self.kept.len() == EVENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }

    fn connect_error(&self, reason: String, hint: &'static str) -> ClientError {
        ClientError::Connect {
            addr: self.hub.addr(self.link),
            reason,
            hint,
        }
    }
}

/// The remedy for a refusal that trying again cannot change.
fn hint_if_final(reason: &CloseReason) -> Option<&'static str> {
    match reason.code() {
        Some(CloseCode::WrongChain) => {
            Some("it belongs to another chain: use the genesis file of that network")
        }
        Some(CloseCode::WrongVersion) => {
            Some("it runs another version of the software: use the matching client")
        }
        Some(CloseCode::TooManyClients | CloseCode::TooManyFromPrefix) => {
            Some("it serves as many clients as it can: use another validator")
        }
        _ => (*reason == CloseReason::UntrustedPeer)
            .then_some("it does not prove the expected key: check address and key against genesis"),
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Names the whole time that the caller gave instead of the rest of it.
fn longer(error: ClientError, after: Duration) -> ClientError {
    match error {
        ClientError::Timeout { what, .. } => ClientError::Timeout { what, after },
        other => other,
    }
}
