//! The genesis document: all that must be equal on every node. A JSON file that a person can
//! read; its identity is a hash over a canonical binary encoding, so spacing does not matter.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};

use falconet_crypto::falcon::PublicKey;
use falconet_crypto::hash::{self, Digest};
use serde::{Deserialize, Serialize};

use crate::batch::BATCH_BYTES_MAX;
use crate::ids::{AccountId, ChainId, Epoch, Height};
use crate::validators::{Member, SetError, ValidatorSet, is_name, is_plain, put_address};
use crate::wire::put_count32;

/// Longest name of a chain or a validator, in bytes.
pub const NAME_LEN_MAX: usize = 64;
/// Longest time that a parameter may give, milliseconds: a day. Keeps sums of times far from
/// overflow.
pub const PARAM_MS_MAX: u64 = 86_400_000;
/// Largest size that a parameter may give, bytes: 1 TiB.
pub const PARAM_BYTES_MAX: u64 = 1 << 40;
/// Largest `block_bytes_max`: with the least length of a transaction, a block then has at most
/// 2^20 of them.
pub const BLOCK_BYTES_MAX: u64 = 64 << 20;
/// Least heights of an epoch, unless there is one epoch for ever: the last block of an epoch needs
/// some descendants before it is committed.
pub const EPOCH_HEIGHTS_MIN: u64 = 16;
/// Longest evidence window, epochs: the sets of so many past epochs are part of the state.
pub const EVIDENCE_WINDOW_EPOCHS_MAX: u64 = 64;
/// Most epochs that stake may take to return.
pub const UNBONDING_EPOCHS_MAX: u64 = 1 << 20;
/// Basis points in a whole.
pub const BASIS_POINTS: u64 = 10_000;
/// Latest time of genesis, milliseconds since 1970: the year 10,000.
pub const TIME_MS_MAX: u64 = 253_402_300_800_000;

/// What the chain executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplicationKind {
    /// Accounts, balances, signed transfers.
    Ledger,
    /// Orders opaque bytes and executes nothing. For ordering benchmarks only.
    Opaque,
}

/// Parameters of consensus and data layer. They live here and not in a node's configuration
/// because they must be equal everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Round timer with no failure behind it, milliseconds.
    pub round_timeout_ms: u64,
    /// The round timer never grows beyond this, milliseconds.
    pub round_timeout_ms_max: u64,
    /// A leader with new payload waits at least this long after its parent's time, milliseconds; one
    /// whose block only commits the payload below it waits for nothing.
    pub block_interval_ms_min: u64,
    /// A leader without payload proposes an empty block after this long, milliseconds. Must be
    /// well below `round_timeout_ms`.
    pub block_interval_ms_idle: u64,
    /// A validator does not vote for a header whose time is further ahead of its own clock.
    pub clock_drift_ms_max: u64,
    /// A lane's owner seals a batch when it reaches this size, bytes.
    pub batch_bytes_target: u64,
    /// A lane's owner seals a batch this long after its first transaction, milliseconds.
    pub batch_interval_ms: u64,
    /// Payload that one block may add over all lanes, bytes.
    pub block_bytes_max: u64,
    /// How far a lane may run ahead of its last committed batch, bytes.
    pub lane_backlog_bytes_max: u64,
    /// Committed heights whose batches are kept for peers.
    pub history_heights_min: u64,
    /// Least fee of a transaction.
    pub fee_min: u64,
    /// Heights of an epoch: the block at the last of them ends the epoch, and its descendants
    /// carry nothing until it is committed. 0: one epoch for ever; else at least
    /// [`EPOCH_HEIGHTS_MIN`].
    pub epoch_heights: u64,
    /// The next leader proposes right after its vote, before the parent's QC exists (rule H5).
    pub optimistic_proposals: bool,
    /// Whoever holds a block's QC says so with a commit vote; a quorum of those commits the block
    /// (rule C4).
    pub commit_votes: bool,
    /// Validators that authored no block for a while lead less often (rules L1 to L4).
    pub leader_reputation: bool,
    /// Takes the place of [`HISTORY_HEIGHTS_FLOOR`]: a simulation lasts seconds. No part of the
    /// genesis document.
    #[cfg(feature = "short-history")]
    #[serde(skip)]
    pub history_heights_floor: Option<u64>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            round_timeout_ms: 1_000,
            round_timeout_ms_max: 10_000,
            block_interval_ms_min: 5,
            block_interval_ms_idle: 250,
            clock_drift_ms_max: 2_000,
            batch_bytes_target: 256 << 10,
            batch_interval_ms: 5,
            block_bytes_max: 32 << 20,
            lane_backlog_bytes_max: 64 << 20,
            history_heights_min: 10_000,
            fee_min: 1,
            epoch_heights: 0,
            optimistic_proposals: false,
            commit_votes: false,
            leader_reputation: false,
            #[cfg(feature = "short-history")]
            history_heights_floor: None,
        }
    }
}

