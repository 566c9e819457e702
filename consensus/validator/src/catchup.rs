//! Catching up by snapshot: the shell of [`falconet_sync`]. Its thread feeds the machine, keeps
//! what it hands out under `data/sync`, and asks for a restart of the stages when a snapshot is
//! complete. [`install`] then puts it into the store, before anything else is opened.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use falconet_dataplane::{ConnId, FrameLease};
use falconet_store::{SnapshotFiles, StoreError, SystemFiles};
use falconet_sync::catchup::{Catchup, Effect, Input};
use falconet_sync::{Knowledge, Status};
use falconet_types::Height;
use falconet_types::epoch::EpochProof;
use falconet_types::signing::Verified;
use falconet_types::snapshot::{Chunk, SnapshotOffer};

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
pub use self::queue::{
    CATCHUP_QUEUE_MAX, CatchupReceiver, CatchupSender, INPUTS_PER_PEER_MAX, queue,
};

mod incoming;
mod install;
mod queue;
#[cfg(test)]
mod tests;

/// After a file failed nothing is gathered for this long, doubled for each further time.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest such time.
const PAUSE_MAX: Duration = Duration::from_secs(600);

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

impl CatchupInput {
    /// The peer whose words these are; `None` for what the endpoint says of a connection.
    fn said_by(&self) -> Option<ConnId> {
        match self {
            Self::PeerUp(_) | Self::PeerDown(_) => None,
            Self::Offer { conn, .. } | Self::Chunk { conn, .. } | Self::EpochProof { conn, .. } => {
                Some(*conn)
            }
        }
    }
}

