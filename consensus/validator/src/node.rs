//! Starting, running and stopping a validator.
//!
//! Order of start: everything that can be refused is checked before anything is changed
//! (configuration, key, genesis, addresses), then the data directory is opened, committed blocks
//! that the state lacks are executed again, and only then does the endpoint accept anybody.
//! Order of stop: the endpoint first, then each stage ends when the one before it has, so that
//! everything taken in is either finished or dropped whole.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV6;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use falconet_crypto::falcon::KeyPair;
use falconet_crypto::hash;
use falconet_crypto::keyfile::{KeyFileError, LockedKey};
use falconet_dataplane::{AfterSetup, BindError, Event, Stoq, StoqConfig, TrustedKeys};
use falconet_hotstuff::{HotStuff, SafetyRecord};
use falconet_mempool::Mempool;
use falconet_store::{Reader, Safety, StateImage, Store, StoreConfig, StoreError};
use falconet_types::block::SignedHeader;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Height, ValidatorIndex};
use rustix::thread::CapabilitySet;
use tokio::sync::watch;

use crate::byzantine::{Bent, Danger};
use crate::catchup::{
    self, CATCHUP_QUEUE_MAX, CatchupError, CatchupInput, CatchupThread, FORFEITED,
};
use crate::chain::{Chain, ChainError};
use crate::clients::{ClientTable, ReceiptSender};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, IoBackend};
use crate::core::{COMMITMENTS_MAX, Core, Executions};
use crate::door::Door;
use crate::execute::{ExecuteError, ExecuteThread, Executor, cut_after};
use crate::filter::Guard;
use crate::handover::Handover;
use crate::history::{History, HistoryThread};
use crate::http::{self, Api, ListenError, LiveBoard};
use crate::inbound::Inbound;
use crate::log::LogThread;
use crate::logging::{self, LevelError};
use crate::metrics::Metrics;
use crate::metrics::stages::Stage;
use crate::neighbours::Neighbours;
use crate::notify::{Heart, Notifier};
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::peers::standing::{Counts, Standing};
use crate::pipeline::{
    CORE_QUEUE_MAX, CoreInput, EXECUTE_QUEUE_MAX, HISTORY_QUEUE_MAX, TURN_QUEUE_MAX,
    VERIFY_QUEUE_MAX,
};
use crate::preflight::{self, Unfit};
use crate::privileges::{self, PrivilegeError};
use crate::reporter::Reporter;
use crate::snapshots::{SnapshotThread, Snapshots};
use crate::status::{CoreStatus, ExecutionStatus, StatusBoard};
use crate::verdicts::VerdictTable;
use crate::verify::VerifyWorker;

