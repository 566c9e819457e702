//! The validator set changes while the network runs: one leaves, follows, and comes back; one becomes
//! four, seven, and another one; an offender is out, and a crash right at the end of an epoch is
//! survived.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use falconet_client::{Fate, Pool, PoolConfig, Wallet};
use falconet_crypto::keyfile;
use falconet_types::certificate::Vote;
use falconet_types::evidence::Evidence;
use falconet_types::genesis::Params;
use falconet_types::receipt::Outcome;
use falconet_types::wire::Wire as _;
use falconet_types::{AccountId, Digest, Epoch, KeyPair, Round, Scheme};
use falconet_validator::config::{Config, HttpSection, StoqSection, StoreSection};
use serde_json::Value;

use crate::harness::{Running, falconet, free_ports, wait_for};
use crate::network::{Network, local};

fn status(network: &Network, i: usize) -> Value {
    network.get(i, "/v1/status").1
}

fn validators(network: &Network, i: usize) -> usize {
    status(network, i)["peers"].as_array().unwrap().len()
}

#[test]
fn a_validator_leaves_follows_and_comes_back() {
    let params = Params {
        epoch_heights: 32,
        block_interval_ms_idle: 50,
        ..Params::default()
    };
    let mut network = Network::with_params(4, 4, Scheme::Falcon512, params);
    (0..4).for_each(|i| network.start(i));
    let url = network.url(0);
    let key = network.account_file(3);
    let stake = |arguments: &[&str]| {
        let common = ["--key", &key, "--http", &url, "--wait"];
        falconet(network.dir(), &[&["stake"], arguments, &common].concat()).ok();
    };
    stake(&["unbond", "--validator", "validator-3", "--amount", "1000"]);
    for i in 0..4 {
        wait_for(&format!("a set of three at node {i}"), || {
            (validators(&network, i) == 3).then_some(())
        });
    }
    // It signs nothing, and it follows.
    let left = status(&network, 3);
    assert_eq!(left["signing"], false, "{left}");
    let height = left["height"].as_u64().unwrap();
    wait_for("the node that left to follow", || {
        (status(&network, 3)["height"].as_u64()? > height + 40).then_some(())
    });
    // The three pass through epochs, and through its crash.
    network.kill(3);
    network.start(3);
    let home = network.home(3);
    let validator_key = home.join("validator.key");
    let address = network.stoq(3).to_string();
    let url = network.url(0);
    let arguments = [
        "stake",
        "bond",
        "--validator-key",
        validator_key.to_str().unwrap(),
        "--name",
        "validator-3",
        "--address",
        &address,
        "--amount",
        "1000",
        "--key",
        &key,
        "--http",
        &url,
        "--wait",
    ];
    falconet(network.dir(), &arguments).ok();
    for i in 0..4 {
        wait_for(&format!("a set of four at node {i}"), || {
            (validators(&network, i) == 4).then_some(())
        });
    }
    wait_for("the node that came back to sign", || {
        (status(&network, 3)["signing"] == true).then_some(())
    });
    network.agree();
    network.stop();
}

/// Sends transfers until it is told to stop, following the validators; each must be executed.
fn load(
    config: &PoolConfig,
    mut wallet: Wallet,
    to: AccountId,
    stop: &AtomicBool,
    done: &AtomicUsize,
) {
    let mut pool = Pool::open(config).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let txs: Vec<_> = (0..4).map(|_| wallet.transfer(to, 1)).collect();
        let fates = pool
            .submit_and_wait(&txs, crate::harness::PATIENCE)
            .unwrap();
        for fate in fates {
            let executed =
                matches!(fate, Fate::Executed(receipt) if receipt.outcome == Outcome::Executed);
            assert!(executed, "{fate:?}");
        }
        done.fetch_add(txs.len(), Ordering::Relaxed);
        pool.idle(Duration::from_millis(50)).unwrap();
    }
}

