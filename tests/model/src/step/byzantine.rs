//! What the Byzantine validator, leader of round 1, has signed before anything happens: two
//! blocks for its round, votes (and commit votes) for both, and timeouts that name genesis. It
//! votes for every block of the others as soon as that exists.

use falconet_types::block::{Cut, Header, HeaderKind, SignedHeader, genesis_id};
use falconet_types::certificate::{Qc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::message::PeerMessage;
use falconet_types::{Digest, Epoch, Height, Round, ValidatorIndex};

use super::node::{CHAIN, GENESIS_MS, N, genesis_state, set, signer};

/// The Byzantine validator: it leads round 1.
pub(super) fn who() -> ValidatorIndex {
    set().leader(Round(1))
}

/// Its messages about rounds up to `rounds`.
pub(super) fn prepared(rounds: u64, commit_votes: bool) -> Vec<PeerMessage> {
    let mut messages = Vec::new();
    for time_ms in [GENESIS_MS + 1, GENESIS_MS + 2] {
        let header = header(time_ms);
        messages.push(vote(&header));
        messages.extend(commit_votes.then(|| commit_vote(&header)));
        messages.push(PeerMessage::Header(header));
    }
    let genesis = Qc::genesis(Epoch(0), genesis_id(CHAIN));
    for round in 1..=rounds {
        messages.push(PeerMessage::Timeout(Timeout::sign(
            Epoch(0),
            Round(round),
            genesis.round,
            genesis.block_id,
            who(),
            CHAIN,
            &signer(who()),
        )));
    }
    messages
}

/// Its vote for a block.
pub(super) fn vote(header: &SignedHeader) -> PeerMessage {
    PeerMessage::Vote(Vote::sign(
        Epoch(0),
        header.round,
        header.id(),
        header.parent_round,
        who(),
        CHAIN,
        &signer(who()),
    ))
}

/// Its vote to commit a block.
pub(super) fn commit_vote(header: &SignedHeader) -> PeerMessage {
    let (epoch, round, id) = (Epoch(0), header.round, header.id());
    PeerMessage::CommitVote(CommitVote::sign(
        epoch,
        round,
        id,
        who(),
        CHAIN,
        &signer(who()),
    ))
}

fn header(time_ms: u64) -> SignedHeader {
    let header = Header {
        epoch: Epoch(0),
        round: Round(1),
        kind: HeaderKind::Normal,
        parent_id: genesis_id(CHAIN),
        parent_round: Round::ZERO,
        height: Height(1),
        cut: Cut::empty(N),
        time_ms,
        executed: genesis_state(),
        ended_by: Digest::ZERO,
        author: who(),
    };
    SignedHeader::sign(header, CHAIN, &signer(who()))
}
