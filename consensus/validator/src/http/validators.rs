//! `GET /v1/validators`

use std::net::SocketAddrV6;

use axum::Json;
use axum::extract::{Query, State};
use falconet_types::Epoch;
use falconet_types::genesis::Genesis;
use falconet_types::validators::Member;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::error::ApiError;

/// What is asked for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// The epoch; the present one when it is not given.
    epoch: Option<u64>,
}

/// The validators of an epoch, and everybody with stake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorsAnswer {
    /// The epoch of `members`.
    pub epoch: u64,
    /// The epoch in which transactions execute.
    pub present_epoch: u64,
    /// Heights of an epoch; 0 when there is one epoch for ever.
    pub epoch_heights: u64,
    /// Stake that gives one unit of weight.
    pub unit: u64,
    /// The set of `epoch`, in the order of indices.
    pub members: Vec<MemberAnswer>,
    /// Validators with stake, in the set or not; empty when the application has none.
    pub candidates: Vec<CandidateAnswer>,
    /// Stake on its way back.
    pub returning: Vec<ReturningAnswer>,
    /// Punished misbehaviour of late.
    pub offences: Vec<OffenceAnswer>,
    /// What a validator that waits to join would name to show that it follows.
    pub checkpoint: Option<CheckpointAnswer>,
}

/// A member of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAnswer {
    /// Position in the set.
    pub index: u16,
    /// Which validator it is: the id of its first key.
    pub validator: String,
    /// Name.
    pub name: String,
    /// Id of its key in this epoch.
    pub key_id: String,
    /// Voting weight.
    pub weight: u64,
    /// STOQ address.
    pub address: Option<SocketAddrV6>,
}

/// A validator with stake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateAnswer {
    /// Which validator it is: the id of its first key.
    pub validator: String,
    /// Name.
    pub name: String,
    /// Id of its key.
    pub key_id: String,
    /// Id of its key from the next epoch on, if it changes.
    pub next_key_id: Option<String>,
    /// The account that owns the stake.
    pub owner: String,
    /// STOQ address.
    pub address: Option<SocketAddrV6>,
    /// Its stake.
    pub stake: u64,
    /// Whether it is in the present set.
    pub member: bool,
    /// Whether it has shown in this epoch that it follows.
    pub ready: bool,
    /// First epoch in which it may be a member, after misbehaviour; 0 without any.
    pub barred_until: u64,
}

/// Stake on its way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturningAnswer {
    /// From which validator.
    pub validator: String,
    /// To which account.
    pub owner: String,
    /// How much.
    pub amount: u64,
    /// With the beginning of which epoch.
    pub epoch: u64,
}

/// Punished misbehaviour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffenceAnswer {
    /// The epoch in which it happened.
    pub epoch: u64,
    /// Who it was.
    pub validator: String,
    /// Height of the block with the report.
    pub height: u64,
    /// What it cost.
    pub burned: u64,
}

/// A state commitment that the ledger keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointAnswer {
    /// Its height.
    pub height: u64,
    /// The commitment.
    pub commitment: String,
}

pub(super) async fn show(
    State(api): Shared,
    Query(which): Query<Which>,
) -> Result<Json<ValidatorsAnswer>, ApiError> {
    let genesis = &api.chain.genesis;
    let Some(view) = &api.view else {
        return Ok(Json(of_genesis(genesis)));
    };
    let registry = view.registry();
    let present = registry.epoch();
    let epoch = which.epoch.map_or(present, Epoch);
    let members = registry.members(epoch).ok_or_else(|| {
        ApiError::not_found(
            "unknown_epoch",
            format!(
                "the validators of epoch {epoch} are not kept, or not known yet; the present epoch \
                 is {present}"
            ),
        )
    })?;
    let members = (0u16..).zip(members);
    let members = members.map(|(index, row)| member(index, row.validator.to_string(), &row.member));
    let candidates = registry.candidates().map(|(id, row)| CandidateAnswer {
        validator: id.to_string(),
        name: row.name.clone(),
        key_id: row.key.id().to_string(),
        next_key_id: row.next_key.as_ref().map(|key| key.id().to_string()),
        owner: row.owner.to_string(),
        address: row.address,
        stake: row.stake,
        member: registry.is_member(id),
        ready: row.ready == Some(present),
        barred_until: row.barred_until.0,
    });
    let returning = registry
        .unbondings()
        .map(|(epoch, id, row)| ReturningAnswer {
            validator: id.to_string(),
            owner: row.owner.to_string(),
            amount: row.amount,
            epoch: epoch.0,
        });
    let offences = registry.offences().map(|(epoch, id, row)| OffenceAnswer {
        epoch: epoch.0,
        validator: id.to_string(),
        height: row.reported.0,
        burned: row.burned,
    });
    Ok(Json(ValidatorsAnswer {
        epoch: epoch.0,
        present_epoch: present.0,
        epoch_heights: genesis.params.epoch_heights,
        unit: genesis.stake.unit,
        members: members.collect(),
        candidates: candidates.collect(),
        returning: returning.collect(),
        offences: offences.collect(),
        checkpoint: registry.newest_checkpoint().map(|row| CheckpointAnswer {
            height: row.height.0,
            commitment: row.commitment.to_string(),
        }),
    }))
}

/// An application without stake: the validators of genesis.
fn of_genesis(genesis: &Genesis) -> ValidatorsAnswer {
    let members = (0u16..).zip(genesis.members());
    ValidatorsAnswer {
        epoch: 0,
        present_epoch: 0,
        epoch_heights: genesis.params.epoch_heights,
        unit: genesis.stake.unit,
        members: members
            .map(|(index, row)| member(index, row.key.id().to_string(), &row))
            .collect(),
        candidates: Vec::new(),
        returning: Vec::new(),
        offences: Vec::new(),
        checkpoint: None,
    }
}

fn member(index: u16, validator: String, member: &Member) -> MemberAnswer {
    MemberAnswer {
        index,
        validator,
        name: member.name.clone(),
        key_id: member.key.id().to_string(),
        weight: member.weight,
        address: member.address,
    }
}
