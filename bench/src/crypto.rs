//! `falconet bench crypto`: our FALCON verifier beside its peers, in one run on one core.
//!
//! All contenders take turns, each for well under a millisecond at a time, and the fastest turn of
//! each counts: so other work on the machine disturbs the ratios little. A verification is that of
//! a 150-byte message, with keys decoded beforehand where a library can keep them.

// The workloads, the peers and the forger of slow signatures are those of the verifier's tests.
#[path = "../../crypto/tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Instant;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use falconet_crypto::Scheme;
use falconet_crypto::cpu;
use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, PreparedKey, verify_batch_parallel};
use support::peers::{Ours, Workload};
use support::{Case, mutate};

const BATCH: usize = 512;
const MESSAGE_LEN: usize = 150;
const ROUNDS: usize = 150;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Name and value. Names that end in `_cycles` are TSC cycles a signature, in `_verify_ns`
    /// nanoseconds a signature with the best code and the largest batch; all others are ratios of verifications (or hashes) a second, or, where the name says `hostile`, of cost.
    pub figures: Vec<(String, f64)>,
    /// The same and more, for people.
    pub text: String,
    /// CPU features that decide which code runs.
    pub cpu_features: Vec<&'static str>,
}

impl Comparison {
    /// One flat JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = serde_json::Map::new();
        for (name, value) in &self.figures {
            let rounded = (value * 1000.0).round() / 1000.0;
            object.insert(name.clone(), rounded.into());
        }
        object.insert("cpu_features".into(), self.cpu_features.clone().into());
        let machine = crate::machine::Machine::detect();
        for (name, value) in [
            ("cpu_model", machine.cpu_model),
            ("kernel", machine.kernel),
            ("commit", machine.commit),
            ("profile", machine.profile),
        ] {
            object.insert(name.into(), value.into());
        }
        serde_json::Value::Object(object).to_string()
    }

    fn add(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String does not fail");
    }
}

/// A contender: its name, the verifications of one turn, and the turn.
struct Contender<'a> {
    name: String,
    count: usize,
    turn: Box<dyn FnMut() + 'a>,
    /// Fastest turn so far.
    best_ns: f64,
}

impl<'a> Contender<'a> {
    fn new(name: impl Into<String>, count: usize, turn: impl FnMut() + 'a) -> Self {
        Self {
            name: name.into(),
            count,
            turn: Box::new(turn),
            best_ns: f64::INFINITY,
        }
    }

    fn ns_each(&self) -> f64 {
        self.best_ns / self.count as f64
    }
}

/// Goes through the batch, `count` signatures a turn.
fn in_turn(count: usize, mut verify: impl FnMut(Range<usize>)) -> impl FnMut() {
    let mut next = 0;
    move || {
        verify(next..next + count);
        next = (next + count) % BATCH;
    }
}

fn race(contenders: &mut [Contender<'_>], rounds: usize) {
    for _ in 0..rounds {
        for contender in contenders.iter_mut() {
            let start = Instant::now();
            (contender.turn)();
            let elapsed = start.elapsed().as_nanos() as f64;
            contender.best_ns = contender.best_ns.min(elapsed);
        }
    }
}

/// Measures everything; takes about a minute. `step` is told what comes next.
#[must_use]
pub fn compare(step: &dyn Fn(&str)) -> Comparison {
    let mut results = Comparison {
        cpu_features: cpu::features(),
        ..Comparison::default()
    };
    for scheme in [Scheme::Falcon1024, Scheme::Falcon512] {
        step(&format!("{scheme} beside its peers"));
        let workload = Workload::new(scheme, BATCH, MESSAGE_LEN);
        verification(scheme, &workload, &mut results);
    }
    step("signatures made to be slow");
    hostile(&mut results);
    step("two threads beside one");
    threads(&mut results);
    step("parts of a verification");
    for scheme in [Scheme::Falcon1024, Scheme::Falcon512] {
        for backend in Backend::available() {
            parts(scheme, backend, &mut results);
        }
    }
    step("hashing");
    hashing(&mut results);
    results
}

/// What most chains sign with today: no peer in security, but in what a verification costs.
struct Ed25519<'a> {
    keys: Vec<VerifyingKey>,
    messages: Vec<&'a [u8]>,
    signatures: Vec<ed25519_dalek::Signature>,
}

impl<'a> Ed25519<'a> {
    /// Keys among which signatures are spread, as for the others.
    const KEYS: usize = 32;

    fn new(messages: &'a [Vec<u8>]) -> Self {
        let pairs: Vec<SigningKey> = (1..=Self::KEYS)
            .map(|seed| SigningKey::from_bytes(&[seed as u8; 32]))
            .collect();
        let pairs = pairs.iter().cycle().take(messages.len());
        let signed = pairs.clone().zip(messages);
        Self {
            signatures: signed.map(|(pair, message)| pair.sign(message)).collect(),
            keys: pairs.map(SigningKey::verifying_key).collect(),
            messages: messages.iter().map(Vec::as_slice).collect(),
        }
    }

