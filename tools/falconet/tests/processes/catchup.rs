//! Nodes for which the kept history is too short: one that was away, one that lost its disk, one
//! that was never there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use falconet_client::Client;
use falconet_crypto::keyfile;
use falconet_types::genesis::Params;
use falconet_types::{KeyPair, Scheme};
use falconet_validator::config::{Config, HttpSection, StoqSection, StoreSection};
use serde_json::Value;

use crate::harness::{Running, falconet, free_ports, wait_for};
use crate::network::{Network, local};

/// Blocks after the last change of who is there: several windows of reputation of four validators.
const REPUTATION_BLOCKS: u64 = 150;
/// Rounds of which two nodes are asked who leads.
const ROUNDS_COMPARED: usize = 12;

/// Blocks as fast as they come, the shortest history, the smallest files of the log.
fn short_history(accounts: usize) -> Network {
    short_history_with_epochs(accounts, 0)
}

fn short_history_with_epochs(accounts: usize, epoch_heights: u64) -> Network {
    let params = Params {
        block_interval_ms_idle: 5,
        history_heights_min: 1,
        epoch_heights,
        ..Params::default()
    };
    let store = StoreSection {
        segment_bytes: 8 << 20,
    };
    let mut network = Network::with(4, accounts, Scheme::Falcon512, params, store);
    (0..4).for_each(|i| network.start(i));
    network
}

/// Runs `act` while transfers are sent to validators 0 and 1.
fn under_load(network: &mut Network, act: impl FnOnce(&mut Network)) {
    let stop = AtomicBool::new(false);
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let loads: Vec<_> = [0, 1]
        .map(|via| (network.wallet(2 * via), network.account(2 * via + 1), via))
        .into_iter()
        .map(|(wallet, to, via)| (wallet, to, network.client_config(via)))
        .collect();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for (mut wallet, to, config) in loads {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = Client::connect(&config).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let txs: Vec<_> = (0..8).map(|_| wallet.transfer(to, 1)).collect();
                    let tag = client.submit(&txs).unwrap();
                    client
                        .wait_for_results(tag, Duration::from_secs(60))
                        .unwrap();
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        act(network);
    });
}

fn number(status: &Value, field: &str) -> u64 {
    status[field].as_u64().expect("a number")
}

fn executed(network: &Network, i: usize) -> u64 {
    number(&network.get(i, "/v1/status").1, "executed_height")
}

/// Waits until no running validator has the block of a height any more.
fn until_forgotten(network: &Network, height: u64) {
    for i in network.up() {
        wait_for(&format!("validator {i} to forget block {height}"), || {
            let (status, _) = network.get(i, &format!("/v1/blocks/{height}"));
            // It had it once.
            (status == 404 && executed(network, i) > height).then_some(())
        });
    }
}

/// An answer in JSON; `None` while a node's stages start again with a snapshot.
fn try_ask(url: &str, path: &str) -> Option<Value> {
    let mut answer = ureq::get(format!("{url}{path}")).call().ok()?;
    let body = answer.body_mut().read_to_vec().ok()?;
    serde_json::from_slice(&body).ok()
}

/// A node catches up, and the state of a height at two nodes is one.
fn same_state(network: &Network, url: &str) {
    let height = executed(network, 0);
    let its_height = || Some(number(&try_ask(url, "/v1/status")?, "executed_height"));
    wait_for(&format!("{url} to execute height {height}"), || {
        (its_height()? >= height).then_some(())
    });
    // History is short, so what was the newest block may be gone when it is asked for.
    let (mine, its) = wait_for("a block that both have", || {
        let path = format!("/v1/blocks/{}", its_height()?.min(executed(network, 0)));
        Some((try_ask(&network.url(0), &path)?, try_ask(url, &path)?))
    });
    assert_eq!(mine["id"], its["id"]);
    assert_eq!(mine["state_commitment"], its["state_commitment"]);
    assert!(mine["state_commitment"].is_string());
}

/// Kills validator 3 until the others have pruned what it misses, starts it again, lets `then` do
/// something, and waits until it is past the gap, which it never fills.
fn sleep_through_pruning<T>(network: &mut Network, then: impl FnOnce(&Network) -> T) -> T {
    wait_for("some blocks", || (executed(network, 3) > 50).then_some(()));
    let left = executed(network, 3);
    network.kill(3);
    until_forgotten(network, left + 20);
    network.start(3);
    let done = then(network);
    wait_for("validator 3 to be past the gap", || {
        (executed(network, 3) > left + 1_024).then_some(())
    });
    let (status, _) = network.get(3, &format!("/v1/blocks/{}", left + 20));
    assert_eq!(status, 404, "it never had what it missed");
    done
}

