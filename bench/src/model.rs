//! `falconet bench model`: from costs of each stage to the cores, network and disk that a rate
//! needs with n validators. Formulas and assumptions: `docs/benchmarks.md`.
//!
//! A cost is assumed, given by the user, or taken out of a report of another benchmark; the answer
//! says which, cost by cost. Nothing is called measured that does not come from a report.
//!
//! For each transaction a validator opens its bytes once (from the client or from the lane's
//! owner) and, for the one in n that is its own, seals them for n - 1 peers: (2n - 1) / n passes
//! through transport. It verifies, hashes, executes and logs each once. Votes are FALCON
//! signatures without aggregation: a certificate holds one a member of the quorum.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bits of a byte.
const BITS: f64 = 8.0;
/// A FALCON-1024 signature with its voter, bytes.
const VOTE_BYTES: f64 = 1_282.0;
/// Share of a core or a link that is planned with.
const UTILISATION: f64 = 0.7;

/// Costs of the stages. Where each comes from: [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Verifying one signature, microseconds (`bench crypto`).
    pub verify_us: f64,
    /// Transport of 1 KB one way: AEAD, QUIC and kernel, microseconds (`bench net`: cores times
    /// 8.192 over the bulk rate in Gbit/s, half of it for each side).
    pub transport_us_per_kb: f64,
    /// Hashing one transaction, microseconds.
    pub hash_us: f64,
    /// Executing one transaction with its part of the state root, microseconds (`bench ledger`);
    /// this stage has one thread.
    pub execute_us: f64,
    /// Appending 1 KB to the log, microseconds.
    pub log_us_per_kb: f64,
    /// What one transaction costs one validator beyond these stages, microseconds: what a report of
    /// `bench cluster` has more than the stages explain.
    pub other_us: f64,
}

impl Default for Costs {
    /// Assumed: the order of magnitude of one core of a server of 2025 with AVX-512, at MTU 9000.
    fn default() -> Self {
        Self {
            verify_us: 2.4,
            transport_us_per_kb: 0.45,
            hash_us: 0.3,
            execute_us: 0.5,
            log_us_per_kb: 0.25,
            other_us: 0.0,
        }
    }
}

/// Where a cost comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nowhere: [`Costs::default`].
    Assumed,
    /// The user.
    Given,
    /// A report; its name and what makes it questionable.
    Measured(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assumed => f.write_str("assumed"),
            Self::Given => f.write_str("given"),
            Self::Measured(report) => write!(f, "measured: {report}"),
        }
    }
}

/// A cost of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "the fields of `Costs`, where they are explained"
)]
pub enum Stage {
    Verify,
    Transport,
    Hash,
    Execute,
    Log,
    Other,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 6] = [
        Self::Verify,
        Self::Transport,
        Self::Hash,
        Self::Execute,
        Self::Log,
        Self::Other,
    ];

    fn of(self, costs: &mut Costs) -> &mut f64 {
        match self {
            Self::Verify => &mut costs.verify_us,
            Self::Transport => &mut costs.transport_us_per_kb,
            Self::Hash => &mut costs.hash_us,
            Self::Execute => &mut costs.execute_us,
            Self::Log => &mut costs.log_us_per_kb,
            Self::Other => &mut costs.other_us,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify, us a signature",
            Self::Transport => "transport, us a KB one way",
            Self::Hash => "hash, us a transaction",
            Self::Execute => "execute, us a transaction",
            Self::Log => "log, us a KB",
            Self::Other => "other, us a transaction",
        }
    }
}

/// Costs with their sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    costs: Costs,
    sources: BTreeMap<Stage, Source>,
    /// From a report of a cluster: CPU of one transaction at one validator, microseconds;
    /// validators; bytes of a transaction; the report.
    cluster: Option<(f64, f64, f64, String)>,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            costs: Costs::default(),
            sources: Stage::ALL.map(|stage| (stage, Source::Assumed)).into(),
            cluster: None,
        }
    }
}

impl Inputs {
    /// A cost that the user knows.
    pub fn give(&mut self, stage: Stage, us: f64) {
        self.set(stage, us, Source::Given);
    }

    fn set(&mut self, stage: Stage, us: f64, source: Source) {
        *stage.of(&mut self.costs) = us;
        self.sources.insert(stage, source);
    }

