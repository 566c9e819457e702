//! A snapshot that is complete goes into the store, before anything else is opened.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use falconet_hotstuff::SafetyRecord;
use falconet_ledger::snapshot::{Rows, registry_rows, split_row};
use falconet_store::{
    BlockRow, BuiltState, Committed, Record, Recovered, Safety, SnapshotFiles, StateInstaller,
    Store, StoreConfig, StoreError, SystemFiles,
};
use falconet_sync::head_of;
use falconet_sync::installing::{Found, Step, steps};
use falconet_types::snapshot::Manifest;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch};

use crate::chain::Chain;

use super::incoming::{Incoming, is_whole};

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
/// a crash anywhere in here it is done again; a snapshot that turns out to be of no use, or cannot be
/// written, is deleted, and gathered again if it is needed still. The safety record of a validator
/// that took part is left as it is, or gives way to that of the snapshot's epoch; one whose directory
/// was empty forfeits its signature (rule Z8).
///
/// # Errors
/// The log cannot be written, or it holds the snapshot's block already and the state cannot follow:
/// without it the validator does not start. All that was gathered is kept.
pub fn install(data: &Path, config: &StoreConfig, chain: &Chain) -> Result<(), StoreError> {
    install_by(data, config, chain, &(Arc::new(SystemFiles) as _))
}

pub(super) fn install_by(
    data: &Path,
    config: &StoreConfig,
    chain: &Chain,
    files: &Arc<dyn SnapshotFiles>,
) -> Result<(), StoreError> {
    let mut incoming = Incoming::new(data, Arc::clone(files));
    if !incoming.is_ready() {
        // A crash may have come while a state was built.
        if let Err(error) = BuiltState::discard(data, &**files) {
            tracing::error!(%error, "an unfinished state stays on the disk");
        }
        return Ok(());
    }
    let Some(manifest) = incoming.manifest("ready", chain)? else {
        tidy(&mut incoming);
        return Ok(());
    };
    let height = manifest.height();
    let (mut store, recovered) = Store::open(data, config)?;
    if recovered.state_height >= height {
        drop(store);
        tidy(&mut incoming);
        return Ok(());
    }
    let built = match build(data, config, &incoming, &manifest, files) {
        Ok(Some(built)) => built,
        Ok(None) => {
            drop(store);
            tracing::warn!("a snapshot lacks parts and is deleted");
            tidy(&mut incoming);
            return Ok(());
        }
        // The log was told before a crash: it leads on from the new state only.
        Err(error) if store.reader.block_at(height).is_some() => return Err(error),
        Err(error) => {
            drop(store);
            tracing::error!(%error, height = height.0, "a snapshot cannot be installed and is deleted");
            tidy(&mut incoming);
            return Ok(());
        }
    };
    // The log before the state: it must hold the block at which the state will stand.
    log(&mut store, &manifest, &recovered, config, chain)?;
    drop(store);
    built.put_in_place()?;
    tracing::info!(height = height.0, "installed a snapshot");
    tidy(&mut incoming);
    Ok(())
}

/// Deletes what was gathered. What cannot be deleted does no harm: the next start finds that it is of
/// no use.
fn tidy(incoming: &mut Incoming) {
    if let Err(error) = incoming.discard() {
        tracing::error!(%error, "what was gathered of a snapshot stays on the disk");
    }
}

/// Makes a state of what was gathered, durably, beside the present one; `None` if parts are missing.
fn build(
    data: &Path,
    config: &StoreConfig,
    incoming: &Incoming,
    manifest: &Manifest,
    files: &Arc<dyn SnapshotFiles>,
) -> Result<Option<BuiltState>, StoreError> {
    let mut installer = StateInstaller::create(data, config, Arc::clone(files))?;
    let mut held = Vec::new();
    incoming.for_each_chunk(manifest, |chunk| {
        held.push((chunk.first, chunk.last));
        for row in Rows::new(&chunk.rows) {
            let (id, row) = row.expect("the chunk was judged");
            let (stored, key) = split_row(row);
            installer.account(id, stored, key)?;
        }
        Ok(())
    })?;
    if !is_whole(manifest, &held) {
        return Ok(None);
    }
    for (id, row) in registry_rows(&manifest.registry).expect("the manifest was checked") {
        installer.registry_row(id, row)?;
    }
    let accounts_root = head_of(manifest).accounts_root();
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
    installer.finish(manifest.height(), &row).map(Some)
}

/// Tells the log of the block at which the state will stand, durably.
fn log(
    store: &mut Store,
    manifest: &Manifest,
    recovered: &Recovered,
    config: &StoreConfig,
    chain: &Chain,
) -> Result<(), StoreError> {
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
    for step in steps(manifest, info.as_deref(), found) {
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
    store.log.sync()
}