#[test]
fn a_validator_that_was_away_for_longer_than_history_comes_back_by_snapshot_and_signs() {
    let mut network = short_history(4);
    under_load(&mut network, |network| {
        sleep_through_pruning(network, |_| ());
        same_state(network, &network.url(3));
    });
    network.agree();
    network.stop();
}

/// Rule L4: who began with a snapshot asks for the headers that say who leads. The one that is dead is
/// passed over, and nothing commits without the votes of the one that came back, so it must find the
/// leaders that the others find.
#[test]
fn who_comes_back_by_snapshot_finds_the_leaders_by_reputation_and_votes() {
    let params = Params {
        block_interval_ms_idle: 5,
        history_heights_min: 1,
        leader_reputation: true,
        ..Params::default()
    };
    let store = StoreSection {
        segment_bytes: 8 << 20,
    };
    let mut network = Network::with(4, 4, Scheme::Falcon512, params, store);
    (0..4).for_each(|i| network.start(i));
    under_load(&mut network, |network| {
        let mut follower = sleep_through_pruning(network, |network| {
            let mut follower = Follower::new(network, 80);
            follower.start();
            follower
        });

        network.kill(2);
        let signing = |i: usize| number(&network.get(i, "/v1/status").1, "blocks_committed");
        let (from, here) = (executed(network, 0), signing(3));
        wait_for("blocks with the votes of validator 3", || {
            (executed(network, 0) > from + REPUTATION_BLOCKS).then_some(())
        });
        assert!(signing(3) > here, "it commits");
        // In a round that both are in they name one leader.
        for url in [network.url(3), follower.url.clone()] {
            let mut compared = 0;
            wait_for("rounds in which both are", || {
                let ask = |url: &str| {
                    let status = try_ask(url, "/v1/status")?;
                    Some((number(&status, "round"), number(&status, "leader")))
                };
                let (before, its) = (ask(&network.url(0))?, ask(&url)?);
                if before.0 == its.0 {
                    assert_eq!(before.1, its.1, "round {}", its.0);
                    compared += 1;
                }
                (compared >= ROUNDS_COMPARED).then_some(())
            });
        }
        same_state(network, &network.url(3));
        same_state(network, &follower.url);
        follower.running.take().expect("it runs").stop();
        network.start(2);
    });
    network.agree();
    network.stop();
}

/// Rule Z8: a key that was used signs nothing with an empty data directory.
#[test]
fn a_validator_that_lost_its_disk_follows_from_a_snapshot_and_does_not_sign() {
    let mut network = short_history(4);
    under_load(&mut network, |network| {
        wait_for("some blocks", || (executed(network, 3) > 50).then_some(()));
        network.kill(3);
        fs::remove_dir_all(network.home(3).join("data")).unwrap();
        until_forgotten(network, 20);
        network.start(3);
        wait_for("validator 3 to be past the gap", || {
            (executed(network, 3) > 1_024).then_some(())
        });
        same_state(network, &network.url(3));
        let (_, status) = network.get(3, "/v1/status");
        assert_eq!(status["signing"], false, "{status}");
        let why = status["not_signing_reason"].as_str().expect("a reason");
        assert!(why.contains("began with a snapshot"), "{why}");
    });
    network.stop();
}

/// A node with a key of its own, beside the network.
struct Follower {
    home: PathBuf,
    url: String,
    running: Option<Running>,
}

impl Follower {
    fn new(network: &Network, seed: u8) -> Self {
        let home = network.dir().join(format!("follower-{seed}"));
        fs::create_dir(&home).unwrap();
        let key = KeyPair::from_seed(Scheme::Falcon512, &[seed; 32]);
        keyfile::write(&home.join("validator.key"), &key).unwrap();
        let [stoq, http] = free_ports();
        let config = Config {
            stoq: StoqSection::new(local(stoq)),
            http: HttpSection {
                listen: local(http),
            },
            peers: (0..4)
                .map(|i| (format!("validator-{i}"), network.stoq(i)))
                .collect(),
            ..network.config(0)
        };
        fs::write(home.join("config.toml"), config.to_string()).unwrap();
        Self {
            home,
            url: format!("http://{}", local(http)),
            running: None,
        }
    }

