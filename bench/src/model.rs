//! `falconet bench model`: from measured costs of each stage to the cores, network and disk that
//! a rate needs with n validators. Formulas and assumptions: `docs/benchmarks.md`.
//!
//! For each transaction a validator opens its bytes once (from the client or from the lane's
//! owner) and, for the one in n that is its own, seals them for n - 1 peers: (2n - 1) / n passes
//! through transport. It verifies, hashes, executes and logs each once. Votes are FALCON
//! signatures without aggregation: a certificate holds one a member of the quorum.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits of a byte.
const BITS: f64 = 8.0;
/// A FALCON-1024 signature with its voter, bytes.
const VOTE_BYTES: f64 = 1_282.0;
/// Share of a core or a link that is planned with.
const UTILISATION: f64 = 0.7;

/// Costs of the stages, measured.
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
}

impl Default for Costs {
    /// Measured on one core of an AMD EPYC (Zen 5), release build, MTU 9000.
    fn default() -> Self {
        Self {
            verify_us: 2.4,
            transport_us_per_kb: 0.45,
            hash_us: 0.3,
            execute_us: 0.5,
            log_us_per_kb: 0.25,
        }
    }
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
    let kb = transaction_bytes / 1024.0;
    let passes = (2.0 * n - 1.0) / n;
    let cpu_us = costs.verify_us
        + costs.hash_us
        + costs.execute_us
        + kb * (passes * costs.transport_us_per_kb + costs.log_us_per_kb);
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
    /// One row for each number of validators.
    pub rows: Vec<Needs>,
}

impl Model {
    /// Computes a row for each of `validators`.
    #[must_use]
    pub fn new(costs: Costs, validators: &[u32], question: Question) -> Self {
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
            "certificates",
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
        writeln!(f, "one execution thread: at most {limit:.0} tx/s")
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