    fn one_by_one(&self, range: Range<usize>) {
        for at in range {
            let valid = self.keys[at].verify_strict(self.messages[at], &self.signatures[at]);
            assert!(valid.is_ok());
        }
    }

    fn together(&self, range: Range<usize>) {
        let valid = ed25519_dalek::verify_batch(
            &self.messages[range.clone()],
            &self.signatures[range.clone()],
            &self.keys[range],
        );
        assert!(valid.is_ok());
    }
}

fn verification<'a>(scheme: Scheme, workload: &'a Workload, results: &mut Comparison) {
    let ed25519 = Ed25519::new(&workload.messages);
    let (prepared, encoded) = (workload.jobs(true), workload.jobs(false));
    let mut contenders = vec![
        Contender::new("pqcrypto", 4, in_turn(4, |range| workload.pqcrypto(range))),
        Contender::new("fn_dsa", 16, in_turn(16, |range| workload.fn_dsa(range))),
    ];
    for backend in Backend::available() {
        let sizes: &[usize] = if backend == Backend::Portable {
            &[16]
        } else {
            &[1, 32, BATCH]
        };
        let largest = sizes[sizes.len() - 1];
        let mut add = |name: String, jobs: &[Job<'a>]| {
            let (ours, jobs) = (Ours::new(backend), jobs.to_vec());
            contenders.push(Contender::new(name, jobs.len(), move || ours.verify(&jobs)));
        };
        for &size in sizes {
            add(format!("{backend}_batch_{size}"), &prepared[..size]);
        }
        add(format!("{backend}_encoded_keys"), &encoded[..largest]);
    }
    for (name, count) in [("ed25519_dalek", 16), ("ed25519_dalek_batch", 64)] {
        let ed25519 = &ed25519;
        contenders.push(Contender::new(
            name,
            count,
            in_turn(count, move |range| match name {
                "ed25519_dalek" => ed25519.one_by_one(range),
                _ => ed25519.together(range),
            }),
        ));
    }
    race(&mut contenders, ROUNDS);

    let time = |name: &str| {
        contenders
            .iter()
            .find(|contender| contender.name == name)
            .map(Contender::ns_each)
    };
    results.line(format_args!("{scheme}, {MESSAGE_LEN} bytes"));
    for contender in &contenders {
        let ns = contender.ns_each();
        results.line(format_args!(
            "  {:24} {ns:9.0} ns {:9.0} a second",
            contender.name,
            1e9 / ns
        ));
    }
    let best = Backend::best();
    let best_size = if best == Backend::Portable { 16 } else { BATCH };
    let best_time = time(&format!("{best}_batch_{best_size}")).expect("measured");
    let (fn_dsa, pqcrypto) = (
        time("fn_dsa").expect("measured"),
        time("pqcrypto").expect("measured"),
    );
    // Absolute, for `bench model`.
    results.add(format!("{scheme}_verify_ns"), best_time);
    results.add(format!("{scheme}_vs_pqcrypto"), pqcrypto / best_time);
    results.add(format!("{scheme}_vs_fn_dsa"), fn_dsa / best_time);
    for (name, key) in [
        ("ed25519_dalek", "vs_ed25519"),
        ("ed25519_dalek_batch", "vs_ed25519_batch"),
    ] {
        let theirs = time(name).expect("measured");
        results.add(format!("{scheme}_{key}"), theirs / best_time);
    }
    for (name, key) in [
        ("avx512_batch_32", "batch_32_vs_fn_dsa"),
        ("avx512_batch_1", "batch_1_vs_fn_dsa"),
        ("avx512_encoded_keys", "encoded_keys_vs_fn_dsa"),
        ("avx2_batch_512", "avx2_vs_fn_dsa"),
        ("portable_batch_16", "portable_vs_fn_dsa"),
    ] {
        if let Some(ns) = time(name) {
            results.add(format!("{scheme}_{key}"), fn_dsa / ns);
        }
    }
}

/// Signatures that an attacker has chosen to be slow, beside ordinary ones.
fn hostile(results: &mut Comparison) {
    /// Jobs of a turn: a few chunks of the verifier, so that a turn is short.
    const JOBS: usize = 128;
    let mut random = fastrand::Rng::with_seed(1);
    for scheme in [Scheme::Falcon1024, Scheme::Falcon512] {
        let workload = Workload::new(scheme, JOBS, 48);
        let slow: Vec<Case> = (0..JOBS)
            .map(|_| mutate::slowest(scheme, &mut random))
            .collect();
        let slow_keys: Vec<PreparedKey> = slow
            .iter()
            .map(|case| PreparedKey::from_bytes(scheme, &case.public_key).expect("canonical"))
            .collect();
        let ordinary = workload.jobs(true);
        for backend in Backend::available() {
            let mixed = |every: usize| -> Vec<Job<'_>> {
                let mut jobs = ordinary.clone();
                for at in (0..JOBS).step_by(every) {
                    jobs[at] = Job {
                        key: Key::Prepared(&slow_keys[at]),
                        message: &slow[at].message,
                        signature: &slow[at].signature,
                    };
                }
                jobs
            };
            let mut contenders: Vec<Contender<'_>> = [ordinary.clone(), mixed(1), mixed(8)]
                .into_iter()
                .map(|jobs| {
                    let ours = Ours::new(backend);
                    Contender::new("", JOBS, move || ours.verify(&jobs))
                })
                .collect();
            race(&mut contenders, 8 * ROUNDS);
            let [ordinary, all, few] = [0, 1, 2].map(|at| contenders[at].ns_each());
            // What one hostile signature adds to ordinary ones.
            let marginal = (8.0 * few - 7.0 * ordinary) / ordinary;
            results.line(format_args!(
                "{scheme} on {backend}: the slowest signatures cost {:.2} times an ordinary one, \
                 one among seven ordinary ones {marginal:.2} times",
                all / ordinary
            ));
            results.add(
                format!("{scheme}_{backend}_hostile_vs_ordinary"),
                all / ordinary,
            );
            results.add(
                format!("{scheme}_{backend}_one_hostile_vs_ordinary"),
                marginal,
            );
        }
    }
}

