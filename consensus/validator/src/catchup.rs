//! Catching up by snapshot: the shell of [`falconet_sync`]. Its thread feeds the machine, keeps
//! what it hands out under `data/sync`, and asks for a restart of the stages when a snapshot is
//! complete. [`install`] then puts it into the store, before anything else is opened.
//!
//! A snapshot belongs to an epoch, whose validators certify it. A node that is behind by epochs
//! follows their proofs first, each judged by the validators that the one before it has proven
//! (rule Z9), and asks those of the newest epoch that it knows.
//!
//! ```text
//! data/sync/manifest   what is being gathered; named `ready` once every chunk is there and durable
//! data/sync/chunks     u32 length, chunk as on the wire; appended as they arrive, judged again
//!                      when they are read
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use falconet_crypto::falcon::Verifier;
use falconet_dataplane::{ConnId, FrameLease};
use falconet_hotstuff::SafetyRecord;
use falconet_ledger::snapshot::{BUCKET_COUNT, Rows, registry_rows, split_row, verify_chunk};
use falconet_store::{
    BlockRow, Committed, Record, Recovered, Safety, StateInstaller, Store, StoreConfig, StoreError,
};
use falconet_sync::{Config, Download, Effect, Input, Resume, check_manifest, head_of};
use falconet_types::certificate::Qc;
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::message::PeerMessage;
use falconet_types::signing::{self, Verified};
use falconet_types::snapshot::{CHUNK_BYTES_MAX, Chunk, Manifest, SnapshotOffer};
use falconet_types::time::Now;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Height, ValidatorIndex};

use crate::chain::Chain;
use crate::clock::Clock;
use crate::epochs::EpochsError;
use crate::neighbours::Neighbours;
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::peers::score::Fault;
use crate::peers::standing::Standing;
use crate::status::StatusBoard;

/// Inputs that may wait for the thread; chunks beyond it are dropped and asked for again.
pub const CATCHUP_QUEUE_MAX: usize = 64;
/// How often the machine is told how far this node is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// A node that is behind and executes nothing for this long asks whether its epoch is over.
const EPOCHS_ASK_AFTER: Duration = Duration::from_millis(500);
/// Time between two rounds of that question.
const EPOCHS_ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Peers that are asked in one round.
const EPOCHS_ASKED: usize = 3;
/// Longest manifest on disk, bytes.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// Longest chunk on disk, bytes: rows, siblings and the fields around them.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 4_096;

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