/// A node that knows genesis, whose validators are gone, and the HTTP address of one of today's: it
/// fetches the proofs, and follows the whole chain from the first block.
fn newcomer(network: &Network, present: usize) {
    let home = network.dir().join("newcomer");
    fs::create_dir(&home).unwrap();
    let key = KeyPair::from_seed(Scheme::Falcon512, &[99; 32]);
    keyfile::write(&home.join("validator.key"), &key).unwrap();
    let [stoq, http] = free_ports();
    let config = Config {
        stoq: StoqSection::new(local(stoq)),
        http: HttpSection {
            listen: local(http),
        },
        peers: BTreeMap::new(),
        ..network.config(0)
    };
    fs::write(home.join("config.toml"), config.to_string()).unwrap();
    let url = network.url(present);
    let proofs = "validators proofs --genesis ../genesis.json --data data --http";
    let words: Vec<&str> = proofs.split(' ').chain([url.as_str()]).collect();
    let said = falconet(&home, &words).ok();
    assert!(said.contains(": 1 validators"), "{said}");
    let running = Running::start(&home, "config.toml");
    assert!(running.ready.starts_with("follower "), "{}", running.ready);
    let height = status(network, present)["height"].as_u64().unwrap();
    let its = |path: &str| -> Option<Value> {
        let mut answer = ureq::get(format!("http://{}{path}", local(http)))
            .call()
            .ok()?;
        serde_json::from_slice(&answer.body_mut().read_to_vec().ok()?).ok()
    };
    wait_for("the newcomer to execute what the others have", || {
        (its("/v1/status")?["executed_height"].as_u64()? >= height).then_some(())
    });
    let path = format!("/v1/blocks/{height}");
    assert_eq!(
        its(&path).unwrap()["state_commitment"],
        network.get(present, &path).1["state_commitment"]
    );
    assert!(its("/v1/blocks/1").is_some(), "from the first block on");
    running.stop();
}

#[test]
fn one_validator_becomes_four_and_seven_and_another_one_under_load() {
    let params = Params {
        epoch_heights: 32,
        block_interval_ms_idle: 50,
        ..Params::default()
    };
    let store = StoreSection::default();
    let mut network = Network::growing(1, 6, 9, Scheme::Falcon512, params, store);
    (0..7).for_each(|i| network.start(i));
    for i in 0..7 {
        let file = network.account_file(i);
        assert!(network.dir().join(file).exists());
    }
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Ends the load also when an assertion fails.
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let ends = StopOnDrop(&stop);
        let config = PoolConfig {
            validators: vec![(network.stoq(0), network.genesis.validators[0].key.clone())],
            genesis: Some(network.genesis.clone()),
            chain_id: network.chain_id(),
            fail_over_after: Duration::from_secs(3),
        };
        let (wallet, to) = (network.wallet(7), network.account(8));
        let (stopping, counter) = (&stop, &done);
        let loading = scope.spawn(move || load(&config, wallet, to, stopping, counter));
        let progress = |what: &str| {
            let before = done.load(Ordering::Relaxed);
            wait_for(&format!("transfers after {what}"), || {
                assert!(!loading.is_finished(), "the load ended");
                (done.load(Ordering::Relaxed) > before + 20).then_some(())
            });
        };
        let change = |arguments: &(dyn Fn(usize) -> Vec<String> + Sync),
                      who: std::ops::Range<usize>| {
            let url = network.url(0);
            // All at once: they wait for the same epoch's end.
            thread::scope(|scope| {
                for i in who {
                    let (network, url) = (&network, &url);
                    scope.spawn(move || {
                        let key = network.account_file(i);
                        let mut line = vec!["validators".to_owned()];
                        line.extend(arguments(i));
                        line.extend(["--key".into(), key, "--http".into(), url.clone()]);
                        let words: Vec<&str> = line.iter().map(String::as_str).collect();
                        falconet(network.dir(), &words).ok();
                    });
                }
            });
        };
        let join = |i: usize| -> Vec<String> {
            let config = network.home(i).join("config.toml").display().to_string();
            let name = format!("validator-{i}");
            ["join", "--config", &config, "--name", &name]
                .map(String::from)
                .into()
        };
        let leave = |i: usize| -> Vec<String> { vec!["leave".into(), format!("validator-{i}")] };
        let settled = |n: usize, members: std::ops::Range<usize>| {
            for i in 0..7 {
                wait_for(&format!("a set of {n} at node {i}"), || {
                    (validators(&network, i) == n).then_some(())
                });
            }
            for i in 0..7 {
                let signs = members.contains(&i);
                wait_for(&format!("node {i} to sign: {signs}"), || {
                    let status = status(&network, i);
                    (status["signing"] == signs && status["follower"] == !signs).then_some(())
                });
            }
        };
        progress("the beginning");
        change(&join, 1..4);
        settled(4, 0..4);
        progress("four validators");
        change(&join, 4..7);
        settled(7, 0..7);
        progress("seven validators");
        change(&leave, 0..6);
        settled(1, 6..7);
        progress("one validator");
        network.agree();
        // Nobody of the first is needed any more, neither for blocks nor by clients.
        (0..6).for_each(|i| network.kill(i));
        progress("the others went");
        newcomer(&network, 6);
        drop(ends);
    });
    network.stop();
}

