//! The state machine: when a snapshot is needed, which one is taken, who is asked for which part.
//!
//! [`Download`] takes inputs with the present time and yields [`Effect`]s. The shell keeps what
//! [`Effect::Begin`] and [`Effect::Store`] hand out, so a restart resumes ([`Resume`]).

use std::sync::Arc;

use falconet_ledger::snapshot::{ChunkError, Head, verify_chunk};
use falconet_types::genesis::Genesis;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::snapshot::{CHUNK_BYTES_TARGET, Chunk, GetChunk, Manifest, SnapshotOffer};
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{Digest, Height, ValidatorIndex};

use crate::hedging::AnswerTimes;
use crate::limits::{
    ANSWER_TIMEOUT_US, DEMOTED_US, PATIENCE_US, REQUESTS_MAX, REQUESTS_PER_PEER_MAX, SILENT_US,
    SILENT_US_MAX,
};
use crate::manifest::ManifestRequests;
use crate::misbehaviour::unchecked;
use crate::target::{Request, Target};

/// What the machine must know from the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The validators of the epoch: those who are asked, and whose quorum certifies a snapshot.
    pub set: Arc<ValidatorSet>,
    /// This node, which asks itself nothing.
    pub me: ValidatorIndex,
    /// The chain's genesis document.
    pub genesis: Arc<Genesis>,
}

/// Checks all of a manifest but its signatures: that a committed header names the state which its
/// digests make. An error says what is wrong.
pub fn check_manifest(genesis: &Genesis, manifest: &Manifest) -> Result<(), String> {
    let head = head_of(manifest);
    let validators = head.validators_root(genesis);
    if validators.map_err(|error| error.to_string())? != manifest.validators {
        return Err("the registry of validators has another root".into());
    }
    let commitment = manifest.commitment(head.accounts_root());
    manifest
        .check(commitment)
        .map_err(|error| error.to_string())
}

/// Checks that a chunk is a part of the state with this root (rule Z5).
pub fn judge(tree_root: Digest, chunk: &Chunk) -> Result<(), ChunkError> {
    if unchecked() {
        return Ok(());
    }
    verify_chunk(
        tree_root,
        chunk.first,
        chunk.last,
        &chunk.rows,
        &chunk.left,
        &chunk.right,
    )
}

/// The application's part of a manifest.
#[must_use]
pub fn head_of(manifest: &Manifest) -> Head {
    Head {
        tree_root: manifest.tree_root,
        burned: manifest.burned,
        registry: manifest.registry.clone(),
    }
}

/// What a restarted node finds on its disk.
#[derive(Debug)]
pub struct Resume {
    /// The manifest whose chunks were being gathered, verified again.
    pub manifest: Verified<Manifest>,
    /// First and last bucket of each chunk that is held, judged again.
    pub held: Vec<(u16, u16)>,
}

/// What happens.
#[derive(Debug)]
pub enum Input {
    /// A validator is connected.
    PeerUp(ValidatorIndex),
    /// It no longer is.
    PeerDown(ValidatorIndex),
    /// How far this node is. Told several times a second, and at least once before anything else.
    Progress {
        /// The last executed block.
        executed: Height,
        /// True while certified blocks are known that could not be executed yet.
        behind: bool,
    },
    /// A peer says what it has; the manifest's signatures were checked.
    Offer {
        /// Who says it.
        from: ValidatorIndex,
        /// What it has.
        offer: Verified<SnapshotOffer>,
    },
    /// A part of a snapshot, not checked.
    Chunk {
        /// Who sent it.
        from: ValidatorIndex,
        /// The part.
        chunk: Chunk,
    },
    /// Time passed; due whenever [`Download::next_deadline_us`] says so.
    Tick,
}

/// What the shell has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send to a validator.
    Send {
        /// The receiver.
        to: ValidatorIndex,
        /// The message.
        message: PeerMessage,
    },
    /// Forget every chunk that is kept, and keep this manifest.
    Begin(Box<Manifest>),
    /// Keep a chunk; it belongs to the manifest.
    Store(Chunk),
    /// Forget manifest and chunks: the snapshot is no longer needed, or nobody has it any more.
    Abandon,
    /// Every chunk was stored: install the snapshot.
    Complete,
    /// A peer sent what no correct node sends.
    Misbehaved {
        /// The peer.
        peer: ValidatorIndex,
        /// What it did.
        why: String,
    },
}

