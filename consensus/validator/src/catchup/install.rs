//! A snapshot that is complete goes into the store, before anything else is opened.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use falconet_hotstuff::SafetyRecord;
use falconet_ledger::snapshot::{BUCKET_COUNT, Rows, registry_rows, split_row};
use falconet_store::{
    BlockRow, Committed, Record, Recovered, Safety, StateInstaller, Store, StoreConfig,
};
use falconet_sync::head_of;
use falconet_types::certificate::Qc;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch};

use crate::chain::Chain;

use super::CatchupError;
use super::incoming::Incoming;

/// Stands in the place of a safety record in a directory that began with a snapshot; the last epoch
/// that is forfeited follows, eight bytes.
const FORFEITED: &[u8] = b"forfeited: the directory began with a snapshot";

/// What stands in the place of a safety record that is forfeited through an epoch.
fn forfeit(through: Epoch) -> Bytes {
    [FORFEITED, &through.0.to_le_bytes()].concat().into()
}

/// The last epoch that is forfeited, if this is the mark of it and no safety record.
#[must_use]
pub fn forfeited(record: &[u8]) -> Option<Epoch> {
    let epoch = record.strip_prefix(FORFEITED)?;
    // A mark that cannot be read forfeits every epoch.
    let epoch = epoch.try_into().map_or(u64::MAX, u64::from_le_bytes);
    Some(Epoch(epoch))
}

/// Puts a snapshot that is complete into the store of a data directory that nobody has open. After
/// a crash anywhere in here it is done again; a snapshot that turns out to be of no use is deleted.
/// The safety record of a validator that took part is left as it is, or gives way to that of the
/// snapshot's epoch; one whose directory was empty forfeits its signature (rule Z8).
pub fn install(data: &Path, config: &StoreConfig, chain: &Chain) -> Result<(), CatchupError> {
    let mut incoming = Incoming::new(data);
    if !incoming.is_ready() {
        return Ok(());
    }
    let Some(manifest) = incoming.manifest("ready", chain)? else {
        return incoming.abandon();
    };
    let height = manifest.height();
    let (mut store, recovered) = Store::open(data, config)?;
    if recovered.state_height >= height {
        drop(store);
        return incoming.abandon();
    }
    let mut installer = StateInstaller::create(data, config)?;
    let mut buckets = 0;
    let mut accounts = 0u64;
    incoming.for_each_chunk(&manifest, |chunk| {
        buckets += usize::from(chunk.last - chunk.first) + 1;
        for row in Rows::new(&chunk.rows) {
            let (id, row) = row.expect("the chunk was judged");
            let (stored, key) = split_row(row);
            installer.account(id, stored, key)?;
            accounts += 1;
        }
        Ok(())
    })?;
    for (id, row) in registry_rows(&manifest.registry).expect("the manifest was checked") {
        installer.registry_row(id, row)?;
    }
    if buckets != BUCKET_COUNT && manifest.tree_root != Digest::ZERO {
        tracing::warn!(buckets, "a snapshot lacks parts and is deleted");
        drop(store);
        return incoming.abandon();
    }
    if let Some(record) = safety_record(&recovered, manifest.anchor().epoch, config, chain) {
        store.log.append(&Record::Safety(record))?;
    }
    // The log first: it must hold the block at which the state will stand.
    for header in &manifest.headers {
        if store.reader.header(&header.id())?.is_none() {
            store
                .log
                .append(&Record::Header(Arc::new(header.clone())))?;
        }
    }
    let anchor = manifest.anchor();
    if store.reader.block_at(height).is_none() {
        let last = manifest.headers.last().expect("it begins with the anchor");
        store.log.append(&Record::Committed(Committed {
            height,
            block_id: anchor.id(),
            child_id: last.id(),
            child_qc: manifest.qc.clone(),
        }))?;
    }
    store.log.sync()?;
    drop(store);
    let accounts_root = head_of(&manifest).accounts_root();
    let row = BlockRow {
        commitment: manifest.commitment(accounts_root),
        accounts_root,
        validators_root: manifest.validators,
        results: manifest.results,
        // Receipts below the snapshot are not here, so nothing is proven with it.
        receipts_root: Digest::ZERO,
        outcomes: Vec::new(),
    };
    installer.replace(height, &row)?;
    tracing::info!(height = height.0, accounts, "installed a snapshot");
    incoming.abandon()
}

/// What must stand in the place of the safety record before the log holds anything of the snapshot's
/// epoch (rule Z8); `None` if what stands there is right.
fn safety_record(
    recovered: &Recovered,
    epoch: Epoch,
    config: &StoreConfig,
    chain: &Chain,
) -> Option<Bytes> {
    // What this key signed before is unknown, though it may have given up first rounds since. A
    // crash in here finds the mark, and leaves it.
    let newest = chain.epochs.newest_known().start.epoch;
    if recovered.committed.is_none() {
        return Some(forfeit(newest));
    }
    let Safety::Intact(bytes) = &recovered.safety else {
        return None;
    };
    let record = SafetyRecord::from_bytes(bytes).ok()?;
    // A record of an earlier epoch says that nothing was signed in this one: had this node begun to,
    // a record of it would stand there.
    let is_ours = (record.chain_id, record.key_id) == (config.chain_id, config.key_id);
    if !is_ours || record.epoch >= epoch {
        return None;
    }
    let info = chain.epochs.info(epoch)?;
    let genesis = Qc::genesis(epoch, info.set.genesis());
    let fresh = SafetyRecord::fresh(config.chain_id, config.key_id, genesis);
    Some(fresh.to_bytes().into())
}
