//! What this validator itself has to tell the chain: misbehaviour that it found, and, while its
//! key waits to join, that it follows.
//!
//! Both are transactions signed with the validator's key, for which nobody pays. A member puts
//! them into its own lane, which carries them to everybody within a batch's time; one that is not
//! in the set sends them to all validators that it is connected to. They are sent again until the
//! ledger has heard them, from whomever.

use std::collections::VecDeque;

use bytes::Bytes;
use falconet_ledger::{Registry, View};
use falconet_types::evidence::Evidence;
use falconet_types::signing::Signer;
use falconet_types::stake::Stake;
use falconet_types::time::Now;
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::{ChainId, Digest, Epoch, Scheme, ValidatorIndex};

/// Pieces of evidence that may wait; one a validator and epoch is enough.
pub const EVIDENCE_PENDING_MAX: usize = 256;
/// Time between two attempts to report the same.
const REPORT_RETRY_US: u64 = 5_000_000;
/// Transactions without a lane that may wait for others to take them; more are forgotten.
pub const ORPHANS_MAX: usize = 65_536;
/// Of these, so many are sent in one turn, and a turn comes every so many microseconds.
const ORPHANS_PER_TURN: usize = 32;
/// See [`ORPHANS_PER_TURN`].
const ORPHANS_INTERVAL_US: u64 = 100_000;
/// Time between two looks at whether this validator has to say that it follows.
const READY_INTERVAL_US: u64 = 1_000_000;
/// How long a transaction of the reporter is valid.
const VALID_MS: u64 = 60_000;

/// Misbehaviour that waits to be executed by the ledger.
struct Pending {
    evidence: Evidence,
    next_us: u64,
}

/// Tells the chain what this validator knows.
pub struct Reporter {
    chain: ChainId,
    key: Box<dyn Signer>,
    scheme: Scheme,
    /// `None` when the application has no accounts: then nobody knows what was executed.
    accounts: Option<View>,
    /// `None` when nothing is ever to be told: the application has no validators.
    view: Option<View>,
    pending: VecDeque<Pending>,
    /// Of what nothing more can come, since the last call of [`Reporter::take_settled`].
    settled: Vec<(Epoch, ValidatorIndex)>,
    ready_us: u64,
    /// Transactions that this node accepted when it had a lane.
    orphans: VecDeque<Bytes>,
    orphans_us: u64,
    attempts: u64,
}

impl Reporter {
    /// A reporter that speaks with the validator's key.
    #[must_use]
    pub fn new(chain: ChainId, key: Box<dyn Signer>, scheme: Scheme, view: Option<View>) -> Self {
        let accounts = view.clone();
        let view = view.filter(|view| view.registry().has_epochs());
        Self {
            chain,
            key,
            scheme,
            accounts,
            view,
            pending: VecDeque::new(),
            settled: Vec::new(),
            ready_us: 0,
            orphans: VecDeque::new(),
            orphans_us: 0,
            attempts: 0,
        }
    }

    /// Takes verified evidence; false when it is known or there is nobody to tell.
    pub fn found(&mut self, evidence: Evidence) -> bool {
        let Some(view) = &self.view else {
            return false;
        };
        let same = |pending: &Pending| {
            let other = &pending.evidence;
            (other.epoch(), other.offender()) == (evidence.epoch(), evidence.offender())
        };
        if view.registry().is_settled(&evidence)
            || self.pending.iter().any(same)
            || self.pending.len() >= EVIDENCE_PENDING_MAX
        {
            return false;
        }
        self.pending.push_back(Pending {
            evidence,
            next_us: 0,
        });
        true
    }

    /// Transactions that are to be sent now.
    pub fn due(&mut self, now: Now) -> Vec<SignedTransaction> {
        if self.next_deadline_us().is_none_or(|at| at > now.mono_us) {
            return Vec::new();
        }
        let Some(view) = &self.view else {
            return Vec::new();
        };
        let registry = view.registry();
        self.pending.retain(|Pending { evidence, .. }| {
            let settled = registry.is_settled(evidence);
            if settled {
                self.settled.push((evidence.epoch(), evidence.offender()));
            }
            !settled
        });
        let mut said = Vec::new();
        for pending in &mut self.pending {
            if pending.next_us <= now.mono_us {
                pending.next_us = now.mono_us + REPORT_RETRY_US;
                said.push(Stake::Report {
                    evidence: pending.evidence.clone(),
                });
            }
        }
        if self.ready_us <= now.mono_us {
            self.ready_us = now.mono_us + READY_INTERVAL_US;
            said.extend(ready(&registry, &self.key.key_id()));
        }
        let say = |stake| self.sign(stake, now.wall_ms);
        said.into_iter().map(say).collect()
    }

