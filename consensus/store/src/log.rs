//! The writer's half of the log: one thread appends, one `fdatasync` a turn makes it durable.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use falconet_types::Height;

use crate::config::StoreConfig;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::frame::framed_len;
use crate::index::{Entry, Key, encode_table};
use crate::reader::Shared;
use crate::record::{Kind, Record};
use crate::scan::MARK_LEN;
use crate::segment::{SEGMENT_HEADER_LEN, Segment};

/// Appends records and makes them durable. Belongs to one thread.
///
/// [`Reader`](crate::Reader)s see a record as soon as `append` returned, that is before it is
/// durable: whoever lets something *leave* the node because of a record waits for `sync`.
///
/// The first call that fails poisons the writer: whether earlier records of the turn are on the
/// disk is then unknown, and a second `fdatasync` would not tell (the kernel reports a failed
/// write-back once and marks the pages clean). Every later call fails with
/// [`StoreError::Poisoned`] and names the first cause.
pub struct LogWriter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segment_bytes: u64,
    pub(crate) active: Active,
    /// The newest safety record: each segment begins with it, so old segments can go.
    pub(crate) safety: Option<Bytes>,
    /// Files of old segments, at most [`SPARES_MAX`](crate::segment::SPARES_MAX), whose old names
    /// are durably gone.
    pub(crate) spares: Vec<PathBuf>,
    failed: Option<String>,
}

/// The segment that is being written.
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    pub end: u64,
    pub entries: Vec<Entry>,
    /// Something was written after the last sync.
    pub dirty: bool,
}

impl LogWriter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        config: &StoreConfig,
        active: Active,
        spares: Vec<PathBuf>,
        safety: Option<Bytes>,
    ) -> Self {
        Self {
            shared,
            disk: Arc::clone(&config.disk),
            segment_bytes: config.segment_bytes,
            active,
            safety,
            spares,
            failed: None,
        }
    }

    /// Writes a record behind the others. It is durable once [`Self::sync`] returned.
    pub fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        let payload = record.payload();
        if let Record::Safety(bytes) = record {
            self.safety = Some(bytes.clone());
        }
        self.guarded(|log| log.write(Key::of(record), &payload))
    }

    /// Returns once everything appended so far is durable. Without news since the last call it
    /// does nothing.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.guarded(Self::sync_turn)
    }

    /// Highest height up to which the state is durable: nothing above it may be pruned.
    #[must_use]
    pub fn state_durable(&self) -> Height {
        self.shared.state_durable()
    }

    /// Runs one operation unless an earlier one failed; remembers the first failure.
    pub(crate) fn guarded<T>(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(cause) = &self.failed {
            return Err(StoreError::Poisoned {
                cause: cause.clone(),
            });
        }
        let result = operation(self);
        if let Err(error) = &result {
            tracing::error!(%error, "the store stops");
            self.failed = Some(error.to_string());
        }
        result
    }

    pub(crate) fn write(&mut self, key: Key, payload: &[u8]) -> Result<(), StoreError> {
        let room = self.active.end + framed_len(payload.len()) + framed_len(MARK_LEN);
        if room > self.segment_bytes {
            self.roll()?;
        }
        self.write_here(key, payload)
    }

    pub(crate) fn sync_turn(&mut self) -> Result<(), StoreError> {
        if !self.active.dirty {
            return Ok(());
        }
        let Active {
            segment,
            end,
            dirty,
            ..
        } = &mut self.active;
        segment.sync(&*self.disk)?;
        // Only now: the mark says that what stands before it was durable. It becomes durable
        // itself with the next turn, or when the system writes it back.
        let frame = segment.write_frame(&*self.disk, *end, Kind::Sync, &segment.nonce)?;
        *end += frame.framed_len();
        *dirty = false;
        Ok(())
    }

    fn write_here(&mut self, key: Key, payload: &[u8]) -> Result<(), StoreError> {
        let Active {
            segment,
            end,
            entries,
            dirty,
        } = &mut self.active;
        *dirty = true;
        let frame = segment.write_frame(&*self.disk, *end, key.kind(), payload)?;
        let at = u32::try_from(*end).expect("segments are below 4 GiB");
        let entry = Entry {
            key,
            at,
            len: frame.len,
        };
        *end += frame.framed_len();
        entries.push(entry);
        self.shared.index.write().insert(segment.number, &entry);
        Ok(())
    }

    /// Ends the segment and begins the next. The order makes recovery decidable: the old segment
    /// is durable before the new one exists, and sealed after.
    fn roll(&mut self) -> Result<(), StoreError> {
        let old = &self.active;
        old.segment.sync(&*self.disk)?;
        let next = Segment::create(
            &self.shared.log_dir,
            self.shared.chain,
            old.segment.number + 1,
            old.end,
            self.segment_bytes,
            self.spares.pop(),
        )?;
        old.segment
            .seal(&*self.disk, old.end, &encode_table(&old.entries))?;
        self.activate(Arc::new(next));
        if let Some(safety) = self.safety.clone() {
            self.write_here(Key::Safety, &safety)?;
        }
        Ok(())
    }

    fn activate(&mut self, segment: Arc<Segment>) {
        self.shared
            .index
            .write()
            .segments
            .insert(segment.number, Arc::clone(&segment));
        self.active = Active {
            segment,
            end: SEGMENT_HEADER_LEN as u64,
            entries: Vec::new(),
            dirty: false,
        };
    }
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter")
            .field("segment", &self.active.segment.number)
            .field("end", &self.active.end)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