/// Why a validator does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine cannot run a validator.
    #[error(transparent)]
    Machine(#[from] Unfit),
    /// Privileges cannot be dropped.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log level is not understood.
    #[error("[log] level: {0}")]
    Log(#[from] LevelError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Genesis is refused, or does not know the key.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshot from peers cannot be installed.
    #[error("installing a snapshot of the state: {0}")]
    Catchup(#[from] CatchupError),
    /// The state cannot be used.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The HTTP address cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The STOQ address cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The log was pruned beyond the height at which the state stands.
    #[error(
        "the state stands at height {executed}, and block {missing} is no longer in the log: the \
         state database was lost or is an old copy; restore the whole data directory from one \
         copy, or start with an empty one and a new key"
    )]
    HistoryGone {
        /// Height of the state.
        executed: Height,
        /// The first block that is missing.
        missing: Height,
    },
    /// The consensus core refuses what was recovered.
    #[error(transparent)]
    HotStuff(#[from] falconet_hotstuff::RecoverError),
    /// The data layer refuses what was recovered.
    #[error(transparent)]
    Mempool(#[from] falconet_mempool::RecoverError),
    /// The control plane's runtime does not start.
    #[error("the control plane cannot start: {0}")]
    Control(std::io::Error),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}; check the limit on processes (ulimit -u)")]
    Thread(std::io::Error),
    /// Something failed while running; the log and the status said so when it happened.
    #[error("the validator stopped taking part: {0}")]
    Failed(String),
}

/// A running validator.
pub struct Node {
    chain: Arc<Chain>,
    stoq: Option<Stoq>,
    stoq_addr: SocketAddrV6,
    http_addr: SocketAddrV6,
    /// What a restart of the stages needs again.
    config: Config,
    danger: Danger,
    events: Receiver<Event>,
    listener: std::net::TcpListener,
    peers: Arc<Peers>,
    /// `None` once they were stopped.
    stages: Option<Stages>,
    /// The filter before the network stack, if there is one.
    guard: Option<Arc<Guard>>,
    /// Holds the lock on the key file.
    key: LockedKey,
}

/// Runs a validator until SIGINT or SIGTERM; a second signal ends the process at once. Calls
/// `ready` when the validator accepts connections.
pub fn run(config: &Config, path: &Path, ready: impl FnOnce(&Node)) -> Result<(), RunError> {
    run_as(config, path, Danger::default(), ready)
}

/// As [`run`]; in test networks the validator may break the protocol on purpose.
pub fn run_as(
    config: &Config,
    path: &Path,
    danger: Danger,
    ready: impl FnOnce(&Node),
) -> Result<(), RunError> {
    logging::init(&config.log)?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Control)?;
    preflight::check_machine(config)?;
    let mut node = Node::start_with(config, path, Privileges::Dropped, danger)?;
    let failure = control.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Control)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Control)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Control)?;
        // Only now: who reads it may send a signal at once.
        ready(&node);
        let notifier = Notifier::from_env();
        notifier.ready(&format!("validator {} serves", node.index()));
        loop {
            let heart = node.heart();
            let stop = loop {
                tokio::select! {
                    _ = interrupt.recv() => break true,
                    _ = terminate.recv() => break true,
                    _ = hangup.recv() => level_from_file(path),
                    () = notifier.feed_watchdog(&heart) => {}
                    () = node.restart_asked() => break false,
                }
            };
            drop(heart);
            if stop {
                break;
            }
            let restarting = tokio::task::spawn_blocking(move || node.restart_stages());
            node = tokio::select! {
                restarted = restarting => restarted.expect("a panic ends the process")?,
                _ = interrupt.recv() => std::process::exit(130),
                _ = terminate.recv() => std::process::exit(143),
            };
        }
        notifier.stopping();
        tracing::info!("stopping; a second signal ends the process at once");
        let board = Arc::clone(&node.stages().board);
        let stopping = tokio::task::spawn_blocking(move || node.stop());
        tokio::select! {
            _ = stopping => {}
            _ = interrupt.recv() => std::process::exit(130),
            _ = terminate.recv() => std::process::exit(143),
        }
        Ok::<_, RunError>(board.failure())
    })?;
    match failure {
        Some(reason) => Err(RunError::Failed(reason.to_string())),
        None => Ok(()),
    }
}

/// What becomes of the process's privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privileges {
    /// They belong to the program that the validator is a part of.
    Kept,
    /// They are dropped when sockets and rings are there.
    Dropped,
}

impl Node {
    /// Starts a validator inside this process, whose privileges are left alone; returns when it
    /// accepts connections. `path` is the file that the configuration came from, for messages.
    pub fn start(config: &Config, path: &Path) -> Result<Self, RunError> {
        Self::start_with(config, path, Privileges::Kept, Danger::default())
    }

