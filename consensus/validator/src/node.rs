//! Starting, running and stopping a validator.
//!
//! Order of start: everything that can be refused is checked before anything is changed
//! (configuration, key, genesis, addresses), then the data directory is opened, committed blocks
//! that the state lacks are executed again, and only then does the endpoint accept anybody.
//! Order of stop: the endpoint first, then each stage ends when the one before it has, so that
//! everything taken in is either finished or dropped whole.

use std::net::SocketAddrV6;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use falconet_crypto::falcon::KeyPair;
use falconet_crypto::hash;
use falconet_crypto::keyfile::{KeyFileError, LockedKey};
use falconet_dataplane::{AfterSetup, BindError, Event, Stoq, StoqConfig, TrustedKeys};
use falconet_store::StoreError;
use falconet_types::{Epoch, Height, ValidatorIndex};
use rustix::thread::CapabilitySet;

use crate::byzantine::Danger;
use crate::catchup::{CatchupError, CatchupInput};
use crate::chain::{Chain, ChainError};
use crate::config::{Config, ConfigError, IoBackend};
use crate::execute::ExecuteError;
use crate::filter::Guard;
use crate::http::{self, ListenError};
use crate::logging::{self, LevelError};
use crate::notify::{Heart, Notifier};
use crate::peers::Peers;
use crate::pipeline::CoreInput;
use crate::preflight::{self, Unfit};
use crate::privileges::{self, PrivilegeError};

mod recovery;
mod stages;

use stages::{Assembly, Stages};

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
        let my_name = (!chain.is_anonymous()).then(|| chain.my_name());
        let newest = chain.epochs.newest_known();
        let later = newest.start.epoch > Epoch::ZERO;
        // The chain says where the validators of a later epoch are.
        if !later || newest.members.iter().all(|m| m.address.is_none()) {
            config.check_peers(path, &chain.genesis, my_name.as_deref())?;
        }
        if chain.is_follower() {
            tracing::warn!(
                key = %config.key.display(),
                "the key is in no validator's place yet: this node follows the chain, and signs from \
                 the first epoch on of which its key is a member"
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
        for (_, conn) in self.peers.present() {
            // An error means that a stage has failed, which the board shows.
            let _ = stages.core.send(CoreInput::PeerUp(conn));
            stages.catchup.connection(CatchupInput::PeerUp(conn));
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
    if chain.is_anonymous() {
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
