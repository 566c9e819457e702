//! Keys and signatures. Public keys are real (the types check them) and made once; signatures are
//! a hash of key and message in the shape of a FALCON-512 signature, so that a round costs
//! microseconds. Nobody forges in here: what is signed is checked by the checkers.

use std::sync::OnceLock;

use falconet_crypto::falcon::SigningMessage;
use falconet_crypto::hash;
use falconet_ledger::Verdict;
use falconet_types::certificate::{Qc, Vote};
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::signing::{Claim, Signer};
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::validators::ValidatorSet;
use falconet_types::wire::Wire;
use falconet_types::{
    AccountId, ChainId, Digest, KeyPair, PublicKey, Scheme, Signature, ValidatorIndex,
};

/// Most validators in a simulation.
pub const VALIDATORS_MAX: usize = 7;
/// Accounts of clients.
pub const ACCOUNTS: usize = 8;
/// Balance of each at genesis.
pub const BALANCE: u64 = 1_000_000;
/// Time of genesis, milliseconds since 1970; also where the simulated wall clocks start.
pub const GENESIS_MS: u64 = 1_700_000_000_000;
/// Fee of each transaction.
pub const FEE: u64 = 2;

/// Public keys: validators first, then accounts.
fn keys() -> &'static [PublicKey] {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        (0..VALIDATORS_MAX + ACCOUNTS)
            .map(|i| {
                let seed = [u8::try_from(i).expect("few keys"); 32];
                KeyPair::from_seed(Scheme::Falcon512, &seed)
                    .public()
                    .clone()
            })
            .collect()
    })
}

/// Key of a validator.
#[must_use]
pub fn validator(i: usize) -> &'static PublicKey {
    &keys()[i]
}

/// Account of a client.
#[must_use]
pub fn account(i: usize) -> AccountId {
    keys()[VALIDATORS_MAX + i].id()
}

/// The genesis of a simulation. The name makes the chain's identity, and with it the order of
/// leaders, depend on the seed.
#[must_use]
pub fn genesis(seed: u64, weights: &[u64], params: Params) -> Genesis {
    let mut accounts: Vec<GenesisAccount> = (0..ACCOUNTS)
        .map(|i| GenesisAccount {
            id: account(i),
            balance: BALANCE,
            key: Some(keys()[VALIDATORS_MAX + i].clone()),
        })
        .collect();
    accounts.sort_by_key(|account| account.id);
    let genesis = Genesis {
        name: format!("simulation {seed}"),
        time_ms: GENESIS_MS,
        application: ApplicationKind::Ledger,
        params,
        validators: weights
            .iter()
            .enumerate()
            .map(|(i, weight)| GenesisValidator {
                name: format!("validator-{i}"),
                key: validator(i).clone(),
                weight: *weight,
                owner: None,
                address: None,
            })
            .collect(),
        stake: StakeParams::default(),
        accounts,
    };
    genesis.check().expect("a valid genesis");
    genesis
}

/// Signs as validator `0`.
#[derive(Debug, Clone, Copy)]
pub struct SimSigner(pub usize);

impl Signer for SimSigner {
    fn sign(&self, message: &SigningMessage) -> Signature {
        signature(validator(self.0).id(), &message.as_bytes())
    }
    fn key_id(&self) -> Digest {
        validator(self.0).id()
    }
}

/// The vote of a validator that a QC should be made of.
#[must_use]
pub fn vote(chain: ChainId, qc: &Qc, voter: ValidatorIndex) -> Vote {
    Vote::sign(
        qc.epoch,
        qc.round,
        qc.block_id,
        qc.parent_round,
        voter,
        chain,
        &SimSigner(voter.at()),
    )
}

/// Whether a claim inside a message is a signature of the validator that it names.
#[must_use]
pub fn authentic(set: &ValidatorSet, claim: &Claim<'_>) -> bool {
    set.get(claim.signer).is_some_and(|validator| {
        *claim.signature == signature(validator.key.id(), &claim.message.as_bytes())
    })
}

/// What the verify stage says of a transaction in a batch: only clients' own signatures count.
#[must_use]
pub fn verdict(bytes: &bytes::Bytes) -> Verdict {
    let Ok(tx) = SignedTransaction::parse(bytes.clone()) else {
        return Verdict::Invalid;
    };
    let all = tx.bytes();
    let split = all.len().checked_sub(Scheme::Falcon512.signature_len());
    let signed = split.is_some_and(|at| {
        let expected = signature(tx.sender, &all[..at]);
        expected.as_bytes() == &all[at..]
    });
    if signed {
        Verdict::Valid
    } else {
        Verdict::Invalid
    }
}

fn signature(key: Digest, message: &[u8]) -> Signature {
    let scheme = Scheme::Falcon512;
    let digest = hash::hash("simulation/signature", &[key.as_ref(), message]);
    let mut bytes: Vec<u8> = digest
        .0
        .iter()
        .copied()
        .cycle()
        .take(scheme.signature_len())
        .collect();
    bytes[0] = scheme.signature_header();
    Signature::from_bytes(scheme, &bytes).expect("length and header are right")
}

/// A signed transfer between two clients' accounts.
#[must_use]
pub fn transfer(
    chain_id: ChainId,
    from: usize,
    to: usize,
    nonce: u64,
    amount: u64,
) -> SignedTransaction {
    let tx = Transaction {
        scheme: Scheme::Falcon512,
        chain_id,
        sender: account(from),
        nonce,
        valid_until_ms: u64::MAX,
        fee: FEE,
        body: Body::Transfer {
            to: account(to),
            amount,
        },
    };
    let mut bytes = tx.to_bytes();
    let signed = signature(account(from), &bytes);
    bytes.extend_from_slice(signed.as_bytes());
    SignedTransaction::parse(bytes.into()).expect("a transaction as the types encode it")
}
