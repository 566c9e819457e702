//! Transactions, byte for byte.
//!
//! ```text
//! offset size field
//!      0    1 version = 1
//!      1    1 scheme of the sender's key: 1 FALCON-512, 2 FALCON-1024
//!      2    1 body kind: 1 transfer, 2 register key, 3 to 8 about stake (crate::stake)
//!      3    1 reserved = 0
//!      4   32 chain id
//!     36   32 sender: id of its key
//!     68    8 nonce
//!     76    8 valid until, milliseconds since 1970 of block time
//!     84    8 fee
//!     92    - body: transfer = recipient (32), amount (8); register key = the key (897 or 1793);
//!            about stake = see crate::stake
//!      -    - signature, padded form (666 or 1280)
//! ```
//!
//! The id is the hash of everything before the signature, because FALCON signatures are not
//! strongly unforgeable: a second signature over the same bytes is the same transaction. The
//! signature covers tag and id (48 bytes); the bytes under the id contain the chain id and the
//! hash of the key.
//!
//! **Replay protection.** An account remembers the highest nonce that it used and which of the
//! [`NONCE_WINDOW`] nonces up to it were used (the sliding window of RFC 4303, section 3.4.3).
//! A nonce is accepted once, if it is above the highest or inside the window and unused. So
//! transactions of one sender may travel through several lanes and be reordered by up to the
//! window without any being lost, state per account is constant, and no gap can block an account
//! as a strict sequence would. Expiring nonces were the alternative: they need every id of the
//! validity period in memory, about 10 GB for a day at full rate.

use bytes::Bytes;
use falconet_crypto::falcon::{KeyPair, PublicKey, SIGNING_MESSAGE_LEN, Scheme, SigningMessage};
use falconet_crypto::hash;

use crate::evidence::EVIDENCE_BYTES_MAX;
use crate::ids::{AccountId, ChainId, TxId};
use crate::signing::Signer;
use crate::stake::Stake;
use crate::wire::{Reader, Wire, WireError};

const VERSION: u8 = 1;
/// Domain of the id and tag of the signature.
const TAG_TX: &str = "falconet/tx";
/// Domain of the id of opaque bytes.
const TAG_OPAQUE_TX: &str = "falconet/opaque-tx";
/// Bytes before the body.
const HEAD_LEN: usize = 92;
/// How many nonces up to the highest used one an account remembers.
pub const NONCE_WINDOW: u64 = 256;
/// Largest transaction: reports evidence.
pub const TX_BYTES_MAX: usize = HEAD_LEN + EVIDENCE_BYTES_MAX + 1280;

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Moves an amount to another account, which need not exist yet.
    Transfer {
        /// The receiving account.
        to: AccountId,
        /// What it receives; the fee comes on top.
        amount: u64,
    },
    /// Publishes the sender's key, so that later transactions need not carry it.
    RegisterKey {
        /// The key, whose id is the sender.
        key: PublicKey,
    },
    /// About validators and their stake. Boxed, because nearly all transactions are transfers.
    Stake(Box<Stake>),
}

/// A transaction without its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Scheme of the sender's key.
    pub scheme: Scheme,
    /// The chain on which it is valid.
    pub chain_id: ChainId,
    /// The account that pays.
    pub sender: AccountId,
    /// See the module's text on replay protection.
    pub nonce: u64,
    /// Last block time, in milliseconds since 1970, at which it may execute.
    pub valid_until_ms: u64,
    /// Paid by the sender, burned.
    pub fee: u64,
    /// What it does.
    pub body: Body,
}

impl Transaction {
    /// Encodes and signs. The key must be the sender's.
    #[must_use]
    pub fn sign(&self, key: &KeyPair) -> SignedTransaction {
        self.sign_by(key)
    }

    /// As [`Transaction::sign`], by whoever holds the key.
    #[must_use]
    pub fn sign_by(&self, key: &dyn Signer) -> SignedTransaction {
        assert_eq!(key.key_id(), self.sender, "the key is not the sender's");
        let mut bytes = self.to_bytes();
        let id = id_of(&bytes);
        let signature = key.sign(&SigningMessage::new(TAG_TX, id));
        bytes.extend_from_slice(signature.as_bytes());
        SignedTransaction {
            tx: self.clone(),
            id,
            bytes: bytes.into(),
        }
    }
}

