//! `GET /v1/epochs/{epoch}/proof`

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use falconet_types::Epoch;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::error::ApiError;

/// The proof that an epoch is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochProofAnswer {
    /// The epoch that is over.
    pub epoch: u64,
    /// The epoch that this node is in.
    pub present_epoch: u64,
    /// The proof in base64.
    pub proof: String,
}

pub(super) async fn proof(
    State(api): Shared,
    Path(epoch): Path<String>,
) -> Result<Json<EpochProofAnswer>, ApiError> {
    let epoch: u64 = epoch.parse().map_err(|_| {
        ApiError::bad_request(
            "bad_epoch",
            format!("{epoch:?} is no epoch: a number from 0 is expected"),
        )
    })?;
    let history = api.history.clone();
    let found = tokio::task::spawn_blocking(move || history.epoch_proof(Epoch(epoch))).await;
    let present = api.chain.info().start.epoch;
    let bytes = found.ok().flatten().ok_or_else(|| {
        ApiError::not_found(
            "epoch_not_over",
            format!(
                "epoch {epoch} is not over as far as this node knows, which is in epoch {present}"
            ),
        )
    })?;
    Ok(Json(EpochProofAnswer {
        epoch,
        present_epoch: present.0,
        proof: STANDARD.encode(bytes),
    }))
}
