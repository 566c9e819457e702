//! Bonding, unbonding, rotation, joining, evidence: each rule once, and the ends of epochs.

use std::collections::BTreeMap;
use std::net::SocketAddrV6;

use bytes::Bytes;
use falconet_crypto::falcon::KeyPair;
use falconet_ledger::{
    Account, Application, Block, BlockResult, Ledger, REPORTS_PER_LANE_MAX, Registry, Verdict,
    Verdicts,
};
use falconet_types::batch::Batch;
use falconet_types::certificate::Vote;
use falconet_types::evidence::Evidence;
use falconet_types::genesis::{Genesis, StakeParams};
use falconet_types::receipt::Outcome::{self, *};
use falconet_types::stake::{RowId, Stake};
use falconet_types::transaction::{Body, Transaction};
use falconet_types::validators::Member;
use falconet_types::wire::Wire;
use falconet_types::{
    AccountId, ChainId, Digest, Epoch, Height, PublicKey, Round, ValidatorId, ValidatorIndex,
};

use crate::world::{FEE_MIN, LANES, Lanes, RICH, account_of, key, outcomes, sign};

/// Heights of an epoch on this chain.
pub const EPOCH: u64 = 16;
/// Stake for one unit of weight; validators of genesis have one.
pub const UNIT: u64 = 1_000;

pub fn validator(lane: u8) -> KeyPair {
    key(200 + lane)
}

pub fn address(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, port, 0, 0)
}

/// The world with epochs; validator i belongs to the account of key i.
pub fn genesis() -> Genesis {
    let mut genesis = crate::world::genesis();
    genesis.params.epoch_heights = EPOCH;
    genesis.stake = StakeParams {
        unit: UNIT,
        bond_min: UNIT,
        slash_basis_points: 1_000,
        evidence_window_epochs: 2,
        unbonding_epochs: 3,
    };
    for (owner, validator) in (0u8..).zip(&mut genesis.validators) {
        validator.owner = Some(account_of(&key(owner)));
    }
    genesis.check().expect("valid");
    genesis
}

/// A chain with epochs: blocks, and what a store would hold.
pub struct Epochs {
    pub genesis: Genesis,
    pub chain: ChainId,
    pub ledger: Ledger,
    lanes: Lanes,
    /// First height of the epoch of the next block.
    first: u64,
    pub epoch: Epoch,
    nonce: u64,
    accounts: BTreeMap<AccountId, Vec<u8>>,
    keys: Vec<(AccountId, PublicKey)>,
    rows: BTreeMap<RowId, Bytes>,
}

