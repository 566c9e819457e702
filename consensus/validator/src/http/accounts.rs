//! `GET /v1/accounts/{id}`

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::error::{self, ApiError};

/// An account after the last executed block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountAnswer {
    /// Account id, hexadecimal.
    pub id: String,
    /// Balance in the chain's smallest unit.
    pub balance: u64,
    /// Highest nonce used; `null` before the first transaction.
    pub nonce_highest: Option<u64>,
    /// The registered key, `scheme:base64`; `null` before it is registered.
    pub key: Option<String>,
    /// Height of the state that this is read from.
    pub height: u64,
}

pub(super) async fn show(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<AccountAnswer>, ApiError> {
    let id = error::digest(&id, "an account id")?;
    let Some(view) = &api.view else {
        return Err(ApiError::not_found(
            "no_accounts",
            "this chain orders opaque bytes",
        ));
    };
    let height = view.height().0;
    let account = view.account(&id).ok_or_else(|| {
        ApiError::not_found("unknown_account", format!("account {id} does not exist"))
    })?;
    let key = account.scheme.and_then(|_| view.key_of(&id));
    Ok(Json(AccountAnswer {
        id: id.to_string(),
        balance: account.balance,
        nonce_highest: account.nonces.highest(),
        key: key.map(|key| key.to_string()),
        height,
    }))
}
