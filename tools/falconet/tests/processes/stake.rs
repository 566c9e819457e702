//! Stake from the command line: bond, look, rotate, move, take out, and what is refused.

use std::fs;

use falconet_crypto::keyfile;
use falconet_types::Scheme;

use crate::harness::falconet;
use crate::network::{BALANCE, Network};

#[test]
fn stake_from_the_command_line() {
    let mut network = Network::new(1, 2, Scheme::Falcon512);
    // Epochs, none of which ends while the test runs.
    network.genesis.params.epoch_heights = 1 << 40;
    let text = serde_json::to_string_pretty(&network.genesis).unwrap();
    fs::write(network.dir().join("genesis.json"), text).unwrap();
    network.start(0);
    let dir = network.dir().to_owned();
    keyfile::write(&dir.join("owner.key"), &network.accounts[0]).unwrap();
    keyfile::write(&dir.join("other.key"), &network.accounts[1]).unwrap();
    let url = network.url(0);
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').chain(["--http", &url]).collect();
        falconet(&dir, &words)
    };
    for key in ["delta.key", "next.key"] {
        falconet(&dir, &["keygen", "--out", key]).ok();
    }
    let balance = || network.balance(0, network.account(0));

    // Somebody new.
    let bond = "stake bond --key owner.key --validator-key delta.key --name delta \
                --address [::1]:26600";
    run(&format!("{bond} --amount 10")).fails_with(&["refused", "stake_too_low"]);
    let done = run(&format!("{bond} --amount 5000 --wait --json")).json();
    assert_eq!(done["outcome"], "executed");
    assert_eq!(balance(), Some(BALANCE - 5_000 - 1));
    let all = run("validators").ok();
    assert!(all.contains("delta"), "{all}");
    let row = run("stake show delta --json").json();
    assert_eq!(
        (&row["stake"], &row["member"]),
        (&5_000.into(), &false.into())
    );
    assert_eq!(row["address"], "[::1]:26600");

    // Only the owner decides about it.
    run("stake unbond --key other.key --validator delta --amount 100")
        .fails_with(&["refused", "not_owner"]);
    run("stake unbond --key owner.key --validator nobody --amount 100")
        .fails_with(&["nobody", "falconet validators"]);
    run("stake unbond --key owner.key --validator delta --amount 2000 --wait").ok();
    run("stake address --key owner.key --validator delta --address [::1]:26601 --wait").ok();
    let rotate = "stake rotate --key owner.key --validator delta --new-key next.key";
    run(&format!("{rotate} --old-key other.key")).fails_with(&["other.key", "delta"]);
    run(&format!("{rotate} --old-key delta.key --wait")).ok();
    let row = run("stake show delta --json").json();
    assert_eq!(row["stake"], 3_000);
    assert_eq!(row["address"], "[::1]:26601");
    assert!(row["next_key_id"].is_string());
    let all = run("validators --json").json();
    assert_eq!(all["returning"][0]["amount"], 2_000);
    run("validators --epoch 7").fails_with(&["epoch 7", "unknown_epoch"]);
    network.stop();
}