    fn start(&mut self) {
        let running = Running::start(&self.home, "config.toml");
        assert!(
            running.ready.starts_with("follower ready:"),
            "{}",
            running.ready
        );
        self.running = Some(running);
    }

    fn kill(&mut self) {
        self.running.take().expect("it runs").kill();
    }

    fn status(&self) -> Value {
        let mut answer = ureq::get(format!("{}/v1/status", self.url)).call().unwrap();
        serde_json::from_slice(&answer.body_mut().read_to_vec().unwrap()).unwrap()
    }
}

/// It knows genesis and addresses and nothing else.
#[test]
fn a_fresh_node_joins_a_loaded_network_by_blocks_and_follows() {
    let mut network = Network::running(4, 4, Scheme::Falcon512);
    under_load(&mut network, |network| {
        wait_for("some blocks", || (executed(network, 0) > 100).then_some(()));
        let mut follower = Follower::new(network, 77);
        follower.start();
        same_state(network, &follower.url);
        let status = follower.status();
        assert_eq!(status["follower"], true, "{status}");
        assert_eq!(status["signing"], false, "{status}");
        assert_eq!(
            status["peers"].as_array().expect("a list").len(),
            4,
            "{status}"
        );
        // Between a certificate and its header it is behind for a moment.
        wait_for("the follower to be ready", || {
            ureq::get(format!("{}/readyz", follower.url)).call().ok()
        });
        let balance = network.balance(0, network.account(1));
        assert!(balance.is_some());
        // Blocks from the very first.
        let first = ureq::get(format!("{}/v1/blocks/1", follower.url)).call();
        assert!(first.is_ok(), "{first:?}");
        let post = ureq::post(format!("{}/v1/transactions", follower.url)).send(&[1u8, 2][..]);
        assert!(post.is_err(), "it takes no transactions");
        follower.running.take().expect("it runs").stop();
    });
    network.agree();
    network.stop();
}

/// Killed again and again while it fetches, it ends with the same state.
#[test]
fn a_fresh_node_joins_by_snapshot_although_it_is_killed_on_the_way() {
    let mut network = short_history(4);
    under_load(&mut network, |network| {
        until_forgotten(network, 20);
        let mut follower = Follower::new(network, 78);
        for wait_ms in [100, 900, 1_300, 1_700, 2_100, 400] {
            follower.start();
            thread::sleep(Duration::from_millis(wait_ms));
            follower.kill();
        }
        follower.start();
        same_state(network, &follower.url);
        let first = ureq::get(format!("{}/v1/blocks/1", follower.url)).call();
        assert!(first.is_err(), "it began with a snapshot");
        // It goes on with blocks.
        let height = executed(network, 0) + 300;
        wait_for("the network", || {
            (executed(network, 0) > height).then_some(())
        });
        same_state(network, &follower.url);
        follower.running.take().expect("it runs").stop();
    });
    network.agree();
    network.stop();
}

/// A fresh node joins under load, by a snapshot; the time that it takes.
#[cfg(feature = "danger-byzantine")]
fn joins_by_snapshot(network: &mut Network, seed: u8) -> Duration {
    let mut took = Duration::ZERO;
    under_load(network, |network| {
        until_forgotten(network, 20);
        let mut follower = Follower::new(network, seed);
        follower.start();
        let start = std::time::Instant::now();
        same_state(network, &follower.url);
        took = start.elapsed();
        let first = ureq::get(format!("{}/v1/blocks/1", follower.url)).call();
        assert!(first.is_err(), "it began with a snapshot");
        follower.running.take().expect("it runs").stop();
    });
    took
}

/// One of the four that serve it says what it has, and gives away neither manifest nor part, no batch
/// and a header at a time.
#[cfg(feature = "danger-byzantine")]
#[test]
fn a_fresh_node_joins_a_loaded_network_beside_a_byzantine_server() {
    let mut network = short_history(4);
    let without = joins_by_snapshot(&mut network, 81);
    network.kill(0);
    network.start_with(0, &["--danger-byzantine", "hoarder"]);
    let with = joins_by_snapshot(&mut network, 82);
    // How long a second takes here is the machine's business.
    println!("synced after {without:.2?}, beside a hoarder after {with:.2?}");
    network.stop();
}

