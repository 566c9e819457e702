//! Random blocks against a model that is as simple as it can be: sets of used nonces, 128-bit
//! sums, rules written one after the other.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use falconet_ledger::{Application, Block, Verdict, Verdicts};
use falconet_types::genesis::Genesis;
use falconet_types::receipt::Outcome::{self, *};
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::{AccountId, Digest, Epoch};
use proptest::prelude::*;

use crate::world::*;

/// Keys in play: 0 and 1 registered, 2 not, 3 and 4 strangers at first.
const KEYS: u8 = 5;

#[derive(Debug, Clone)]
struct Step {
    from: u8,
    to: u8,
    /// Becomes a nonce near the highest of the model, so that all cases occur often.
    nonce: u64,
    amount: u64,
    fee: u64,
    late: bool,
    other_chain: bool,
    broken: bool,
    register: bool,
    lane: u16,
    verdict_known: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = prop_oneof![8 => 0..RICH / 2, 1 => RICH..4 * RICH, 1 => u64::MAX - 20..=u64::MAX];
    let rarely = || prop::bool::weighted(0.06);
    (
        (
            0..KEYS,
            0..KEYS,
            0u64..600,
            amount,
            FEE_MIN - 1..FEE_MIN + 20,
        ),
        (
            rarely(),
            rarely(),
            rarely(),
            prop::bool::weighted(0.15),
            0..LANES,
            any::<bool>(),
        ),
    )
        .prop_map(|((from, to, nonce, amount, fee), flags)| {
            let (late, other_chain, broken, register, lane, verdict_known) = flags;
            Step {
                from,
                to,
                nonce,
                amount,
                fee,
                late,
                other_chain,
                broken,
                register,
                lane,
                verdict_known,
            }
        })
}

#[derive(Default)]
struct ModelAccount {
    balance: u128,
    used: BTreeSet<u64>,
    registered: bool,
}

struct Model {
    accounts: BTreeMap<AccountId, ModelAccount>,
    burned: u128,
}

impl Model {
    fn new(genesis: &Genesis) -> Self {
        let accounts = genesis.accounts.iter().map(|a| {
            let account = ModelAccount {
                balance: a.balance.into(),
                registered: a.key.is_some(),
                ..ModelAccount::default()
            };
            (a.id, account)
        });
        Self {
            accounts: accounts.collect(),
            burned: 0,
        }
    }

    fn apply(&mut self, tx: &Transaction, step: &Step, time_ms: u64) -> Outcome {
        if step.other_chain {
            return WrongChain;
        }
        let Some(sender) = self.accounts.get_mut(&tx.sender) else {
            return UnknownSender;
        };
        if step.register && sender.registered {
            return AlreadyRegistered;
        }
        if !step.register && !sender.registered {
            return UnknownKey;
        }
        if step.broken {
            return BadSignature;
        }
        if time_ms > tx.valid_until_ms {
            return Expired;
        }
        let highest = sender.used.last().copied().unwrap_or(0);
        if sender.used.contains(&tx.nonce) || tx.nonce + 256 <= highest {
            return Replayed;
        }
        if tx.fee < FEE_MIN {
            return FeeTooLow;
        }
        let amount = if step.register {
            0
        } else {
            u128::from(step.amount)
        };
        let total = amount + u128::from(tx.fee);
        if total > u128::from(u64::MAX) {
            return Overflow;
        }
        if sender.balance < total {
            return InsufficientFunds;
        }
        sender.balance -= total;
        sender.used.insert(tx.nonce);
        if step.register {
            sender.registered = true;
        }
        self.burned += u128::from(tx.fee);
        if let Body::Transfer { to, .. } = &tx.body {
            self.accounts.entry(*to).or_default().balance += amount;
        }
        Executed
    }

    fn total(&self) -> u128 {
        self.accounts.values().map(|a| a.balance).sum::<u128>() + self.burned
    }
}

