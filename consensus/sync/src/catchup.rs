//! When this node is behind, and who is asked what, over several epochs.
//!
//! A snapshot belongs to an epoch, whose validators certify it. A node that is behind by epochs
//! follows their proofs first, each judged by the validators that the one before it has proven
//! (rule Z9), and asks those of the newest epoch that it knows; where it is the only one of them
//! itself, those of the epoch before, who serve until the new one has committed. So there is one
//! [`Download`] for each epoch that is asked, and each goes on with what the one before it gathered.

use std::sync::Arc;

use falconet_types::epoch::EpochInfo;
use falconet_types::genesis::Genesis;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::snapshot::{Chunk, Manifest, SnapshotOffer};
use falconet_types::time::Now;
use falconet_types::{Digest, Epoch, Height, PublicKey, ValidatorIndex};

use crate::download::{self, Download, Resume, Status};
use crate::limits::PROGRESS_INTERVAL_US;
use crate::sources::{Asking, Sources};

/// How far this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knowledge {
    /// The last executed block.
    pub executed: Height,
    /// The last committed block.
    pub committed: Height,
    /// A certified block's ancestors are being fetched.
    pub syncing: bool,
    /// Batches of committed blocks are being fetched.
    pub lacks_batches: bool,
    /// The epoch that the node is in.
    pub current: Epoch,
    /// The newest epoch that it knows.
    pub newest: Epoch,
}

impl Knowledge {
    /// True while there are certified blocks that could not be executed yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let waiting = self.committed > self.executed;
        self.syncing || (waiting && self.lacks_batches) || self.newest > self.current
    }
}

/// What happens. `P` names a connection.
#[derive(Debug)]
pub enum Input<P> {
    /// A node that proved this key is connected.
    PeerUp(P, Digest),
    /// It no longer is.
    PeerDown(P),
    /// A peer says which snapshots it has; the manifest's signatures were checked.
    Offer(P, Verified<SnapshotOffer>),
    /// A part of a snapshot, not checked.
    Chunk(P, Chunk),
    /// Time passed; due whenever [`Catchup::next_deadline_us`] says so.
    Tick,
}

