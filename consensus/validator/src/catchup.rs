//! Catching up by snapshot: the shell of [`falconet_sync`]. Its thread feeds the machine, keeps
//! what it hands out under `data/sync`, and asks for a restart of the stages when a snapshot is
//! complete. [`install`] then puts it into the store, before anything else is opened.
//!
//! A snapshot belongs to an epoch, whose validators certify it. A node that is behind by epochs
//! follows their proofs first, each judged by the validators that the one before it has proven
//! (rule Z9), and asks those of the newest epoch that it knows.

use std::io::{self};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use falconet_dataplane::{ConnId, FrameLease};
use falconet_store::StoreError;
use falconet_sync::{Config, Download, Effect, Input};
use falconet_types::epoch::EpochProof;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::snapshot::{Chunk, SnapshotOffer};
use falconet_types::time::Now;
use falconet_types::{Height, ValidatorIndex};

use crate::chain::Chain;
use crate::clock::Clock;
use crate::epochs::EpochsError;
use crate::neighbours::Neighbours;
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::peers::score::Fault;
use crate::peers::standing::Standing;
use crate::status::StatusBoard;

use self::incoming::Incoming;
pub use self::install::{forfeited, install};
use self::sources::{Asking, Sources};

mod incoming;
mod install;
mod sources;

/// Inputs that may wait for the thread; chunks beyond it are dropped and asked for again.
pub const CATCHUP_QUEUE_MAX: usize = 64;
/// How often the machine is told how far this node is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

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
            if sources.epoch() != newest && !incoming.is_complete() {
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
        let message = PeerMessage::GetEpochProof(sources.epoch());
        for conn in asking.choose(now, sources) {
            self.outbound.send_on(conn, &message);
        }
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