/// The transaction of a step, with nonces counted from what the model has seen.
fn make(step: &Step, model: &Model, world: &World, time_ms: u64) -> (Transaction, Bytes) {
    let from = key(step.from);
    let sender = account_of(&from);
    let highest = model
        .accounts
        .get(&sender)
        .and_then(|a| a.used.last().copied())
        .unwrap_or(0);
    let body = if step.register {
        Body::RegisterKey {
            key: from.public().clone(),
        }
    } else {
        Body::Transfer {
            to: account_of(&key(step.to)),
            amount: step.amount,
        }
    };
    let tx = Transaction {
        scheme: from.scheme(),
        chain_id: if step.other_chain {
            Digest([3; 32])
        } else {
            world.chain_id
        },
        sender,
        nonce: (highest + step.nonce).saturating_sub(450),
        valid_until_ms: if step.late { time_ms - 1 } else { time_ms },
        fee: step.fee,
        body,
    };
    let bytes = sign(&tx, &from);
    let bytes = if step.broken {
        break_signature(&bytes)
    } else {
        bytes
    };
    (tx, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_is_its_model(
        blocks in prop::collection::vec(prop::collection::vec(step(), 1..14), 1..7)
    ) {
        let mut world = World::new();
        let mut model = Model::new(&world.genesis);
        let supply = model.total();
        let view = world.ledger.view().unwrap();
        let mut time_ms = 5_000;
        for mut steps in blocks {
            time_ms += 10;
            steps.sort_by_key(|step| step.lane); // the order of execution
            let made: Vec<_> = steps.iter().map(|s| make(s, &model, &world, time_ms)).collect();

            // The door, asked about the first transaction, foretells its outcome.
            let first = SignedTransaction::parse(made[0].1.clone()).unwrap();
            let door = view.check(&first, time_ms);

            let expected: Vec<Outcome> = steps
                .iter()
                .zip(&made)
                .map(|(step, (tx, _))| model.apply(tx, step, time_ms))
                .collect();

            let mut batches = Vec::new();
            for lane in 0..LANES {
                let mine = || steps.iter().zip(&made).filter(move |(s, _)| s.lane == lane);
                let txs: Vec<Bytes> = mine().map(|(_, (_, bytes))| bytes.clone()).collect();
                if txs.is_empty() {
                    continue;
                }
                let verdicts = mine().map(|(step, _)| match (step.verdict_known, step.broken) {
                    (false, _) => Verdict::Unknown,
                    (true, true) => Verdict::Invalid,
                    (true, false) => Verdict::Valid,
                });
                let verdicts = Verdicts::new(verdicts.collect());
                batches.push((world.lanes.seal(lane, &txs), verdicts));
            }
            let height = world.height().next();
            let result = world.ledger.execute(&Block { height, epoch: Epoch::ZERO, ends_epoch: false, time_ms, batches: &batches });
            prop_assert_eq!(&outcomes(&result), &expected);
            match expected[0] {
                Executed => prop_assert_eq!(door, Ok(())),
                BadSignature => {} // the one rule that the door's caller asks itself
                other => prop_assert_eq!(door, Err(other)),
            }

            prop_assert_eq!(view.accounts(), model.accounts.len());
            for (id, account) in &model.accounts {
                let found = view.account(id).expect("the model has it");
                prop_assert_eq!(u128::from(found.balance), account.balance);
                prop_assert_eq!(found.scheme.is_some(), account.registered);
                prop_assert_eq!(view.key_of(id).is_some(), account.registered);
                prop_assert_eq!(found.nonces.highest(), account.used.last().copied());
            }
            prop_assert_eq!(u128::from(view.burned()), model.burned);
            prop_assert_eq!(model.total(), supply, "nothing is created or lost");
            for (id, account) in &result.changes {
                let found = view.account(id);
                prop_assert_eq!(found.as_ref(), Some(account));
            }
            prop_assert!(result.changes.is_sorted_by(|a, b| a.0 < b.0));
        }
    }
}
