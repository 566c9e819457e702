//! What a network of processes must get right: everything commits, everywhere the same.

use std::collections::BTreeSet;

use falconet_client::Fate;
use falconet_types::message::Admission;
use falconet_types::receipt::Outcome;
use falconet_types::transaction::SignedTransaction;
use falconet_types::{AccountId, Scheme, TxId};

use crate::harness::{PATIENCE, wait_for};
use crate::network::{BALANCE, Network};

/// Fee of every transfer in these tests.
const FEE: u64 = 1;

/// `each` transfers of 1 from every account to the next one, one list an account.
fn transfers(network: &Network, each: usize) -> Vec<Vec<SignedTransaction>> {
    let accounts = network.accounts.len();
    (0..accounts)
        .map(|from| {
            let mut wallet = network.wallet(from);
            let to = network.account((from + 1) % accounts);
            (0..each).map(|_| wallet.transfer(to, 1)).collect()
        })
        .collect()
}

fn executed(fates: &[Fate]) -> bool {
    fates.iter().all(|fate| {
        fate.receipt()
            .is_some_and(|r| r.outcome == Outcome::Executed)
    })
}

#[test]
fn four_validators_commit_a_thousand_transfers_and_agree() {
    let (accounts, each) = (20, 50);
    let network = Network::running(4, accounts, Scheme::Falcon1024);
    let transfers = transfers(&network, each);
    std::thread::scope(|scope| {
        for home in 0..4 {
            let (network, transfers) = (&network, &transfers);
            scope.spawn(move || {
                let mut client = network.client(home);
                for mine in transfers.iter().skip(home).step_by(4) {
                    let fates = client.submit_and_wait(mine, PATIENCE).unwrap();
                    assert!(executed(&fates), "{fates:?}");
                }
            });
        }
    });
    network.agree();
    let expected = BALANCE - each as u64 * FEE;
    for i in 0..4 {
        for account in 0..accounts {
            assert_eq!(network.balance(i, network.account(account)), Some(expected));
        }
        for tx in transfers.iter().flatten() {
            let found = network.committed(i, tx.id()).expect("committed everywhere");
            assert_eq!(found["outcome"], "executed");
        }
    }
}

#[test]
fn a_validator_alone_commits() {
    let mut network = Network::running(1, 2, Scheme::Falcon512);
    let transfers = transfers(&network, 20);
    let mut client = network.client(0);
    for mine in &transfers {
        assert!(executed(&client.submit_and_wait(mine, PATIENCE).unwrap()));
    }
    network.agree();
    network.stop();
}

#[test]
fn three_of_four_commit_when_one_is_silent_from_the_start() {
    for silent in [0, 3] {
        let mut network = Network::new(4, 8, Scheme::Falcon512);
        for i in (0..4).filter(|i| *i != silent) {
            network.start(i);
        }
        let up = network.up();
        let transfers = transfers(&network, 10);
        for (account, mine) in transfers.iter().enumerate() {
            let mut client = network.client(up[account % up.len()]);
            assert!(executed(&client.submit_and_wait(mine, PATIENCE).unwrap()));
        }
        network.agree();
        // The fourth comes late and catches up.
        network.start(silent);
        let height = network.agree();
        assert!(height > 0);
        for tx in transfers.iter().flatten() {
            assert!(network.committed(silent, tx.id()).is_some());
        }
    }
}

#[test]
fn of_two_conflicting_transfers_exactly_one_executes() {
    let network = Network::running(4, 2, Scheme::Falcon512);
    let strangers: [AccountId; 2] = [[0xaa; 32].into(), [0xbb; 32].into()];
    for round in 0..10u64 {
        // Odd rounds: one nonce twice. Even rounds: two nonces, but money for one of the two.
        let have = network.balance(0, network.account(0)).unwrap();
        let conflict = |amount: u64, nonces: [u64; 2]| -> [SignedTransaction; 2] {
            [0, 1].map(|i| {
                network
                    .wallet_from(0, nonces[i])
                    .transfer(strangers[i], amount)
            })
        };
        let first = 10 * round + 1;
        let txs = if round % 2 == 1 {
            conflict(1, [first, first])
        } else {
            conflict(have / 2 + 1, [first, first + 1])
        };
        let outcomes: Vec<Fate> = std::thread::scope(|scope| {
            let running: Vec<_> = txs
                .iter()
                .enumerate()
                .map(|(i, tx)| {
                    let network = &network;
                    scope.spawn(move || {
                        let mut client = network.client((round as usize + i) % 4);
                        client
                            .submit_and_wait(std::slice::from_ref(tx), PATIENCE)
                            .unwrap()[0]
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let took_effect = outcomes
            .iter()
            .filter(|fate| {
                fate.receipt()
                    .is_some_and(|r| r.outcome == Outcome::Executed)
            })
            .count();
        assert_eq!(took_effect, 1, "{outcomes:?}");
        let loser = if round % 2 == 1 {
            Outcome::Replayed
        } else {
            Outcome::InsufficientFunds
        };
        assert!(
            outcomes.iter().any(|fate| match fate {
                Fate::Executed(receipt) => receipt.outcome == loser,
                Fate::NotAdmitted(admission) => *admission == Admission::Refused(loser),
            }),
            "{outcomes:?}"
        );
    }
    network.agree();
}

#[test]
fn the_same_transfer_sent_to_every_validator_executes_once() {
    let network = Network::running(4, 2, Scheme::Falcon512);
    let to = network.account(1);
    let tx = network.wallet(0).transfer(to, 7);
    for i in 0..4 {
        let (status, body) = network.post(i, tx.bytes());
        let admission = &body["admission"];
        let known = *admission == "accepted" || *admission == "duplicate";
        assert!(
            known || admission["refused"] == "replayed",
            "{status} {body}"
        );
    }
    for i in 0..4 {
        wait_for("the commit", || network.committed(i, tx.id()));
    }
    network.agree();
    for i in 0..4 {
        assert_eq!(network.balance(i, to), Some(BALANCE + 7));
        assert_eq!(
            network.balance(i, network.account(0)),
            Some(BALANCE - 7 - FEE)
        );
    }
}

#[test]
fn a_network_that_was_killed_as_a_whole_goes_on_where_it_was() {
    let mut network = Network::running(4, 4, Scheme::Falcon512);
    let all = transfers(&network, 40);
    let mut committed: BTreeSet<TxId> = BTreeSet::new();
    for part in 0..4 {
        for (account, mine) in all.iter().enumerate() {
            let mut client = network.client(account);
            let mine = &mine[part * 10..(part + 1) * 10];
            assert!(executed(&client.submit_and_wait(mine, PATIENCE).unwrap()));
            committed.extend(mine.iter().map(|tx| tx.id()));
        }
        let before = network.agree();
        for i in 0..4 {
            network.kill(i);
        }
        for i in 0..4 {
            network.start(i);
        }
        assert!(network.agree() >= before, "nothing committed is forgotten");
        for i in 0..4 {
            for id in &committed {
                assert!(network.committed(i, *id).is_some(), "{id} at validator {i}");
            }
        }
    }
}
