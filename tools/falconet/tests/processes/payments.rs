//! A payment from the command line, from key to proof.

use std::fs;

use falconet_crypto::keyfile;
use falconet_types::Scheme;

use crate::harness::falconet;
use crate::network::{BALANCE, Network};
use crate::offline;

#[test]
fn a_payment_from_key_to_proof() {
    let network = Network::running(4, 1, Scheme::Falcon1024);
    let dir = network.dir();
    keyfile::write(&dir.join("alice.key"), &network.accounts[0]).unwrap();
    let url = network.url(1);
    let run = |arguments: &[&str]| falconet(dir, &[arguments, &["--http", &url]].concat());

    let bob = falconet(dir, &["keygen", "--out", "bob.key", "--json"]).json();
    let bob = bob["account"].as_str().unwrap();
    let transfer = [
        "tx",
        "transfer",
        "--key",
        "alice.key",
        "--to",
        bob,
        "--amount",
        "250",
    ];

    // Accepted, executed, seen.
    let genesis = ["--genesis", "genesis.json"];
    let sent = run(&[&transfer[..], &genesis, &["--wait", "--json"]].concat()).json();
    assert_eq!(sent["outcome"], "executed");
    let id = sent["id"].as_str().unwrap();
    let account = run(&["account", "show", bob, "--json"]).json();
    assert_eq!(account["balance"], 250);
    let text = run(&["account", "show", bob]).ok();
    assert!(text.contains("none registered"), "{text}");
    let text = run(&["tx", "show", id]).ok();
    assert!(text.contains("executed"), "{text}");
    let status = run(&["status"]).ok();
    assert!(status.contains("4 of 4 connected"), "{status}");
    assert_eq!(run(&["status", "--json"]).json()["validator"], 1);

    // Bob can pay only after registering his key.
    let alice = network.account(0).to_string();
    let back = [
        "tx", "transfer", "--key", "bob.key", "--to", &alice, "--amount", "100",
    ];
    run(&back).fails_with(&["refused", "unknown_key"]);
    run(&["tx", "register-key", "--key", "bob.key", "--wait"]).ok();
    run(&[&back[..], &["--wait"]].concat()).ok();
    let account = run(&["account", "show", &alice, "--json"]).json();
    assert_eq!(account["balance"], BALANCE - 250 - 1 + 100);

    // What cannot be paid is refused and says why.
    let much = [
        "tx", "transfer", "--key", "bob.key", "--to", &alice, "--amount", "1000000",
    ];
    run(&much).fails_with(&["refused", "insufficient_funds"]);
    let nonce = [&transfer[..], &["--nonce", "1"]].concat();
    run(&nonce).fails_with(&["refused", "replayed"]);
    falconet(dir, &["keygen", "--out", "nobody.key"]).ok();
    run(&[
        "tx",
        "transfer",
        "--key",
        "nobody.key",
        "--to",
        bob,
        "--amount",
        "1",
    ])
    .fails_with(&["does not exist"]);

    // Nothing is signed for a chain that was not meant.
    offline::genesis(dir, "other");
    run(&[&transfer[..], &["--genesis", "other.json"]].concat())
        .fails_with(&["nothing was signed"]);

    proof(&network, id, bob);
}

/// The proof travels to a place without a network, and lies cannot be made of it.
fn proof(network: &Network, id: &str, bob: &str) {
    let dir = network.dir();
    let url = network.url(2);
    let fetch = [
        "tx",
        "show",
        id,
        "--proof",
        "--out",
        "payment.proof",
        "--http",
        &url,
    ];
    crate::harness::wait_for("the proof", || {
        (falconet(dir, &fetch).code == 0).then_some(())
    });
    falconet(dir, &fetch).fails_with(&["payment.proof", "choose a name"]);

    let verify = [
        "proof",
        "verify",
        "--genesis",
        "genesis.json",
        "payment.proof",
    ];
    let proven = falconet(dir, &[&verify[..], &["--json"]].concat()).json();
    assert_eq!(proven["valid"], true);
    assert_eq!(proven["id"], id);
    assert_eq!(proven["outcome"], "executed");
    assert_eq!(proven["transfer"]["to"], bob);
    assert_eq!(proven["transfer"]["amount"], 250);
    assert!(falconet(dir, &verify).ok().contains("valid"));

    let other = [
        "proof",
        "verify",
        "--genesis",
        "other.json",
        "payment.proof",
    ];
    falconet(dir, &other).fails_with(&["payment.proof proves nothing"]);
    let proof = fs::read(dir.join("payment.proof")).unwrap();
    // Every 97th byte: a prime, so that all kinds of fields are hit.
    for at in (0..proof.len()).step_by(97) {
        let mut lie = proof.clone();
        lie[at] ^= 1;
        fs::write(dir.join("payment.proof"), &lie).unwrap();
        let said = falconet(dir, &verify);
        assert_eq!(said.code, 1, "byte {at}: {}", said.stdout);
    }
    for len in (0..proof.len()).step_by(997) {
        fs::write(dir.join("payment.proof"), &proof[..len]).unwrap();
        assert_eq!(falconet(dir, &verify).code, 1, "{len} bytes");
    }
}
