//! Submissions: admitted, sealed into batches, answered once they are durable.

use falconet_ledger::{Verdict, Verdicts};
use falconet_mempool::Offered;
use falconet_probes as probes;
use falconet_probes::id;
use falconet_types::batch::Batch;
use falconet_types::message::{Admission, SUBMIT_TXS_MAX};
use falconet_types::time::Now;

use crate::metrics::{Cause, admission_name};
use crate::pipeline::{Checked, ReplyTo, Turn};
use crate::trace;

use super::{Core, Waiting};

/// Low bits of a transaction's ticket: its place in its submission. The others are the number of
/// the submission.
const TICKET_INDEX_BITS: u32 = 16;
const TICKET_INDEX_MAX: u64 = (1 << TICKET_INDEX_BITS) - 1;
const _: () = assert!(SUBMIT_TXS_MAX <= 1 << TICKET_INDEX_BITS);
/// What the submitter of a transaction is told that had to make room for others with higher fees.
const EVICTED: Admission = Admission::Busy {
    retry_after_ms: 1_000,
};

fn ticket(submission: u64, index: usize) -> u64 {
    submission << TICKET_INDEX_BITS | index as u64
}

impl Core {
    /// Admits a client's transactions. The answer waits until every accepted one is in a durable
    /// batch: what is acknowledged survives a crash of this validator.
    pub(super) fn submission(
        &mut self,
        now: Now,
        reply: ReplyTo,
        txs: Vec<Checked>,
        turn: &mut Turn,
    ) {
        let number = self.submissions;
        self.submissions += 1;
        let mut evicted = Vec::new();
        let mut accepted = Vec::with_capacity(txs.len());
        let mut results = Vec::with_capacity(txs.len());
        for tx in txs {
            results.push(match tx {
                Checked::Refused(admission) => admission,
                Checked::Good {
                    id,
                    bytes,
                    sender,
                    priority,
                } => {
                    let offered = Offered {
                        id,
                        bytes,
                        sender,
                        priority,
                        ticket: ticket(number, results.len()),
                    };
                    let admission = self.mempool.admit_offered(now, offered, &mut evicted);
                    trace::admitted(&id, admission, &reply);
                    if admission == Admission::Accepted {
                        accepted.push(id);
                    }
                    admission
                }
            });
        }
        // Neighbours mostly have the same fate.
        for same in results.chunk_by(|a, b| admission_name(*a) == admission_name(*b)) {
            let cause = admission_name(same[0]);
            self.metrics
                .admissions
                .get_or_create(&Cause { cause })
                .inc_by(same.len() as u64);
        }
        let unsealed = accepted.len();
        if unsealed == 0 {
            turn.replies.push((reply, results));
        } else {
            self.clients.admitted(&accepted, &reply);
            let waiting = Waiting {
                reply,
                results,
                unsealed,
            };
            self.waiting.insert(number, waiting);
        }
        for tx in evicted {
            self.clients.forget(&tx.id);
            self.evicted(tx.ticket, turn);
        }
    }

    /// An own batch is in this turn's records.
    pub(super) fn sealed(&mut self, batch: &Batch) {
        let count = batch.header().tx_count as usize;
        probes::batch_sealed(
            batch.header().lane.0.into(),
            batch.header().seq.0,
            id(&batch.hash().0),
            count as u64,
            batch.bytes().len() as u64,
        );
        // Transactions of an epoch that is over come first; some are of other validators' lanes.
        let again = self.handover.end.sealed(count);
        let mut verdicts = vec![Verdict::Unknown; again];
        verdicts.resize(count, Verdict::Valid);
        trace::spans::sealed(batch.header().seq.0);
        self.verdicts.put(batch.hash(), Verdicts::new(verdicts));
    }

    /// Admitted transactions are in a batch of this turn's records.
    pub(super) fn settle(&mut self, tickets: &[u64], turn: &mut Turn) {
        let number = |ticket: u64| ticket >> TICKET_INDEX_BITS;
        // Those of one submission were admitted one after the other.
        for same in tickets.chunk_by(|a, b| number(*a) == number(*b)) {
            self.settled(number(same[0]), same.len(), turn);
        }
    }

    /// An admitted transaction will never be in a batch.
    fn evicted(&mut self, ticket: u64, turn: &mut Turn) {
        let number = ticket >> TICKET_INDEX_BITS;
        if let Some(waiting) = self.waiting.get_mut(&number) {
            let index = usize::try_from(ticket & TICKET_INDEX_MAX).expect("sixteen bits");
            waiting.results[index] = EVICTED;
            self.settled(number, 1, turn);
        }
    }

    /// Of a submission `count` more have an answer; it is answered with the last of them.
    fn settled(&mut self, number: u64, count: usize, turn: &mut Turn) {
        // What was admitted before a restart has nobody waiting.
        let Some(waiting) = self.waiting.get_mut(&number) else {
            return;
        };
        waiting.unsealed -= count;
        if waiting.unsealed == 0 {
            let done = self.waiting.remove(&number).expect("it was found");
            turn.replies.push((done.reply, done.results));
        }
    }
}
