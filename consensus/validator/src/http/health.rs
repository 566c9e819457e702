//! Is it alive, is it ready, how is it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use falconet_types::Height;

use super::error::ApiError;
use super::{Api, Shared};
use crate::status::{PeerStatus, Status};

/// The process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The validator takes part: it may sign, it is not catching up, and it reaches a quorum.
pub(super) async fn readyz(State(api): Shared) -> Result<&'static str, ApiError> {
    match not_ready(&api) {
        None => Ok("ok\n"),
        Some((code, reason)) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, reason)),
    }
}

/// Why the validator does not take part; a code for programs and a sentence for people.
pub(super) fn not_ready(api: &Api) -> Option<(&'static str, String)> {
    let status = status_of(api);
    if let Some(reason) = status.not_signing_reason.filter(|_| !status.follower) {
        return Some(("not_signing", reason));
    }
    if status.syncing {
        let from = status.height;
        return Some(("syncing", format!("catching up from height {from}")));
    }
    if status.follower {
        let alone = api.peers.conns(false).is_empty();
        let text = || "connected with no validator".to_owned();
        return alone.then(|| ("no_validator", text()));
    }
    let set = api.chain.set();
    let reached: u64 = set
        .iter()
        .zip(api.peers.connected())
        .filter(|(_, up)| *up)
        .map(|(v, _)| v.weight)
        .sum();
    let need = set.quorum_weight();
    (reached < need).then(|| {
        (
            "no_quorum",
            format!("connected with weight {reached}, a quorum is {need}"),
        )
    })
}

/// Everything at a glance.
pub(super) async fn status(State(api): Shared) -> Json<Status> {
    Json(status_of(&api))
}

pub(super) fn status_of(api: &Api) -> Status {
    let core = api.board.core.lock().clone();
    let execution = *api.board.execution.lock();
    let chain = &api.chain;
    let connected = api.peers.connected();
    let failure = api.board.failure().map(|reason| reason.to_string());
    let not_signing_reason = failure.or(core.hotstuff.not_signing);
    let executed = api.metrics.executed_transactions();
    let catchup = *api.board.catchup.lock();
    let fetching = catchup.height > Height::ZERO;
    Status {
        chain_id: chain.id.to_string(),
        name: chain.genesis.name.clone(),
        application: chain.application_name().into(),
        scheme: chain.key.scheme().to_string(),
        validator: chain.me().0,
        validator_name: chain.my_name(),
        version: env!("CARGO_PKG_VERSION").into(),
        epoch: core.hotstuff.epoch.0,
        round: core.hotstuff.round.0,
        leader: core.hotstuff.leader.0,
        high_qc_round: core.hotstuff.high_qc_round.0,
        height: core.hotstuff.committed_height.0,
        committed_block: core.hotstuff.committed_id.to_string(),
        executed_height: execution.height,
        state_commitment: execution.commitment.to_string(),
        transactions_committed: executed,
        transactions_failed: api.metrics.transactions_total() - executed,
        transactions_pending: core.mempool.pending_txs as u64,
        signing: not_signing_reason.is_none(),
        not_signing_reason,
        follower: chain.is_follower(),
        snapshot_height: fetching.then_some(catchup.height.0),
        snapshot_buckets_missing: fetching.then_some(catchup.buckets_missing),
        syncing: core.hotstuff.syncing,
        fsync: true,
        peers: chain
            .set()
            .iter()
            .zip(connected)
            .map(|(validator, connected)| (validator, connected, api.standing.of(validator.index)))
            .map(|(validator, connected, stand)| PeerStatus {
                index: validator.index.0,
                name: chain.name_of(validator.index),
                connected,
                score: stand.score,
                banned_until_ms: stand.banned_until_ms,
                path: api
                    .peers
                    .conn(validator.index)
                    .and_then(|conn| api.stoq.path(conn))
                    .map(Into::into),
            })
            .collect(),
        clients: api.peers.clients(),
        prefixes_banned: api.standing.banned().1,
        rounds_timed_out: core.hotstuff.counters.rounds_by_tc,
        blocks_committed: core.hotstuff.counters.blocks_committed,
        blocks_committed_by_votes: core.hotstuff.counters.commits_by_votes,
        evidence: core.hotstuff.counters.evidence + core.mempool.evidence(),
        verifier_backend: chain.verifier_backend.clone(),
    }
}
