//! The validator set changes while the network runs: one leaves, follows, and comes back.

use falconet_types::Scheme;
use falconet_types::genesis::Params;
use serde_json::Value;

use crate::harness::{falconet, wait_for};
use crate::network::Network;

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