/// For operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Height of the snapshot that is being fetched; 0 when there is none.
    pub height: Height,
    /// Buckets of it that are not held yet.
    pub buckets_missing: u64,
    /// Bytes of rows fetched for it since the start of the process.
    pub bytes: u64,
    /// Peers that are not asked because they sent wrong bytes.
    pub demoted: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) up: bool,
    /// What it said last.
    pub(crate) offer: Option<SnapshotOffer>,
    pub(crate) asked_us: Option<u64>,
    /// When it was asked what it has, while it has not said so.
    pub(crate) awaited_us: Option<u64>,
    /// Not asked before this time.
    pub(crate) shunned_until_us: u64,
    /// It sent wrong bytes, which is why.
    pub(crate) demoted: bool,
    /// Requests for a manifest or a part that it did not answer, since the last that it did.
    pub(crate) silences: u32,
    /// Parts that ended early although they were short: a correct server fills a part up.
    pub(crate) shorts: u32,
}

/// See the crate.
#[derive(Debug)]
pub struct Download {
    pub(crate) config: Config,
    pub(crate) peers: Vec<Peer>,
    pub(crate) executed: Height,
    /// Since when this node is behind without executing anything.
    pub(crate) stuck_since_us: Option<u64>,
    pub(crate) target: Option<Target>,
    pub(crate) answer_times: AnswerTimes,
    pub(crate) manifests: ManifestRequests,
    pub(crate) deadline_us: Option<u64>,
}

impl Download {
    /// Starts, or goes on with what a restart found.
    pub fn new(config: Config, resume: Option<Resume>, out: &mut Vec<Effect>) -> Self {
        let mut download = Self {
            peers: vec![Peer::default(); config.set.len()],
            config,
            executed: Height::ZERO,
            stuck_since_us: None,
            target: None,
            answer_times: AnswerTimes::default(),
            manifests: ManifestRequests::default(),
            deadline_us: None,
        };
        if let Some(Resume { manifest, held }) = resume {
            let mut target = Target::new(&manifest);
            for (first, last) in held {
                target.missing.remove(first, last);
            }
            download.target = Some(target);
            download.finish(out);
        }
        download
    }

    /// Knows what the machine of an earlier epoch knew of this node: epochs may follow each other
    /// faster than a node that is behind may ask.
    #[must_use]
    pub(crate) fn after(mut self, before: &Self) -> Self {
        self.executed = before.executed;
        self.stuck_since_us = before.stuck_since_us;
        self
    }

