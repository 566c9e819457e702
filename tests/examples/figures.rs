//! Figures of consensus under attack, as `docs/scenarios.md` shows them.
//!
//! ```text
//! cargo run --release -p falconet-tests --example figures               # virtual time
//! cargo run --release -p falconet-tests --example figures flags         # flags of genesis
//! cargo run --release -p falconet-tests --example figures certificates  # real signatures
//! ```
//!
//! Commit latency is that of a block: from the moment its honest leader hands it to the network
//! until each honest node commits it. The network takes 0.5 to 4 ms one way, a sync up to 1 ms, the
//! round timer begins at 200 ms, and there are at least 5 ms between two blocks. A view change is a round that failed: from the moment the first
//! honest node enters it until an honest leader of a later round proposes.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use falconet_adversary::Kind;
use falconet_crypto::falcon::Verifier;
use falconet_tests::actors::Named;
use falconet_tests::sim::{Scenario, World};
use falconet_types::certificate::{Qc, Tc, TcEntry, Timeout, Vote};
use falconet_types::message::PeerMessage;
use falconet_types::signing;
use falconet_types::validators::ValidatorSet;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, KeyPair, Round, Scheme, ValidatorIndex};

/// Virtual time that is looked at, microseconds.
const RUN_US: u64 = 10_000_000;
/// Seeds of each row.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;
/// Messages a second to each peer of the flooder, as many as that of a test network sends.
const FLOOD_PER_S: u64 = 4_000;
/// Time that a certificate is verified again and again.
const VERIFY_TIME: Duration = Duration::from_millis(150);

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("certificates") => certificates(),
        Some("flags") => flags(),
        _ => attacks(),
    }
}

/// Who is faulty in a row.
#[derive(Clone, Copy)]
enum Faulty {
    Nobody,
    Crashed,
    Byzantine(Kind),
}

#[derive(Default)]
struct Figures {
    latencies_us: Vec<u64>,
    views_us: Vec<u64>,
    blocks: u64,
    rounds: u64,
}

fn attacks() {
    println!(
        "| n | faulty | blocks a second | rounds a block | commit p50, ms | p99, ms | view change p50, ms | max, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for n in [4, 7] {
        let f = (n - 1) / 3;
        let kinds = Kind::ALL.map(Faulty::Byzantine);
        for faulty in [Faulty::Nobody, Faulty::Crashed].into_iter().chain(kinds) {
            let mut all = Figures::default();
            for seed in SEEDS {
                one(seed, n, f, faulty, &[], &mut all);
            }
            let name = match faulty {
                Faulty::Nobody => "nobody".to_owned(),
                Faulty::Crashed => format!("{f} crashed"),
                Faulty::Byzantine(kind) => format!("{f} {kind}"),
            };
            let seconds = (RUN_US / 1_000_000 * SEEDS.count() as u64) as f64;
            println!(
                "| {n} | {name} | {:.1} | {:.2} | {} | {} | {} | {} |",
                all.blocks as f64 / seconds,
                all.rounds as f64 / all.blocks.max(1) as f64,
                ms(&mut all.latencies_us, 500),
                ms(&mut all.latencies_us, 990),
                ms(&mut all.views_us, 500),
                ms(&mut all.views_us, 1_000),
            );
        }
    }
}

/// What the flags of genesis change, with nobody and with f validators crashed.
fn flags() {
    let chains: [(&str, &[&str]); 5] = [
        ("none", &[]),
        ("`commit_votes`", &["commit_votes=true"]),
        ("`optimistic_proposals`", &["optimistic_proposals=true"]),
        ("`leader_reputation`", &["leader_reputation=true"]),
        (
            "all three",
            &[
                "commit_votes=true",
                "optimistic_proposals=true",
                "leader_reputation=true",
            ],
        ),
    ];
    println!(
        "| n | crashed | flags | blocks a second | rounds a block | commit p50, ms | p99, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for n in [4, 7] {
        let f = (n - 1) / 3;
        for (crashed, faulty) in [(0, Faulty::Nobody), (f, Faulty::Crashed)] {
            for (name, params) in chains {
                let mut all = Figures::default();
                for seed in SEEDS {
                    one(seed, n, f, faulty, params, &mut all);
                }
                let seconds = (RUN_US / 1_000_000 * SEEDS.count() as u64) as f64;
                println!(
                    "| {n} | {crashed} | {name} | {:.1} | {:.2} | {} | {} |",
                    all.blocks as f64 / seconds,
                    all.rounds as f64 / all.blocks.max(1) as f64,
                    ms(&mut all.latencies_us, 500),
                    ms(&mut all.latencies_us, 990),
                );
            }
        }
    }
}

/// A quantile of microseconds, in milliseconds.
fn ms(values: &mut [u64], per_mille: usize) -> String {
    values.sort_unstable();
    match values.len() {
        0 => "–".into(),
        len => format!("{:.1}", values[(len - 1) * per_mille / 1_000] as f64 / 1e3),
    }
}

