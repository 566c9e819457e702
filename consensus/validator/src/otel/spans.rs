//! Spans: the stages of a sampled block, and of a sampled transaction at the validator that it was
//! submitted to.
//!
//! The trace of a block has the first half of the block's id as its trace id, on every validator,
//! so a collector shows what one block went through on all of them in one view. Which blocks and
//! transactions are sampled follows from their ids as well: all validators choose the same ones.
//! A child span lasts from the moment before to the moment that names it.
//!
//! A mark takes a lock for some hundred nanoseconds, for sampled blocks and transactions only.
//! Everything kept is bounded; what does not finish in time is forgotten, what finds no room is
//! counted and dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;
use falconet_types::Digest;
use falconet_types::receipt::Receipt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{attribute, now_ns};
use crate::trace::Moment;

/// Blocks that are followed at a time.
const BLOCKS_MAX: usize = 1024;
/// Transactions that are followed at a time.
const TRANSACTIONS_MAX: usize = 4096;
/// Own batches and committed blocks whose time is remembered, for the stages of transactions.
const TIMES_MAX: usize = 1024;
/// After this time without its end a block or transaction is forgotten.
const FORGOTTEN_AFTER_NS: u64 = 60_000_000_000;

/// One recorder a process, as there is one exporter.
static RECORDER: OnceLock<Mutex<Recorder>> = OnceLock::new();
/// Spans that were not exported because too many waited.
pub(super) static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Begins to record. `ratio` of all blocks and transactions are sampled.
pub(super) fn start(ratio: f64, instance: &str, out: Sender<Value>) {
    // A second exporter in one process records nothing: whose would it be?
    let _ = RECORDER.set(Mutex::new(Recorder::new(ratio, instance, out)));
}

fn record(of: impl FnOnce(&mut Recorder, u64)) {
    if let Some(recorder) = RECORDER.get() {
        of(&mut recorder.lock(), now_ns());
    }
}

/// Something happened to a block. `height` and `round` where they are known.
pub fn block(moment: Moment, id: &Digest, height: Option<u64>, round: Option<u64>) {
    record(|recorder, now| recorder.block(moment, id, height, round, now));
}

/// A transaction was admitted.
pub fn admitted(tx: &Digest) {
    record(|recorder, now| recorder.admitted(tx, now));
}

/// An own batch was sealed.
pub fn sealed(seq: u64) {
    record(|recorder, now| remember(&mut recorder.sealed, seq, now));
}

/// A transaction submitted here was executed.
pub fn finished(receipt: &Receipt) {
    record(|recorder, now| {
        let outcome = receipt.outcome.name();
        recorder.finished(
            &receipt.tx_id,
            receipt.seq.0,
            receipt.height.0,
            outcome,
            now,
        );
    });
}

