//! A snapshot that is complete goes into the store, before anything else is opened.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use falconet_hotstuff::SafetyRecord;
use falconet_ledger::snapshot::{BUCKET_COUNT, Rows, registry_rows, split_row};
use falconet_store::{BlockRow, Committed, Record, Safety, StateInstaller, Store, StoreConfig};
use falconet_sync::head_of;
use falconet_sync::installing::{Found, Step, steps};
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
    // The log first: it must hold the block at which the state will stand.
    let safety = match &recovered.safety {
        Safety::Intact(bytes) => SafetyRecord::from_bytes(bytes).ok(),
        Safety::Absent | Safety::Corrupt { .. } => None,
    };
    let found = Found {
        committed: recovered.committed.is_some(),
        safety: safety.as_ref(),
        newest: chain.epochs.newest_known().start.epoch,
        ids: (config.chain_id, config.key_id),
    };
    let info = chain.epochs.info(manifest.anchor().epoch);
    for step in steps(&manifest, info.as_deref(), found) {
        match step {
            Step::Forfeit(through) => store.log.append(&Record::Safety(forfeit(through)))?,
            Step::Safety(record) => store
                .log
                .append(&Record::Safety(record.to_bytes().into()))?,
            Step::Header(header) if store.reader.header(&header.id())?.is_none() => {
                store.log.append(&Record::Header(Arc::new(*header)))?;
            }
            Step::Committed {
                height,
                block_id,
                child,
                qc,
            } if store.reader.block_at(height).is_none() => {
                store.log.append(&Record::Committed(Committed {
                    height,
                    block_id,
                    child_id: child.id(),
                    child_qc: *qc,
                }))?;
            }
            // It is there.
            Step::Header(_) | Step::Committed { .. } => {}
        }
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
        registry_root: None,
    };
    installer.replace(height, &row)?;
    tracing::info!(height = height.0, accounts, "installed a snapshot");
    incoming.abandon()
}