    /// Who was punished for misbehaviour in an epoch, by the indices of its set.
    #[must_use]
    pub fn offenders(&self, epoch: Epoch) -> Vec<ValidatorIndex> {
        let Some(view) = &self.view else {
            return Vec::new();
        };
        let registry = view.registry();
        let members = registry.members(epoch).unwrap_or_default();
        let offences = registry.offences().filter(|(of, ..)| *of == epoch);
        let index = |id| members.iter().position(|member| member.validator == id);
        let places = offences.filter_map(|(_, id, _)| u16::try_from(index(*id)?).ok());
        places.map(ValidatorIndex).collect()
    }

    /// Evidence that was punished, or that no longer would be, since the last call: its epoch and
    /// whom it accuses. Nobody needs to remember it.
    pub fn take_settled(&mut self) -> Vec<(Epoch, ValidatorIndex)> {
        std::mem::take(&mut self.settled)
    }

    /// Takes transactions that this node accepted when it had a lane, and has to give to others now
    /// ([`falconet_mempool::Mempool::take_orphans`]).
    pub fn adopt(&mut self, orphans: Vec<Bytes>) {
        self.orphans.extend(orphans);
        self.orphans.truncate(ORPHANS_MAX);
    }

    /// Orphans that are to be relayed now, to one of `validators` after the other, again and again,
    /// until they are executed; with whom.
    pub fn orphans_due(&mut self, now: Now, validators: usize) -> (ValidatorIndex, Vec<Bytes>) {
        let to = (self.attempts % validators as u64) as u16;
        let to = ValidatorIndex(to);
        if self.orphans.is_empty() || self.orphans_us > now.mono_us {
            return (to, Vec::new());
        }
        self.attempts += 1;
        self.orphans_us = now.mono_us + ORPHANS_INTERVAL_US;
        let mut due = Vec::new();
        for _ in 0..self.orphans.len().min(ORPHANS_PER_TURN) {
            let tx = self.orphans.pop_front().expect("as many are there");
            if self.is_open(&tx, now.wall_ms) {
                due.push(tx.clone());
                self.orphans.push_back(tx);
            }
        }
        (to, due)
    }

    /// True while the ledger would still execute it.
    fn is_open(&self, tx: &Bytes, wall_ms: u64) -> bool {
        let Ok(tx) = SignedTransaction::parse(tx.clone()) else {
            return false;
        };
        let view = self.accounts.as_ref();
        view.is_some_and(|view| view.check(&tx, wall_ms).is_ok())
    }

    /// When [`Reporter::due`] or [`Reporter::orphans_due`] has something to do again.
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        let orphans = (!self.orphans.is_empty()).then_some(self.orphans_us);
        if self.view.is_none() {
            return orphans;
        }
        let reports = self.pending.iter().map(|pending| pending.next_us);
        reports.chain([self.ready_us]).chain(orphans).min()
    }

    fn sign(&self, stake: Stake, wall_ms: u64) -> SignedTransaction {
        let tx = Transaction {
            scheme: self.scheme,
            chain_id: self.chain,
            sender: self.key.key_id(),
            nonce: 0,
            valid_until_ms: wall_ms + VALID_MS,
            fee: 0,
            body: Body::Stake(Box::new(stake)),
        };
        tx.sign_by(self.key.as_ref())
    }
}

/// What a validator that waits to join has to say, if it has not said so in this epoch.
fn ready(registry: &Registry, key_id: &Digest) -> Option<Stake> {
    let (id, row) = registry.candidate_by_key(key_id)?;
    let epoch = registry.epoch();
    let waits = !registry.is_member(id)
        && row.ready != Some(epoch)
        && row.barred_until <= epoch.next()
        && row.stake >= registry.params().bond_min;
    let point = registry.newest_checkpoint().filter(|_| waits)?;
    Some(Stake::Ready {
        epoch,
        height: point.height,
        commitment: point.commitment,
    })
}