    /// Takes the costs that a report of `bench crypto`, `net`, `ledger`, `cluster` or `all` holds;
    /// how many that were. `name` is how the report is called in the answer.
    pub fn read(&mut self, report: &Value, name: &str) -> usize {
        let number = |path: &str| {
            let value = report.pointer(path).and_then(Value::as_f64);
            value.filter(|value| value.is_finite() && *value > 0.0)
        };
        let build = ["/environment/profile", "/profile"]
            .into_iter()
            .find_map(|path| report.pointer(path)?.as_str());
        let name = match build {
            Some("release") => name.to_owned(),
            build => format!("{name} ({} build)", build.unwrap_or("unknown")),
        };
        let mut found = 0;
        let mut take = |stage, us: Option<f64>| {
            if let Some(us) = us {
                self.set(stage, us, Source::Measured(name.clone()));
                found += 1;
            }
        };
        take(
            Stage::Verify,
            number("/falcon1024_verify_ns").map(|ns| ns / 1e3),
        );
        // Both sides work on each byte; the cost is that of one side.
        let transport = number("/cases/bulk_mtu9000.stoq/cpu_cores")
            .zip(number("/cases/bulk_mtu9000.stoq/median"))
            .map(|(cores, gbit_s)| cores * 1024.0 * BITS / 1e3 / gbit_s / 2.0);
        take(Stage::Transport, transport);
        let rate = number("/cases/block_5000.transactions/median");
        take(Stage::Execute, rate.map(|tps| 1e6 / tps));
        if let (Some(cpu_us), Some(validators), Some(bytes)) = (
            number("/costs/cpu_us"),
            number("/validators"),
            number("/transaction_bytes"),
        ) {
            self.cluster = Some((cpu_us / validators, validators, bytes, name));
            found += 1;
        }
        for part in ["crypto", "net", "ledger", "cluster"] {
            if let Some(inner) = report.get(part).filter(|inner| inner.is_object()) {
                found += self.read(inner, part);
            }
        }
        found
    }

    /// The costs to compute from. What the CPU time of a transaction in a cluster has more than
    /// the stages explain becomes [`Costs::other_us`].
    fn finish(mut self) -> (Costs, BTreeMap<Stage, Source>) {
        if let Some((cpu_us, validators, bytes, name)) = self.cluster.take() {
            let explained = stages_us(&self.costs, validators, bytes);
            let other = (cpu_us - explained).max(0.0);
            self.set(
                Stage::Other,
                other,
                Source::Measured(format!("{name}, {cpu_us:.1} us less the stages above")),
            );
        }
        (self.costs, self.sources)
    }
}

/// CPU time of one transaction at one of `n` validators, microseconds.
fn stages_us(costs: &Costs, n: f64, transaction_bytes: f64) -> f64 {
    let kb = transaction_bytes / 1024.0;
    let passes = (2.0 * n - 1.0) / n;
    costs.verify_us
        + costs.hash_us
        + costs.execute_us
        + costs.other_us
        + kb * (passes * costs.transport_us_per_kb + costs.log_us_per_kb)
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Validators.
    pub validators: u32,
    /// Transactions a second.
    pub tps: f64,
    /// Bytes of one.
    pub transaction_bytes: f64,
    /// Blocks a second.
    pub blocks_per_s: f64,
}

/// What one validator needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// The question.
    pub question: Question,
    /// CPU time of one transaction at one validator, microseconds.
    pub cpu_us: f64,
    /// Cores, planned with a share of 0.7.
    pub cores: f64,
    /// Of these, for verifying certificates.
    pub cores_certificates: f64,
    /// Network in, Gbit/s.
    pub in_gbit_s: f64,
    /// Network out of a leader, the busiest, Gbit/s.
    pub out_gbit_s: f64,
    /// Log written, MB/s.
    pub disk_mb_s: f64,
    /// Most transactions a second that the one execution thread takes.
    pub execution_limit_tps: f64,
}

/// The answer for one question.
#[must_use]
pub fn needs(costs: &Costs, question: &Question) -> Needs {
    let Question {
        validators,
        tps,
        transaction_bytes,
        blocks_per_s,
    } = *question;
    let n = f64::from(validators);
    let quorum = f64::from(2 * validators.saturating_sub(1) / 3 + 1);
    let cpu_us = stages_us(costs, n, transaction_bytes);
    // The quorum's votes come to the leader, and in its certificate to everybody.
    let certificates = blocks_per_s * quorum;
    let certificate_cores = certificates * costs.verify_us / 1e6 / UTILISATION;
    let payload = tps * transaction_bytes;
    let in_bytes = payload + certificates * VOTE_BYTES;
    let out_bytes = payload * (n - 1.0) / n + certificates * VOTE_BYTES * (n - 1.0);
    Needs {
        question: *question,
        cpu_us,
        cores: tps * cpu_us / 1e6 / UTILISATION + certificate_cores,
        cores_certificates: certificate_cores,
        in_gbit_s: in_bytes * BITS / 1e9,
        out_gbit_s: out_bytes * BITS / 1e9,
        disk_mb_s: (payload + certificates * VOTE_BYTES) / 1e6,
        execution_limit_tps: 1e6 / costs.execute_us,
    }
}

/// The answers for several numbers of validators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `model`
    pub benchmark: String,
    /// The costs that it computes from.
    pub costs: Costs,
    /// Where each cost comes from.
    pub sources: BTreeMap<Stage, Source>,
    /// One row for each number of validators.
    pub rows: Vec<Needs>,
}

