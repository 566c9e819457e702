//! `POST /v1/transactions` and `GET /v1/transactions/{id}`

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use falconet_types::message::Admission;
use falconet_types::transaction::{SignedTransaction, opaque_id};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Shared;
use super::error::{self, ApiError};
use crate::pipeline::{Bulk, ReplyTo};

/// The answer to a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitAnswer {
    /// Transaction id, hexadecimal.
    pub id: String,
    /// `accepted` (durable in this validator's lane), `duplicate`, `busy` or `refused`.
    pub admission: Admission,
}

/// JSON form of a submission.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmitBody {
    /// The transaction's bytes in base64.
    transaction: String,
}

pub(super) async fn submit(
    State(api): Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    if api.chain.is_follower() {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "follower",
            "this node follows the chain and takes no transactions; send them to a validator",
        ));
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    let tx = if json { from_json(&body)? } else { body };
    let id = if api.view.is_none() {
        opaque_id(&tx)
    } else {
        let tx = SignedTransaction::parse(tx.clone())
            .map_err(|error| ApiError::bad_request("malformed", error.to_string()))?;
        tx.id()
    };
    let (reply, answer) = oneshot::channel();
    let work = Bulk::Submission {
        reply: ReplyTo::Http(reply),
        txs: vec![tx],
        lease: None,
    };
    let busy = || {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "the validator is overloaded; try again later or at another validator",
        )
    };
    api.bulk.try_send(work).map_err(|_| busy())?;
    let admission = answer
        .await
        .ok()
        .and_then(|results| results.first().copied());
    let admission = admission.ok_or_else(busy)?;
    let status = match admission {
        Admission::Accepted | Admission::Duplicate => StatusCode::ACCEPTED,
        Admission::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Admission::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Ok((
        status,
        Json(SubmitAnswer {
            id: id.to_string(),
            admission,
        }),
    )
        .into_response())
}

fn from_json(body: &[u8]) -> Result<Bytes, ApiError> {
    let body: SubmitBody = serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(
            "bad_json",
            format!("{error}; send {{\"transaction\": \"<base64>\"}} or the raw bytes"),
        )
    })?;
    let bytes = STANDARD
        .decode(body.transaction)
        .map_err(|error| ApiError::bad_request("bad_base64", error.to_string()))?;
    Ok(bytes.into())
}

/// Where a transaction is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionAnswer {
    /// Transaction id, hexadecimal.
    pub id: String,
    /// `pending` or `committed`.
    pub status: String,
    /// Height of its block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u64>,
    /// What came of it, for example `executed` or `insufficient_funds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Lane of its batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<u16>,
    /// Position of its batch in the lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its position in the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The proof in base64, when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Query of `GET /v1/transactions/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    #[serde(default)]
    proof: bool,
}

pub(super) async fn show(
    State(api): Shared,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<TransactionAnswer>, ApiError> {
    let id = error::digest(&id, "a transaction id")?;
    let Some(receipt) = api.history.receipt(&id) else {
        if api.clients.is_pending(&id) {
            return Ok(Json(TransactionAnswer {
                id: id.to_string(),
                status: "pending".into(),
                height: None,
                outcome: None,
                lane: None,
                seq: None,
                index: None,
                proof: None,
            }));
        }
        return Err(ApiError::not_found(
            "unknown_transaction",
            format!("transaction {id} is neither committed nor on its way here"),
        ));
    };
    let proof = if query.proof {
        let history = api.history.clone();
        let made = tokio::task::spawn_blocking(move || history.proof(&id)).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string()));
        let bytes = made.map_err(|message| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_proof_yet", message)
        })?;
        Some(STANDARD.encode(bytes))
    } else {
        None
    };
    Ok(Json(TransactionAnswer {
        id: id.to_string(),
        status: "committed".into(),
        height: Some(receipt.height.0),
        outcome: Some(receipt.outcome.name().into()),
        lane: Some(receipt.lane.0),
        seq: Some(receipt.seq.0),
        index: Some(receipt.index),
        proof,
    }))
}