/// Two votes that one validator cannot both have cast, as another one found them.
fn evidence(network: &Network, offender: usize) -> Evidence {
    let chain = network.chain_id();
    let set = network.genesis.validator_set().unwrap();
    let key = keyfile::read(&network.home(offender).join("validator.key")).unwrap();
    let index = set.by_key(key.public()).unwrap();
    let vote = |byte| {
        let (round, parent, block) = (Round(1_000), Round(999), Digest([byte; 32]));
        Vote::sign(Epoch(0), round, block, parent, index, chain, &key)
    };
    Evidence::Votes(Box::new(vote(1)), Box::new(vote(2)))
}

/// Whoever found the proof may be killed before its report is in a block: it reports it after the
/// next start, and forgets it when it was heard.
#[test]
fn evidence_survives_a_restart_of_its_finder() {
    let params = Params {
        epoch_heights: 64,
        block_interval_ms_idle: 50,
        ..Params::default()
    };
    let mut network = Network::with_params(4, 2, Scheme::Falcon512, params);
    (1..4).for_each(|i| network.start(i));
    // As it stands on the disk of validator 0 after kill -9.
    let evidence = evidence(&network, 2);
    let dir = network.home(0).join("data/evidence");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("0000000000-{:05}", evidence.offender().0));
    fs::write(&file, evidence.to_bytes()).unwrap();
    network.start(0);
    for i in [0, 1, 3] {
        wait_for(&format!("a set without the offender at node {i}"), || {
            let answer = network.get(i, "/v1/validators").1;
            let members = answer["members"].as_array()?;
            let out = members.iter().all(|row| row["name"] != "validator-2");
            (members.len() == 3 && out).then_some(())
        });
    }
    let answer = network.get(3, "/v1/validators").1;
    assert_eq!(answer["offences"].as_array().unwrap().len(), 1, "{answer}");
    wait_for("the evidence to be forgotten", || {
        (!file.exists()).then_some(())
    });
    network.stop();
}

/// A crash between the block that changes the registry and the file that proves who comes next: the
/// next start makes the proof again, from the log. No peer can show it, as all crash there.
#[test]
fn an_epochs_proof_that_was_not_written_is_made_again() {
    let params = Params {
        epoch_heights: 32,
        block_interval_ms_idle: 50,
        ..Params::default()
    };
    let mut network = Network::with_params(4, 2, Scheme::Falcon512, params);
    // Where the proof would be written first: the write fails, and nothing of the turn happens.
    let blocker = |network: &Network, i: usize| network.home(i).join("data/epochs/0000000000.tmp");
    for i in 0..4 {
        fs::create_dir_all(blocker(&network, i)).unwrap();
        network.start(i);
    }
    for i in 0..4 {
        wait_for(
            &format!("validator {i} to stand at the end of epoch 0"),
            || {
                let status = status(&network, i);
                let reason = status["not_signing_reason"].as_str()?.to_owned();
                reason.contains("0000000000.proof").then_some(())
            },
        );
        // The last block is executed: the registry is that of the next epoch.
        assert!(status(&network, i)["executed_height"].as_u64().unwrap() > 32);
    }
    (0..4).for_each(|i| network.kill(i));
    for i in 0..4 {
        let proof = network.home(i).join("data/epochs/0000000000.proof");
        assert!(!proof.exists());
        fs::remove_dir(blocker(&network, i)).unwrap();
    }
    (0..4).for_each(|i| network.start(i));
    for i in 0..4 {
        wait_for(&format!("epoch 2 at node {i}"), || {
            let status = status(&network, i);
            (status["epoch"].as_u64()? >= 2 && status["signing"] == true).then_some(())
        });
        assert!(
            network
                .home(i)
                .join("data/epochs/0000000000.proof")
                .exists()
        );
    }
    network.agree();
    network.stop();
}