impl Model {
    /// Computes a row for each of `validators`.
    #[must_use]
    pub fn new(inputs: Inputs, validators: &[u32], question: Question) -> Self {
        let (costs, sources) = inputs.finish();
        let row = |validators: &u32| {
            needs(
                &costs,
                &Question {
                    validators: *validators,
                    ..question
                },
            )
        };
        Self {
            benchmark: "model".into(),
            costs,
            sources,
            rows: validators.iter().map(row).collect(),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>10} {:>9} {:>7} {:>7} {:>12} {:>8} {:>8} {:>8}",
            "validators",
            "tx/s",
            "us/tx",
            "cores",
            "of it votes",
            "in Gb/s",
            "out Gb/s",
            "MB/s log"
        )?;
        for r in &self.rows {
            writeln!(
                f,
                "{:>10} {:>9.0} {:>7.1} {:>7.1} {:>12.2} {:>8.2} {:>8.2} {:>8.0}",
                r.question.validators,
                r.question.tps,
                r.cpu_us,
                r.cores,
                r.cores_certificates,
                r.in_gbit_s,
                r.out_gbit_s,
                r.disk_mb_s
            )?;
        }
        let limit = 1e6 / self.costs.execute_us;
        writeln!(f, "one execution thread: at most {limit:.0} tx/s\n")?;
        let mut costs = self.costs;
        for (stage, source) in &self.sources {
            let us = *stage.of(&mut costs);
            writeln!(f, "{:<27} {us:>8.2}  {source}", stage.name())?;
        }
        let other = self.costs.other_us;
        if let Some(row) = self.rows.first().filter(|row| other > row.cpu_us / 2.0) {
            let share = 100.0 * other / row.cpu_us;
            writeln!(
                f,
                "note: {share:.0} % of the cost is \"other\", as in a validator that is not busy and \
                 pays a wake-up for few transactions; take the report of a cluster near its knee \
                 (bench cluster --sweep), or the cores above are far too many"
            )?;
        }
        let assumed = |source: &&Source| matches!(source, Source::Assumed);
        let count = self.sources.values().filter(assumed).count();
        if count > 0 {
            writeln!(
                f,
                "note: {count} of {} costs are assumed: orders of magnitude, no figures of this machine",
                self.sources.len()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(validators: u32) -> Needs {
        let question = Question {
            validators,
            tps: 100_000.0,
            transaction_bytes: 1_412.0,
            blocks_per_s: 20.0,
        };
        needs(&Costs::default(), &question)
    }

    fn model(inputs: Inputs) -> Model {
        let question = at(4).question;
        Model::new(inputs, &[4], question)
    }

    #[test]
    fn only_what_comes_from_a_report_is_called_measured() {
        let assumed = model(Inputs::default());
        assert!(
            assumed
                .sources
                .values()
                .all(|source| *source == Source::Assumed)
        );
        assert!(!assumed.to_string().contains("measured"));

        let mut inputs = Inputs::default();
        inputs.give(Stage::Hash, 0.4);
        let all = serde_json::json!({
            "crypto": {"falcon1024_verify_ns": 2_000.0, "profile": "release"},
            "net": {"cases": {"bulk_mtu9000.stoq": {"median": 8.192, "cpu_cores": 2.0}},
                "environment": {"profile": "debug"}},
            "ledger": {"cases": {"block_5000.transactions": {"median": 1e6}}},
        });
        assert_eq!(inputs.read(&all, "all"), 3);
        let mixed = model(inputs.clone());
        assert_eq!(mixed.costs.verify_us, 2.0);
        assert!((mixed.costs.transport_us_per_kb - 1.0).abs() < 1e-9);
        assert_eq!(mixed.costs.execute_us, 1.0);
        assert_eq!(mixed.sources[&Stage::Hash], Source::Given);
        assert_eq!(mixed.sources[&Stage::Log], Source::Assumed);
        assert_eq!(
            mixed.sources[&Stage::Verify],
            Source::Measured("crypto".into())
        );
        let debug = Source::Measured("net (debug build)".into());
        assert_eq!(mixed.sources[&Stage::Transport], debug);

        // With the cluster's own measure the whole is what was measured, whatever the stages are.
        let cluster = serde_json::json!({"validators": 4, "transaction_bytes": 1_412,
            "costs": {"cpu_us": 400.0}, "profile": "release"});
        assert_eq!(inputs.read(&cluster, "run.json"), 1);
        assert!((model(inputs).rows[0].cpu_us - 100.0).abs() < 1e-9);
        assert_eq!(Inputs::default().read(&serde_json::json!({"x": 1}), "x"), 0);
    }

    #[test]
    fn a_single_validator_sends_nothing_to_peers() {
        let one = at(1);
        assert_eq!(one.out_gbit_s, 0.0);
        assert!((one.in_gbit_s - 1.13).abs() < 0.01, "{}", one.in_gbit_s);
        assert!((one.disk_mb_s - 141.2).abs() < 0.1);
    }

    #[test]
    fn cost_of_a_transaction_is_bounded_and_certificates_grow_with_the_quorum() {
        let (four, hundred) = (at(4), at(100));
        assert!(hundred.cpu_us > four.cpu_us && hundred.cpu_us < four.cpu_us * 1.1);
        let growth = hundred.cores_certificates / four.cores_certificates;
        assert!((growth - 67.0 / 3.0).abs() < 1e-9, "{growth}");
        assert!(hundred.out_gbit_s > four.out_gbit_s);
    }
}