/// Rule Z9: who knows genesis and nothing else, and who slept through epochs, follow the proofs of
/// the epochs to a snapshot.
#[test]
fn a_fresh_node_and_one_that_slept_catch_up_across_epochs_whose_history_is_gone() {
    let mut network = short_history_with_epochs(4, 150);
    under_load(&mut network, |network| {
        wait_for("some blocks", || (executed(network, 3) > 50).then_some(()));
        let left = executed(network, 3);
        network.kill(3);
        until_forgotten(network, left + 160);
        let epoch = |status: &Value| number(status, "epoch");
        let present = epoch(&network.get(0, "/v1/status").1);
        assert!(present >= 3, "epoch {present}");

        network.start(3);
        let mut follower = Follower::new(network, 79);
        follower.start();
        same_state(network, &follower.url);
        same_state(network, &network.url(3));
        for url in [&follower.url, &network.url(3)] {
            let first = try_ask(url, &format!("/v1/blocks/{}", left + 160));
            assert_eq!(first, None, "it never had what is gone");
            // It can lead others the same way.
            let proof = try_ask(url, "/v1/epochs/0/proof").expect("it knows the way");
            assert_eq!(number(&proof, "epoch"), 0);
        }
        assert!(epoch(&follower.status()) >= present);
        assert_eq!(follower.status()["follower"], true);
        // It signed nothing in the epochs that it slept through, and knows it.
        wait_for("validator 3 to sign", || {
            (try_ask(&network.url(3), "/v1/status")?["signing"] == true).then_some(())
        });
        // Both go on through the next epoch's beginning with blocks.
        let next = epoch(&network.get(0, "/v1/status").1) + 1;
        for url in [&follower.url, &network.url(3)] {
            wait_for("the next epoch", || {
                (epoch(&try_ask(url, "/v1/status")?) >= next).then_some(())
            });
        }
        same_state(network, &follower.url);
        // What a client is told about a transaction of a late epoch holds for who knows genesis.
        let mut wallet = network.wallet(3);
        let url = network.url(1);
        let tx = wait_for("a transfer that is proven before it is forgotten", || {
            let tx = wallet.transfer(network.account(0), 1);
            let (code, answer) = network.post(0, tx.bytes());
            assert_eq!(code, 202, "{answer}");
            wait_for("the transfer", || network.committed(1, tx.id()));
            let id = tx.id().to_string();
            let show = ["tx", "show", &id, "--proof", "--out", "late.proof"];
            let said = falconet(network.dir(), &[&show[..], &["--http", &url]].concat());
            (said.code == 0).then_some(tx)
        });
        let verify = ["proof", "verify", "--genesis", "genesis.json", "late.proof"];
        let said = falconet(network.dir(), &[&verify[..], &["--json"]].concat()).json();
        assert_eq!(said["valid"], true);
        assert!(number(&said, "epoch") >= present, "{said}");
        let mut client = network.client(2);
        let (_, proven) = client
            .proof(tx.id(), &network.genesis, Duration::from_secs(60))
            .unwrap();
        assert_eq!(proven.tx_id, tx.id());
        follower.running.take().expect("it runs").stop();
    });
    network.agree();
    network.stop();
}

/// Rule Z8 has a node that begins with nothing sign nothing in the epoch that it finds; so the next
/// key is handed to a node that follows. It signs from the first round of its epoch on, when the
/// chain needs it.
#[test]
fn a_key_rotates_to_a_node_that_follows_although_history_is_gone() {
    let mut network = short_history_with_epochs(4, 150);
    under_load(&mut network, |network| {
        until_forgotten(network, 20);
        let mut next = Follower::new(network, 81);
        next.start();
        same_state(network, &next.url);
        let (old_key, new_key) = (network.home(3), next.home.clone());
        let key = |home: &Path| home.join("validator.key").to_str().unwrap().to_owned();
        let (owner, url) = (network.account_file(3), network.url(0));
        let rotate = ["stake", "rotate", "--validator", "validator-3", "--wait"];
        let by = ["--key", &owner, "--http", &url];
        let keys = ["--old-key", &key(&old_key), "--new-key", &key(&new_key)];
        falconet(network.dir(), &[&rotate[..], &by, &keys].concat()).ok();
        wait_for("the new key to sign", || {
            (try_ask(&next.url, "/v1/status")?["signing"] == true).then_some(())
        });
        assert_eq!(network.get(3, "/v1/status").1["signing"], false);
        // Of the three that are left none can be spared.
        network.kill(3);
        network.kill(2);
        let here = executed(network, 0);
        wait_for("blocks with the votes of the new key", || {
            (executed(network, 0) > here + 150).then_some(())
        });
        same_state(network, &next.url);
        next.running.take().expect("it runs").stop();
        network.start(2);
        network.start(3);
    });
    network.agree();
    network.stop();
}
