//! Commands that need no network: `genesis check` and `proof verify`.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::falconet;

/// Writes a genesis document with one validator, whose key is made when it does not exist.
pub fn genesis(dir: &Path, name: &str) -> serde_json::Value {
    genesis_of(dir, name, &["validator.key"])
}

/// Writes a genesis document with the validators of these key files.
pub fn genesis_of(dir: &Path, name: &str, keys: &[&str]) -> serde_json::Value {
    let validator = |(index, file): (usize, &&str)| {
        if !dir.join(file).exists() {
            falconet(dir, &["keygen", "--out", file, "--scheme", "falcon512"]).ok();
        }
        let key = falconet(dir, &["key", "show", file, "--json"]).json();
        json!({ "name": format!("validator-{index}"), "key": key["public_key"], "weight": 1 })
    };
    let document = json!({
        "name": name,
        "time_ms": 1,
        "application": "ledger",
        "validators": keys.iter().enumerate().map(validator).collect::<Vec<_>>(),
    });
    fs::write(dir.join(format!("{name}.json")), document.to_string()).unwrap();
    document
}

#[test]
fn the_chain_id_depends_on_content_and_not_on_spacing() {
    let dir = tempfile::tempdir().unwrap();
    let document = genesis(dir.path(), "one");
    let pretty = serde_json::to_string_pretty(&document).unwrap();
    fs::write(dir.path().join("pretty.json"), pretty).unwrap();
    genesis(dir.path(), "two");
    let id = |file: &str| {
        let shown = falconet(dir.path(), &["genesis", "check", file, "--json"]).json();
        shown["chain_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id("one.json"), id("pretty.json"));
    assert_ne!(id("one.json"), id("two.json"));
}

#[test]
fn a_bad_genesis_document_names_file_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let document = genesis(dir.path(), "good");
    let check = |document: &serde_json::Value, parts: &[&str]| {
        fs::write(dir.path().join("bad.json"), document.to_string()).unwrap();
        falconet(dir.path(), &["genesis", "check", "bad.json"]).fails_with(parts);
    };
    let mut bad = document.clone();
    bad["validatros"] = json!([]);
    check(&bad, &["bad.json", "validatros"]);
    let mut bad = document.clone();
    bad["validators"][0]["weight"] = json!(0);
    check(&bad, &["weight 0"]);
    let mut bad = document.clone();
    bad["validators"][0]["key"] = json!("falcon512:AAAA");
    check(&bad, &["bad.json"]);
    let mut bad = document.clone();
    bad["validators"] = json!([]);
    check(&bad, &["0 validators"]);
    falconet(dir.path(), &["genesis", "check", "absent.json"])
        .fails_with(&["absent.json", "No such file"]);
}

#[test]
fn what_is_no_proof_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    genesis(dir.path(), "chain");
    let verify = |parts: &[&str]| {
        falconet(
            dir.path(),
            &["proof", "verify", "--genesis", "chain.json", "x.proof"],
        )
        .fails_with(parts);
    };
    verify(&["x.proof", "No such file"]);
    for content in [
        &b""[..],
        b"not a proof",
        &[0; 1000],
        &[1; 1000],
        &[0xff; 1000],
    ] {
        fs::write(dir.path().join("x.proof"), content).unwrap();
        verify(&["x.proof is not a proof", "tx show --proof"]);
    }
    fs::File::create(dir.path().join("x.proof"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    verify(&["larger than any proof"]);
    falconet(
        dir.path(),
        &["proof", "verify", "--genesis", "absent.json", "x.proof"],
    )
    .fails_with(&["absent.json"]);
}
