//! Keys and signatures. Public keys are real (the types check them) and made once; signatures are
//! a hash of key and message in the shape of a FALCON-512 signature, so that a round costs
//! microseconds. Nobody forges in here: what is signed is checked by the checkers.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::OnceLock;

use falconet_crypto::falcon::{PreparedKey, SigningMessage, Verifier};
use falconet_crypto::hash;
use falconet_ledger::Verdict;
use falconet_types::certificate::{Qc, Vote};
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::signing::Signer;
use falconet_types::stake::{Stake, bond_message, rotate_message};
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::{
    AccountId, ChainId, Digest, KeyPair, PublicKey, Scheme, Signature, ValidatorId, ValidatorIndex,
};

/// Most validators of genesis in a simulation.
pub const VALIDATORS_MAX: usize = 7;
/// Most nodes with keys of their own, those that join later among them. All have places in the
/// tables of followers.
pub const NODES_MAX: usize = 11;
/// Stake that gives one unit of weight.
pub const STAKE_UNIT: u64 = 1_000;
/// Accounts of clients.
pub const ACCOUNTS: usize = 8;
/// Balance of each at genesis.
pub const BALANCE: u64 = 1_000_000;
/// Time of genesis, milliseconds since 1970; also where the simulated wall clocks start.
pub const GENESIS_MS: u64 = 1_700_000_000_000;
/// Fee of each transaction.
pub const FEE: u64 = 2;

/// Public keys: validators of genesis first, then accounts, then nodes that join later.
fn keys() -> &'static [PublicKey] {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        (0..NODES_MAX + ACCOUNTS)
            .map(|i| {
                let seed = [u8::try_from(i).expect("few keys"); 32];
                KeyPair::from_seed(Scheme::Falcon512, &seed)
                    .public()
                    .clone()
            })
            .collect()
    })
}

/// Key of a node.
#[must_use]
pub fn validator(i: usize) -> &'static PublicKey {
    if i < VALIDATORS_MAX {
        &keys()[i]
    } else {
        &keys()[ACCOUNTS + i]
    }
}

/// The node whose key has this id.
#[must_use]
pub fn node_of(key_id: &Digest) -> Option<usize> {
    (0..NODES_MAX).find(|i| validator(*i).id() == *key_id)
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
    let has_epochs = params.epoch_heights > 0;
    let clients = (0..ACCOUNTS).map(|i| &keys()[VALIDATORS_MAX + i]);
    // Where stake moves, each node owns its own.
    let nodes = (0..NODES_MAX).map(validator).filter(|_| has_epochs);
    let mut accounts: Vec<GenesisAccount> = clients
        .chain(nodes)
        .map(|key| GenesisAccount {
            id: key.id(),
            balance: BALANCE,
            key: Some(key.clone()),
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
        stake: StakeParams {
            unit: STAKE_UNIT,
            bond_min: STAKE_UNIT,
            evidence_window_epochs: 2,
            unbonding_epochs: 3,
            ..StakeParams::default()
        },
        accounts,
    };
    genesis.check().expect("a valid genesis");
    genesis
}

/// Signs with a client's key.
struct ClientSigner(AccountId);

impl Signer for ClientSigner {
    fn sign(&self, message: &SigningMessage) -> Signature {
        signature(self.0, &message.as_bytes())
    }
    fn key_id(&self) -> Digest {
        self.0
    }
}

/// Signs as the node of this number.
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

/// The vote of a validator that a QC should be made of; `node` is the one that it is.
#[must_use]
pub fn vote(chain: ChainId, qc: &Qc, voter: ValidatorIndex, node: usize) -> Vote {
    Vote::sign(
        qc.epoch,
        qc.round,
        qc.block_id,
        qc.parent_round,
        voter,
        chain,
        &SimSigner(node),
    )
}

/// Checks signatures as everybody in here makes them.
#[must_use]
pub fn verifier() -> Verifier {
    Verifier::simulated(accepts)
}

fn accepts(key: &PreparedKey, message: &[u8], signed: &[u8]) -> bool {
    static PREPARED: OnceLock<Vec<(PreparedKey, Digest)>> = OnceLock::new();
    let prepared = PREPARED.get_or_init(|| {
        let all = keys().iter();
        all.map(|key| (PreparedKey::from_public(key), key.id()))
            .collect()
    });
    let known = prepared.iter().find(|(known, _)| known == key);
    known.is_some_and(|(_, id)| signature(*id, message).as_bytes() == signed)
}

/// What the verify stage says of a transaction in a batch: only the sender's own signature counts.
#[must_use]
pub fn verdict(bytes: &bytes::Bytes) -> Verdict {
    let Ok(tx) = SignedTransaction::parse(bytes.clone()) else {
        return Verdict::Invalid;
    };
    let expected = signature(tx.sender, &tx.message());
    if expected.as_bytes() == tx.signature() {
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
    let body = Body::Transfer {
        to: account(to),
        amount,
    };
    transaction(chain_id, account(from), nonce, body)
}

/// A transaction about stake that the owner of stake signs.
#[must_use]
pub fn stake(chain_id: ChainId, owner: AccountId, nonce: u64, what: Stake) -> SignedTransaction {
    transaction(chain_id, owner, nonce, Body::Stake(Box::new(what)))
}

fn transaction(chain_id: ChainId, sender: AccountId, nonce: u64, body: Body) -> SignedTransaction {
    let tx = Transaction {
        scheme: Scheme::Falcon512,
        chain_id,
        sender,
        nonce,
        valid_until_ms: u64::MAX,
        fee: FEE,
        body,
    };
    tx.sign_by(&ClientSigner(sender))
}

/// Bonds stake to a node's key.
#[must_use]
pub fn bond(chain: ChainId, owner: AccountId, node: usize, amount: u64, name: &str) -> Stake {
    let key = validator(node);
    let message = bond_message(chain, key.id(), owner, name);
    Stake::Bond {
        amount,
        key: key.clone(),
        name: name.to_owned(),
        address: SocketAddrV6::new(Ipv6Addr::LOCALHOST, 26_600, 0, 0),
        proof: SimSigner(node).sign(&message),
    }
}

/// Gives a validator the key of another node.
#[must_use]
pub fn rotate(chain: ChainId, id: ValidatorId, from: usize, to: usize) -> Stake {
    let (old, new) = (validator(from).id(), validator(to).id());
    let sign = |node| {
        let signer = SimSigner(node);
        signer.sign(&rotate_message(chain, signer.key_id(), id, old, new))
    };
    Stake::RotateKey {
        validator: id,
        key: validator(to).clone(),
        proof_new: sign(to),
        proof_old: sign(from),
    }
}
