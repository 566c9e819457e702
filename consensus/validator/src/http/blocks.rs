//! `GET /v1/blocks/{height}`

use axum::Json;
use axum::extract::{Path, State};
use falconet_types::{Digest, Height};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::error::ApiError;

/// A committed block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAnswer {
    /// Height.
    pub height: u64,
    /// Block id, hexadecimal.
    pub id: String,
    /// Epoch.
    pub epoch: u64,
    /// Round.
    pub round: u64,
    /// The block's parent, hexadecimal.
    pub parent: String,
    /// Index of the leader who proposed it.
    pub author: u16,
    /// The leader's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// For each lane, the last batch that the block reaches.
    pub lanes: Vec<LaneAnswer>,
    /// The ancestor whose state the header names.
    pub executed_height: u64,
    /// The state commitment that the header names, hexadecimal.
    pub executed_commitment: String,
    /// The state commitment after this block, once it is executed here, hexadecimal.
    pub state_commitment: Option<String>,
}

/// How far a block reaches in one lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneAnswer {
    /// Sequence number of the last batch; 0 for none.
    pub seq: u64,
    /// Its hash, hexadecimal.
    pub hash: String,
}

pub(super) async fn show(
    State(api): Shared,
    Path(height): Path<String>,
) -> Result<Json<BlockAnswer>, ApiError> {
    let height = height
        .parse()
        .map(Height)
        .map_err(|_| ApiError::bad_request("bad_height", format!("{height:?} is not a height")))?;
    let header = api.history.header_at(height).ok_or_else(|| {
        ApiError::not_found(
            "unknown_block",
            format!("no block at height {height} is committed here; see /v1/status"),
        )
    })?;
    let commitment = api
        .history
        .commitment_at(height)
        .map(|c: Digest| c.to_string());
    Ok(Json(BlockAnswer {
        height: header.height.0,
        id: header.id().to_string(),
        epoch: header.epoch.0,
        round: header.round.0,
        parent: header.parent_id.to_string(),
        author: header.author.0,
        time_ms: header.time_ms,
        lanes: header
            .cut
            .0
            .iter()
            .map(|tip| LaneAnswer {
                seq: tip.seq.0,
                hash: tip.hash.to_string(),
            })
            .collect(),
        executed_height: header.executed.height.0,
        executed_commitment: header.executed.root.to_string(),
        state_commitment: commitment,
    }))
}