/// The provable part of what the consensus core found; `None` for a mere warning.
#[must_use]
pub fn provable(evidence: falconet_hotstuff::Evidence) -> Option<Evidence> {
    use falconet_hotstuff::Evidence as E;
    Some(match evidence {
        E::Headers(a, b) => {
            Evidence::Headers(Box::new(a.as_ref().clone()), Box::new(b.as_ref().clone()))
        }
        E::Votes(a, b) => Evidence::Votes(Box::new(a), Box::new(b)),
        E::LockViolation(vote, timeout) => {
            Evidence::LockViolation(Box::new(vote), Box::new(timeout))
        }
        E::CommitVotes(a, b) => Evidence::CommitVotes(Box::new(a), Box::new(b)),
        E::CommitViolation(vote, timeout) => {
            Evidence::CommitViolation(Box::new(vote), Box::new(timeout))
        }
        E::Timeouts(..) => return None,
    })
}

#[cfg(test)]
mod tests {
    use falconet_ledger::{Application, Block, Ledger, Verdicts};
    use falconet_types::batch::Batch;
    use falconet_types::block::LaneTip;
    use falconet_types::certificate::Vote;
    use falconet_types::genesis::{Genesis, GenesisAccount, Params};
    use falconet_types::receipt::Outcome;
    use falconet_types::{Epoch, Height, Round};

    use super::*;
    use crate::fixtures::{self, key};

    fn genesis(epoch_heights: u64) -> Genesis {
        Genesis {
            params: Params {
                epoch_heights,
                ..Params::default()
            },
            ..fixtures::genesis(&[0, 1])
        }
    }

    /// Executes a block of these transactions; all must be good.
    fn execute(ledger: &mut Ledger, txs: &[Bytes], chain: ChainId) {
        let lane = ValidatorIndex(0);
        let batch = Batch::seal(Epoch::ZERO, lane, LaneTip::default(), txs, chain, &key(0));
        let result = ledger.execute(&Block {
            height: Height(1),
            epoch: Epoch::ZERO,
            ends_epoch: false,
            time_ms: 2_000,
            batches: &[(batch.clone(), Verdicts::unknown(&batch))],
        });
        assert_eq!(result.receipts.len(), txs.len());
        for receipt in result.receipts {
            assert_eq!(receipt.outcome, Outcome::Executed);
        }
    }

    fn evidence(chain: ChainId, epoch: u64, round: u64) -> Evidence {
        let vote = |byte| {
            let block = Digest([byte; 32]);
            let (round, parent) = (Round(round), Round(round - 1));
            let index = ValidatorIndex(1);
            Vote::sign(Epoch(epoch), round, block, parent, index, chain, &key(1))
        };
        Evidence::Votes(Box::new(vote(1)), Box::new(vote(2)))
    }

    fn at(seconds: u64) -> Now {
        Now {
            mono_us: seconds * 1_000_000,
            wall_ms: 2_000 + seconds * 1_000,
        }
    }

    #[test]
    fn evidence_is_reported_until_the_ledger_has_it() {
        let genesis = genesis(100);
        let chain = genesis.chain_id();
        let mut ledger = Ledger::from_genesis(&genesis);
        let mut reporter = Reporter::new(chain, Box::new(key(0)), Scheme::Falcon512, ledger.view());
        assert!(reporter.due(at(0)).is_empty());

        assert!(reporter.found(evidence(chain, 0, 5)));
        assert!(!reporter.found(evidence(chain, 0, 7)), "one is enough");
        assert!(!reporter.found(evidence(chain, 9, 5)), "not of this time");
        assert!(reporter.next_deadline_us() <= Some(at(1).mono_us));
        let first = reporter.due(at(1));
        assert_eq!(first.len(), 1);
        assert!(reporter.due(at(2)).is_empty(), "too early to say it again");
        let again = reporter.due(at(7));
        assert_eq!(again.len(), 1);
        assert_ne!(
            again[0].id(),
            first[0].id(),
            "no lane takes it for the same"
        );

        let txs: Vec<_> = again.iter().map(|tx| tx.bytes().clone()).collect();
        execute(&mut ledger, &txs, chain);
        assert_eq!(reporter.take_settled(), []);
        assert!(reporter.due(at(20)).is_empty());
        assert_eq!(reporter.offenders(Epoch(0)), [ValidatorIndex(1)]);
        assert_eq!(reporter.offenders(Epoch(1)), []);
        let settled = (Epoch(0), ValidatorIndex(1));
        assert_eq!(reporter.take_settled(), [settled]);
        assert_eq!(reporter.take_settled(), []);
        assert!(!reporter.found(evidence(chain, 0, 8)), "settled");
    }

