//! Catching up by snapshot: the shell of [`falconet_sync`]. Its thread feeds the machine, keeps
//! what it hands out under `data/sync`, and asks for a restart of the stages when a snapshot is
//! complete. [`install`] then puts it into the store, before anything else is opened.
//!
//! ```text
//! data/sync/manifest   what is being gathered; named `ready` once every chunk is there and durable
//! data/sync/chunks     u32 length, chunk as on the wire; appended as they arrive, judged again
//!                      when they are read
//! ```

use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use falconet_crypto::falcon::Verifier;
use falconet_dataplane::FrameLease;
use falconet_ledger::snapshot::{BUCKET_COUNT, Rows, registry_rows, verify_chunk};
use falconet_store::{BlockRow, Committed, Record, StateInstaller, Store, StoreConfig, StoreError};
use falconet_sync::{Config, Download, Effect, Input, Resume, check_manifest, head_of};
use falconet_types::signing::{self, Verified};
use falconet_types::snapshot::{CHUNK_BYTES_MAX, Chunk, Manifest, SnapshotOffer};
use falconet_types::time::Now;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Height, ValidatorIndex};

use crate::chain::Chain;
use crate::clock::Clock;
use crate::outbound::Outbound;
use crate::peers::score::Fault;
use crate::peers::standing::Standing;
use crate::status::StatusBoard;

/// Inputs that may wait for the thread; chunks beyond it are dropped and asked for again.
pub const CATCHUP_QUEUE_MAX: usize = 64;
/// How often the machine is told how far this node is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Longest manifest on disk, bytes.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// Longest chunk on disk, bytes: rows, siblings and the fields around them.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 4_096;

/// Stands in the place of a safety record in a directory that began with a snapshot.
pub const FORFEITED: &[u8] = b"forfeited: the directory began with a snapshot";

/// What reaches the thread.
pub enum CatchupInput {
    /// A validator is connected.
    PeerUp(ValidatorIndex),
    /// It no longer is.
    PeerDown(ValidatorIndex),
    /// A peer says which snapshots it has.
    Offer {
        /// The peer.
        from: ValidatorIndex,
        /// Verified.
        offer: Verified<SnapshotOffer>,
    },
    /// A part of a snapshot.
    Chunk {
        /// The peer.
        from: ValidatorIndex,
        /// The part.
        chunk: Chunk,
        /// Held until it is judged.
        lease: FrameLease,
    },
}

/// Why catching up by snapshot failed. The node goes on without.
#[derive(Debug, thiserror::Error)]
pub enum CatchupError {
    /// A file under `data/sync` failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is being gathered, on disk.
struct Incoming {
    dir: PathBuf,
    chunks: Option<File>,
    end: u64,
}

impl Incoming {
    fn error(&self, what: &'static str, name: &str, source: io::Error) -> CatchupError {
        CatchupError::File {
            what,
            path: self.dir.join(name),
            source,
        }
    }

    fn open_chunks(&self) -> io::Result<File> {
        let path = self.dir.join("chunks");
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    }

    /// What an earlier process gathered, as far as it is good. Leaves nothing else behind.
    fn load(data: &Path, chain: &Chain) -> Result<(Self, Option<Resume>), CatchupError> {
        let mut incoming = Self {
            dir: data.join("sync"),
            chunks: None,
            end: 0,
        };
        let Some(manifest) = incoming.manifest("manifest", chain)? else {
            incoming.abandon()?;
            return Ok((incoming, None));
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
        let manifest = Verified::trusted(manifest);
        Ok((incoming, Some(Resume { manifest, held })))
    }

    /// Reads a manifest and checks it as if a peer had sent it.
    fn manifest(&self, name: &str, chain: &Chain) -> Result<Option<Manifest>, CatchupError> {
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
            signing::verify(manifest, chain.id, &chain.set(), &mut verifier).ok()
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
    fn for_each_chunk(
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
            if judge(manifest, &chunk).is_err() {
                return Ok(end);
            }
            visit(chunk)?;
            end += 4 + len as u64;
        }
    }

    fn begin(&mut self, manifest: &Manifest) -> Result<(), CatchupError> {
        self.abandon()?;
        let write = || -> io::Result<File> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
            let chunks = File::create(self.dir.join("chunks"))?;
            let temporary = self.dir.join("manifest.tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&manifest.to_bytes())?;
            file.sync_all()?;
            std::fs::rename(temporary, self.dir.join("manifest"))?;
            Ok(chunks)
        };
        let chunks = write().map_err(|e| self.error("write", "manifest", e))?;
        self.chunks = Some(chunks);
        self.end = 0;
        Ok(())
    }

    fn store(&mut self, chunk: &Chunk) -> Result<(), CatchupError> {
        let payload = chunk.to_payload();
        let len = u32::try_from(payload.len()).expect("a chunk is small");
        let mut frame = Vec::with_capacity(4 + payload.len());
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&payload);
        let file = self.chunks.as_ref().expect("begun before");
        file.write_all_at(&frame, self.end)
            .map_err(|e| self.error("write", "chunks", e))?;
        self.end += frame.len() as u64;
        Ok(())
    }

    /// Every chunk is there: the next start installs it.
    fn complete(&mut self) -> Result<(), CatchupError> {
        let end = || -> io::Result<()> {
            self.open_chunks()?.sync_all()?;
            std::fs::rename(self.dir.join("manifest"), self.dir.join("ready"))?;
            File::open(&self.dir)?.sync_all()
        };
        end().map_err(|e| self.error("complete", "chunks", e))?;
        self.chunks = None;
        Ok(())
    }