/// Heights that are kept whatever genesis says: execution becomes durable with a delay, and a
/// restart delivers again what was not.
pub const HISTORY_HEIGHTS_FLOOR: u64 = 1_024;
/// Cycles of leaders back to the oldest block that decides who leads (rules L2, L3).
pub const REPUTATION_CYCLES: u64 = 24;
/// Checkpoints, of which a node keeps snapshots, in the heights that are kept: enough that the
/// history above an older snapshot outlasts its transfer.
const CHECKPOINTS_IN_HISTORY: u64 = 4;

impl Params {
    /// The same with one parameter set: `NAME=VALUE`, with the names of the genesis document.
    ///
    /// # Errors
    /// If there is no such parameter, or the value is not of its kind. Whether the parameters fit
    /// together is for [`Genesis::check`] to say.
    pub fn with(&self, assignment: &str) -> Result<Self, GenesisError> {
        let rule = |text: String| GenesisError::Rule(text);
        let (name, value) = assignment
            .split_once('=')
            .ok_or_else(|| rule(format!("{assignment:?} is not of the form NAME=VALUE")))?;
        let mut all = self.by_name();
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        if !all.contains_key(name) {
            return Err(rule(format!(
                "there is no parameter {name}; choose one of {}",
                known.join(", ")
            )));
        }
        let wrong = |error: serde_json::Error| rule(format!("parameter {name}: {error}"));
        all.insert(name.to_owned(), serde_json::from_str(value).map_err(wrong)?);
        serde_json::from_value(all.into()).map_err(wrong)
    }

    /// What differs from the defaults, each as `NAME=VALUE`.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let default = Self::default().by_name();
        let differs = |(name, value): &(String, serde_json::Value)| default[name] != *value;
        let changed = self.by_name().into_iter().filter(differs);
        changed
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    fn by_name(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(all)) => all,
            _ => unreachable!("parameters are an object of numbers and flags"),
        }
    }

    /// Height of the block that ends the epoch whose first block has height `first`; `None` when
    /// there is one epoch for ever.
    #[must_use]
    pub fn last_height(&self, first: Height) -> Option<Height> {
        match self.epoch_heights {
            0 => None,
            heights => Some(Height(first.0 + heights - 1)),
        }
    }

    /// Committed heights whose headers and batches every node keeps.
    #[must_use]
    pub fn history_heights(&self) -> u64 {
        #[cfg(feature = "short-history")]
        let floor = self.history_heights_floor.unwrap_or(HISTORY_HEIGHTS_FLOOR);
        #[cfg(not(feature = "short-history"))]
        let floor = HISTORY_HEIGHTS_FLOOR;
        self.history_heights_min.max(floor)
    }

    /// The same for a set of validators whose cycle of leaders has so many rounds
    /// ([`crate::validators::ValidatorSet::cycle_rounds`]): if committed blocks decide who leads, at
    /// least as many as do. A network whose nodes all restart must find them with one of them.
    #[must_use]
    pub fn history_heights_of(&self, cycle_rounds: u64) -> u64 {
        let cycles = if self.leader_reputation {
            REPUTATION_CYCLES
        } else {
            0
        };
        self.history_heights().max(cycles * cycle_rounds)
    }

    /// Every so many heights the state is a checkpoint: some header names exactly this state
    /// (rule H4), so a snapshot of it can be proven.
    #[must_use]
    pub fn checkpoint_heights(&self) -> u64 {
        self.history_heights() / CHECKPOINTS_IN_HISTORY
    }

    /// The first checkpoint above a height.
    #[must_use]
    pub fn checkpoint_above(&self, height: Height) -> Height {
        let every = self.checkpoint_heights();
        Height((height.0 / every + 1).saturating_mul(every))
    }

    /// True for the height of a checkpoint.
    #[must_use]
    pub fn is_checkpoint(&self, height: Height) -> bool {
        height > Height::ZERO && height.0.is_multiple_of(self.checkpoint_heights())
    }

    /// Each parameter with its name and the largest value that makes sense.
    fn limits(&self) -> [(&'static str, u64, u64); 11] {
        [
            ("round_timeout_ms", self.round_timeout_ms, PARAM_MS_MAX),
            (
                "round_timeout_ms_max",
                self.round_timeout_ms_max,
                PARAM_MS_MAX,
            ),
            (
                "block_interval_ms_min",
                self.block_interval_ms_min,
                PARAM_MS_MAX,
            ),
            (
                "block_interval_ms_idle",
                self.block_interval_ms_idle,
                PARAM_MS_MAX,
            ),
            ("clock_drift_ms_max", self.clock_drift_ms_max, PARAM_MS_MAX),
            (
                "batch_bytes_target",
                self.batch_bytes_target,
                BATCH_BYTES_MAX as u64,
            ),
            ("batch_interval_ms", self.batch_interval_ms, PARAM_MS_MAX),
            ("block_bytes_max", self.block_bytes_max, BLOCK_BYTES_MAX),
            (
                "lane_backlog_bytes_max",
                self.lane_backlog_bytes_max,
                PARAM_BYTES_MAX,
            ),
            (
                "history_heights_min",
                self.history_heights_min,
                u64::MAX / 2,
            ),
            ("epoch_heights", self.epoch_heights, u64::MAX / 2),
        ]
    }
}

