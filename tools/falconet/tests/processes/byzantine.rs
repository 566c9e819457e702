//! Four real validators, one of them a Byzantine actor: the honest three commit what clients give
//! them and agree, and what can be proved is.

use std::thread;
use std::time::Duration;

use falconet_adversary::Kind;
use falconet_types::Scheme;
use falconet_types::genesis::Params;
use serde_json::Value;

use crate::harness::{falconet, wait_for};
use crate::network::Network;

/// The validator that is Byzantine.
const LIAR: usize = 3;
/// Blocks that the honest ones commit beside the actor.
const BLOCKS: u64 = 60;

fn commits_beside(kind: Kind) {
    let mut network = Network::new(4, 2, Scheme::Falcon512);
    for i in 0..LIAR {
        network.start(i);
    }
    network.start_with(LIAR, &["--danger-byzantine", kind.name()]);
    let honest = 0..LIAR;
    let status = |i: usize| network.get(i, "/v1/status").1;
    let number = |value: &Value, field: &str| value[field].as_u64().expect("a number");
    let mut wallet = network.wallet(0);
    let to = network.account(1);
    // The actor has clients too: a fork of its lane needs something in it.
    let mut for_the_liar = network.wallet(1);
    let back = network.account(0);
    let mut sent = Vec::new();
    let target = number(&status(0), "height") + BLOCKS;
    wait_for("blocks beside the actor", || {
        let tx = wallet.transfer(to, 1);
        let (code, answer) = network.post(sent.len() % LIAR, tx.bytes());
        assert_eq!(code, 202, "{answer}");
        sent.push(tx.id());
        // What becomes of these is the actor's business.
        let _ = network.try_post(LIAR, for_the_liar.transfer(back, 1).bytes());
        thread::sleep(Duration::from_millis(50));
        (number(&status(0), "height") >= target && sent.len() >= 20).then_some(())
    });
    for (k, id) in sent.iter().enumerate() {
        wait_for(&format!("transfer {k} to commit"), || {
            network.committed((k + 1) % LIAR, *id)
        });
    }
    let height = honest.clone().map(|i| number(&status(i), "height")).max();
    let height = height.expect("there are three");
    let roots: Vec<Value> = honest
        .clone()
        .map(|i| {
            wait_for(&format!("validator {i} to execute height {height}"), || {
                (number(&status(i), "executed_height") >= height).then_some(())
            });
            let (_, block) = network.get(i, &format!("/v1/blocks/{height}"));
            assert!(block["state_commitment"].is_string(), "{block}");
            block["state_commitment"].clone()
        })
        .collect();
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
    for i in honest.clone() {
        let status = status(i);
        assert_eq!(status["signing"], true, "{status}");
        for peer in status["peers"].as_array().expect("a list") {
            let who = peer["index"].as_u64();
            if who != Some(LIAR as u64) {
                assert!(peer["banned_until_ms"].is_null(), "{kind}: {status}");
            }
        }
    }
    if kind.is_provable() {
        wait_for("evidence", || {
            let found = honest.clone().any(|i| number(&status(i), "evidence") > 0);
            found.then_some(())
        });
    }
    if kind.is_provable() || kind == Kind::Flooder {
        let score = |i: usize| status(i)["peers"][LIAR]["score"].as_u64().expect("a score");
        wait_for("the actor to be found out", || {
            honest.clone().any(|i| score(i) < 100).then_some(())
        });
    }
    network.stop();
}

#[test]
fn an_equivocator_is_proved() {
    commits_beside(Kind::Equivocator);
}

#[test]
fn a_withholder_costs_only_its_own_lane() {
    commits_beside(Kind::Withholder);
}

#[test]
fn a_lane_forker_is_proved() {
    commits_beside(Kind::LaneForker);
}

#[test]
fn a_liar_in_timeouts_is_proved() {
    commits_beside(Kind::TimeoutLiar);
}

#[test]
fn a_selective_sender_hides_nothing() {
    commits_beside(Kind::SelectiveSender);
}

#[test]
fn a_replayer_moves_nobody() {
    commits_beside(Kind::Replayer);
}

#[test]
fn a_flooder_is_throttled_and_drowns_nobody() {
    commits_beside(Kind::Flooder);
}

#[test]
fn a_slow_loris_only_slows() {
    commits_beside(Kind::SlowLoris);
}

/// Load and checks keep to the correct ones.
#[test]
fn the_benchmark_measures_beside_a_byzantine_validator() {
    let _turn = crate::network::turn();
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["bench", "cluster", "--byzantine", "selective-sender:1"];
    let more = ["--rate", "100", "--duration", "4s", "--scheme", "falcon512"];
    let said = crate::testnet::run(
        dir.path(),
        &[&arguments[..], &more, &["--json", "-"]].concat(),
    )
    .ok();
    let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(report["byzantine"]["kind"], "selective-sender");
    assert_eq!(report["byzantine"]["count"], 1);
    assert_eq!(report["roots"]["answers"].as_array().unwrap().len(), LIAR);
    assert_eq!(report["roots_agree"], true);
    assert!(report["committed"].as_u64() > Some(0), "{report}");
}

/// On a chain with epochs the proof costs the offender its stake and its place, and the others go on.
#[test]
fn an_equivocator_is_slashed_and_out_with_the_next_epoch() {
    let params = Params {
        epoch_heights: 48,
        block_interval_ms_idle: 50,
        ..Params::default()
    };
    let mut network = Network::with_params(4, 2, Scheme::Falcon512, params);
    (0..LIAR).for_each(|i| network.start(i));
    network.start_with(LIAR, &["--danger-byzantine", Kind::Equivocator.name()]);
    let number = |value: &Value, field: &str| value[field].as_u64().expect("a number");
    let answer = |i: usize| network.get(i, "/v1/validators").1;
    let offence = wait_for("the equivocator to be punished", || {
        answer(0)["offences"].as_array().unwrap().first().cloned()
    });
    assert!(number(&offence, "burned") > 0, "{offence}");
    for i in 0..LIAR {
        wait_for(&format!("a set without it at node {i}"), || {
            let answer = answer(i);
            let members = answer["members"].as_array().unwrap();
            let out = members.iter().all(|row| row["name"] != "validator-3");
            (members.len() == LIAR && out).then_some(())
        });
    }
    let all = answer(1);
    let candidates = all["candidates"].as_array().unwrap();
    let row = candidates.iter().find(|row| row["name"] == "validator-3");
    let row = row.expect("what is left of its stake");
    assert_eq!(row["member"], false);
    let left = 1_000 - number(&offence, "burned");
    assert_eq!(number(row, "stake"), left, "{row}");
    assert!(number(row, "barred_until") > number(&all, "present_epoch"));
    let url = network.url(1);
    let shown = falconet(network.dir(), &["validators", "--http", &url]).ok();
    assert!(shown.contains("punished: "), "{shown}");
    assert!(shown.contains("barred until epoch"), "{shown}");
    let status = network.get(0, "/v1/status").1;
    assert!(number(&status, "evidence") > 0, "{status}");
    // Without it.
    let height = number(&network.get(0, "/v1/status").1, "height");
    let mut wallet = network.wallet(0);
    let tx = wallet.transfer(network.account(1), 1);
    let (code, answer) = network.post(1, tx.bytes());
    assert_eq!(code, 202, "{answer}");
    wait_for("a transfer", || network.committed(2, tx.id()));
    wait_for("blocks of the three", || {
        let status = network.get(0, "/v1/status").1;
        (number(&status, "height") > height + 20).then_some(())
    });
    network.stop();
}