    fn start_with(
        config: &Config,
        path: &Path,
        privileges: Privileges,
        danger: Danger,
    ) -> Result<Self, RunError> {
        let key = LockedKey::open(&config.key)?;
        let public = key.key().public();
        let chain = Chain::load(&config.genesis, &config.data, public)?;
        let my_name = (!chain.is_follower()).then(|| chain.my_name());
        config.check_peers(path, &chain.genesis, my_name.as_deref())?;
        if chain.is_follower() {
            tracing::warn!(
                key = %config.key.display(),
                "the key is in no validator's place: this node follows the chain and signs nothing"
            );
        }
        let chain = Arc::new(chain);
        let listener = http::bind(config.http.listen)?;
        let http_addr = match listener.local_addr() {
            Ok(std::net::SocketAddr::V6(addr)) => addr,
            _ => config.http.listen,
        };
        // Before the endpoint, whose AF_XDP sockets it feeds.
        let guard = guard(config).map(Arc::new);
        let keep = match privileges {
            Privileges::Kept => None,
            Privileges::Dropped => Some(privileges::needed(&config.data)?),
        };
        let (stoq, events) = bind_stoq(config, &chain, key.key(), keep)?;
        let stoq_addr = stoq.local_addr();
        // Before any other thread is started: they inherit.
        if let Some(keep) = keep {
            privileges::drop_all_but(keep)?;
        }
        let peers = Arc::new(Peers::new(chain.set(), chain.me()));
        let stages = Assembly {
            config,
            chain: &chain,
            key: key.key(),
            danger,
            stoq: &stoq,
            guard: guard.clone(),
            peers: &peers,
        }
        .assemble(&events, &listener)?;
        if let Some(keep) = keep {
            privileges::verify(keep)?;
        }
        tracing::info!(
            validator = chain.me().0,
            name = chain.my_name(),
            epoch = chain.info().start.epoch.0,
            chain = %chain.id,
            stoq = %stoq_addr,
            http = %http_addr,
            io = stoq.backend(),
            net_threads = stoq.handle().threads(),
            verifier = chain.verifier_backend,
            "ready"
        );
        let stoq = Some(stoq);
        Ok(Self {
            chain,
            stoq,
            stoq_addr,
            http_addr,
            config: config.clone(),
            danger,
            events,
            listener,
            peers,
            stages: Some(stages),
            guard,
            key,
        })
    }

    /// This validator's index.
    #[must_use]
    pub fn index(&self) -> ValidatorIndex {
        self.chain.me()
    }

    /// True for a node whose key is in no validator's place.
    #[must_use]
    pub fn is_follower(&self) -> bool {
        self.chain.is_follower()
    }

    /// Address of the STOQ endpoint.
    #[must_use]
    pub fn stoq_addr(&self) -> SocketAddrV6 {
        self.stoq_addr
    }

    /// Address of the HTTP API.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddrV6 {
        self.http_addr
    }

    /// Shows whether the core makes progress. It must be dropped before [`Node::stop`] and
    /// [`Node::restart_stages`], which wait for all who may send to the core.
    #[must_use]
    pub fn heart(&self) -> Heart {
        let stages = self.stages();
        Heart::new(stages.core.clone(), Arc::clone(&stages.board.turns))
    }

    /// Returns when the stages must start again: a snapshot of the state waits for its
    /// installation. The endpoint and its connections are not touched.
    pub async fn restart_asked(&self) {
        self.stages().board.restart_asked().await;
    }

    /// Ends all stages, installs what waits for that, and starts them again.
    pub fn restart_stages(mut self) -> Result<Self, RunError> {
        self.stages.take().expect("they run").stop();
        let stages = Assembly {
            config: &self.config,
            chain: &self.chain,
            key: self.key.key(),
            danger: self.danger,
            stoq: self.stoq.as_ref().expect("it is there until the stop"),
            guard: self.guard.clone(),
            peers: &self.peers,
        }
        .assemble(&self.events, &self.listener)?;
        for (index, conn) in self.peers.present() {
            // An error means that a stage has failed, which the board shows.
            let _ = stages.core.send(CoreInput::PeerUp(conn));
            let _ = stages.catchup.send(CatchupInput::PeerUp(index));
        }
        self.stages = Some(stages);
        Ok(self)
    }

    /// Stops and waits until everything on its way to disk is there.
    pub fn stop(mut self) {
        // The endpoint first: what it has taken in is either finished or dropped whole.
        if let Some(stoq) = self.stoq.take() {
            stoq.shutdown();
        }
        if let Some(stages) = self.stages.take() {
            stages.stop();
        }
        // The threads that shared it have ended: it takes the filter along.
        drop(self.guard.take());
    }

    fn stages(&self) -> &Stages {
        self.stages.as_ref().expect("they run until the stop")
    }
}

/// The filter that the configuration asks for, with the other validators in its allow list.
fn guard(config: &Config) -> Option<Guard> {
    let section = config.xdp.as_ref()?;
    let validators = config.peers.values().map(|addr| *addr.ip()).collect();
    Guard::start(section, config.stoq.listen, validators)
}