/// A validator in genesis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisValidator {
    /// A name for people.
    pub name: String,
    /// `scheme:base64`, as `falconet key show` prints it.
    #[serde(with = "text")]
    pub key: PublicKey,
    /// Voting weight; the validator begins with so many units of stake.
    pub weight: u64,
    /// The account that the stake belongs to; the one of the validator's key when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text_option")]
    pub owner: Option<AccountId>,
    /// STOQ address for validators of later epochs, whose configuration does not name this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddrV6>,
}

impl GenesisValidator {
    /// The account that the stake belongs to.
    #[must_use]
    pub fn owner(&self) -> AccountId {
        self.owner.unwrap_or_else(|| self.key.id())
    }
}

/// How stake becomes weight, and what misbehaviour costs. Without effect while there is one epoch
/// for ever or the application is opaque.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StakeParams {
    /// Stake that gives one unit of voting weight; a validator of genesis begins with its weight
    /// times this.
    pub unit: u64,
    /// Least stake of a validator, at least one unit.
    pub bond_min: u64,
    /// Part of the stake that proven misbehaviour burns, in basis points.
    pub slash_basis_points: u64,
    /// For how many epochs after the one in which it happened misbehaviour can be reported.
    pub evidence_window_epochs: u64,
    /// Epochs after that of its unbonding in which stake is returned; above the evidence window,
    /// so that nobody takes stake away before it answers for the last epoch in which it counted.
    pub unbonding_epochs: u64,
}

impl Default for StakeParams {
    fn default() -> Self {
        Self {
            unit: 1_000,
            bond_min: 1_000,
            slash_basis_points: 500,
            evidence_window_epochs: 4,
            unbonding_epochs: 5,
        }
    }
}

impl StakeParams {
    fn check(&self) -> Result<(), String> {
        if self.unit == 0 || self.bond_min < self.unit {
            return Err("1 <= stake.unit <= stake.bond_min must hold".into());
        }
        if self.slash_basis_points > BASIS_POINTS {
            return Err(format!(
                "stake.slash_basis_points must be at most {BASIS_POINTS}"
            ));
        }
        if self.evidence_window_epochs > EVIDENCE_WINDOW_EPOCHS_MAX {
            return Err(format!(
                "stake.evidence_window_epochs must be at most {EVIDENCE_WINDOW_EPOCHS_MAX}"
            ));
        }
        if self.unbonding_epochs <= self.evidence_window_epochs
            || self.unbonding_epochs > UNBONDING_EPOCHS_MAX
        {
            return Err(format!(
                "stake.unbonding_epochs must be above stake.evidence_window_epochs and at most {UNBONDING_EPOCHS_MAX}"
            ));
        }
        Ok(())
    }
}