    fn abandon(&mut self) -> Result<(), CatchupError> {
        self.chunks = None;
        self.end = 0;
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

fn judge(manifest: &Manifest, chunk: &Chunk) -> Result<(), falconet_ledger::snapshot::ChunkError> {
    verify_chunk(
        manifest.tree_root,
        chunk.first,
        chunk.last,
        &chunk.rows,
        &chunk.left,
        &chunk.right,
    )
}

/// Puts a snapshot that is complete into the store of a data directory that nobody has open. After
/// a crash anywhere in here it is done again; a snapshot that turns out to be of no use is deleted.
/// The safety record of a validator that took part is left as it is; one whose directory was empty
/// forfeits its signature (rule Z8).
pub fn install(data: &Path, config: &StoreConfig, chain: &Chain) -> Result<(), CatchupError> {
    let mut incoming = Incoming {
        dir: data.join("sync"),
        chunks: None,
        end: 0,
    };
    if !incoming.dir.join("ready").exists() {
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
            let (id, stored) = row.expect("the chunk was judged");
            installer.account(id, stored)?;
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
    // Rule Z8. What this key signed before is unknown, though it may have given up first rounds
    // since. A follower has signed nothing.
    if recovered.committed.is_none() && !chain.is_follower() {
        store
            .log
            .append(&Record::Safety(Bytes::from_static(FORFEITED)))?;
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

/// Everything that the thread owns.
pub struct CatchupThread {
    /// Data directory.
    pub data: PathBuf,
    /// The chain.
    pub chain: Arc<Chain>,
    /// What happens.
    pub inputs: Receiver<CatchupInput>,
    /// The way out.
    pub outbound: Outbound,
    /// How far this node is, and whom to ask for a restart of the stages.
    pub board: Arc<StatusBoard>,
    /// Who sent wrong bytes.
    pub standing: Arc<Standing>,
    /// Time.
    pub clock: Clock,
}

impl CatchupThread {
    /// Runs until nobody can send to it. Without a usable directory the node goes on as if no
    /// peer had a snapshot.
    pub fn run(self) {
        if let Err(error) = self.serve() {
            tracing::error!(%error, "catching up by snapshot is off until the next start");
            while self.inputs.recv().is_ok() {}
        }
    }

    fn serve(&self) -> Result<(), CatchupError> {
        let (mut incoming, resume) = Incoming::load(&self.data, &self.chain)?;
        let config = Config {
            set: self.chain.set(),
            me: self.chain.me(),
            genesis: Arc::new(self.chain.genesis.clone()),
        };
        let mut effects = Vec::new();
        let mut machine = Download::new(config, resume, &mut effects);
        self.carry_out(&mut incoming, &mut effects)?;
        loop {
            let now = self.clock.now();
            let wait = machine.next_deadline_us().map_or(PROGRESS_INTERVAL, |at| {
                Duration::from_micros(at.saturating_sub(now.mono_us)).min(PROGRESS_INTERVAL)
            });
            let next = self.inputs.recv_timeout(wait);
            let now = self.clock.now();
            self.progress(&mut machine, now, &mut effects);
            let (input, _lease) = match next {
                Ok(CatchupInput::PeerUp(peer)) => (Input::PeerUp(peer), None),
                Ok(CatchupInput::PeerDown(peer)) => (Input::PeerDown(peer), None),
                Ok(CatchupInput::Offer { from, offer }) => (Input::Offer { from, offer }, None),
                Ok(CatchupInput::Chunk { from, chunk, lease }) => {
                    (Input::Chunk { from, chunk }, Some(lease))
                }
                Err(RecvTimeoutError::Timeout) => (Input::Tick, None),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            machine.handle(now, input, &mut effects);
            self.carry_out(&mut incoming, &mut effects)?;
            *self.board.catchup.lock() = machine.status();
        }
    }

    fn progress(&self, machine: &mut Download, now: Now, effects: &mut Vec<Effect>) {
        let executed = Height(self.board.execution.lock().height);
        let behind = {
            let core = self.board.core.lock();
            let waiting = core.hotstuff.committed_height > executed;
            core.hotstuff.syncing || (waiting && core.mempool.fetch_debt_batches > 0)
        };
        let input = Input::Progress { executed, behind };
        machine.handle(now, input, effects);
    }

    fn carry_out(
        &self,
        incoming: &mut Incoming,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CatchupError> {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, message } => self.outbound.send(to, &message),
                Effect::Begin(manifest) => {
                    tracing::info!(
                        height = manifest.height().0,
                        rows_bytes = manifest.rows_bytes,
                        "peers no longer have the next block: fetching a snapshot"
                    );
                    incoming.begin(&manifest)?;
                }
                Effect::Store(chunk) => incoming.store(&chunk)?,
                Effect::Abandon => {
                    tracing::info!("the snapshot that was being fetched is given up");
                    incoming.abandon()?;
                }
                Effect::Complete => {
                    incoming.complete()?;
                    tracing::info!("a snapshot is complete: it is installed now");
                    self.board.ask_for_restart();
                }
                Effect::Misbehaved { peer, why } => {
                    tracing::warn!(validator = peer.0, why, "a peer sent wrong bytes");
                    self.standing.fault(peer, Fault::Invalid, 1);
                }
            }
        }
        Ok(())
    }
}
