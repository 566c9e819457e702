//! Durable storage of a validator: what it promised, what it holds, where its state stands.
//!
//! ```text
//! data/
//!   META            format version, chain id, key id
//!   LOCK            flock: one process at a time
//!   log/NNNNNNNNNN.seg   append-only segments: safety records, headers, QCs, TCs, batches, commits
//!   state.redb      accounts, their keys, where transactions are, roots by height; lags behind the log
//!   snapshots/HEIGHT.snap   accounts at a checkpoint, to be served to peers
//! ```
//!
//! The log is the truth; one `fdatasync` makes all records of a turn durable. The state is
//! written lazily and always stands at a whole height at or below the last commit mark, from
//! which the validator replays committed blocks out of the log. Byte layouts and the argument
//! for recovery are in `docs/file-format.md`, the choice of log and database in
//! `docs/decisions/0003-store.md`.

mod backend;
mod config;
mod database;
mod disk;
mod error;
mod frame;
mod generation;
mod index;
mod install;
mod log;
mod open;
mod places;
mod prune;
mod reader;
mod record;
mod replace;
mod scan;
mod segment;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use config::{
    Recovered, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, STATE_CACHE_BYTES,
    STATE_FLUSH_BLOCKS, Safety, StoreConfig,
};
pub use database::{BUCKET_HEIGHTS, StateImage};
pub use disk::{Disk, SystemDisk};
pub use error::StoreError;
pub use generation::AccountRows;
pub use install::{BuiltState, INSTALL_BYTES, StateInstaller};
pub use log::LogWriter;
pub use open::Store;
pub use prune::{CARRY_BYTES_MAX, Pruned};
pub use reader::{CommitProof, Reader};
pub use record::{Committed, RECORD_BYTES_MAX, Record};
pub use replace::replace;
pub use snapshot::{
    SNAPSHOT_BUCKETS, SNAPSHOT_HEAD_BYTES_MAX, SnapshotDir, SnapshotFile, SnapshotFiles,
    SnapshotWriter, SystemFiles,
};
pub use state::{ACCOUNT_BYTES_MAX, BlockRow, STATE_ROWS_MAX, StateDb, StateUpdate, TxLocation};