fn threads(results: &mut Comparison) {
    // Four times the batch, so that waking the threads does not count.
    let workload = Workload::new(Scheme::Falcon1024, BATCH, MESSAGE_LEN);
    let jobs = workload.jobs(true).repeat(4);
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads can be started")
    };
    let pools = [pool(1), pool(2)];
    let mut contenders: Vec<Contender<'_>> = pools
        .iter()
        .map(|pool| {
            let (jobs, mut valid) = (&jobs, Bitmap::new());
            Contender::new("threads", 1, move || {
                verify_batch_parallel(pool, jobs, &mut valid);
                assert!(valid.all());
            })
        })
        .collect();
    race(&mut contenders, 4 * ROUNDS);
    results.add(
        "two_threads_vs_one",
        contenders[0].best_ns / contenders[1].best_ns,
    );
}

/// Where the time goes, in cycles of the time-stamp counter.
#[cfg(target_arch = "x86_64")]
fn parts(scheme: Scheme, backend: Backend, results: &mut Comparison) {
    use falconet_crypto::falcon::stages::{Stage, Stages};
    let workload = Workload::new(scheme, 32, MESSAGE_LEN);
    let encoded: [Job<'_>; 32] = workload.jobs(false).try_into().expect("32 jobs");
    let Some(stages) = Stages::new(backend, &encoded) else {
        return;
    };
    let stages = std::cell::RefCell::new(stages);
    let (ours, prepared) = (Ours::new(backend), workload.jobs(true));
    let mut contenders = vec![Contender::new("all_prepared_keys", 32, || {
        ours.verify(&prepared)
    })];
    let names = ["hash_to_point", "decode", "key_decode", "ntt_and_norm"];
    for (stage, name) in Stage::ALL.into_iter().zip(names) {
        let stages = &stages;
        contenders.push(Contender::new(name, 32, move || {
            stages.borrow_mut().run(stage)
        }));
    }
    race(&mut contenders, 4 * ROUNDS);
    results.line(format_args!(
        "{scheme} on {backend}, TSC cycles a signature"
    ));
    for contender in &contenders {
        let cycles = contender.ns_each() * tsc_per_ns();
        results.line(format_args!("  {:24} {cycles:9.0}", contender.name));
        results.add(
            format!("{scheme}_{backend}_{}_cycles", contender.name),
            cycles,
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn parts(_: Scheme, _: Backend, _: &mut Comparison) {}

#[cfg(target_arch = "x86_64")]
fn tsc_per_ns() -> f64 {
    use std::sync::LazyLock;
    static RATE: LazyLock<f64> = LazyLock::new(|| {
        // SAFETY: the time-stamp counter is readable in user space on every x86-64 system.
        let tsc = || unsafe { std::arch::x86_64::_rdtsc() };
        let (start, first) = (Instant::now(), tsc());
        while start.elapsed().as_millis() < 20 {
            std::hint::spin_loop();
        }
        (tsc() - first) as f64 / start.elapsed().as_nanos() as f64
    });
    *RATE
}

fn hashing(results: &mut Comparison) {
    use falconet_crypto::keccak::Engine;
    // 117 bytes and a prefix of 18 fill one block.
    let messages = vec![[7u8; 117]; 256];
    let mut contenders: Vec<Contender<'_>> = Engine::available()
        .map(|engine| {
            let (messages, mut out) = (&messages, vec![[0u8; 32]; 256]);
            Contender::new(format!("{engine:?}"), 256, move || {
                engine.sha3_256_many(b"benchmark of SHA-3", messages, &mut out);
            })
        })
        .collect();
    race(&mut contenders, ROUNDS);
    let scalar = contenders.last().expect("scalar").ns_each();
    results.line(format_args!("SHA3-256 of one block"));
    for contender in &contenders {
        results.line(format_args!(
            "  {:24} {:9.1} ns",
            contender.name,
            contender.ns_each()
        ));
        let name = format!("sha3_{}_vs_scalar", contender.name.to_lowercase());
        results.add(name, scalar / contender.ns_each());
    }
}
