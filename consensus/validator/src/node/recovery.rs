//! What a validator finds on its disk, and what it makes of it before anything runs.

use std::collections::VecDeque;
use std::sync::Arc;

use falconet_crypto::falcon::KeyPair;
use falconet_hotstuff::SafetyRecord;
use falconet_store::{Reader, Safety, StateImage, Store, StoreConfig, StoreError};
use falconet_types::block::SignedHeader;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Height};

use crate::catchup;
use crate::chain::{Chain, ChainError};
use crate::config::Config;
use crate::core::Executions;
use crate::execute::{Executor, cut_after};
use crate::snapshots::Snapshots;

use super::RunError;

/// What a validator finds on its disk.
pub(super) struct Found {
    pub(super) store: StoreParts,
    pub(super) executor: Executor,
    pub(super) hotstuff: falconet_hotstuff::Recovered,
    pub(super) mempool: falconet_mempool::Recovered,
    /// Committed blocks above the executed one, whose payload must be fetched first.
    pub(super) unexecuted: VecDeque<Arc<SignedHeader>>,
    /// State commitments that headers to come may name.
    pub(super) commitments: Vec<(Height, Digest)>,
    /// Images of the state at checkpoints.
    pub(super) images: std::sync::mpsc::Receiver<StateImage>,
}

pub(super) struct StoreParts {
    pub(super) log: falconet_store::LogWriter,
    pub(super) reader: Reader,
}

pub(super) fn recover(
    config: &Config,
    chain: &Arc<Chain>,
    key: &KeyPair,
    snapshots: &Arc<Snapshots>,
) -> Result<Found, RunError> {
    let store_config = StoreConfig {
        segment_bytes: config.store.segment_bytes,
        ..StoreConfig::new(chain.id, key.public().id())
    };
    catchup::install(&config.data, &store_config, chain)?;
    let (store, recovered) = Store::open(&config.data, &store_config)?;
    let Store {
        log,
        reader,
        mut state,
    } = store;
    let images = state.take_images();
    let height = recovered.committed.as_ref().map(|mark| mark.height);
    chain
        .epochs
        .settle(height.unwrap_or(Height::ZERO))
        .map_err(ChainError::from)?;
    let committed = recovered
        .committed
        .as_ref()
        .map_or(Height::ZERO, |mark| mark.height);
    let mut executor = Executor::open(chain, state, &reader, Arc::clone(snapshots))?;
    let start = executor.application().height();
    if start < committed {
        tracing::info!(
            from = start.0,
            to = committed.0,
            "executing committed blocks again"
        );
    }
    executor.replay(chain, &reader, committed, |height| {
        if height.0 % 1000 == 0 {
            tracing::info!(height = height.0, to = committed.0, "executing again");
        }
    })?;
    executor.flush()?;
    let executed = executor.application().height();
    // The last block of an epoch may be committed and not executed yet, while peers have proven that
    // the epoch is over: this node goes over once it executed that block.
    chain.epochs.settle(executed).map_err(ChainError::from)?;
    finish_epoch(chain, &reader, &executor)?;
    let cut = cut_after(chain, &reader, executed)?;
    let mut unexecuted = VecDeque::new();
    for height in executed.0 + 1..=committed.0 {
        let header = reader.header_at(Height(height))?;
        let header = header.ok_or(RunError::HistoryGone {
            executed,
            missing: Height(height),
        })?;
        unexecuted.push_back(Arc::new(header));
    }
    let commitments = recent_commitments(chain, &reader, executed)?;
    let mut batches = Vec::new();
    let set = chain.set();
    for (lane, tip) in set.iter().zip(&cut.0) {
        for above in reader.lane_above(set.epoch(), lane.index, tip.seq) {
            batches.extend(reader.batch(&above.hash)?);
        }
    }
    let unsettled = chain
        .epochs
        .unsettled(&reader, &chain.key, chain.genesis.application)?;
    let (safety, safety_damage) = match &recovered.safety {
        Safety::Absent => (None, None),
        Safety::Corrupt { why } => (None, Some(why.clone())),
        Safety::Intact(bytes) if catchup::forfeited(bytes).is_some() => (None, None),
        Safety::Intact(bytes) => match SafetyRecord::from_bytes(bytes) {
            Ok(record) => (Some(record), None),
            Err(error) => (None, Some(error.to_string())),
        },
    };
    let forfeited = match &recovered.safety {
        Safety::Intact(bytes) => catchup::forfeited(bytes),
        _ => None,
    };
    let mut headers = recovered.headers;
    if chain.genesis.params.leader_reputation {
        headers.extend(past(chain, &reader, committed)?);
    }
    let mut qcs = recovered.qcs;
    qcs.extend(recovered.committed.iter().map(|mark| mark.child_qc.clone()));
    Ok(Found {
        store: StoreParts { log, reader },
        executor,
        hotstuff: falconet_hotstuff::Recovered {
            safety,
            committed: recovered.committed.map(|mark| (mark.height, mark.block_id)),
            headers,
            qcs,
            tcs: recovered.tcs,
            safety_damage,
            forfeited,
        },
        mempool: falconet_mempool::Recovered {
            executed,
            cut,
            batches,
            unsettled,
        },
        unexecuted,
        commitments,
        images,
    })
}

/// The last committed block's ancestors in its epoch that decide who leads (rule L4), as far as they
/// are there.
fn past(chain: &Chain, reader: &Reader, committed: Height) -> Result<Vec<SignedHeader>, RunError> {
    let set = chain.set();
    let rounds = falconet_hotstuff::past_rounds(&set);
    let mut past = Vec::new();
    let mut above: Option<SignedHeader> = reader.header_at(committed)?;
    let newest = above.as_ref().map_or(0, |header| header.round.0);
    while let Some(header) = above
        && header.epoch == set.epoch()
        && header.round.0.saturating_add(rounds) >= newest
    {
        above = reader.header(&header.parent_id)?;
        past.push(header);
    }
    Ok(past)
}

/// A crash may have come between the last block of an epoch and the proof that it is over: makes
/// the proof now. Where that is not possible the core waits for a peer to show it.
fn finish_epoch(chain: &Chain, reader: &Reader, executor: &Executor) -> Result<(), RunError> {
    let executed = executor.application().height();
    let Some(last) = reader.header_at(executed)? else {
        return Ok(());
    };
    let current = chain.info().start.epoch;
    if last.epoch != current || !chain.epochs.is_over(&last) {
        return Ok(());
    }
    let Some(ending) = executor.ending(reader, &last)? else {
        return Ok(());
    };
    match chain.epochs.prove(reader, &last, &ending) {
        Ok((proof, next)) => {
            chain.epochs.persist(&proof).map_err(ChainError::from)?;
            chain.epochs.begin(next);
        }
        Err(error) => tracing::warn!(%error, "the end of the epoch cannot be proven here"),
    }
    Ok(())
}

/// The commitments from the state that the last executed block names up to its own.
fn recent_commitments(
    chain: &Chain,
    reader: &Reader,
    executed: Height,
) -> Result<Vec<(Height, Digest)>, StoreError> {
    let named = reader
        .header_at(executed)?
        .map(|header| header.executed.height);
    let mut commitments = Vec::new();
    for height in Executions::worth(&chain.genesis.params, named.unwrap_or(executed), executed) {
        let row = reader.block_row(height)?;
        commitments.extend(row.map(|row| (height, row.commitment)));
    }
    Ok(commitments)
}
