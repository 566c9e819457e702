//! kill -9 under load, and what a disk may look like afterwards.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use falconet_client::{Client, ClientConfig, Wallet};
use falconet_types::genesis::Params;
use falconet_types::message::Admission;
use falconet_types::transaction::SignedTransaction;
use falconet_types::{AccountId, Scheme, TxId};

use crate::harness::{PATIENCE, wait_for};
use crate::network::Network;

/// Transfers in one submission.
const SUBMISSION: usize = 8;
/// Transfers that must be acknowledged between two events.
const PROGRESS: usize = 150;

/// A client that sends transfers through one validator, whatever happens to it, and remembers
/// what was acknowledged.
struct Load<'a> {
    config: ClientConfig,
    wallet: Wallet,
    to: AccountId,
    stop: &'a AtomicBool,
    count: &'a AtomicUsize,
    acknowledged: &'a Mutex<BTreeSet<TxId>>,
}

impl Load<'_> {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let txs: Vec<SignedTransaction> = (0..SUBMISSION)
                .map(|_| self.wallet.transfer(self.to, 1))
                .collect();
            self.until_acknowledged(&txs);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Offers the same bytes again until the validator took all of them or the test ends.
    /// Submitting again is safe: they execute once.
    fn until_acknowledged(&self, txs: &[SignedTransaction]) {
        let mut open: Vec<SignedTransaction> = txs.to_vec();
        let mut client = None;
        while !open.is_empty() && !self.stop.load(Ordering::Relaxed) {
            if client.is_none() {
                client = Client::connect(&self.config).ok();
            }
            let Some(connected) = &mut client else {
                continue;
            };
            let answer = connected
                .submit(&open)
                .and_then(|tag| connected.wait_for_results(tag, Duration::from_secs(5)));
            let Ok(results) = answer else {
                client = None;
                continue;
            };
            let mut again = Vec::new();
            let mut acknowledged = self.acknowledged.lock().unwrap();
            for (tx, admission) in open.into_iter().zip(results) {
                match admission {
                    Admission::Accepted | Admission::Duplicate => {
                        acknowledged.insert(tx.id());
                        self.count.fetch_add(1, Ordering::Relaxed);
                    }
                    Admission::Busy { .. } => again.push(tx),
                    // Accepted before the answer was lost, and executed since.
                    Admission::Refused(falconet_types::receipt::Outcome::Replayed) => {}
                    Admission::Refused(outcome) => panic!("refused: {outcome:?}"),
                }
            }
            open = again;
        }
    }
}

#[test]
fn each_validator_is_killed_in_turn_under_load_and_nothing_acknowledged_is_lost() {
    let mut network = Network::running(4, 4, Scheme::Falcon512);
    kill_each_in_turn(&mut network);
    network.stop();
}

/// Epochs are over within a second or two under this load, so every validator dies and comes back
/// at some point of one, and finds itself behind by some.
#[test]
fn each_validator_is_killed_in_turn_while_epochs_pass() {
    let params = Params {
        epoch_heights: 32,
        ..Params::default()
    };
    let mut network = Network::with_params(4, 4, Scheme::Falcon512, params);
    (0..4).for_each(|i| network.start(i));
    kill_each_in_turn(&mut network);
    let epochs: Vec<u64> = (0..4)
        .map(|i| network.get(i, "/v1/status").1["epoch"].as_u64().unwrap())
        .collect();
    assert!(epochs.iter().all(|epoch| *epoch >= 4), "{epochs:?}");
    // All at once, and they go on.
    (0..4).for_each(|i| network.kill(i));
    (0..4).for_each(|i| network.start(i));
    let goal = epochs.iter().max().unwrap() + 1;
    for i in 0..4 {
        wait_for(&format!("epoch {goal} at validator {i}"), || {
            let (_, status) = network.get(i, "/v1/status");
            assert_eq!(status["signing"], true, "{status}");
            (status["epoch"].as_u64()? >= goal).then_some(())
        });
    }
    network.stop();
}

fn kill_each_in_turn(network: &mut Network) {
    let stop = AtomicBool::new(false);
    let counts: [AtomicUsize; 4] = std::array::from_fn(|_| AtomicUsize::new(0));
    let acknowledged = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        // Ends the load when an assertion fails, too.
        struct StopOnDrop<'a>(&'a AtomicBool);
        impl Drop for StopOnDrop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = StopOnDrop(&stop);
        for (i, count) in counts.iter().enumerate() {
            let load = Load {
                config: ClientConfig {
                    connect_timeout: Duration::from_secs(2),
                    ..network.client_config(i)
                },
                wallet: network.wallet(i),
                to: network.account((i + 1) % 4),
                stop: &stop,
                count,
                acknowledged: &acknowledged,
            };
            scope.spawn(move || load.run());
        }
        let progress = |who: &[usize], when: &str| {
            let before: Vec<usize> = who
                .iter()
                .map(|i| counts[*i].load(Ordering::Relaxed))
                .collect();
            for (i, before) in who.iter().zip(before) {
                wait_for(&format!("acknowledgements of validator {i} {when}"), || {
                    let now = counts[*i].load(Ordering::Relaxed);
                    (now >= before + PROGRESS).then_some(())
                });
            }
        };
        progress(&[0, 1, 2, 3], "at the start");
        for victim in 0..4 {
            network.kill(victim);
            progress(&network.up(), "with three left");
            network.start(victim);
            progress(&[victim], "after its restart");
        }
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() >= 4 * PROGRESS);
    for i in 0..4 {
        for id in &acknowledged {
            let found = wait_for(&format!("{id} at validator {i}"), || {
                network.committed(i, *id)
            });
            assert_eq!(found["outcome"], "executed", "{found}");
        }
    }
    network.agree();
}