    /// Takes one input and appends what the shell has to do.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::PeerUp(peer) => {
                if let Some(state) = self.peers.get_mut(peer.at()) {
                    // Wrong bytes are not forgotten by connecting again.
                    let (shunned_until_us, demoted) = (state.shunned_until_us, state.demoted);
                    *state = Peer {
                        up: true,
                        demoted,
                        shunned_until_us: if demoted { shunned_until_us } else { 0 },
                        ..Peer::default()
                    };
                }
            }
            Input::PeerDown(peer) => {
                if let Some(state) = self.peers.get_mut(peer.at()) {
                    state.up = false;
                    state.offer = None;
                    self.release(peer);
                }
            }
            Input::Progress { executed, behind } => self.progress(now, executed, behind, out),
            Input::Offer { from, offer } => self.offer(now, from, offer.into_inner(), out),
            Input::Chunk { from, chunk } => self.chunk(now, from, chunk, out),
            Input::Tick => {}
        }
        self.expire(now);
        self.ask(now, out);
        self.request(now, out);
    }

    /// Monotonic time of the next [`Input::Tick`] that would do something.
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// For status pages.
    #[must_use]
    pub fn status(&self) -> Status {
        let demoted = self.peers.iter().filter(|peer| peer.demoted).count() as u64;
        match &self.target {
            None => Status {
                demoted,
                ..Status::default()
            },
            Some(target) => {
                let asked = target.asked_once();
                let asked: u64 = asked.map(|r| u64::from(r.last - r.first) + 1).sum();
                Status {
                    height: target.height,
                    buckets_missing: target.missing.len() + asked,
                    bytes: target.bytes,
                    demoted,
                }
            }
        }
    }

    fn progress(&mut self, now: Now, executed: Height, behind: bool, out: &mut Vec<Effect>) {
        if executed > self.executed || !behind {
            self.stuck_since_us = None;
        }
        self.executed = self.executed.max(executed);
        if behind {
            self.stuck_since_us.get_or_insert(now.mono_us);
        }
        if self
            .target
            .as_ref()
            .is_some_and(|target| !target.complete && target.height <= self.executed)
        {
            self.abandon(out);
        }
    }

    /// Rule Z3: peers of weight F1, of whom one is correct, do not have the next block any more; or
    /// all others, where this node weighs so much that they do not weigh F1; or those who claim to
    /// have it did not deliver for long.
    pub(crate) fn is_needed(&self, now: Now) -> bool {
        let Some(since_us) = self.stuck_since_us else {
            return false;
        };
        let next = self.executed.next();
        let without = self.config.set.iter().map(|v| v.index).filter(|peer| {
            let offer = self.peers[peer.at()].offer.as_ref();
            offer.is_some_and(|offer| offer.horizon > next)
        });
        let set = &self.config.set;
        let others = set.total_weight() - set.weight_of([self.config.me]);
        let enough = set.weak_weight().min(others.max(1));
        set.weight_of(without) >= enough || now.mono_us >= since_us.saturating_add(PATIENCE_US)
    }

    fn offer(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        offer: SnapshotOffer,
        out: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(from.at()) else {
            return;
        };
        let SnapshotOffer {
            horizon,
            heights,
            manifest,
        } = offer;
        if let Some(asked_us) = peer.awaited_us.take() {
            self.manifests.measured(now.mono_us - asked_us);
        }
        // One that has the snapshot and shows no manifest answers an earlier question, or lies:
        // either way somebody else is asked before long.
        self.manifests.keep(from, &heights);
        peer.offer = Some(SnapshotOffer {
            horizon,
            heights,
            manifest: None,
        });
        // What it no longer has it is not asked for; having nothing is no fault.
        if let Some(target) = &self.target
            && !self.has(from, target.height)
        {
            self.release(from);
        }
        let Some(manifest) = manifest else { return };
        if let Err(error) = check_manifest(&self.config.genesis, &manifest) {
            self.demote(now, from, format!("manifest of a snapshot: {error}"), out);
            return;
        }
        if !self.manifests.answered(from, manifest.height()) {
            return;
        }
        self.peers[from.at()].silences = 0;
        if self.target.is_some() || manifest.height() <= self.executed || !self.is_needed(now) {
            return;
        }
        self.manifests.clear();
        self.target = Some(Target::new(&manifest));
        out.push(Effect::Begin(Box::new(manifest)));
        self.finish(out);
    }

    fn chunk(&mut self, now: Now, from: ValidatorIndex, chunk: Chunk, out: &mut Vec<Effect>) {
        let Some(target) = &mut self.target else {
            return;
        };
        let asked = target.requests.iter().position(|request| {
            (request.peer, request.first) == (from, chunk.first) && chunk.last <= request.last
        });
        // Not asked for, or asked too long ago: somebody else has been asked meanwhile.
        let Some(asked) = asked.filter(|_| chunk.height == target.height) else {
            return;
        };
        let request = target.requests[asked];
        if let Err(error) = judge(target.tree_root, &chunk) {
            target.drop_requests(|other| *other != request);
            self.demote(now, from, format!("part of a snapshot: {error}"), out);
            return;
        }
        // Whoever was asked for the same part before and is still silent.
        let same =
            |other: &&Request| other.first == request.first && other.sent_us < request.sent_us;
        let slower = target.requests.iter().find(same).map(|other| other.peer);
        target.requests.retain(|other| other.first != request.first);
        if chunk.last < request.last {
            target.missing.give_back(chunk.last + 1, request.last);
        } else {
            target.adapt_width(chunk.rows.len());
        }
        target.bytes += chunk.rows.len() as u64;
        self.answer_times.add(now.mono_us - request.sent_us);
        let short = chunk.last < request.last && chunk.rows.len() < CHUNK_BYTES_TARGET / 2;
        let peer = &mut self.peers[from.at()];
        peer.silences = 0;
        peer.shorts = peer.shorts.saturating_add(short.into());
        if let Some(slower) = slower {
            self.pass_over(now, slower);
        }
        out.push(Effect::Store(chunk));
        self.finish(out);
    }

    fn finish(&mut self, out: &mut Vec<Effect>) {
        if let Some(target) = &mut self.target
            && !target.complete
            && target.missing.is_empty()
            && target.requests.is_empty()
        {
            target.complete = true;
            out.push(Effect::Complete);
        }
    }

    pub(crate) fn abandon(&mut self, out: &mut Vec<Effect>) {
        self.target = None;
        out.push(Effect::Abandon);
    }

    /// Rule Z6: wrong bytes are a fault.
    fn demote(&mut self, now: Now, peer: ValidatorIndex, why: String, out: &mut Vec<Effect>) {
        let state = &mut self.peers[peer.at()];
        state.demoted = true;
        state.shunned_until_us = now.mono_us.saturating_add(DEMOTED_US);
        self.release(peer);
        out.push(Effect::Misbehaved { peer, why });
    }

    /// Takes back what a peer was asked for.
    fn release(&mut self, peer: ValidatorIndex) {
        self.manifests.release(peer);
        if let Some(target) = &mut self.target {
            target.drop_requests(|request| request.peer != peer);
        }
    }

    /// A peer did not answer, or took much longer than others: it is asked nothing for a while.
    fn pass_over(&mut self, now: Now, peer: ValidatorIndex) {
        let state = &mut self.peers[peer.at()];
        let wait_us = (SILENT_US << state.silences.min(16)).min(SILENT_US_MAX);
        state.silences = state.silences.saturating_add(1);
        state.shunned_until_us = state
            .shunned_until_us
            .max(now.mono_us.saturating_add(wait_us));
        self.release(peer);
    }

    /// Requests that ran out of time.
    fn expire(&mut self, now: Now) {
        for peer in &mut self.peers {
            if peer.demoted && peer.shunned_until_us <= now.mono_us {
                peer.demoted = false;
            }
        }
        let late = |sent_us: u64| sent_us.saturating_add(ANSWER_TIMEOUT_US) <= now.mono_us;
        let (asked, _) = self.manifests.late(now.mono_us, ANSWER_TIMEOUT_US);
        let requests = self.target.iter().flat_map(|target| &target.requests);
        let mut silent: Vec<ValidatorIndex> = requests
            .filter(|request| late(request.sent_us))
            .map(|request| request.peer)
            .chain(asked)
            .collect();
        silent.sort_unstable();
        silent.dedup();
        for peer in silent {
            self.pass_over(now, peer);
        }
    }

    /// Asks for chunks, several at a time, of several peers.
    fn request(&mut self, now: Now, out: &mut Vec<Effect>) {
        loop {
            let Some(target) = &self.target else { return };
            if target.missing.is_empty() || target.asked_once().count() >= REQUESTS_MAX {
                break;
            }
            let height = target.height;
            let Some(peer) = self.whom_to_ask(now, None) else {
                break;
            };
            let target = self.target.as_mut().expect("looked at above");
            let range = target.missing.take(target.width);
            let (first, last) = range.expect("not empty");
            target.requests.push(Request {
                peer,
                first,
                last,
                sent_us: now.mono_us,
            });
            let message = PeerMessage::GetChunk(GetChunk {
                height,
                first,
                last,
            });
            out.push(Effect::Send { to: peer, message });
        }
        self.hedge(now, out);
        let requests = self.target.iter().flat_map(|target| &target.requests);
        let oldest_us = requests.map(|request| request.sent_us).min();
        let shunned = self.peers.iter().map(|peer| peer.shunned_until_us);
        let back_us = shunned.filter(|at| *at > now.mono_us).min();
        let waits = match &self.target {
            Some(target) => !target.missing.is_empty(),
            None => self.stuck_since_us.is_some(),
        };
        if let Some(sent_us) = oldest_us {
            self.note_deadline(sent_us + ANSWER_TIMEOUT_US);
        }
        if let Some(back_us) = back_us.filter(|_| waits) {
            self.note_deadline(back_us);
        }
    }

    /// Who is asked for a part next, other than `but`: of those who have it and have room, whoever
    /// has least to do.
    pub(crate) fn whom_to_ask(
        &self,
        now: Now,
        but: Option<ValidatorIndex>,
    ) -> Option<ValidatorIndex> {
        let target = self.target.as_ref()?;
        let load = |peer: &ValidatorIndex| {
            let its = target.requests.iter().filter(|r| r.peer == *peer);
            its.count()
        };
        let members = self.config.set.iter().map(|v| v.index);
        let free = members.filter(|peer| {
            *peer != self.config.me
                && Some(*peer) != but
                && self.has(*peer, target.height)
                && self.peers[peer.at()].shunned_until_us <= now.mono_us
                && load(peer) < REQUESTS_PER_PEER_MAX
        });
        free.min_by_key(|p| {
            let peer = &self.peers[p.at()];
            (load(p), peer.silences, peer.shorts)
        })
    }

    pub(crate) fn note_deadline(&mut self, at_us: u64) {
        self.deadline_us = Some(self.deadline_us.map_or(at_us, |other| other.min(at_us)));
    }
}