impl Epochs {
    pub fn new() -> Self {
        let genesis = genesis();
        let chain = genesis.chain_id();
        Self {
            ledger: Ledger::from_genesis(&genesis),
            lanes: Lanes::new(chain),
            genesis,
            chain,
            first: 1,
            epoch: Epoch::ZERO,
            nonce: 1_000,
            accounts: BTreeMap::new(),
            keys: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    pub fn registry(&self) -> std::sync::Arc<Registry> {
        self.ledger.view().expect("accounts").registry()
    }

    pub fn balance(&self, owner: u8) -> u64 {
        let view = self.ledger.view().expect("accounts");
        view.account(&account_of(&key(owner)))
            .map_or(0, |a| a.balance)
    }

    /// Executes one block. The block that ends an epoch is followed by one without transactions,
    /// as its descendants are; then the next epoch begins.
    pub fn block(&mut self, txs: &[Bytes]) -> BlockResult {
        let height = self.ledger.height().next();
        let ends_epoch = height.0 == self.first + EPOCH - 1;
        let batches: Vec<(Batch, Verdicts)> = (!txs.is_empty())
            .then(|| self.lanes.seal(0, txs))
            .map(|batch| (batch.clone(), Verdicts::unknown(&batch)))
            .into_iter()
            .collect();
        let result = self.execute(&Block {
            height,
            epoch: self.epoch,
            ends_epoch,
            time_ms: 2_000,
            batches: &batches,
        });
        if ends_epoch {
            self.execute(&Block {
                height: height.next(),
                epoch: self.epoch,
                ends_epoch: false,
                time_ms: 2_000,
                batches: &[],
            });
            self.epoch = self.epoch.next();
            self.first = height.next().next().0;
        }
        result
    }

    fn execute(&mut self, block: &Block<'_>) -> BlockResult {
        let result = self.ledger.execute(block);
        for (id, account) in &result.changes {
            self.accounts.insert(*id, account.to_bytes());
        }
        self.keys.extend(result.keys.iter().cloned());
        for (id, row) in &result.registry {
            match row {
                Some(row) => self.rows.insert(*id, row.clone()),
                None => self.rows.remove(id),
            };
        }
        assert_eq!(result.commitment(), self.ledger.commitment());
        result
    }

    /// Runs to the first block of the next epoch.
    pub fn next_epoch(&mut self) {
        let epoch = self.epoch;
        while self.epoch == epoch {
            self.block(&[]);
        }
    }

    pub fn outcome(&mut self, tx: Bytes) -> Outcome {
        outcomes(&self.block(&[tx]))[0]
    }

    /// A transaction about stake by the owner of an account.
    pub fn by(&mut self, owner: u8, stake: Stake) -> Bytes {
        self.nonce += 1;
        let key = key(owner);
        let tx = Transaction {
            scheme: key.scheme(),
            chain_id: self.chain,
            sender: account_of(&key),
            nonce: self.nonce,
            valid_until_ms: 1_000_000,
            fee: FEE_MIN,
            body: Body::Stake(Box::new(stake)),
        };
        sign(&tx, &key)
    }

    pub fn bond(&mut self, owner: u8, validator: &KeyPair, amount: u64, name: &str) -> Bytes {
        let owner_id = account_of(&key(owner));
        let bond = Stake::bond(self.chain, owner_id, validator, amount, name, address(9));
        self.by(owner, bond)
    }

    /// What a validator's key says.
    pub fn say(&self, validator: &KeyPair, stake: Stake) -> Bytes {
        let tx = Transaction {
            scheme: validator.scheme(),
            chain_id: self.chain,
            sender: validator.public().id(),
            nonce: 0,
            valid_until_ms: 1_000_000 + self.nonce,
            fee: 0,
            body: Body::Stake(Box::new(stake)),
        };
        sign(&tx, validator)
    }

    pub fn ready(&self, validator: &KeyPair) -> Bytes {
        let point = self.registry().newest_checkpoint().expect("a checkpoint");
        let ready = Stake::Ready {
            epoch: self.epoch,
            height: point.height,
            commitment: point.commitment,
        };
        self.say(validator, ready)
    }

    /// Two votes of one round.
    pub fn double_vote(&self, epoch: Epoch, index: u16, signer: &KeyPair, round: u64) -> Evidence {
        let vote = |byte: u8| {
            Box::new(Vote::sign(
                epoch,
                Round(round),
                Digest([byte; 32]),
                Round(round - 1),
                ValidatorIndex(index),
                self.chain,
                signer,
            ))
        };
        Evidence::Votes(vote(1), vote(2))
    }

    pub fn set(&self) -> Vec<Member> {
        self.ledger.next_validators().expect("epochs")
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.set().into_iter().map(|m| m.name).collect();
        names.sort();
        names
    }

    /// A ledger out of what a store would hold is the same ledger.
    pub fn check_restore(&self) {
        let accounts = self
            .accounts
            .iter()
            .map(|(id, row)| (*id, Account::from_bytes(row).unwrap()));
        let restored = Ledger::restore(
            &self.genesis,
            self.ledger.height(),
            self.ledger.roots_results(),
            accounts,
            self.keys.iter().cloned(),
            self.rows.iter().map(|(id, row)| (*id, row.clone())),
        )
        .expect("the rows are a state");
        assert_eq!(restored.commitment(), self.ledger.commitment());
        assert_eq!(restored.next_validators(), self.ledger.next_validators());
        let view = |ledger: &Ledger| ledger.view().expect("accounts");
        assert_eq!(view(&restored).burned(), view(&self.ledger).burned());
    }

    /// Nothing appears or disappears.
    pub fn check_supply(&self) {
        let view = self.ledger.view().expect("accounts");
        let balances: u64 = (0..=255u8)
            .filter_map(|n| view.account(&account_of(&key(n))))
            .map(|account| account.balance)
            .sum();
        let stake = self.registry().total().expect("below 2^64");
        let supply = self.genesis.supply().expect("below 2^64");
        assert_eq!(balances + stake + view.burned(), supply);
    }
}

trait Results {
    fn roots_results(&self) -> Digest;
}

impl Results for Ledger {
    /// The results digest, as the store would have it in the last block's row.
    fn roots_results(&self) -> Digest {
        self.prove_account(&Digest::ZERO).results
    }
}

fn index_of(set: &[Member], key: &KeyPair) -> u16 {
    let at = set.iter().position(|m| m.key == *key.public());
    u16::try_from(at.expect("in the set")).unwrap()
}

#[test]
fn a_chain_without_epochs_refuses_stake() {
    let mut world = crate::world::World::new();
    let bond = Stake::bond(
        world.chain_id,
        account_of(&key(0)),
        &key(9),
        UNIT,
        "new",
        address(1),
    );
    let tx = Transaction {
        body: Body::Stake(Box::new(bond)),
        ..crate::world::transfer(world.chain_id, &key(0), Digest::ZERO, 1)
    };
    let tx = sign(&tx, &key(0));
    let parsed = falconet_types::transaction::SignedTransaction::parse(tx.clone()).unwrap();
    let view = world.ledger.view().unwrap();
    assert_eq!(view.check(&parsed, 2_000), Err(NoEpochs));
    assert_eq!(world.outcomes(&[tx]), [NoEpochs]);
    assert_eq!(world.ledger.next_validators(), None);
    assert_eq!(world.balance(&account_of(&key(0))), Some(RICH));
}

#[test]
fn a_joiner_is_admitted_once_it_follows() {
    let mut chain = Epochs::new();
    let new = key(50);
    let tx = chain.bond(0, &new, 3 * UNIT, "new");
    assert_eq!(chain.outcome(tx), Executed);
    assert_eq!(chain.balance(0), RICH - 3 * UNIT - FEE_MIN);
    chain.next_epoch();
    assert_eq!(
        chain.names(),
        ["v0", "v1", "v2"],
        "it has not shown that it follows"
    );

    chain.block(&[]);
    chain.block(&[]);
    let tx = chain.ready(&new);
    assert_eq!(chain.outcome(tx.clone()), Executed);
    assert_eq!(chain.outcome(tx), AlreadyReported);
    chain.next_epoch();
    assert_eq!(chain.names(), ["new", "v0", "v1", "v2"]);
    let set = chain.set();
    let member = set.iter().find(|m| m.name == "new").unwrap();
    assert_eq!((member.weight, member.address), (3, Some(address(9))));
    assert!(set.is_sorted_by(|a, b| a.key.id() < b.key.id()));
    chain.next_epoch();
    assert_eq!(chain.names().len(), 4, "a member stays without a word");
    chain.check_restore();
    chain.check_supply();
}

#[test]
fn ready_is_believed_only_with_the_right_commitment() {
    let mut chain = Epochs::new();
    let new = key(50);
    let tx = chain.bond(0, &new, UNIT, "new");
    chain.block(&[tx]);
    let before = chain.registry().newest_checkpoint();
    chain.next_epoch();
    chain.block(&[]);
    let point = chain.registry().newest_checkpoint().unwrap();
    assert_ne!(before, Some(point));
    let ready = |epoch, height, commitment| Stake::Ready {
        epoch,
        height,
        commitment,
    };
    let good = ready(chain.epoch, point.height, point.commitment);
    let cases = [
        (
            &new,
            ready(Epoch(0), point.height, point.commitment),
            OutsideWindow,
        ),
        (
            &new,
            ready(Epoch(1), point.height, Digest([1; 32])),
            BadProof,
        ),
        (&new, ready(Epoch(1), Height(3), point.commitment), BadProof),
        (
            &new,
            ready(Epoch(1), Height(900), point.commitment),
            BadProof,
        ),
        (&key(51), good.clone(), UnknownValidator),
        (&validator(0), good.clone(), AlreadyReported),
        (&new, good, Executed),
    ];
    for (by, stake, expected) in cases {
        let tx = chain.say(by, stake);
        assert_eq!(chain.outcome(tx), expected);
    }
}

#[test]
fn bonds_need_room_consent_and_the_least_stake() {
    let mut chain = Epochs::new();
    let low = chain.bond(0, &key(50), UNIT - 1, "new");
    let name = chain.bond(0, &key(50), UNIT, "v1");
    let theirs = chain.bond(1, &validator(0), UNIT, "v0");
    let renamed = chain.bond(0, &validator(0), UNIT, "new");
    let rich = chain.bond(0, &key(50), 2 * RICH, "new");
    let mut stolen = Stake::bond(
        chain.chain,
        account_of(&key(1)),
        &key(50),
        UNIT,
        "new",
        address(1),
    );
    let copied = chain.by(0, stolen.clone());
    if let Stake::Bond { name, .. } = &mut stolen {
        *name = "other".into();
    }
    let altered = chain.by(1, stolen);
    let more = chain.bond(0, &validator(0), 5, "v0");
    for (tx, expected) in [
        (low, StakeTooLow),
        (name, Taken),
        (theirs, NotOwner),
        (renamed, Taken),
        (rich, InsufficientFunds),
        (copied, BadProof),
        (altered, BadProof),
        (more, Executed),
    ] {
        assert_eq!(chain.outcome(tx), expected);
    }
    let registry = chain.registry();
    let id: ValidatorId = validator(0).public().id();
    assert_eq!(registry.candidate(&id).unwrap().stake, UNIT + 5);
    chain.check_supply();
}

#[test]
fn stake_returns_after_the_unbonding_epochs() {
    let mut chain = Epochs::new();
    let id = validator(0).public().id();
    let unbond = |amount| Stake::Unbond {
        validator: id,
        amount,
    };
    let cases = [
        (1, unbond(UNIT), NotOwner),
        (0, unbond(1), StakeTooLow),
        (0, unbond(0), StakeTooLow),
        (0, unbond(UNIT + 1), InsufficientFunds),
        (0, unbond(UNIT), Executed),
    ];
    for (owner, stake, expected) in cases {
        let tx = chain.by(owner, stake);
        assert_eq!(chain.outcome(tx), expected);
    }
    let balance = RICH - FEE_MIN;
    assert_eq!(chain.balance(0), balance);
    chain.next_epoch();
    assert_eq!(chain.names(), ["v1", "v2"], "it left with the epoch");
    assert_eq!(chain.registry().candidate(&id), None);
    for _ in 1..chain.genesis.stake.unbonding_epochs {
        assert_eq!(chain.balance(0), balance);
        chain.check_supply();
        chain.next_epoch();
    }
    assert_eq!(chain.balance(0), balance + UNIT);
    assert_eq!(chain.registry().unbondings().count(), 0);
    chain.check_restore();
    chain.check_supply();
}

#[test]
fn somebody_always_stays() {
    let mut chain = Epochs::new();
    let old = chain.set();
    // Key 2 has to register before it can speak.
    let register = crate::world::registration(chain.chain, &key(2), 900);
    assert_eq!(chain.outcome(sign(&register, &key(2))), Executed);
    for owner in 0..3 {
        let unbond = Stake::Unbond {
            validator: validator(owner).public().id(),
            amount: UNIT,
        };
        let tx = chain.by(owner, unbond);
        assert_eq!(chain.outcome(tx), Executed);
    }
    for _ in 0..5 {
        chain.next_epoch();
        assert_eq!(chain.set(), old);
        chain.check_restore();
        chain.check_supply();
    }
    assert_eq!(
        chain.registry().total(),
        Some(0),
        "without stake, but there"
    );
}

#[test]
fn keys_rotate_with_the_epoch() {
    let mut chain = Epochs::new();
    let id = validator(0).public().id();
    let (old, new) = (validator(0), key(60));
    let rotate = |old: &KeyPair, new: &KeyPair| Stake::rotate(chain.chain, id, old, new);
    let good = rotate(&old, &new);
    let taken = rotate(&old, &validator(1));
    let not_ours = rotate(&key(61), &new);
    let mut half = good.clone();
    if let (Stake::RotateKey { proof_new, .. }, Stake::RotateKey { proof_old, .. }) =
        (&mut half, &good)
    {
        *proof_new = proof_old.clone();
    }
    for (owner, stake, expected) in [
        (1, good.clone(), NotOwner),
        (0, taken, Taken),
        (0, not_ours, BadProof),
        (0, half, BadProof),
        (0, good, Executed),
    ] {
        let tx = chain.by(owner, stake);
        assert_eq!(chain.outcome(tx), expected);
    }
    assert!(chain.set().iter().any(|m| m.key == *old.public()));
    let stake = chain.bond(1, &new, UNIT, "thief");
    assert_eq!(chain.outcome(stake), Taken, "the new key is promised");
    chain.next_epoch();
    let set = chain.set();
    assert!(set.iter().any(|m| m.key == *new.public() && m.name == "v0"));
    assert!(set.iter().all(|m| m.key != *old.public()));

    // What the old key did still costs the same validator.
    let evidence = chain.double_vote(Epoch(0), 0, &old, 5);
    let tx = chain.say(&validator(1), Stake::Report { evidence });
    assert_eq!(chain.outcome(tx), Executed);
    assert_eq!(chain.registry().candidate(&id).unwrap().stake, 900);
    chain.next_epoch();
    assert_eq!(chain.names(), ["v1", "v2"]);
    chain.check_restore();
    chain.check_supply();
}

#[test]
fn evidence_burns_stake_and_ends_membership() {
    let mut chain = Epochs::new();
    let id = validator(1).public().id();
    let evidence = chain.double_vote(Epoch(0), 1, &validator(1), 5);
    let report = |chain: &Epochs, by: &KeyPair, evidence: &Evidence| {
        let evidence = evidence.clone();
        chain.say(by, Stake::Report { evidence })
    };
    // Half of the stake leaves before the report comes: it does not escape.
    let more = chain.bond(1, &validator(1), UNIT, "v1");
    assert_eq!(chain.outcome(more), Executed);
    let unbond = Stake::Unbond {
        validator: id,
        amount: UNIT,
    };
    let unbond = chain.by(1, unbond);
    assert_eq!(chain.outcome(unbond), Executed);
    chain.next_epoch();

    let stranger = report(&chain, &key(77), &evidence);
    assert_eq!(chain.outcome(stranger), UnknownValidator);
    let forged = chain.double_vote(Epoch(0), 1, &validator(0), 5);
    let forged = report(&chain, &validator(0), &forged);
    assert_eq!(chain.outcome(forged), BadEvidence);
    let nobody = chain.double_vote(Epoch(0), 9, &validator(1), 5);
    let nobody = report(&chain, &validator(0), &nobody);
    assert_eq!(chain.outcome(nobody), BadEvidence);
    let future = chain.double_vote(Epoch(2), 1, &validator(1), 5);
    let future = report(&chain, &validator(0), &future);
    assert_eq!(chain.outcome(future), OutsideWindow);

    let burned = chain.ledger.view().unwrap().burned();
    let tx = report(&chain, &validator(2), &evidence);
    assert_eq!(chain.outcome(tx), Executed);
    assert_eq!(
        chain.ledger.view().unwrap().burned(),
        burned + 2 * UNIT / 10
    );
    let registry = chain.registry();
    assert_eq!(registry.candidate(&id).unwrap().stake, 900);
    assert_eq!(registry.unbondings().next().unwrap().2.amount, 900);
    assert_eq!(chain.names(), ["v0", "v1", "v2"], "until the epoch ends");
    let again = report(&chain, &validator(0), &evidence);
    assert_eq!(chain.outcome(again), AlreadyReported);
    let another = chain.double_vote(Epoch(0), 1, &validator(1), 8);
    let another = report(&chain, &validator(0), &another);
    assert_eq!(
        chain.outcome(another),
        AlreadyReported,
        "one a validator and epoch"
    );
    chain.check_restore();
    chain.check_supply();

    chain.next_epoch();
    assert_eq!(chain.names(), ["v0", "v2"]);
    // It may fill its stake up, but it is barred until nothing can be reported any more.
    let refill = chain.bond(1, &validator(1), UNIT, "v1");
    assert_eq!(chain.outcome(refill), Executed);
    while chain.epoch < Epoch(5) {
        assert_eq!(chain.names(), ["v0", "v2"]);
        chain.block(&[]);
        chain.block(&[]);
        let ready = chain.ready(&validator(1));
        assert_eq!(chain.outcome(ready), Executed);
        chain.next_epoch();
    }
    assert_eq!(chain.names(), ["v0", "v1", "v2"]);
    assert_eq!(chain.registry().offences().count(), 0, "forgotten");
    let late = report(&chain, &validator(0), &evidence);
    assert_eq!(chain.outcome(late), OutsideWindow);
    chain.check_restore();
    chain.check_supply();
}

#[test]
fn reports_of_a_block_are_bounded() {
    let mut chain = Epochs::new();
    let reports: Vec<Bytes> = (0..=REPORTS_PER_LANE_MAX as u64)
        .map(|round| {
            let evidence = chain.double_vote(Epoch(0), 1, &validator(0), round + 1);
            chain.say(&validator(2), Stake::Report { evidence })
        })
        .collect();
    // Another lane's report is heard all the same.
    let evidence = chain.double_vote(Epoch(0), 1, &validator(1), 5);
    let proven = chain.say(&validator(2), Stake::Report { evidence });
    let batches = [(0, reports), (1, vec![proven])].map(|(lane, txs)| {
        let batch = chain.lanes.seal(lane, &txs);
        let verdicts = Verdicts::unknown(&batch);
        (batch, verdicts)
    });
    let found = outcomes(&chain.execute(&Block {
        height: Height(1),
        epoch: Epoch::ZERO,
        ends_epoch: false,
        time_ms: 2_000,
        batches: &batches,
    }));
    let (others, last) = found.split_at(REPORTS_PER_LANE_MAX);
    assert!(others.iter().all(|outcome| *outcome == BadEvidence));
    assert_eq!(last, [LimitReached, Executed]);
}

#[test]
fn an_address_changes_with_the_epoch() {
    let mut chain = Epochs::new();
    let change = |owner| Stake::SetAddress {
        validator: validator(owner).public().id(),
        address: address(77),
    };
    let tx = chain.by(1, change(0));
    assert_eq!(chain.outcome(tx), NotOwner);
    let tx = chain.by(0, change(0));
    assert_eq!(chain.outcome(tx), Executed);
    chain.next_epoch();
    let set = chain.set();
    let at = usize::from(index_of(&set, &validator(0)));
    assert_eq!(set[at].address, Some(address(77)));
}

#[test]
fn verdicts_change_nothing() {
    // A word of a key, its bond, and the word again in one block, with and without verdicts.
    let mut chain = Epochs::new();
    let new = key(50);
    let bond = chain.bond(0, &new, UNIT, "new");
    let evidence = chain.double_vote(Epoch(0), 1, &validator(1), 5);
    let report = chain.say(&new, Stake::Report { evidence });
    let batch = chain.lanes.seal(LANES - 1, &[report.clone(), bond, report]);
    let run = |verdict| {
        let batches = [(batch.clone(), Verdicts::new(vec![verdict; 3]))];
        Ledger::from_genesis(&chain.genesis).execute(&Block {
            height: Height(1),
            epoch: Epoch::ZERO,
            ends_epoch: false,
            time_ms: 2_000,
            batches: &batches,
        })
    };
    let [known, unknown] = [Verdict::Valid, Verdict::Unknown].map(run);
    assert_eq!(outcomes(&known), [UnknownValidator, Executed, Executed]);
    assert!(known == unknown, "the results differ");
}