/// What the shell has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<P> {
    /// Send on a connection.
    Send {
        /// The connection.
        to: P,
        /// The message.
        message: PeerMessage,
    },
    /// Forget every chunk that is kept, and keep this manifest.
    Begin(Box<Manifest>),
    /// Keep a chunk; it belongs to the manifest.
    Store(Chunk),
    /// Forget manifest and chunks.
    Abandon,
    /// Every chunk was stored: install the snapshot at the next start, which should be now.
    Complete,
    /// A peer sent what no correct node sends.
    Misbehaved {
        /// Its connection, if that is still there.
        peer: Option<P>,
        /// Its index in the epoch that is asked.
        validator: ValidatorIndex,
        /// What it did.
        why: String,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Catchup<P> {
    key: PublicKey,
    genesis: Arc<Genesis>,
    download: Download,
    sources: Sources<P>,
    asking: Asking,
    /// The newest epoch that is known.
    newest: Epoch,
    /// What is gathered: manifest, and first and last bucket of each chunk that is held.
    gathered: Option<(Manifest, Vec<(u16, u16)>)>,
    /// Every chunk is there: nothing is asked any more until the next start.
    complete: bool,
    progress_us: u64,
    scratch: Vec<download::Effect>,
}

impl<P: Copy + Ord> Catchup<P> {
    /// Starts, or goes on with what a restart found. `asked` is the epoch whose validators are asked:
    /// the newest that is known and has others than this node.
    pub fn new(
        now: Now,
        key: PublicKey,
        genesis: Arc<Genesis>,
        asked: &EpochInfo,
        resume: Option<Resume>,
        out: &mut Vec<Effect<P>>,
    ) -> Self {
        let gathered = resume.map(|Resume { manifest, held }| (manifest.into_inner(), held));
        let mut scratch = Vec::new();
        let download = download_of(&key, &genesis, asked, gathered.as_ref(), &mut scratch);
        let mut catchup = Self {
            key,
            genesis,
            download,
            sources: Sources::default(),
            asking: Asking::new(now),
            newest: asked.start.epoch,
            gathered,
            complete: false,
            progress_us: 0,
            scratch,
        };
        catchup.sources.follow(asked);
        catchup.pass_on(out);
        catchup
    }

    /// Takes one input and appends what the shell has to do.
    pub fn handle(&mut self, now: Now, input: Input<P>, out: &mut Vec<Effect<P>>) {
        use download::Input as D;
        let from = |conn| self.sources.index(conn);
        let input = match input {
            Input::PeerUp(conn, key) => self.sources.up(conn, key).map(D::PeerUp),
            Input::PeerDown(conn) => self.sources.down(conn).map(D::PeerDown),
            Input::Offer(conn, offer) => from(conn).map(|from| D::Offer { from, offer }),
            Input::Chunk(conn, chunk) => from(conn).map(|from| D::Chunk { from, chunk }),
            Input::Tick => None,
        };
        let input = input.unwrap_or(D::Tick);
        self.download.handle(now, input, &mut self.scratch);
        self.pass_on(out);
        if self.asking.is_due(now) {
            let message = PeerMessage::GetEpochProof(self.newest);
            for to in self.asking.choose(now, &self.sources) {
                let message = message.clone();
                out.push(Effect::Send { to, message });
            }
        }
    }

    /// How far this node is; due several times a second, whenever [`Catchup::next_deadline_us`] says
    /// so. `asked` is as in [`Catchup::new`]: if that is another epoch now, others are asked, with
    /// other indices.
    pub fn progress(
        &mut self,
        now: Now,
        known: Knowledge,
        asked: &EpochInfo,
        out: &mut Vec<Effect<P>>,
    ) {
        self.progress_us = now.mono_us;
        self.newest = known.newest;
        if self.sources.epoch() != asked.start.epoch && !self.complete {
            let gathered = self.gathered.as_ref();
            let next = download_of(&self.key, &self.genesis, asked, gathered, &mut self.scratch);
            self.download = next.after(&self.download);
            for peer in self.sources.follow(asked) {
                let up = download::Input::PeerUp(peer);
                self.download.handle(now, up, &mut self.scratch);
            }
        }
        let executed = known.executed;
        let behind = known.is_behind();
        self.asking.progress(now, executed, behind);
        let input = download::Input::Progress { executed, behind };
        self.download.handle(now, input, &mut self.scratch);
        self.pass_on(out);
    }

    /// True for a node that is behind and does not get on: it learns of epochs from others (rule
    /// Z9). One that keeps up goes over by what it executes.
    #[must_use]
    pub fn wants_epochs(&self, now: Now) -> bool {
        self.asking.is_stuck(now)
    }

    /// A proof that a peer showed made `newest` known. Whoever knew of this end may know of the next.
    pub fn learned(&mut self, now: Now, from: P, newest: &EpochInfo, out: &mut Vec<Effect<P>>) {
        self.newest = newest.start.epoch;
        self.asking.learned(now);
        let message = PeerMessage::GetEpochProof(newest.start.epoch);
        out.push(Effect::Send { to: from, message });
    }

    /// Monotonic time at which progress must be told and [`Input::Tick`] would do something.
    #[must_use]
    pub fn next_deadline_us(&self) -> u64 {
        let progress_us = self.progress_us + PROGRESS_INTERVAL_US;
        let due = [self.download.next_deadline_us(), self.asking.due_us()];
        due.into_iter().flatten().fold(progress_us, u64::min)
    }

    /// For status pages.
    #[must_use]
    pub fn status(&self) -> Status {
        self.download.status()
    }

    fn pass_on(&mut self, out: &mut Vec<Effect<P>>) {
        use download::Effect as D;
        for effect in self.scratch.drain(..) {
            out.push(match effect {
                D::Send { to, message } => match self.sources.conn(to) {
                    Some(to) => Effect::Send { to, message },
                    None => continue,
                },
                D::Begin(manifest) => {
                    self.gathered = Some((Manifest::clone(&manifest), Vec::new()));
                    Effect::Begin(manifest)
                }
                D::Store(chunk) => {
                    let gathered = self.gathered.as_mut().expect("begun before");
                    gathered.1.push((chunk.first, chunk.last));
                    Effect::Store(chunk)
                }
                D::Abandon => {
                    self.gathered = None;
                    Effect::Abandon
                }
                D::Complete => {
                    self.complete = true;
                    Effect::Complete
                }
                D::Misbehaved { peer, why } => Effect::Misbehaved {
                    peer: self.sources.conn(peer),
                    validator: peer,
                    why,
                },
            });
        }
    }
}

/// A machine that asks the validators of an epoch, and goes on with what is held.
fn download_of(
    key: &PublicKey,
    genesis: &Arc<Genesis>,
    asked: &EpochInfo,
    gathered: Option<&(Manifest, Vec<(u16, u16)>)>,
    out: &mut Vec<download::Effect>,
) -> Download {
    let config = download::Config {
        set: Arc::clone(&asked.set),
        me: asked.set.by_key(key).unwrap_or(ValidatorIndex::NOBODY),
        genesis: Arc::clone(genesis),
    };
    let resume = gathered.map(|(manifest, held)| Resume {
        manifest: Verified::trusted(manifest.clone()),
        held: held.clone(),
    });
    Download::new(config, resume, out)
}