/// An account that exists from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// The account: id of its key.
    #[serde(with = "text")]
    pub id: AccountId,
    /// Its balance.
    pub balance: u64,
    /// Its key; without it the account must register one before it can pay.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text_option")]
    pub key: Option<PublicKey>,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// A name for people; part of the chain's identity.
    pub name: String,
    /// Milliseconds since 1970; the time of the genesis block.
    pub time_ms: u64,
    /// What the chain executes.
    pub application: ApplicationKind,
    /// Consensus parameters.
    #[serde(default)]
    pub params: Params,
    /// Validators of epoch 0, in the order of their indices.
    pub validators: Vec<GenesisValidator>,
    /// Accounts, in ascending order of their ids. Empty for an opaque application.
    #[serde(default)]
    pub accounts: Vec<GenesisAccount>,
    /// Rules of stake.
    #[serde(default)]
    pub stake: StakeParams,
}

/// Why a genesis document is refused.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The file cannot be read.
    #[error(
        "cannot read genesis file {path}: {source}; check the path given by --genesis or in the configuration"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a genesis document.
    #[error("genesis file {path} is not valid: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The validators are no set.
    #[error("genesis validators: {0}")]
    Validators(#[from] SetError),
    /// A value breaks a rule.
    #[error("genesis: {0}")]
    Rule(String),
}

impl Genesis {
    /// Reads and checks a genesis file.
    pub fn load(path: &Path) -> Result<Self, GenesisError> {
        let text = std::fs::read(path).map_err(|source| GenesisError::Read {
            path: path.to_owned(),
            source,
        })?;
        let genesis: Self =
            serde_json::from_slice(&text).map_err(|source| GenesisError::Parse {
                path: path.to_owned(),
                source,
            })?;
        genesis.check()?;
        Ok(genesis)
    }

    /// Checks every rule on the document.
    pub fn check(&self) -> Result<(), GenesisError> {
        let rule = |text: String| Err(GenesisError::Rule(text));
        self.validator_set()?;
        if self.name.is_empty()
            || self.name.len() > NAME_LEN_MAX
            || self.name.contains(char::is_control)
        {
            return rule(format!(
                "name must have 1 to {NAME_LEN_MAX} printable characters, not {:?}",
                self.name
            ));
        }
        for (i, v) in self.validators.iter().enumerate() {
            check_name(i, &v.name)?;
            if let Some(j) = self.validators[..i]
                .iter()
                .position(|other| other.name == v.name)
            {
                return rule(format!(
                    "validators {j} and {i} are both called {:?}",
                    v.name
                ));
            }
        }
        if self.time_ms > TIME_MS_MAX {
            return rule(format!("time_ms must be at most {TIME_MS_MAX}"));
        }
        if self.application == ApplicationKind::Opaque && !self.accounts.is_empty() {
            return rule("an opaque application has no accounts".into());
        }
        for (i, account) in self.accounts.iter().enumerate() {
            if i > 0 && self.accounts[i - 1].id >= account.id {
                return rule(format!(
                    "account {} is not above the one before it",
                    account.id
                ));
            }
            if account
                .key
                .as_ref()
                .is_some_and(|key| key.id() != account.id)
            {
                return rule(format!("account {} is not the id of its key", account.id));
            }
        }
        if self.application == ApplicationKind::Ledger && self.supply().is_none() {
            return rule("balances and stake add up to more than 2^64 - 1".into());
        }
        for (i, v) in self.validators.iter().enumerate() {
            if v.address.is_some_and(|a| !is_plain(&a)) {
                return rule(format!(
                    "the address of validator {i} has a scope or flow label, which mean nothing on other machines"
                ));
            }
        }
        if let Err(text) = self.stake.check() {
            return rule(text);
        }
        let p = &self.params;
        for (name, value, max) in p.limits() {
            if value > max {
                return rule(format!("{name} must be at most {max}"));
            }
        }
        if p.round_timeout_ms == 0 || p.round_timeout_ms_max < p.round_timeout_ms {
            return rule("0 < round_timeout_ms <= round_timeout_ms_max must hold".into());
        }
        if p.block_interval_ms_idle.saturating_mul(2) > p.round_timeout_ms {
            return rule("block_interval_ms_idle must be at most half of round_timeout_ms".into());
        }
        if p.block_interval_ms_min > p.block_interval_ms_idle {
            return rule("block_interval_ms_min must not exceed block_interval_ms_idle".into());
        }
        if p.epoch_heights != 0 && p.epoch_heights < EPOCH_HEIGHTS_MIN {
            return rule(format!(
                "epoch_heights must be 0 (one epoch for ever) or at least {EPOCH_HEIGHTS_MIN}"
            ));
        }
        let batch_max = BATCH_BYTES_MAX as u64;
        if p.batch_bytes_target == 0 {
            return rule("batch_bytes_target must be above 0".into());
        }
        if p.block_bytes_max < batch_max || p.lane_backlog_bytes_max < 2 * batch_max {
            return rule(format!(
                "block_bytes_max must be at least {batch_max} and lane_backlog_bytes_max {}",
                2 * batch_max
            ));
        }
        Ok(())
    }