/// What reaches the thread.
pub enum CatchupInput {
    /// A node that proved its key is connected.
    PeerUp(ConnId),
    /// It no longer is.
    PeerDown(ConnId),
    /// A peer says which snapshots it has.
    Offer {
        /// The peer.
        conn: ConnId,
        /// Verified.
        offer: Verified<SnapshotOffer>,
    },
    /// A part of a snapshot.
    Chunk {
        /// The peer.
        conn: ConnId,
        /// The part.
        chunk: Chunk,
        /// Held until it is judged.
        lease: FrameLease,
    },
    /// An epoch that this node knows is over.
    EpochProof {
        /// Who showed it.
        conn: ConnId,
        /// Judged by the validators of its epoch.
        proof: Verified<EpochProof>,
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
    /// An epoch's proof cannot be kept.
    #[error(transparent)]
    Epochs(#[from] EpochsError),
}

/// What is being gathered, on disk.
struct Incoming {
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

    fn new(data: &Path) -> Self {
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
    fn resume(&self) -> Option<Resume> {
        let manifest = self.manifest.clone()?;
        Some(Resume {
            manifest: Verified::trusted(manifest),
            held: self.held.clone(),
        })
    }

    /// What an earlier process gathered, as far as it is good. Leaves nothing else behind.
    fn load(data: &Path, chain: &Chain) -> Result<Self, CatchupError> {
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
        self.manifest = Some(manifest.clone());
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
        self.held.push((chunk.first, chunk.last));
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
        self.complete = true;
        Ok(())
    }

    fn abandon(&mut self) -> Result<(), CatchupError> {
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
/// The safety record of a validator that took part is left as it is, or gives way to that of the
/// snapshot's epoch; one whose directory was empty forfeits its signature (rule Z8).
pub fn install(data: &Path, config: &StoreConfig, chain: &Chain) -> Result<(), CatchupError> {
    let mut incoming = Incoming::new(data);
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
    /// Who is connected.
    pub peers: Arc<Peers>,
    /// Whom to trust and dial.
    pub neighbours: Arc<Neighbours>,
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
        let mut incoming = Incoming::load(&self.data, &self.chain)?;
        let mut sources = Sources::default();
        let mut effects = Vec::new();
        let mut machine = self.machine(&incoming, &mut sources, &mut effects);
        self.carry_out(&mut incoming, &sources, &mut effects)?;
        let mut asking = Asking::new(self.clock.now());
        loop {
            let now = self.clock.now();
            let wait = machine.next_deadline_us().map_or(PROGRESS_INTERVAL, |at| {
                Duration::from_micros(at.saturating_sub(now.mono_us)).min(PROGRESS_INTERVAL)
            });
            let next = self.inputs.recv_timeout(wait);
            let now = self.clock.now();
            // An epoch began, or is known by now: others are asked, with other indices.
            let newest = self.chain.epochs.newest_known().start.epoch;
            if sources.epoch != newest && !incoming.complete {
                machine = self.machine(&incoming, &mut sources, &mut effects);
            }
            self.progress(&mut machine, now, &mut asking, &mut effects);
            let (input, _lease) = match next {
                Ok(CatchupInput::PeerUp(conn)) => {
                    let key = self.peers.key(conn);
                    let up = key.and_then(|key| sources.up(conn, key));
                    (up.map(Input::PeerUp), None)
                }
                Ok(CatchupInput::PeerDown(conn)) => (sources.down(conn).map(Input::PeerDown), None),
                Ok(CatchupInput::Offer { conn, offer }) => {
                    let from = sources.index(conn);
                    (from.map(|from| Input::Offer { from, offer }), None)
                }
                Ok(CatchupInput::Chunk { conn, chunk, lease }) => {
                    let from = sources.index(conn);
                    (from.map(|from| Input::Chunk { from, chunk }), Some(lease))
                }
                Ok(CatchupInput::EpochProof { conn, proof }) => {
                    self.learn(conn, &proof, &asking)?;
                    (None, None)
                }
                Err(RecvTimeoutError::Timeout) => (None, None),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            machine.handle(now, input.unwrap_or(Input::Tick), &mut effects);
            self.carry_out(&mut incoming, &sources, &mut effects)?;
            self.ask_for_epochs(now, &sources, &mut asking);
            *self.board.catchup.lock() = machine.status();
        }
    }

    /// A machine that asks the validators of the newest known epoch, and goes on with what is held.
    fn machine(
        &self,
        incoming: &Incoming,
        sources: &mut Sources,
        effects: &mut Vec<Effect>,
    ) -> Download {
        let info = self.chain.epochs.newest_known();
        let me = info.set.by_key(&self.chain.key);
        let config = Config {
            set: Arc::clone(&info.set),
            me: me.unwrap_or(ValidatorIndex::NOBODY),
            genesis: Arc::new(self.chain.genesis.clone()),
        };
        let mut machine = Download::new(config, incoming.resume(), effects);
        for peer in sources.follow(&info) {
            machine.handle(self.clock.now(), Input::PeerUp(peer), effects);
        }
        machine
    }

    fn progress(
        &self,
        machine: &mut Download,
        now: Now,
        asking: &mut Asking,
        effects: &mut Vec<Effect>,
    ) {
        let executed = Height(self.board.execution.lock().height);
        let epochs = &self.chain.epochs;
        let behind = {
            let core = self.board.core.lock();
            let waiting = core.hotstuff.committed_height > executed;
            core.hotstuff.syncing
                || (waiting && core.mempool.fetch_debt_batches > 0)
                || epochs.newest_known().start.epoch > epochs.current().start.epoch
        };
        asking.progress(now, executed, behind);
        let input = Input::Progress { executed, behind };
        machine.handle(now, input, effects);
    }

    /// Rule Z9: one that is stuck asks some of its peers whether the newest epoch that it knows is
    /// over.
    fn ask_for_epochs(&self, now: Now, sources: &Sources, asking: &mut Asking) {
        if !asking.is_due(now) {
            return;
        }
        asking.asked_us = Some(now.mono_us);
        let conns: Vec<ConnId> = sources.conns().collect();
        let message = PeerMessage::GetEpochProof(sources.epoch);
        for step in 0..conns.len().min(EPOCHS_ASKED) {
            let conn = conns[(asking.turn + step) % conns.len()];
            self.outbound.send_on(conn, &message);
        }
        asking.turn = asking.turn.wrapping_add(EPOCHS_ASKED);
    }

    fn learn(
        &self,
        conn: ConnId,
        proof: &Verified<EpochProof>,
        asking: &Asking,
    ) -> Result<(), CatchupError> {
        // One that keeps up goes over by what it executes.
        if !asking.is_stuck(self.clock.now()) || !self.chain.epochs.learn(proof)? {
            return Ok(());
        }
        let newest = self.chain.epochs.newest_known();
        tracing::info!(
            epoch = newest.start.epoch.0,
            height = newest.start.height.0,
            validators = newest.set.len(),
            "an epoch ahead of this node is known"
        );
        self.neighbours.reach(&self.chain);
        // Whoever knew of this end may know of the next.
        let message = PeerMessage::GetEpochProof(newest.start.epoch);
        self.outbound.send_on(conn, &message);
        Ok(())
    }

    fn carry_out(
        &self,
        incoming: &mut Incoming,
        sources: &Sources,
        effects: &mut Vec<Effect>,
    ) -> Result<(), CatchupError> {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    if let Some(conn) = sources.conn(to) {
                        self.outbound.send_on(conn, &message);
                    }
                }
                Effect::Begin(manifest) => {
                    tracing::info!(
                        height = manifest.height().0,
                        epoch = manifest.anchor().epoch.0,
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
                    let index = sources.conn(peer).and_then(|conn| self.peers.index(conn));
                    if let Some(index) = index {
                        self.standing.fault(index, Fault::Invalid, 1);
                    }
                }
            }
        }
        Ok(())
    }
}

/// When to ask whether epochs are over.
struct Asking {
    executed: Height,
    /// Since when this node is behind without executing anything.
    stuck_since_us: Option<u64>,
    asked_us: Option<u64>,
    turn: usize,
}

impl Asking {
    fn new(now: Now) -> Self {
        Self {
            executed: Height::ZERO,
            stuck_since_us: None,
            asked_us: None,
            turn: now.wall_ms as usize,
        }
    }

    fn progress(&mut self, now: Now, executed: Height, behind: bool) {
        if executed > self.executed || !behind {
            self.stuck_since_us = None;
        }
        self.executed = executed;
        if behind {
            self.stuck_since_us.get_or_insert(now.mono_us);
        }
    }

    fn is_stuck(&self, now: Now) -> bool {
        let after_us = EPOCHS_ASK_AFTER.as_micros() as u64;
        self.stuck_since_us
            .is_some_and(|since| now.mono_us >= since + after_us)
    }

    fn is_due(&self, now: Now) -> bool {
        let interval_us = EPOCHS_ASK_INTERVAL.as_micros() as u64;
        let due = self
            .asked_us
            .is_none_or(|at| now.mono_us >= at + interval_us);
        due && self.is_stuck(now)
    }
}

/// The connections behind the indices of the newest known epoch.
#[derive(Default)]
struct Sources {
    epoch: Epoch,
    index_of: HashMap<Digest, ValidatorIndex>,
    conn_of: Vec<Option<ConnId>>,
    key_of: BTreeMap<ConnId, Digest>,
}

impl Sources {
    /// Indices are those of this epoch from now on; who of it is connected.
    fn follow(&mut self, info: &EpochInfo) -> Vec<ValidatorIndex> {
        self.epoch = info.start.epoch;
        let members = info.set.iter().map(|v| (v.key.id(), v.index));
        self.index_of = members.collect();
        self.conn_of = vec![None; info.set.len()];
        let known = std::mem::take(&mut self.key_of).into_iter();
        let present = known.filter_map(|(conn, key)| self.up(conn, key));
        present.collect()
    }

    /// A connection is up; the index behind it.
    fn up(&mut self, conn: ConnId, key: Digest) -> Option<ValidatorIndex> {
        self.key_of.insert(conn, key);
        let index = *self.index_of.get(&key)?;
        self.conn_of[index.at()] = Some(conn);
        Some(index)
    }

    /// A connection is gone; who can no longer be reached.
    fn down(&mut self, conn: ConnId) -> Option<ValidatorIndex> {
        let index = *self.index_of.get(&self.key_of.remove(&conn)?)?;
        (self.conn_of[index.at()] == Some(conn)).then(|| {
            self.conn_of[index.at()] = None;
            index
        })
    }

    fn index(&self, conn: ConnId) -> Option<ValidatorIndex> {
        self.index_of.get(self.key_of.get(&conn)?).copied()
    }

    fn conn(&self, index: ValidatorIndex) -> Option<ConnId> {
        self.conn_of.get(index.at()).copied().flatten()
    }

    /// Everybody who proved a key.
    fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.key_of.keys().copied()
    }
}
