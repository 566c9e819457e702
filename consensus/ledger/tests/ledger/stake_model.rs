//! Random stake transactions over many epochs: nothing appears or disappears, a ledger restored
//! from its rows is the ledger, and the set follows the rules.

use bytes::Bytes;
use falconet_types::Epoch;
use falconet_types::stake::Stake;
use proptest::prelude::*;

use crate::stake::{EPOCH, Epochs, UNIT, address, validator};
use crate::world::key;

#[derive(Debug, Clone)]
enum Step {
    Bond {
        owner: u8,
        validator: u8,
        amount: u64,
    },
    Unbond {
        owner: u8,
        validator: u8,
        amount: u64,
    },
    Rotate {
        owner: u8,
        validator: u8,
        to: u8,
    },
    Address {
        owner: u8,
        validator: u8,
    },
    Ready {
        validator: u8,
    },
    Report {
        back: u64,
        index: u16,
        signer: u8,
    },
    Blocks(u64),
}

/// Keys that validators may have: those of genesis and some more.
fn key_of(number: u8) -> falconet_crypto::falcon::KeyPair {
    match number {
        0..3 => validator(number),
        _ => key(50 + number),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || prop_oneof![Just(UNIT), 1..4 * UNIT, Just(2 * UNIT)];
    prop_oneof![
        3 => (0..2u8, 0..6u8, amount())
            .prop_map(|(owner, validator, amount)| Step::Bond { owner, validator, amount }),
        3 => (0..2u8, 0..6u8, amount())
            .prop_map(|(owner, validator, amount)| Step::Unbond { owner, validator, amount }),
        1 => (0..2u8, 0..6u8, 0..9u8)
            .prop_map(|(owner, validator, to)| Step::Rotate { owner, validator, to }),
        1 => (0..2u8, 0..6u8).prop_map(|(owner, validator)| Step::Address { owner, validator }),
        4 => (0..9u8).prop_map(|validator| Step::Ready { validator }),
        2 => (0..4u64, 0..6u16, 0..9u8)
            .prop_map(|(back, index, signer)| Step::Report { back, index, signer }),
        3 => (1..=EPOCH).prop_map(Step::Blocks),
    ]
}

fn transaction(chain: &mut Epochs, step: &Step) -> Option<Bytes> {
    Some(match *step {
        Step::Bond {
            owner,
            validator,
            amount,
        } => {
            let name = match validator {
                0..3 => format!("v{validator}"),
                _ => format!("w{validator}"),
            };
            chain.bond(owner, &key_of(validator), amount, &name)
        }
        Step::Unbond {
            owner,
            validator,
            amount,
        } => {
            let validator = key_of(validator).public().id();
            chain.by(owner, Stake::Unbond { validator, amount })
        }
        Step::Rotate {
            owner,
            validator,
            to,
        } => {
            let id = key_of(validator).public().id();
            // The key that the validator has now, whichever of ours that is.
            let registry = chain.registry();
            let now = registry.candidate(&id)?.key.clone();
            let old = (0..9).map(key_of).find(|key| *key.public() == now)?;
            chain.by(owner, Stake::rotate(chain.chain, id, &old, &key_of(to)))
        }
        Step::Address { owner, validator } => {
            let validator = key_of(validator).public().id();
            let address = address(5);
            chain.by(owner, Stake::SetAddress { validator, address })
        }
        Step::Ready { validator } => {
            chain.registry().newest_checkpoint()?;
            chain.ready(&key_of(validator))
        }
        Step::Report {
            back,
            index,
            signer,
        } => {
            let epoch = Epoch(chain.epoch.0.checked_sub(back)?);
            let evidence = chain.double_vote(epoch, index, &key_of(signer), 3);
            chain.say(&validator(0), Stake::Report { evidence })
        }
        Step::Blocks(_) => return None,
    })
}

fn check(chain: &Epochs) {
    chain.check_supply();
    let registry = chain.registry();
    let set = registry.members(registry.epoch()).unwrap();
    assert!(!set.is_empty());
    assert!(
        set.is_sorted_by(|a, b| a.member.key.id() < b.member.key.id())
            || registry.epoch() == Epoch(0)
    );
    for (id, candidate) in registry.candidates() {
        let least = registry.params().bond_min;
        let slashed = candidate.barred_until > Epoch(0);
        assert!(
            candidate.stake == 0 || candidate.stake >= least || slashed,
            "{id}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_appears_or_disappears(steps in proptest::collection::vec(step(), 1..80)) {
        let mut chain = Epochs::new();
        for step in &steps {
            match step {
                Step::Blocks(count) => (0..*count).for_each(|_| drop(chain.block(&[]))),
                _ => {
                    let epoch = chain.epoch;
                    if let Some(tx) = transaction(&mut chain, step) {
                        chain.block(&[tx]);
                    }
                    if chain.epoch != epoch {
                        chain.check_restore();
                    }
                }
            }
            check(&chain);
        }
        chain.check_restore();
    }
}
