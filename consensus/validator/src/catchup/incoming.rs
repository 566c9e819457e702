//! A snapshot that is being gathered, on disk.
//!
//! ```text
//! data/sync/manifest   what is being gathered; named `ready` once every chunk is there and durable
//! data/sync/chunks     u32 length, chunk as on the wire; appended as they arrive, judged again
//!                      when they are read
//! ```
//!
//! The manifest gets its name when it is whole and durable. Chunks are made durable every
//! [`SYNC_BYTES`], so a loss of power costs no more than that, and each is judged again by the
//! manifest: what a crash left in part is cut off. A step that fails costs the whole snapshot
//! ([`Incoming::discard`]), for the log is on the same disk.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_ledger::snapshot::BUCKET_COUNT;
use falconet_store::{SnapshotFiles, StoreError};
use falconet_sync::{Resume, check_manifest, judge};
use falconet_types::Digest;
use falconet_types::signing::{self, Verified};
use falconet_types::snapshot::{CHUNK_BYTES_MAX, Chunk, Manifest};
use falconet_types::wire::Wire;

use crate::chain::Chain;

/// Longest manifest on disk, bytes.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// Longest chunk on disk, bytes: rows, siblings and the fields around them.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 4_096;

/// Chunks are made durable whenever so much of them was written, bytes.
pub(super) const SYNC_BYTES: u64 = 16 << 20;
/// Whatever may be in the directory, in the order in which it is deleted.
const NAMES: [&str; 4] = ["ready", "manifest", "manifest.tmp", "chunks"];

/// What is being gathered, on disk.
pub(super) struct Incoming {
    dir: PathBuf,
    files: Arc<dyn SnapshotFiles>,
    chunks: Option<File>,
    /// [`SYNC_BYTES`], or what a test says.
    pub(super) sync_bytes: u64,
    /// Bytes of chunks that are not durable yet.
    unsynced: u64,
    manifest: Option<Manifest>,
    /// First and last bucket of each chunk that is held.
    held: Vec<(u16, u16)>,
}

impl Incoming {
    pub(super) fn new(data: &Path, files: Arc<dyn SnapshotFiles>) -> Self {
        Self {
            dir: data.join("sync"),
            files,
            chunks: None,
            sync_bytes: SYNC_BYTES,
            unsynced: 0,
            manifest: None,
            held: Vec::new(),
        }
    }

    /// Whether an earlier run of the stages gathered all of it.
    pub(super) fn is_ready(&self) -> bool {
        self.dir.join("ready").exists()
    }

    fn error(&self, call: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::io(call, &self.dir.join(name), source)
    }

    /// What there is to go on with.
    pub(super) fn resume(&self) -> Option<Resume> {
        let manifest = self.manifest.clone()?;
        Some(Resume {
            manifest: Verified::trusted(manifest),
            held: self.held.clone(),
        })
    }

    /// What an earlier process gathered, as far as it is good. Leaves nothing else behind.
    pub(super) fn load(
        data: &Path,
        files: Arc<dyn SnapshotFiles>,
        chain: &Chain,
    ) -> Result<Self, StoreError> {
        let mut incoming = Self::new(data, files);
        let Some(manifest) = incoming.manifest("manifest", chain)? else {
            incoming.discard()?;
            return Ok(incoming);
        };
        let mut held = Vec::new();
        let end = incoming.for_each_chunk(&manifest, |chunk| {
            held.push((chunk.first, chunk.last));
            Ok(())
        })?;
        // Of an installation that could not delete it, or of a snapshot that was not begun.
        incoming.remove("ready")?;
        incoming.remove("manifest.tmp")?;
        let opened = incoming.open_chunks(end);
        let file = opened.map_err(|e| incoming.error("open", "chunks", e))?;
        incoming.chunks = Some(file);
        // What was read need not be durable: the process may have been killed before a sync.
        incoming.unsynced = end;
        (incoming.manifest, incoming.held) = (Some(manifest), held);
        Ok(incoming)
    }