/// A moment with its time, nanoseconds since 1970.
type Mark = (&'static str, u64);

struct Block {
    began_ns: u64,
    height: Option<u64>,
    round: Option<u64>,
    marks: Vec<Mark>,
}

struct Recorder {
    /// First eight bytes of an id below which it is sampled.
    below: u128,
    instance: String,
    blocks: HashMap<Digest, Block>,
    /// When they were admitted.
    transactions: HashMap<Digest, u64>,
    /// When own batches were sealed.
    sealed: VecDeque<(u64, u64)>,
    /// When blocks were committed, by height.
    committed: VecDeque<(u64, u64)>,
    out: Sender<Value>,
}

impl Recorder {
    fn new(ratio: f64, instance: &str, out: Sender<Value>) -> Self {
        let all = u128::from(u64::MAX) + 1;
        Self {
            below: (ratio.clamp(0.0, 1.0) * all as f64) as u128,
            instance: instance.to_owned(),
            blocks: HashMap::new(),
            transactions: HashMap::new(),
            sealed: VecDeque::new(),
            committed: VecDeque::new(),
            out,
        }
    }

    fn is_sampled(&self, id: &Digest) -> bool {
        u128::from(falconet_probes::id(&id.0)) < self.below
    }

    fn block(
        &mut self,
        moment: Moment,
        id: &Digest,
        height: Option<u64>,
        round: Option<u64>,
        now: u64,
    ) {
        if let (Moment::Committed, Some(height)) = (moment, height) {
            remember(&mut self.committed, height, now);
        }
        if !self.is_sampled(id) {
            return;
        }
        if !self.blocks.contains_key(id) {
            // What was in progress before the start has no beginning.
            if !matches!(moment, Moment::Received | Moment::Proposed) {
                return;
            }
            let fresh = |block: &Block| now.saturating_sub(block.began_ns) < FORGOTTEN_AFTER_NS;
            if self.blocks.len() >= BLOCKS_MAX {
                self.blocks.retain(|_, block| fresh(block));
            }
            if self.blocks.len() >= BLOCKS_MAX {
                DROPPED.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let block = self.blocks.entry(*id).or_insert_with(|| Block {
            began_ns: now,
            height: None,
            round: None,
            marks: Vec::new(),
        });
        block.height = height.or(block.height);
        block.round = round.or(block.round);
        // A header may come twice, and a leader receives nothing of its own.
        if block.marks.iter().all(|(name, _)| *name != moment.name()) {
            block.marks.push((moment.name(), now));
        }
        if moment == Moment::StateWritten
            && let Some(block) = self.blocks.remove(id)
        {
            let attributes = [("height", block.height), ("round", block.round)]
                .into_iter()
                .filter_map(|(key, value)| Some(attribute(key, &value?.to_string())))
                .collect();
            self.send("block", id, block.began_ns, &block.marks, attributes);
        }
    }

    fn admitted(&mut self, tx: &Digest, now: u64) {
        if !self.is_sampled(tx) {
            return;
        }
        if self.transactions.len() >= TRANSACTIONS_MAX {
            let fresh = |since: u64| now.saturating_sub(since) < FORGOTTEN_AFTER_NS;
            self.transactions.retain(|_, since| fresh(*since));
        }
        if self.transactions.len() >= TRANSACTIONS_MAX {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.transactions.insert(*tx, now);
    }

    fn finished(&mut self, tx: &Digest, seq: u64, height: u64, outcome: &str, now: u64) {
        let Some(began_ns) = self.transactions.remove(tx) else {
            return;
        };
        let time = |times: &VecDeque<(u64, u64)>, of: u64| {
            let found = times.iter().rev().find(|(key, _)| *key == of);
            found.map(|(_, time)| *time)
        };
        let marks: Vec<Mark> = [
            ("sealed", time(&self.sealed, seq)),
            ("committed", time(&self.committed, height)),
            ("executed", Some(now)),
        ]
        .into_iter()
        .filter_map(|(name, at)| Some((name, at?)))
        .collect();
        let attributes = vec![
            attribute("batch", &seq.to_string()),
            attribute("height", &height.to_string()),
            attribute("outcome", outcome),
        ];
        self.send("transaction", tx, began_ns, &marks, attributes);
    }

    /// A root span from its beginning to the last mark, and a child between each two marks.
    fn send(&self, name: &str, id: &Digest, began_ns: u64, marks: &[Mark], attributes: Vec<Value>) {
        let trace = hex(&id.0[..16]);
        let root = self.span_id(id, name);
        let end_ns = marks.last().map_or(began_ns, |(_, at)| *at);
        let span = |name: &str, span: &str, from: u64, to: u64| {
            json!({
                "traceId": trace, "spanId": span, "name": name,
                "kind": 1, // internal
                // A clock that was set back must not give a span that ends before it begins.
                "startTimeUnixNano": from.to_string(),
                "endTimeUnixNano": to.max(from).to_string(),
            })
        };
        let mut spans = vec![span(name, &root, began_ns, end_ns)];
        spans[0]["attributes"] = attributes.into();
        let mut from = began_ns;
        for (mark, at) in marks.iter().filter(|(_, at)| *at > began_ns) {
            let mut child = span(mark, &self.span_id(id, mark), from, *at);
            child["parentSpanId"] = root.as_str().into();
            spans.push(child);
            from = *at;
        }
        for span in spans {
            if self.out.try_send(span).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Differs between validators, and is the same whenever this one says it.
    fn span_id(&self, id: &Digest, name: &str) -> String {
        let parts: [&[u8]; 3] = [&id.0, self.instance.as_bytes(), name.as_bytes()];
        hex(&falconet_crypto::hash::hash("falconet/span", &parts).0[..8])
    }
}

fn remember(times: &mut VecDeque<(u64, u64)>, of: u64, now: u64) {
    if times.len() == TIMES_MAX {
        times.pop_front();
    }
    times.push_back((of, now));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, unbounded};

    use super::*;

    fn recorder(ratio: f64, instance: &str) -> (Recorder, Receiver<Value>) {
        let (out, spans) = unbounded();
        (Recorder::new(ratio, instance, out), spans)
    }

    const LIFE: [Moment; 7] = [
        Moment::Received,
        Moment::Voted,
        Moment::Certified,
        Moment::Committed,
        Moment::ExecutionBegun,
        Moment::Executed,
        Moment::StateWritten,
    ];

    #[test]
    fn the_stages_of_a_block_are_children_of_one_span() {
        let (mut recorder, spans) = recorder(1.0, "validator-0");
        let id = Digest([0xab; 32]);
        for (now, moment) in (100..).zip(LIFE) {
            recorder.block(moment, &id, Some(7), None, now);
            if moment == Moment::Voted {
                recorder.block(Moment::Received, &id, None, Some(9), now); // once more
            }
        }
        let spans: Vec<Value> = spans.try_iter().collect();
        assert_eq!(spans.len(), LIFE.len());
        let root = &spans[0];
        assert_eq!(root["name"], "block");
        assert_eq!(root["traceId"], "ab".repeat(16));
        assert_eq!(root["startTimeUnixNano"], "100");
        assert_eq!(root["endTimeUnixNano"], "106");
        assert_eq!(
            root["attributes"],
            json!([attribute("height", "7"), attribute("round", "9")])
        );
        for (i, (child, moment)) in spans[1..].iter().zip(&LIFE[1..]).enumerate() {
            assert_eq!(child["name"], moment.name());
            assert_eq!(child["parentSpanId"], root["spanId"]);
            assert_eq!(child["startTimeUnixNano"], (100 + i).to_string());
            assert_eq!(child["endTimeUnixNano"], (101 + i).to_string());
        }
        assert!(recorder.blocks.is_empty());
    }

    #[test]
    fn validators_share_the_trace_and_not_the_spans() {
        let ids = ["validator-0", "validator-1"].map(|instance| {
            let (mut recorder, spans) = recorder(1.0, instance);
            for (now, moment) in (1..).zip(LIFE) {
                recorder.block(moment, &Digest([5; 32]), Some(1), None, now);
            }
            let root = spans.recv().unwrap();
            (root["traceId"].clone(), root["spanId"].clone())
        });
        assert_eq!(ids[0].0, ids[1].0);
        assert_ne!(ids[0].1, ids[1].1);
    }

    #[test]
    fn a_transaction_waits_for_its_batch_and_its_block() {
        let (mut recorder, spans) = recorder(1.0, "validator-0");
        let (tx, block) = (Digest([1; 32]), Digest([2; 32]));
        recorder.admitted(&tx, 10);
        remember(&mut recorder.sealed, 4, 15);
        recorder.block(Moment::Committed, &block, Some(8), Some(9), 30);
        recorder.finished(&tx, 4, 8, "executed", 42);
        let spans: Vec<(String, String, String)> = spans
            .try_iter()
            .map(|span| {
                let text = |key: &str| span[key].as_str().unwrap().to_owned();
                (
                    text("name"),
                    text("startTimeUnixNano"),
                    text("endTimeUnixNano"),
                )
            })
            .collect();
        let expected = [
            ("transaction", "10", "42"),
            ("sealed", "10", "15"),
            ("committed", "15", "30"),
            ("executed", "30", "42"),
        ];
        assert_eq!(spans.len(), expected.len());
        for (span, (name, from, to)) in spans.iter().zip(expected) {
            assert_eq!((&*span.0, &*span.1, &*span.2), (name, from, to));
        }
        // Nobody knows a transaction that was not admitted here.
        recorder.finished(&tx, 4, 8, "executed", 50);
    }

    #[test]
    fn a_share_is_sampled_and_what_never_ends_is_bounded() {
        let (mut recorder, _spans) = recorder(0.25, "validator-0");
        let id = |n: u64| falconet_crypto::hash::hash("test", &[&n.to_be_bytes()]);
        let sampled = (0..4000).filter(|n| recorder.is_sampled(&id(*n))).count();
        assert!((800..1200).contains(&sampled), "{sampled}");
        for n in 0..8 * TRANSACTIONS_MAX as u64 {
            recorder.block(Moment::Received, &id(n), None, None, n);
            recorder.admitted(&id(n), n);
            remember(&mut recorder.sealed, n, n);
        }
        assert_eq!(recorder.blocks.len(), BLOCKS_MAX);
        assert_eq!(recorder.transactions.len(), TRANSACTIONS_MAX);
        assert_eq!(recorder.sealed.len(), TIMES_MAX);
        // Later there is room again.
        let late = FORGOTTEN_AFTER_NS + 8 * TRANSACTIONS_MAX as u64;
        let mut more = (0..).map(|n| id(1_000_000 + n));
        let next = more.find(|id| recorder.is_sampled(id)).unwrap();
        recorder.block(Moment::Received, &next, None, None, late);
        recorder.admitted(&next, late);
        assert_eq!((recorder.blocks.len(), recorder.transactions.len()), (1, 1));
    }
}
