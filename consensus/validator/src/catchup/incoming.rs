//! A snapshot that is being gathered, on disk.
//!
//! ```text
//! data/sync/manifest   what is being gathered; named `ready` once every chunk is there and durable
//! data/sync/chunks     u32 length, chunk as on the wire; appended as they arrive, judged again
//!                      when they are read
//! ```

use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_sync::{Resume, check_manifest, judge};
use falconet_types::signing::{self, Verified};
use falconet_types::snapshot::{CHUNK_BYTES_MAX, Chunk, Manifest};
use falconet_types::wire::Wire;

use crate::chain::Chain;

use super::CatchupError;

/// Longest manifest on disk, bytes.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// Longest chunk on disk, bytes: rows, siblings and the fields around them.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 4_096;

/// What is being gathered, on disk.
pub(super) struct Incoming {
    dir: PathBuf,
    chunks: Option<File>,
    end: u64,
    manifest: Option<Manifest>,
    /// First and last bucket of each chunk that is held.
    held: Vec<(u16, u16)>,
    /// Every chunk is there: it waits for the next start of the stages.
    complete: bool,
}

impl Incoming {
    /// Whether an earlier run of the stages gathered all of it.
    pub(super) fn is_ready(&self) -> bool {
        self.dir.join("ready").exists()
    }

    pub(super) fn error(&self, what: &'static str, name: &str, source: io::Error) -> CatchupError {
        CatchupError::File {
            what,
            path: self.dir.join(name),
            source,
        }
    }

    pub(super) fn open_chunks(&self) -> io::Result<File> {
        let path = self.dir.join("chunks");
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    }

    pub(super) fn new(data: &Path) -> Self {
        Self {
            dir: data.join("sync"),
            chunks: None,
            end: 0,
            manifest: None,
            held: Vec::new(),
            complete: false,
        }
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
    pub(super) fn load(data: &Path, chain: &Chain) -> Result<Self, CatchupError> {
        let mut incoming = Self::new(data);
        let Some(manifest) = incoming.manifest("manifest", chain)? else {
            incoming.abandon()?;
            return Ok(incoming);
        };
        let mut held = Vec::new();
        let end = incoming.for_each_chunk(&manifest, |chunk| {
            held.push((chunk.first, chunk.last));
            Ok(())
        })?;
        let file = incoming.open_chunks();
        let file = file.and_then(|file| file.set_len(end).map(|()| file));
        incoming.chunks = Some(file.map_err(|e| incoming.error("open", "chunks", e))?);
        incoming.end = end;
        (incoming.manifest, incoming.held) = (Some(manifest), held);
        Ok(incoming)
    }

    /// Reads a manifest and checks it as if a peer had sent it.
    pub(super) fn manifest(
        &self,
        name: &str,
        chain: &Chain,
    ) -> Result<Option<Manifest>, CatchupError> {
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
        mut visit: impl FnMut(Chunk) -> Result<(), CatchupError>,
    ) -> Result<u64, CatchupError> {
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

    pub(super) fn begin(&mut self, manifest: &Manifest) -> Result<(), CatchupError> {
        self.abandon()?;
        let write = || -> io::Result<File> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
            let chunks = File::create(self.dir.join("chunks"))?;
            falconet_store::replace(&self.dir.join("manifest"), &manifest.to_bytes())?;
            Ok(chunks)
        };
        let chunks = write().map_err(|e| self.error("write", "manifest", e))?;
        self.chunks = Some(chunks);
        self.end = 0;
        self.manifest = Some(manifest.clone());
        Ok(())
    }

    pub(super) fn store(&mut self, chunk: &Chunk) -> Result<(), CatchupError> {
        let payload = chunk.to_payload();
        let len = u32::try_from(payload.len()).expect("a chunk is small");
        let mut frame = Vec::with_capacity(4 + payload.len());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&payload);
        let file = self.chunks.as_ref().expect("begun before");
        file.write_all_at(&frame, self.end)
            .map_err(|e| self.error("write", "chunks", e))?;
        self.end += frame.len() as u64;
        self.held.push((chunk.first, chunk.last));
        Ok(())
    }

    /// Every chunk is there: the next start installs it.
    pub(super) fn complete(&mut self) -> Result<(), CatchupError> {
        let end = || -> io::Result<()> {
            self.open_chunks()?.sync_all()?;
            std::fs::rename(self.dir.join("manifest"), self.dir.join("ready"))?;
            File::open(&self.dir)?.sync_all()
        };
        end().map_err(|e| self.error("complete", "chunks", e))?;
        self.chunks = None;
        self.complete = true;
        Ok(())
    }

    pub(super) fn abandon(&mut self) -> Result<(), CatchupError> {
        self.chunks = None;
        self.end = 0;
        self.manifest = None;
        self.held.clear();
        for name in ["ready", "manifest", "manifest.tmp", "chunks"] {
            match std::fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.error("delete", name, e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