    /// The chain's identity: a hash over everything in the document.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        let mut out = vec![2u8]; // version of this encoding
        put_bytes(&mut out, self.name.as_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.push(match self.application {
            ApplicationKind::Ledger => 1,
            ApplicationKind::Opaque => 2,
        });
        let p = &self.params;
        for value in [
            p.round_timeout_ms,
            p.round_timeout_ms_max,
            p.block_interval_ms_min,
            p.block_interval_ms_idle,
            p.clock_drift_ms_max,
            p.batch_bytes_target,
            p.batch_interval_ms,
            p.block_bytes_max,
            p.lane_backlog_bytes_max,
            p.history_heights_min,
            p.fee_min,
            p.epoch_heights,
            u64::from(p.optimistic_proposals),
            u64::from(p.commit_votes),
            u64::from(p.leader_reputation),
            self.stake.unit,
            self.stake.bond_min,
            self.stake.slash_basis_points,
            self.stake.evidence_window_epochs,
            self.stake.unbonding_epochs,
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        put_count32(&mut out, self.validators.len());
        for v in &self.validators {
            put_bytes(&mut out, v.name.as_bytes());
            put_bytes(&mut out, &v.key.to_wire());
            out.extend_from_slice(&v.weight.to_le_bytes());
            out.extend_from_slice(v.owner().as_ref());
            put_address(&mut out, v.address.as_ref());
        }
        put_count32(&mut out, self.accounts.len());
        for a in &self.accounts {
            out.extend_from_slice(a.id.as_ref());
            out.extend_from_slice(&a.balance.to_le_bytes());
            out.push(u8::from(a.key.is_some()));
        }
        hash::hash("falconet/chain", &[&out])
    }

    /// All that there is at genesis: balances and, on a ledger, the stake of the validators.
    /// `None` when that is more than 2^64 - 1, which [`Genesis::check`] refuses.
    #[must_use]
    pub fn supply(&self) -> Option<u64> {
        let balances = self.accounts.iter().map(|a| Some(a.balance));
        let stakes = match self.application {
            ApplicationKind::Ledger => &self.validators[..],
            ApplicationKind::Opaque => &[],
        };
        let stakes = stakes.iter().map(|v| v.weight.checked_mul(self.stake.unit));
        balances
            .chain(stakes)
            .try_fold(0u64, |sum, part| sum.checked_add(part?))
    }

    /// The validators of epoch 0 as an epoch's proof lists those of later ones.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.validators
            .iter()
            .map(|v| Member {
                name: v.name.clone(),
                key: v.key.clone(),
                weight: v.weight,
                address: v.address,
            })
            .collect()
    }

    /// The validators of epoch 0.
    pub fn validator_set(&self) -> Result<ValidatorSet, SetError> {
        let members: Vec<(PublicKey, u64)> = self
            .validators
            .iter()
            .map(|v| (v.key.clone(), v.weight))
            .collect();
        ValidatorSet::new(self.chain_id(), Epoch::ZERO, &members)
    }
}

fn check_name(index: usize, name: &str) -> Result<(), GenesisError> {
    if !is_name(name) {
        return Err(GenesisError::Rule(format!(
            "the name of validator {index} must be 1 to {NAME_LEN_MAX} letters, digits, '-', '_' or '.', not {name:?}"
        )));
    }
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A value with `Display` and `FromStr` as a JSON string.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: ToString, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string())
    }
    pub fn deserialize<'de, T, D>(d: D) -> Result<T, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The same for an optional value.
mod text_option {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: ToString, S: Serializer>(
        value: &Option<T>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_some(&value.to_string()),
            None => s.serialize_none(),
        }
    }
    pub fn deserialize<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(d)?;
        text.map(|t| t.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

/// State commitment's `results` before the first block.
pub const RESULTS_AT_GENESIS: Digest = Digest::ZERO;