fn one(seed: u64, n: usize, f: usize, faulty: Faulty, changes: &[&str], figures: &mut Figures) {
    // A leader without work does not wait longer than one with: latency is that of the protocol.
    let mut scenario = Scenario::scripted(seed, n)
        .calm_at(RUN_US + 1_000_000)
        .with_params(|params| {
            params.block_interval_ms_idle = params.block_interval_ms_min;
            for change in changes {
                *params = params.with(change).expect("a parameter");
            }
        });
    let faulty_ones: Vec<usize> = (n - f..n).collect();
    if matches!(faulty, Faulty::Crashed) {
        scenario = scenario.with_silent(&faulty_ones);
    }
    let mut builder = World::builder(scenario).record();
    if let Faulty::Byzantine(kind) = faulty {
        for validator in &faulty_ones {
            let actor = match kind {
                Kind::Flooder => Named::flooder(FLOOD_PER_S),
                kind => Named::new(kind),
            };
            builder = builder.actor(*validator, actor);
        }
    }
    let mut world = builder.build();
    let mut committed: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    let mut entered: BTreeMap<u64, u64> = BTreeMap::new();
    let over = world.run_until(RUN_US, |world| {
        let now = world.now_us();
        entered.entry(world.highest_round().0).or_insert(now);
        for i in world.correct() {
            let at = committed.entry(i).or_default();
            at.resize(world.committed(i) as usize, now);
        }
        false
    });
    over.expect("nobody disagrees");
    // When the honest leaders' blocks left them, and in which rounds they proposed.
    let mut left = BTreeMap::new();
    let mut proposed = BTreeMap::new();
    for sent in world.sent() {
        if let PeerMessage::Header(header) = &sent.message {
            left.entry(header.id()).or_insert(sent.at_us);
            proposed.entry(header.round.0).or_insert(sent.at_us);
        }
    }
    for (i, at) in &committed {
        let disk = &world.node(*i).disk;
        for ((_, id), at) in disk.committed().zip(at) {
            if let Some(left) = left.get(&id) {
                figures.latencies_us.push(at.saturating_sub(*left));
            }
        }
    }
    let first = world.correct().next().expect("most are honest");
    let disk = &world.node(first).disk;
    let good: std::collections::BTreeSet<u64> = disk
        .committed()
        .filter_map(|(_, id)| disk.header(&id))
        .map(|header| header.round.0)
        .collect();
    let last = good.last().copied().unwrap_or(0);
    for (round, since) in &entered {
        if *round == 0 || *round >= last || good.contains(round) {
            continue;
        }
        if let Some((_, at)) = proposed.range(round + 1..).find(|(_, at)| **at >= *since) {
            figures.views_us.push(at - since);
        }
    }
    figures.blocks += good.len() as u64;
    figures.rounds += last;
}

/// Bytes and time of certificates with real signatures.
fn certificates() {
    println!(
        "| n | scheme | QC, bytes | TC, bytes | QC verified, us | TC verified, us | us a signature |"
    );
    println!("|---|---|---|---|---|---|---|");
    for scheme in [Scheme::Falcon512, Scheme::Falcon1024] {
        let keys: Vec<KeyPair> = (0..100u8)
            .map(|i| KeyPair::from_seed(scheme, &[i; 32]))
            .collect();
        for n in [4, 13, 50, 100] {
            let keys = &keys[..n];
            let chain = Digest([1; 32]);
            let members: Vec<_> = keys.iter().map(|key| (key.public().clone(), 1)).collect();
            let set = ValidatorSet::new(chain, Epoch::ZERO, &members).expect("a set");
            let quorum = n - (n - 1) / 3;
            let (qc, tc) = make(&keys[..quorum], chain);
            let qc_us = verified(&qc, chain, &set);
            let tc_us = verified(&tc, chain, &set);
            println!(
                "| {n} | {scheme} | {} | {} | {qc_us:.0} | {tc_us:.0} | {:.2} |",
                qc.to_bytes().len(),
                tc.to_bytes().len(),
                qc_us / quorum as f64,
            );
        }
    }
}

fn make(keys: &[KeyPair], chain: Digest) -> (Qc, Tc) {
    let (epoch, round, id) = (Epoch::ZERO, Round(8), Digest([2; 32]));
    let index = |i: usize| ValidatorIndex(u16::try_from(i).expect("few"));
    let votes = keys.iter().enumerate().map(|(i, key)| {
        let vote = Vote::sign(epoch, round, id, round.prev(), index(i), chain, key);
        (index(i), vote.signature)
    });
    let qc = Qc {
        epoch,
        round,
        block_id: id,
        parent_round: round.prev(),
        votes: votes.collect(),
    };
    let entries = keys.iter().enumerate().map(|(i, key)| {
        let timeout = Timeout::sign(epoch, round.next(), round, id, index(i), chain, key);
        TcEntry {
            author: index(i),
            hqc_round: round,
            hqc_id: id,
            signature: timeout.signature,
        }
    });
    let tc = Tc {
        epoch,
        round: round.next(),
        entries: entries.collect(),
        max_qc: qc.clone(),
    };
    (qc, tc)
}

/// Mean time of one verification, microseconds.
fn verified<T: signing::Signed + Clone>(message: &T, chain: Digest, set: &ValidatorSet) -> f64 {
    let mut verifier = Verifier::new();
    let mut times = 0;
    let start = Instant::now();
    while start.elapsed() < VERIFY_TIME {
        let result = signing::verify(black_box(message.clone()), chain, set, &mut verifier);
        assert!(result.is_ok());
        times += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}