/// Why catching up by snapshot failed. The node goes on without.
#[derive(Debug, thiserror::Error)]
pub enum CatchupError {
    /// A file under `data/sync` failed.
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
    pub inputs: CatchupReceiver,
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
    /// Runs until nobody can send to it. When a file fails, what was gathered is deleted, for the log
    /// needs the room, and a while later all of it begins anew; the node goes on meanwhile as if no
    /// peer had a snapshot.
    pub fn run(self) {
        let mut connected = BTreeSet::new();
        let mut pause = PAUSE;
        loop {
            let files: Arc<dyn SnapshotFiles> = Arc::new(SystemFiles);
            let start = Instant::now();
            let Err(error) = self.serve(files.clone(), &mut connected) else {
                return;
            };
            let mut incoming = Incoming::new(&self.data, files);
            if incoming.is_ready() {
                tracing::error!(%error, "a snapshot waits for the next start of the validator");
                return self.inputs.drain();
            }
            if start.elapsed() > PAUSE_MAX {
                pause = PAUSE;
            }
            let pause_s = pause.as_secs();
            tracing::error!(%error, pause_s, "what was gathered of a snapshot is deleted");
            if let Err(error) = incoming.discard() {
                tracing::error!(%error, "some of it stays on the disk");
            }
            *self.board.catchup.lock() = Status::default();
            let end = Instant::now() + pause;
            pause = (pause * 2).min(PAUSE_MAX);
            loop {
                match self.inputs.recv_deadline(end) {
                    Ok(input) => note(&mut connected, &input),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn serve(
        &self,
        files: Arc<dyn SnapshotFiles>,
        connected: &mut BTreeSet<ConnId>,
    ) -> Result<(), CatchupError> {
        let mut incoming = Incoming::load(&self.data, files, &self.chain)?;
        let mut effects = Vec::new();
        let mut machine = Catchup::new(
            self.clock.now(),
            self.chain.key.clone(),
            Arc::new(self.chain.genesis.clone()),
            &self.chain.epochs.newest_with_others(&self.chain.key),
            incoming.resume(),
            &mut effects,
        );
        // Whoever connected before a pause.
        for conn in connected.iter().copied() {
            if let Some(key) = self.peers.key(conn) {
                let up = Input::PeerUp(conn, key);
                machine.handle(self.clock.now(), up, &mut effects);
            }
        }
        self.carry_out(&mut incoming, &mut effects)?;
        loop {
            let wait_us = machine.next_deadline_us();
            let wait_us = wait_us.saturating_sub(self.clock.now().mono_us);
            let end = Instant::now() + Duration::from_micros(wait_us);
            let next = self.inputs.recv_deadline(end);
            let now = self.clock.now();
            if let Ok(input) = &next {
                note(connected, input);
            }
            // An epoch may have begun, or be known by now.
            let asked = self.chain.epochs.newest_with_others(&self.chain.key);
            machine.progress(now, self.knowledge(), &asked, &mut effects);
            let (input, _lease) = match next {
                Ok(CatchupInput::PeerUp(conn)) => {
                    let key = self.peers.key(conn);
                    (key.map(|key| Input::PeerUp(conn, key)), None)
                }
                Ok(CatchupInput::PeerDown(conn)) => (Some(Input::PeerDown(conn)), None),
                Ok(CatchupInput::Offer { conn, offer }) => (Some(Input::Offer(conn, offer)), None),
                Ok(CatchupInput::Chunk { conn, chunk, lease }) => {
                    (Some(Input::Chunk(conn, chunk)), Some(lease))
                }
                Ok(CatchupInput::EpochProof { conn, proof }) => {
                    if machine.wants_epochs(now) && self.learn(&proof)? {
                        let newest = self.chain.epochs.newest_known();
                        machine.learned(now, conn, &newest, &mut effects);
                    }
                    (None, None)
                }
                Err(RecvTimeoutError::Timeout) => (None, None),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            machine.handle(now, input.unwrap_or(Input::Tick), &mut effects);
            self.carry_out(&mut incoming, &mut effects)?;
            *self.board.catchup.lock() = machine.status();
        }
    }

    fn knowledge(&self) -> Knowledge {
        let executed = Height(self.board.execution.lock().height);
        let current = self.chain.epochs.current().start.epoch;
        let newest = self.chain.epochs.newest_known().start.epoch;
        let core = self.board.core.lock();
        Knowledge {
            executed,
            committed: core.hotstuff.committed_height,
            syncing: core.hotstuff.syncing,
            lacks_batches: core.mempool.fetch_debt_batches > 0,
            current,
            newest,
        }
    }

    /// True if the proof made another epoch known.
    fn learn(&self, proof: &Verified<EpochProof>) -> Result<bool, CatchupError> {
        if !self.chain.epochs.learn(proof)? {
            return Ok(false);
        }
        let newest = self.chain.epochs.newest_known();
        tracing::info!(
            epoch = newest.start.epoch.0,
            height = newest.start.height.0,
            validators = newest.set.len(),
            "an epoch ahead of this node is known"
        );
        self.neighbours.reach(&self.chain);
        Ok(true)
    }

    fn carry_out(
        &self,
        incoming: &mut Incoming,
        effects: &mut Vec<Effect<ConnId>>,
    ) -> Result<(), CatchupError> {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, message } => self.outbound.send_on(to, &message),
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
                    incoming.discard()?;
                }
                Effect::Complete => {
                    incoming.complete()?;
                    tracing::info!("a snapshot is complete: it is installed now");
                    self.board.ask_for_restart();
                }
                Effect::Misbehaved {
                    peer,
                    validator,
                    why,
                } => {
                    tracing::warn!(validator = validator.0, why, "a peer sent wrong bytes");
                    if let Some(index) = peer.and_then(|conn| self.peers.index(conn)) {
                        self.standing.fault(index, Fault::Invalid, 1);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Keeps in mind who is connected.
fn note(connected: &mut BTreeSet<ConnId>, input: &CatchupInput) {
    match input {
        CatchupInput::PeerUp(conn) => {
            connected.insert(*conn);
        }
        CatchupInput::PeerDown(conn) => {
            connected.remove(conn);
        }
        _ => {}
    }
}