/// SIGHUP: the log level is the one of the file again, or the one that it names by now.
fn level_from_file(path: &Path) {
    let done = Config::load(path)
        .map_err(|error| error.to_string())
        .and_then(|config| logging::set_level(&config.log.level).map_err(|e| e.to_string()));
    if let Err(error) = done {
        tracing::error!(error, "the log level stays as it is");
    }
}

/// Longest frame for a follower, bytes: a batch, a part of a snapshot, a manifest.
const FOLLOWER_FRAME_BYTES_MAX: u32 = 4 << 20;
/// What a follower lets a validator send before it has read it, bytes.
const FOLLOWER_WINDOW_BYTES: u32 = 8 << 20;

/// `keep` are the capabilities that network threads shall have after set-up; without it theirs
/// are left alone.
fn bind_stoq(
    config: &Config,
    chain: &Chain,
    key: &KeyPair,
    keep: Option<CapabilitySet>,
) -> Result<(Stoq, Receiver<Event>), BindError> {
    let mut stoq = StoqConfig::new(config.stoq.listen, chain.id);
    if chain.is_follower() {
        // It shows no key, which nobody trusts; what it fetches comes in frames of one channel.
        stoq.limits.client_frame_bytes_max = FOLLOWER_FRAME_BYTES_MAX;
        stoq.limits.anonymous_window_bytes = FOLLOWER_WINDOW_BYTES;
    } else {
        stoq.identity = Some(Arc::new(key.clone()));
    }
    stoq.limits.client_frame_sent_bytes_max = FOLLOWER_FRAME_BYTES_MAX;
    stoq.io.backend = config.stoq.backend.choice();
    stoq.io.device = config.stoq.device.as_ref().map(|name| {
        let checked = "device names are checked when the configuration is loaded";
        name.parse().expect(checked)
    });
    stoq.io.busy_poll_us = config.stoq.busy_poll_us;
    stoq.io.threads = match config.stoq.backend {
        // A device's queue has one socket; who asks for several threads is told so.
        IoBackend::Xdp if config.threads.net == 0 => 1,
        _ => config.threads.net_threads(),
    };
    stoq.trusted = TrustedKeys::new(chain.set().iter().map(|validator| &validator.key));
    // Peers learn at once that a restarted validator forgot their connections.
    let secret = hash::hash(
        "falconet/stateless-reset",
        &[chain.id.as_ref(), key.secret_bytes()],
    );
    stoq.reset_secret = Some(secret.0);
    stoq.after_setup = keep.map(|keep| -> AfterSetup {
        Arc::new(move || privileges::drop_all_but(keep).map_err(std::io::Error::other))
    });
    Stoq::bind(stoq)
}

/// What a validator finds on its disk.
struct Found {
    store: StoreParts,
    executor: Executor,
    hotstuff: falconet_hotstuff::Recovered,
    mempool: falconet_mempool::Recovered,
    /// Committed blocks above the executed one, whose payload must be fetched first.
    unexecuted: VecDeque<Arc<SignedHeader>>,
    /// State commitments that headers to come may name.
    commitments: Vec<(Height, Digest)>,
    /// Images of the state at checkpoints.
    images: std::sync::mpsc::Receiver<StateImage>,
}

struct StoreParts {
    log: falconet_store::LogWriter,
    reader: Reader,
}

