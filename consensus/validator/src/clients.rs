//! Transactions on their way: who submitted them, and when.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use falconet_dataplane::ConnId;
use falconet_probes::{NOBODY, id};
use falconet_types::hashing::DigestState;
use falconet_types::message::{ClientMessage, RECEIPTS_MAX};
use falconet_types::receipt::Receipt;
use falconet_types::{TxId, ValidatorIndex};
use parking_lot::Mutex;

use crate::chain::Chain;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::pipeline::ReplyTo;
use crate::trace::spans;

/// Transactions whose submitter is remembered; those beyond get no receipt by themselves.
pub const TRACKED_TXS_MAX: usize = 1 << 20;

/// The table, shared by the core that admits and the executor that finishes. Looked up, never
/// iterated.
#[derive(Default)]
pub struct ClientTable(Mutex<HashMap<TxId, Tracked, DigestState>>);

#[derive(Clone, Copy)]
struct Tracked {
    /// `None` for the HTTP API, whose clients ask.
    conn: Option<ConnId>,
    since: Instant,
}

impl ClientTable {
    /// Transactions of one submission entered this validator's lane.
    pub fn admitted(&self, ids: &[TxId], reply: &ReplyTo) {
        let conn = match reply {
            ReplyTo::Stoq { conn, .. } => Some(*conn),
            ReplyTo::Http(_) | ReplyTo::Nobody => None,
        };
        let since = Instant::now();
        let mut table = self.0.lock();
        for id in ids {
            let room = table.len() < TRACKED_TXS_MAX;
            if let Entry::Vacant(entry) = table.entry(*id)
                && room
            {
                entry.insert(Tracked { conn, since });
            }
        }
    }

    /// The transaction left the lane's queue again.
    pub fn forget(&self, id: &TxId) {
        self.0.lock().remove(id);
    }

    /// True while an admitted transaction waits for execution.
    #[must_use]
    pub fn is_pending(&self, id: &TxId) -> bool {
        self.0.lock().contains_key(id)
    }

    fn finished(&self, receipts: &[Receipt], me: ValidatorIndex) -> Vec<(Receipt, Tracked)> {
        let mut table = self.0.lock();
        receipts
            .iter()
            .filter(|receipt| receipt.lane == me)
            .filter_map(|receipt| {
                table
                    .remove(&receipt.tx_id)
                    .map(|tracked| (*receipt, tracked))
            })
            .collect()
    }
}

/// Tells submitters what came of their transactions.
pub struct ReceiptSender {
    /// The table.
    pub clients: Arc<ClientTable>,
    /// The way out.
    pub outbound: Outbound,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// This validator: others answer for their own lanes.
    pub chain: Arc<Chain>,
}

impl ReceiptSender {
    /// Sends the receipts of one block to those who wait for them.
    pub fn send(&self, receipts: &[Receipt]) {
        let mut by_conn: HashMap<ConnId, Vec<Receipt>> = HashMap::new();
        let now = Instant::now();
        for (receipt, tracked) in self.clients.finished(receipts, self.chain.me()) {
            let waited = now.saturating_duration_since(tracked.since);
            self.metrics.commit_latency.observe(waited.as_secs_f64());
            self.metrics.latency.record(waited);
            falconet_probes::tx_finished(
                id(&receipt.tx_id.0),
                receipt.lane.0.into(),
                receipt.seq.0,
                receipt.height.0,
                receipt.outcome as u64,
                tracked.conn.map_or(NOBODY, ConnId::number),
            );
            spans::finished(&receipt);
            if let Some(conn) = tracked.conn {
                by_conn.entry(conn).or_default().push(receipt);
            }
        }
        for (conn, receipts) in by_conn {
            for chunk in receipts.chunks(RECEIPTS_MAX) {
                self.outbound
                    .client(conn, &ClientMessage::Receipts(chunk.to_vec()));
            }
        }
    }
}