    #[test]
    fn a_chain_of_one_epoch_hears_nothing() {
        let genesis = genesis(0);
        let chain = genesis.chain_id();
        let ledger = Ledger::from_genesis(&genesis);
        let mut reporter = Reporter::new(chain, Box::new(key(0)), Scheme::Falcon512, ledger.view());
        assert!(!reporter.found(evidence(chain, 0, 5)));
        assert_eq!(reporter.next_deadline_us(), None);
        assert!(reporter.due(at(1)).is_empty());
    }

    /// A transfer of the account that the key of number 5 has.
    fn transfer(chain: ChainId, nonce: u64) -> SignedTransaction {
        let sender = key(5);
        let tx = Transaction {
            scheme: Scheme::Falcon512,
            chain_id: chain,
            sender: sender.public().id(),
            nonce,
            valid_until_ms: u64::MAX,
            fee: 1,
            body: Body::Transfer {
                to: Digest([9; 32]),
                amount: 1,
            },
        };
        tx.sign_by(&sender)
    }

    #[test]
    fn what_a_node_without_a_lane_accepted_is_relayed_to_one_after_the_other_until_executed() {
        let mut genesis = genesis(0);
        let account = key(5).public().clone();
        genesis.accounts.push(GenesisAccount {
            id: account.id(),
            balance: 1_000,
            key: Some(account),
        });
        let chain = genesis.chain_id();
        let mut ledger = Ledger::from_genesis(&genesis);
        let mut reporter = Reporter::new(chain, Box::new(key(0)), Scheme::Falcon512, ledger.view());
        let orphans: Vec<Bytes> = (1..=ORPHANS_PER_TURN as u64 + 1)
            .map(|nonce| transfer(chain, nonce).bytes().clone())
            .collect();
        assert_eq!(reporter.next_deadline_us(), None, "nothing waits");
        let garbage = Bytes::from_static(b"no transaction");
        reporter.adopt(orphans.iter().cloned().chain([garbage]).collect());

        let now = |turn: u64| Now {
            mono_us: turn * ORPHANS_INTERVAL_US,
            wall_ms: 2_000,
        };
        let (to, first) = reporter.orphans_due(now(1), 2);
        assert_eq!(
            (to, &first[..]),
            (ValidatorIndex(0), &orphans[..ORPHANS_PER_TURN])
        );
        assert_eq!(reporter.next_deadline_us(), Some(now(2).mono_us));
        assert!(reporter.orphans_due(now(1), 2).1.is_empty(), "too early");
        // What was not said yet comes first, and to the next validator; what is no transaction goes.
        let (to, second) = reporter.orphans_due(now(2), 2);
        assert_eq!(to, ValidatorIndex(1));
        assert_eq!(second[0], orphans[ORPHANS_PER_TURN]);
        assert_eq!(second[1..], orphans[..ORPHANS_PER_TURN - 2]);

        execute(&mut ledger, &orphans, chain);
        for turn in 3..=4 {
            assert!(
                reporter.orphans_due(now(turn), 2).1.is_empty(),
                "all are executed"
            );
        }
        assert_eq!(reporter.next_deadline_us(), None);
    }

    #[test]
    fn orphans_are_bounded() {
        let genesis = genesis(0);
        let view = Ledger::from_genesis(&genesis).view();
        let chain = genesis.chain_id();
        let mut reporter = Reporter::new(chain, Box::new(key(0)), Scheme::Falcon512, view);
        reporter.adopt(vec![Bytes::from_static(b"a"); ORPHANS_MAX]);
        reporter.adopt(vec![Bytes::from_static(b"b"); 3]);
        assert_eq!(reporter.orphans.len(), ORPHANS_MAX);
        assert_eq!(reporter.orphans.back().map(|tx| &tx[..]), Some(&b"a"[..]));
    }
}