fn recover(
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
    let commitments = recent_commitments(&reader, executed)?;
    let mut batches = Vec::new();
    let set = chain.set();
    for (lane, tip) in set.iter().zip(&cut.0) {
        for above in reader.lane_above(set.epoch(), lane.index, tip.seq) {
            batches.extend(reader.batch(&above.hash)?);
        }
    }
    let (safety, safety_damage) = match &recovered.safety {
        Safety::Absent => (None, None),
        Safety::Corrupt { why } => (None, Some(why.clone())),
        Safety::Intact(bytes) if bytes[..] == *FORFEITED => {
            let why = "the data directory began with a snapshot, so nobody knows what this key \
                       signed before";
            (None, Some(why.into()))
        }
        Safety::Intact(bytes) => match SafetyRecord::from_bytes(bytes) {
            Ok(record) => (Some(record), None),
            Err(error) => (None, Some(error.to_string())),
        },
    };
    let mut qcs = recovered.qcs;
    qcs.extend(recovered.committed.iter().map(|mark| mark.child_qc.clone()));
    Ok(Found {
        store: StoreParts { log, reader },
        executor,
        hotstuff: falconet_hotstuff::Recovered {
            safety,
            committed: recovered.committed.map(|mark| (mark.height, mark.block_id)),
            headers: recovered.headers,
            qcs,
            tcs: recovered.tcs,
            safety_damage,
        },
        mempool: falconet_mempool::Recovered {
            executed,
            cut,
            batches,
        },
        unexecuted,
        commitments,
        images,
    })
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
    reader: &Reader,
    executed: Height,
) -> Result<Vec<(Height, Digest)>, StoreError> {
    let named = reader
        .header_at(executed)?
        .map(|header| header.executed.height);
    let oldest = Height(executed.0.saturating_sub(COMMITMENTS_MAX as u64 - 1));
    let mut commitments = Vec::new();
    for height in named.unwrap_or(executed).max(oldest).0..executed.0 {
        let row = reader.block_row(Height(height))?;
        commitments.extend(row.map(|row| (Height(height), row.commitment)));
    }
    Ok(commitments)
}

/// Puts the stages together.
struct Assembly<'a> {
    config: &'a Config,
    chain: &'a Arc<Chain>,
    key: &'a KeyPair,
    danger: Danger,
    stoq: &'a Stoq,
    guard: Option<Arc<Guard>>,
    peers: &'a Arc<Peers>,
}

/// Everything between the endpoint and the disk.
struct Stages {
    board: Arc<StatusBoard>,
    stop_http: watch::Sender<bool>,
    /// Dropped at the stop: then the receiving stage ends.
    stop_inbound: Sender<()>,
    snapshots: Arc<Snapshots>,
    threads: Vec<JoinHandle<()>>,
    /// The core's inputs; the core ends when all who may send have gone.
    core: Sender<CoreInput>,
    catchup: Sender<CatchupInput>,
    /// Dropped at the stop: then the exporter ends.
    #[cfg(feature = "otel")]
    stop_otel: Option<Sender<()>>,
}

