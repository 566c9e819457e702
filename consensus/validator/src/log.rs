//! The log thread: record, fsync, send.
//!
//! Takes all turns that wait, appends their records, makes them durable with one `fdatasync`,
//! and only then lets go of what they send. A turn without records needs no sync of its own, but
//! keeps its place in the order.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use falconet_mempool::Payload;
use falconet_probes as probes;
use falconet_probes::{NOBODY, id};
use falconet_store::{LogWriter, Record, StoreError};
use falconet_types::Height;
use falconet_types::message::{Admission, ClientMessage, PeerMessage};

use crate::chain::Chain;
use crate::epochs::EpochsError;
use crate::metrics::Metrics;
use crate::metrics::stages::{Clock, Queue};
use crate::outbound::Outbound;
use crate::pipeline::{HistoryRequest, ReplyTo, TURN_QUEUE_MAX, To, Turn};
use crate::shelf::Shelf;
use crate::snapshots::Snapshots;
use crate::status::StatusBoard;
use crate::trace;

/// Why nothing can be made durable any more.
#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Epochs(#[from] EpochsError),
}

/// Everything the log thread owns.
pub struct LogThread {
    /// Chain and epochs.
    pub chain: Arc<Chain>,
    /// The log.
    pub writer: LogWriter,
    /// Turns of the core.
    pub turns: Receiver<Turn>,
    /// The way out.
    pub outbound: Outbound,
    /// Blocks for execution.
    pub payloads: Sender<Payload>,
    /// Requests for what is on disk.
    pub history: Sender<HistoryRequest>,
    /// Where a failure is published.
    pub board: Arc<StatusBoard>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where this thread's time goes.
    pub stage: Clock,
    /// Evidence that is not in a block yet.
    pub shelf: Shelf,
    /// What history must outlast.
    pub snapshots: Arc<Snapshots>,
}

impl LogThread {
    /// Runs until the core stops. After a failed write or sync nothing leaves any more: whether
    /// the records are on disk is unknown, so nothing may depend on them.
    pub fn run(mut self) {
        let mut batch = Vec::with_capacity(TURN_QUEUE_MAX);
        while let Ok(first) = self.stage.recv(&self.turns) {
            batch.push(first);
            while batch.len() < TURN_QUEUE_MAX
                && let Ok(next) = self.turns.try_recv()
            {
                batch.push(next);
            }
            self.stage.depth(Queue::Turns, self.turns.len());
            if self.board.failure().is_some() {
                batch.clear();
                continue;
            }
            if let Err(error) = self.make_durable(&batch) {
                tracing::error!(%error, "the log failed: this validator stops taking part");
                self.board.fail(error.to_string());
                batch.clear();
                continue;
            }
            for turn in batch.drain(..) {
                self.release(turn);
            }
        }
    }

    fn make_durable(&mut self, turns: &[Turn]) -> Result<(), LogError> {
        // Before the log holds anything of an epoch, its validators are known.
        for proof in turns.iter().filter_map(|turn| turn.epoch.as_deref()) {
            self.chain.epochs.persist(proof)?;
        }
        for change in turns.iter().flat_map(|turn| &turn.evidence) {
            self.shelf.change(change);
        }
        let mut records = turns.iter().flat_map(|turn| &turn.records).peekable();
        if records.peek().is_none() {
            return Ok(());
        }
        let mut written = 0;
        for record in records {
            self.writer.append(record)?;
            written += 1;
            if let Record::Batch(batch) = record {
                self.metrics.log_written.inc_by(batch.bytes().len() as u64);
            }
        }
        let start = Instant::now();
        probes::fsync_start(turns.len() as u64, written);
        let synced = self.writer.sync();
        probes::fsync_end(turns.len() as u64, written, u64::from(synced.is_err()));
        synced?;
        for record in turns.iter().flat_map(|turn| &turn.records) {
            if let Record::Batch(batch) = record {
                let (lane, seq) = (batch.header().lane, batch.header().seq);
                let bytes = batch.bytes().len() as u64;
                probes::batch_stored(lane.0.into(), seq.0, id(&batch.hash().0), bytes);
            }
        }
        self.metrics
            .fsync_time
            .observe(start.elapsed().as_secs_f64());
        self.metrics.fsync_turns.observe(turns.len() as f64);
        Ok(())
    }

    fn release(&mut self, turn: Turn) {
        for (to, message) in &turn.sends {
            let receiver = match to {
                To::All => NOBODY,
                To::One(index) => index.0.into(),
            };
            probes::message_released(message.kind().into(), receiver);
            match to {
                To::All => self.outbound.broadcast(message),
                To::One(index) => self.outbound.send(*index, message),
            }
            if let (To::All, PeerMessage::Watermark(watermark)) = (to, message) {
                for (lane, tip) in &watermark.tips {
                    probes::batch_acknowledged(lane.0.into(), tip.seq.0, id(&tip.hash.0));
                }
            }
        }
        for (reply, results) in turn.replies {
            self.reply(reply, results);
        }
        for payload in turn.payloads {
            // An error means that execution has stopped, which ends the process.
            let _ = self.stage.send(Queue::Blocks, &self.payloads, payload);
        }
        for request in turn.history {
            if self.history.try_send(request).is_err() {
                self.stage.full(Queue::History);
                self.metrics.history_requests_dropped.inc();
            }
            self.stage.depth(Queue::History, self.history.len());
        }
        if let Some(height) = turn.prune
            && let Err(error) = self.prune(height)
        {
            tracing::error!(%error, height = height.0, "old segments could not be deleted");
            self.board.fail(error.to_string());
        }
    }

    /// Lets go of what lies below a height, as far as no snapshot needs it that can be proven.
    fn prune(&mut self, wanted: Height) -> Result<(), StoreError> {
        let below = self.snapshots.prune_below(wanted)?;
        let held = i64::try_from(wanted.0 - below.0).unwrap_or(i64::MAX);
        let before = self.metrics.history_held_heights.set(held);
        if held > 0 && before == 0 {
            tracing::warn!(
                wanted = wanted.0,
                below = below.0,
                "history is kept for longer: no newer snapshot can be proven yet"
            );
        }
        self.writer.prune(below).map(drop)
    }

    fn reply(&self, reply: ReplyTo, results: Vec<Admission>) {
        let (conn, tag) = trace::submitter(&reply);
        probes::submission_answered(conn, tag, results.len() as u64);
        match reply {
            ReplyTo::Stoq { conn, tag } => {
                self.outbound
                    .client(conn, &ClientMessage::Results { tag, results });
            }
            // An error means that the request was given up.
            ReplyTo::Http(sender) => drop(sender.send(results)),
            ReplyTo::Nobody => {}
        }
    }
}