impl Wire for Transaction {
    fn encode(&self, out: &mut Vec<u8>) {
        let kind = match &self.body {
            Body::Transfer { .. } => 1,
            Body::RegisterKey { .. } => 2,
            Body::Stake(stake) => stake.kind(),
        };
        out.extend_from_slice(&[VERSION, self.scheme as u8, kind, 0]);
        out.extend_from_slice(self.chain_id.as_ref());
        out.extend_from_slice(self.sender.as_ref());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&self.valid_until_ms.to_le_bytes());
        out.extend_from_slice(&self.fee.to_le_bytes());
        match &self.body {
            Body::Transfer { to, amount } => {
                out.extend_from_slice(to.as_ref());
                out.extend_from_slice(&amount.to_le_bytes());
            }
            Body::RegisterKey { key } => out.extend_from_slice(key.as_bytes()),
            Body::Stake(stake) => stake.encode_body(out),
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "transaction",
                found: version,
            });
        }
        let scheme = Scheme::try_from(r.u8()?).map_err(|_| WireError::Value("scheme"))?;
        let kind = r.u8()?;
        if r.u8()? != 0 {
            return Err(WireError::Value("reserved"));
        }
        let chain_id = r.digest()?;
        let sender = r.digest()?;
        let nonce = r.u64()?;
        let valid_until_ms = r.u64()?;
        let fee = r.u64()?;
        let body = match kind {
            1 => Body::Transfer {
                to: r.digest()?,
                amount: r.u64()?,
            },
            2 => {
                let bytes = r.bytes(scheme.public_key_len())?;
                let key = PublicKey::from_bytes(scheme, bytes)
                    .map_err(|_| WireError::Value("public key"))?;
                if key.id() != sender {
                    return Err(WireError::Value("sender of the registered key"));
                }
                Body::RegisterKey { key }
            }
            kind => {
                let stake = Stake::decode_body(kind, r)?;
                if stake.is_by_validator() && (nonce, fee) != (0, 0) {
                    return Err(WireError::Value("nonce or fee of a validator's message"));
                }
                Body::Stake(Box::new(stake))
            }
        };
        Ok(Self {
            scheme,
            chain_id,
            sender,
            nonce,
            valid_until_ms,
            fee,
            body,
        })
    }
}

/// A transaction as it travels: parsed, with its bytes and id. The signature is not verified by
/// parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTransaction {
    tx: Transaction,
    id: TxId,
    bytes: Bytes,
}

impl SignedTransaction {
    /// Parses a transaction that must be the whole input.
    pub fn parse(bytes: Bytes) -> Result<Self, WireError> {
        let (tx, body_end) = parse_fields(&bytes)?;
        let id = id_of(&bytes[..body_end]);
        Ok(Self { tx, id, bytes })
    }

    /// [`SignedTransaction::parse`] of many; the ids of all that parse are computed together.
    #[must_use]
    pub fn parse_many(txs: &[Bytes]) -> Vec<Result<Self, WireError>> {
        let parsed: Vec<_> = txs.iter().map(|bytes| parse_fields(bytes)).collect();
        let unsigned: Vec<&[u8]> = txs
            .iter()
            .zip(&parsed)
            .filter_map(|(bytes, parsed)| Some(&bytes[..parsed.as_ref().ok()?.1]))
            .collect();
        let mut ids = ids_of(&unsigned).into_iter();
        txs.iter()
            .zip(parsed)
            .map(|(bytes, parsed)| {
                let (tx, _) = parsed?;
                let id = ids.next().expect("one id for each that parsed");
                Ok(Self {
                    tx,
                    id,
                    bytes: bytes.clone(),
                })
            })
            .collect()
    }

    /// The transaction's identity.
    #[must_use]
    pub fn id(&self) -> TxId {
        self.id
    }

    /// All bytes, signature included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The signature's bytes, not yet checked for their form.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.tx.scheme.signature_len()..]
    }

    /// What the signature must cover.
    #[must_use]
    pub fn message(&self) -> [u8; SIGNING_MESSAGE_LEN] {
        message_of(self.id)
    }
}

impl std::ops::Deref for SignedTransaction {
    type Target = Transaction;
    fn deref(&self) -> &Transaction {
        &self.tx
    }
}

/// The fields of a whole transaction, which must be the whole input, and where its signature
/// begins: what is before is under the id.
pub fn parse_fields(bytes: &[u8]) -> Result<(Transaction, usize), WireError> {
    let mut r = Reader::new(bytes);
    let tx = Transaction::decode(&mut r)?;
    let body_end = bytes.len() - r.remaining();
    r.bytes(tx.scheme.signature_len())?;
    r.finish()?;
    Ok((tx, body_end))
}

/// Ids of many transactions, computed together, each from its bytes before the signature.
#[must_use]
pub fn ids_of<T: AsRef<[u8]>>(unsigned: &[T]) -> Vec<TxId> {
    let mut ids = vec![TxId::ZERO; unsigned.len()];
    hash::hash_many(TAG_TX, unsigned, &mut ids);
    ids
}

/// What the signature of the transaction with this id must cover.
#[must_use]
pub fn message_of(id: TxId) -> [u8; SIGNING_MESSAGE_LEN] {
    SigningMessage::new(TAG_TX, id).as_bytes()
}

fn id_of(unsigned: &[u8]) -> TxId {
    hash::hash(TAG_TX, &[unsigned])
}

/// Identity of a transaction on a chain whose application is opaque: the hash of its bytes.
#[must_use]
pub fn opaque_id(bytes: &[u8]) -> TxId {
    hash::hash(TAG_OPAQUE_TX, &[bytes])
}

/// [`opaque_id`] of many, computed together.
#[must_use]
pub fn opaque_ids<T: AsRef<[u8]>>(txs: &[T]) -> Vec<TxId> {
    let mut ids = vec![TxId::ZERO; txs.len()];
    hash::hash_many(TAG_OPAQUE_TX, txs, &mut ids);
    ids
}