impl Stages {
    /// Each stage ends when the one before it has; waits until all have.
    fn stop(self) {
        // An error means that the HTTP thread is gone already.
        let _ = self.stop_http.send(true);
        self.snapshots.stop();
        drop((self.core, self.catchup, self.stop_inbound));
        #[cfg(feature = "otel")]
        drop(self.stop_otel);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Assembly<'_> {
    /// Recovers what the disk has and starts all stages.
    fn assemble(
        &self,
        events: &Receiver<Event>,
        listener: &std::net::TcpListener,
    ) -> Result<Stages, RunError> {
        let chain = self.chain;
        let set = chain.set();
        let listener = listener.try_clone().map_err(RunError::Control)?;
        let snapshots = Arc::new(Snapshots::open(&self.config.data, Arc::clone(chain))?);
        let found = recover(self.config, chain, self.key, &snapshots)?;
        let peers = Arc::clone(self.peers);
        let metrics = Metrics::new(self.stoq.handle(), self.guard.as_ref());
        let counts = Counts {
            faults: metrics.peer_faults.clone(),
            throttled: metrics.frames_throttled.clone(),
        };
        let addresses = self.config.peers.values().map(|addr| *addr.ip());
        let homes = addresses.chain([*self.config.stoq.listen.ip()]);
        let standing = Arc::new(Standing::new(&set, homes, counts));
        let outbound = Outbound::new(
            self.stoq.handle(),
            Arc::clone(&peers),
            chain.is_follower(),
            Arc::clone(&metrics),
        );
        let verdicts = Arc::new(VerdictTable::default());
        let clients = Arc::new(ClientTable::default());
        let history = History::new(
            Arc::clone(chain),
            found.store.reader,
            Arc::clone(&snapshots),
        );
        let view = found.executor.application().view();

        let (urgent_in, urgent_out) = bounded(VERIFY_QUEUE_MAX);
        let (bulk_in, bulk_out) = bounded(VERIFY_QUEUE_MAX);
        let (core_in, core_out) = bounded(CORE_QUEUE_MAX);
        let (turn_in, turn_out) = bounded(TURN_QUEUE_MAX);
        let (payload_in, payload_out) = bounded(EXECUTE_QUEUE_MAX);
        let (executed_in, executed_out) = unbounded();
        let (history_in, history_out) = bounded(HISTORY_QUEUE_MAX);
        let (catchup_in, catchup_out) = bounded(CATCHUP_QUEUE_MAX);
        let (stop_inbound, inbound_stopped) = bounded(0);

        let application = found.executor.application();
        let height = application.height();
        let commitment = application.commitment();
        let genesis_commitment = application.genesis_commitment();
        let executions = Executions::new(genesis_commitment, found.commitments, height, commitment);
        let cut = found.mempool.cut.clone();
        let (mut hotstuff, mempool) = self.cores(found.hotstuff, found.mempool)?;
        let bent = Bent::new(self.danger, chain, self.key, &mut hotstuff);
        let board = Arc::new(StatusBoard::new(
            CoreStatus {
                hotstuff: hotstuff.status(),
                mempool: mempool.status(),
            },
            ExecutionStatus {
                height: height.0,
                commitment,
            },
        ));
        metrics.executed_height.set(height.0 as i64);

        let neighbours = Neighbours {
            stoq: self.stoq.handle(),
            peers: Arc::clone(&peers),
            standing: Arc::clone(&standing),
            guard: self.guard.clone(),
            addresses: self.config.peers.clone(),
        };
        neighbours.follow(chain);
        metrics.epoch.set(chain.info().start.epoch.0 as i64);
        let core = Core {
            chain: Arc::clone(chain),
            hotstuff,
            mempool,
            executions,
            inputs: core_out,
            executed: executed_out,
            turns: turn_in,
            clients: Arc::clone(&clients),
            verdicts: Arc::clone(&verdicts),
            board: Arc::clone(&board),
            metrics: Arc::clone(&metrics),
            standing: Arc::clone(&standing),
            clock: Clock::new(),
            bent,
            reporter: Reporter::new(chain.id, self.key.clone(), view.clone()),
            waiting: BTreeMap::new(),
            submissions: 0,
            backlog: found.unexecuted,
            cut,
            stage: metrics.stages.clock(Stage::Core),
            watch: crate::trace::Watch::default(),
            handover: Handover::new(neighbours, history.clone(), chain.me()),
        };
        let log = LogThread {
            chain: Arc::clone(chain),
            writer: found.store.log,
            turns: turn_out,
            outbound: outbound.clone(),
            payloads: payload_in,
            history: history_in.clone(),
            board: Arc::clone(&board),
            metrics: Arc::clone(&metrics),
            stage: metrics.stages.clock(Stage::Log),
        };
        let execute = ExecuteThread {
            executor: found.executor,
            chain: Arc::clone(chain),
            reader: history.reader().clone(),
            payloads: payload_out,
            executed: executed_in,
            verdicts: Arc::clone(&verdicts),
            history_heights: chain.genesis.params.history_heights(),
            receipts: ReceiptSender {
                clients: Arc::clone(&clients),
                outbound: outbound.clone(),
                metrics: Arc::clone(&metrics),
                chain: Arc::clone(chain),
            },
            board: Arc::clone(&board),
            metrics: Arc::clone(&metrics),
            stage: metrics.stages.clock(Stage::Execute),
        };
        let history_thread = HistoryThread {
            history: history.clone(),
            requests: history_out,
            outbound: outbound.clone(),
            stage: metrics.stages.clock(Stage::History),
        };
        let catchup = CatchupThread {
            data: self.config.data.clone(),
            chain: Arc::clone(chain),
            inputs: catchup_out,
            outbound: outbound.clone(),
            board: Arc::clone(&board),
            standing: Arc::clone(&standing),
            clock: Clock::new(),
        };
        let snapshot_thread = SnapshotThread {
            images: found.images,
            snapshots: Arc::clone(&snapshots),
        };
        let inbound = Inbound {
            stoq: self.stoq.handle(),
            peers: Arc::clone(&peers),
            standing: Arc::clone(&standing),
            metrics: Arc::clone(&metrics),
            urgent: urgent_in,
            bulk: bulk_in.clone(),
            outbound,
            follows: chain.is_follower(),
            clock: Clock::new(),
            core: core_in.clone(),
            catchup: catchup_in.clone(),
            history: history_in,
            guard: self.guard.clone(),
            stage: metrics.stages.clock(Stage::Inbound),
        };
        let door = Arc::new(Door::new(view.clone()));
        let api = Arc::new(Api {
            chain: Arc::clone(chain),
            board: Arc::clone(&board),
            peers,
            standing: Arc::clone(&standing),
            stoq: self.stoq.handle(),
            metrics: Arc::clone(&metrics),
            view,
            history,
            clients,
            bulk: bulk_in,
            live: LiveBoard::default(),
            started: Instant::now(),
        });

        let mut threads = Vec::new();
        for i in 0..self.config.threads.verify_threads() {
            let worker = VerifyWorker {
                chain: Arc::clone(chain),
                door: Arc::clone(&door),
                verdicts: Arc::clone(&verdicts),
                metrics: Arc::clone(&metrics),
                standing: Arc::clone(&standing),
                urgent: urgent_out.clone(),
                bulk: bulk_out.clone(),
                core: core_in.clone(),
                catchup: catchup_in.clone(),
                stage: metrics.stages.clock(Stage::Verify),
            };
            threads.push(spawn(&format!("verify-{i}"), move || worker.run())?);
        }
        drop((urgent_out, bulk_out));
        threads.push(spawn("history", move || history_thread.run())?);
        threads.push(spawn("execute", move || execute.run())?);
        threads.push(spawn("log", move || log.run())?);
        threads.push(spawn("core", move || core.run())?);
        let core = core_in;
        threads.push(spawn("catchup", move || catchup.run())?);
        threads.push(spawn("snapshots", move || snapshot_thread.run())?);
        let events = events.clone();
        threads.push(spawn("inbound", move || {
            inbound.run(&events, &inbound_stopped);
        })?);
        #[cfg(feature = "otel")]
        let stop_otel = export(chain, &metrics, &mut threads)?;
        let (stop_http, stop) = watch::channel(false);
        threads.push(serve_http(listener, api, stop)?);
        Ok(Stages {
            board,
            stop_http,
            stop_inbound,
            snapshots,
            threads,
            core,
            catchup: catchup_in,
            #[cfg(feature = "otel")]
            stop_otel,
        })
    }

    fn cores(
        &self,
        hotstuff: falconet_hotstuff::Recovered,
        mempool: falconet_mempool::Recovered,
    ) -> Result<(HotStuff, Mempool), RunError> {
        let chain = self.chain;
        let signer = || Box::new(self.key.clone());
        let params = &chain.genesis.params;
        let info = chain.info();
        let mut hotstuff = HotStuff::new(
            falconet_hotstuff::Config {
                chain_id: chain.id,
                me: chain.me(),
                set: Arc::clone(&info.set),
                params: params.clone(),
                start: info.start,
            },
            signer(),
            hotstuff,
        )?;
        if let Some(proof) = chain.epochs.proof(info.start.epoch.prev()) {
            hotstuff.remember_proof(Arc::new(proof));
        }
        let mempool = Mempool::new(
            falconet_mempool::Config {
                chain_id: chain.id,
                me: chain.me(),
                set: Arc::clone(&info.set),
                params: params.clone(),
            },
            signer(),
            mempool,
        )?;
        Ok((hotstuff, mempool))
    }
}

/// Starts to export to the collector that the environment names.
#[cfg(feature = "otel")]
fn export(
    chain: &Chain,
    metrics: &Arc<Metrics>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Option<Sender<()>>, RunError> {
    let Some(settings) = crate::otel::Settings::from_env() else {
        return Ok(None);
    };
    let metrics = Arc::clone(metrics);
    let instance = chain.my_name();
    let started = crate::otel::start(settings, instance, move || metrics.encode());
    let (stop, thread) = started.map_err(RunError::Thread)?;
    threads.push(thread);
    Ok(Some(stop))
}

fn serve_http(
    listener: std::net::TcpListener,
    api: Arc<Api>,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Control)?;
    spawn("control", move || {
        if let Err(error) = runtime.block_on(http::serve(listener, api, stop)) {
            tracing::error!(%error, "the HTTP API stopped");
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RunError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(RunError::Thread)
}