    /// The file of chunks, without what follows the good ones. Making the manifest's name durable
    /// made this one's durable too; but an older manifest may be back, without it.
    fn open_chunks(&self, end: u64) -> io::Result<File> {
        let path = self.dir.join("chunks");
        let file = match self.files.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = self.files.create(&path)?;
                self.files.sync_dir(&self.dir)?;
                file
            }
            file => file?,
        };
        if file.metadata()?.len() != end {
            self.files.set_len(&path, &file, end)?;
        }
        Ok(file)
    }

    /// Reads a manifest and checks it as if a peer had sent it.
    pub(super) fn manifest(
        &self,
        name: &str,
        chain: &Chain,
    ) -> Result<Option<Manifest>, StoreError> {
        let path = self.dir.join(name);
        let bytes = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(|file| {
                let mut bytes = Vec::new();
                file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
                Ok(bytes)
            }),
        };
        let bytes = bytes.map_err(|e| self.error("read", name, e))?;
        let manifest = Manifest::from_bytes(&bytes).ok();
        let verified = manifest.and_then(|manifest| {
            let mut verifier = Verifier::new();
            let info = chain.epochs.info(manifest.anchor().epoch)?;
            signing::verify(manifest, chain.id, &info.set, &mut verifier).ok()
        });
        let good = verified
            .map(Verified::into_inner)
            .filter(|manifest| check_manifest(&chain.genesis, manifest).is_ok());
        if good.is_none() {
            tracing::warn!(path = %path.display(), "an unusable manifest is deleted");
        }
        Ok(good)
    }

    /// Shows every chunk that belongs to the manifest, up to the first that does not: a write that
    /// was cut off. Returns where the good ones end.
    pub(super) fn for_each_chunk(
        &self,
        manifest: &Manifest,
        mut visit: impl FnMut(Chunk) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let mut reader = match File::open(self.dir.join("chunks")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => BufReader::new(file.map_err(|e| self.error("open", "chunks", e))?),
        };
        let mut end = 0;
        loop {
            let mut len = [0; 4];
            if reader.read_exact(&mut len).is_err() {
                return Ok(end);
            }
            let len = u32::from_le_bytes(len) as usize;
            let mut payload = vec![0; len.min(FRAME_BYTES_MAX)];
            if len > FRAME_BYTES_MAX || reader.read_exact(&mut payload).is_err() {
                return Ok(end);
            }
            let Ok(chunk) = Chunk::parse(&Bytes::from(payload)) else {
                return Ok(end);
            };
            if judge(manifest.tree_root, &chunk).is_err() {
                return Ok(end);
            }
            visit(chunk)?;
            end += 4 + len as u64;
        }
    }

    /// Begins to gather another snapshot.
    pub(super) fn begin(&mut self, manifest: &Manifest) -> Result<(), StoreError> {
        self.discard()?;
        let (files, dir) = (&*self.files, &self.dir);
        let (path, temporary) = (dir.join("manifest"), dir.join("manifest.tmp"));
        let write = || -> io::Result<File> {
            files.create_dir(dir)?;
            // Or a loss of power would take it with all that is durable in it. Each time: the process
            // that made it may have been killed before this line.
            files.sync_dir(dir.parent().expect("it is below a data directory"))?;
            let chunks = files.create(&dir.join("chunks"))?;
            let mut file = files.create(&temporary)?;
            files.append(&temporary, &mut file, &manifest.to_bytes())?;
            files.sync(&temporary, &file)?;
            files.rename(&temporary, &path)?;
            files.sync_dir(dir)?;
            Ok(chunks)
        };
        let chunks = write().map_err(|e| self.error("write", "manifest", e))?;
        self.chunks = Some(chunks);
        self.manifest = Some(manifest.clone());
        Ok(())
    }

    /// Keeps a chunk.
    pub(super) fn store(&mut self, chunk: &Chunk) -> Result<(), StoreError> {
        let payload = chunk.to_payload();
        let len = u32::try_from(payload.len()).expect("a chunk is small");
        let mut frame = Vec::with_capacity(4 + payload.len());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&payload);
        let path = self.dir.join("chunks");
        let file = self.chunks.as_mut().expect("begun before");
        let mut written = self.files.append(&path, file, &frame);
        self.unsynced += frame.len() as u64;
        if written.is_ok() && self.unsynced >= self.sync_bytes {
            written = self.files.sync(&path, file);
            self.unsynced = 0;
        }
        written.map_err(|e| self.error("write", "chunks", e))?;
        self.held.push((chunk.first, chunk.last));
        Ok(())
    }

    /// Every chunk is there: the next start installs it.
    pub(super) fn complete(&mut self) -> Result<(), StoreError> {
        let files = &*self.files;
        let end = || -> io::Result<()> {
            let file = self.chunks.as_ref().expect("begun before");
            files.sync(&self.dir.join("chunks"), file)?;
            files.rename(&self.dir.join("manifest"), &self.dir.join("ready"))?;
            files.sync_dir(&self.dir)
        };
        end().map_err(|e| self.error("complete", "chunks", e))?;
        self.chunks = None;
        Ok(())
    }

    /// Forgets all of it and deletes it. After a loss of power some of it may be back: then it is
    /// judged as anything that is found.
    pub(super) fn discard(&mut self) -> Result<(), StoreError> {
        self.chunks = None;
        self.unsynced = 0;
        self.manifest = None;
        self.held.clear();
        NAMES.iter().try_for_each(|name| self.remove(name))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.files.remove(&self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error("delete", name, e)),
            _ => Ok(()),
        }
    }
}

/// True if the chunks, each with its first and last bucket, are all of a snapshot.
pub(super) fn is_whole(manifest: &Manifest, held: &[(u16, u16)]) -> bool {
    let mut held = held.to_vec();
    held.sort_unstable();
    let mut next = 0;
    for (first, last) in held {
        if usize::from(first) > next {
            return false;
        }
        next = next.max(usize::from(last) + 1);
    }
    // An application without accounts has no rows.
    next == BUCKET_COUNT || manifest.tree_root == Digest::ZERO
}