/// The newest segment of a validator's log.
fn newest_segment(network: &Network, i: usize) -> PathBuf {
    let log = network.home(i).join("data/log");
    let segments = fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    segments
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .max()
        .unwrap()
}

/// Offset, payload length and kind of each frame in a segment (`docs/file-format.md`).
fn frames(segment: &Path) -> Vec<(usize, usize, u8)> {
    const FIRST: usize = 80;
    const HEADER: usize = 16;
    let bytes = fs::read(segment).unwrap();
    let mut frames = Vec::new();
    let mut at = FIRST;
    while let Some(header) = bytes.get(at..at + HEADER) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let len = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        frames.push((at, len, header[8]));
        at += (HEADER + len).next_multiple_of(8);
    }
    frames
}

/// Where the next frame would be written.
fn tail(segment: &Path) -> usize {
    let (at, len, _) = *frames(segment).last().expect("something was logged");
    (at + 16 + len).next_multiple_of(8)
}

fn overwrite(segment: &Path, at: usize, bytes: &[u8]) {
    OpenOptions::new()
        .write(true)
        .open(segment)
        .unwrap()
        .write_all_at(bytes, at as u64)
        .unwrap();
}

/// Something that happens to a file.
type Damage = fn(&Path);

#[test]
fn a_torn_or_corrupt_tail_of_the_log_is_recovered_from() {
    let mut network = Network::running(4, 4, Scheme::Falcon512);
    let mut payer = Payer::new(&network);
    let mut paid = payer.pay(&network);
    network.agree();
    let damages: [(&str, Damage); 4] = [
        ("garbage after the last record", |segment| {
            overwrite(segment, tail(segment), &[0xa5; 777]);
        }),
        ("half of the last record", |segment| {
            let (at, len, _) = *frames(segment).last().unwrap();
            let end = tail(segment);
            let middle = at + (16 + len) / 2;
            overwrite(segment, middle, &vec![0; end - middle]);
        }),
        ("a file that ends within the last record", |segment| {
            let len = tail(segment) - 5;
            OpenOptions::new()
                .write(true)
                .open(segment)
                .unwrap()
                .set_len(len as u64)
                .unwrap();
        }),
        ("a file that ends after the last record", |segment| {
            let len = tail(segment);
            OpenOptions::new()
                .write(true)
                .open(segment)
                .unwrap()
                .set_len(len as u64)
                .unwrap();
        }),
    ];
    for (damage, apply) in damages {
        network.kill(1);
        apply(&newest_segment(&network, 1));
        paid.extend(payer.pay(&network));
        network.start(1);
        for id in &paid {
            wait_for(&format!("{id} after {damage}"), || {
                network.committed(1, *id)
            });
        }
        network.agree();
    }
}

#[test]
fn a_validator_with_a_corrupt_safety_record_follows_and_does_not_sign() {
    const SAFETY: u8 = 1;
    let mut network = Network::running(4, 4, Scheme::Falcon512);
    let mut payer = Payer::new(&network);
    payer.pay(&network);
    network.agree();
    network.kill(2);
    let segment = newest_segment(&network, 2);
    let of_safety = |(at, _, kind): &(usize, usize, u8)| (*kind == SAFETY).then_some(*at);
    for at in frames(&segment).iter().filter_map(of_safety) {
        overwrite(&segment, at + 16 + 20, &[0xee; 8]);
    }
    network.start(2);
    let status = network.get(2, "/v1/status").1;
    assert_eq!(status["signing"], false, "{status}");
    let reason = status["not_signing_reason"].as_str().expect("a reason");
    assert!(reason.contains("safety"), "{reason}");
    let (ready, body) = network.get(2, "/readyz");
    assert_eq!(
        (ready, &body["error"]["code"]),
        (503, &"not_signing".into()),
        "{body}"
    );

    // The three others are a quorum; the fourth sees what they commit.
    let paid = {
        let up = [0, 1, 3];
        payer.pay_through(&network, &up)
    };
    for id in &paid {
        for i in 0..4 {
            wait_for(&format!("{id} at validator {i}"), || {
                network.committed(i, *id)
            });
        }
    }
    let status = network.get(2, "/v1/status").1;
    assert_eq!(
        status["signing"], false,
        "a restart of its duties needs a person: {status}"
    );
}

/// Pays a little from every account and waits for the receipts.
struct Payer {
    wallets: Vec<Wallet>,
}

impl Payer {
    fn new(network: &Network) -> Self {
        Self {
            wallets: (0..network.accounts.len())
                .map(|i| network.wallet(i))
                .collect(),
        }
    }

    fn pay(&mut self, network: &Network) -> Vec<TxId> {
        self.pay_through(network, &network.up())
    }

    fn pay_through(&mut self, network: &Network, validators: &[usize]) -> Vec<TxId> {
        let mut ids = Vec::new();
        let accounts = self.wallets.len();
        for (account, wallet) in self.wallets.iter_mut().enumerate() {
            let to = network.account((account + 1) % accounts);
            let txs: Vec<_> = (0..5).map(|_| wallet.transfer(to, 1)).collect();
            let mut client = network.client(validators[account % validators.len()]);
            let fates = client.submit_and_wait(&txs, PATIENCE).unwrap();
            assert!(
                fates.iter().all(|fate| fate.receipt().is_some()),
                "{fates:?}"
            );
            ids.extend(txs.iter().map(|tx| tx.id()));
        }
        ids
    }
}
