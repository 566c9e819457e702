//! How peers and clients stand with this validator: scores, allowances and bans, shared by the
//! threads that find faults and the one that reads.
//!
//! A **validator** is never cut off: consensus needs its votes, whatever else it sends. Each has an
//! allowance for consensus messages, counted in signatures, and one for the data plane (batches,
//! watermarks, requests), counted in frames; what exceeds it is dropped and counted. A ban shrinks
//! both: consensus messages still pass at a rate that no honest validator needs, so that its votes
//! count when they verify, and its data is read at a trickle and fetched where a block needs it.
//!
//! A **client** that breaks the protocol loses its connection; its /64 prefix is scored, and a
//! banned prefix is turned away right after the handshake (and before it where the filter of
//! [`crate::filter`] is attached). Prefixes in which a validator lives are never banned.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use falconet_dataplane::{CloseCode, CloseReason, ConnId};
use falconet_ebpf::Prefix;
use falconet_types::message::PeerMessage;
use falconet_types::validators::ValidatorSet;
use falconet_types::{Digest, ValidatorIndex};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::score::{Bucket, Fault, Rate, Scores, Terms};
use crate::clock::Clock;
use crate::inbound::CLOSE_BAD_MESSAGE;
use crate::metrics::Cause;

/// Bans of validators: ten seconds to five minutes.
const VALIDATOR_TERMS: Terms = Terms {
    ban_us_min: 10_000_000,
    ban_us_max: 300_000_000,
    entries_max: falconet_types::validators::VALIDATORS_MAX,
};
/// Bans of clients' prefixes: ten minutes to an hour.
const CLIENT_TERMS: Terms = Terms {
    ban_us_min: 600_000_000,
    ban_us_max: 3_600_000_000,
    entries_max: 4096,
};
/// Length of the prefix that answers for its clients, bits; as in admission.
pub const PREFIX_BITS: u8 = 64;

/// Signatures in consensus messages that a validator may send.
const CONSENSUS_RATE: Rate = Rate {
    per_s: 20_000,
    burst: 40_000,
};
/// The same during a ban: some hundreds of rounds a second.
const CONSENSUS_RATE_BANNED: Rate = Rate {
    per_s: 1_000,
    burst: 2_000,
};
/// Frames of the data plane, and requests, that a validator may send.
const DATA_RATE: Rate = Rate {
    per_s: 20_000,
    burst: 40_000,
};
/// The same during a ban.
const DATA_RATE_BANNED: Rate = Rate {
    per_s: 20,
    burst: 40,
};

/// What anybody outside the set may send, of either class: a follower catches up with less.
const FOLLOWER_RATE: Rate = Rate {
    per_s: 2_000,
    burst: 4_000,
};
/// Followers whose allowances are remembered; beyond, all begin anew.
const FOLLOWERS_MAX: usize = 1024;

/// One validator's standing, for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// 0 to 100.
    pub score: u8,
    /// End of the ban that holds, milliseconds since 1970.
    pub banned_until_ms: Option<u64>,
}

/// A ban of a client's prefix that just began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixBan {
    /// Who is banned.
    pub prefix: Prefix,
    /// For how long, microseconds.
    pub time_us: u64,
}

/// What a message is paid with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Consensus,
    Data,
}

/// Where faults are counted: metrics of the table.
#[derive(Clone, Default)]
pub struct Counts {
    /// Faults of validators, by kind.
    pub faults: Family<Cause, Counter>,
    /// Frames of validators that were dropped.
    pub throttled: Counter,
}

/// The standing of everybody.
pub struct Standing {
    clock: Clock,
    /// Prefixes of validators, this one included.
    homes: Vec<Prefix>,
    counts: Counts,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Key ids by index: scores outlive a change of the set.
    keys: Vec<Digest>,
    validators: Scores<Digest>,
    buckets: Vec<[Bucket; 2]>,
    /// Allowances of peers outside the set.
    followers: HashMap<ValidatorIndex, [Bucket; 2]>,
    prefixes: Scores<Prefix>,
    /// Addresses of connected clients; the endpoint bounds their number.
    clients: HashMap<ConnId, Ipv6Addr>,
}

impl Standing {
    /// Everybody is spotless. `homes` are addresses of validators.
    #[must_use]
    pub fn new(
        set: &ValidatorSet,
        homes: impl IntoIterator<Item = Ipv6Addr>,
        counts: Counts,
    ) -> Self {
        let clock = Clock::new();
        Self {
            homes: homes.into_iter().map(prefix_of).collect(),
            inner: Mutex::new(Inner {
                keys: set.iter().map(|validator| validator.key.id()).collect(),
                validators: Scores::new(VALIDATOR_TERMS),
                buckets: vec![[Bucket::full(clock.now().mono_us); 2]; set.len()],
                followers: HashMap::new(),
                prefixes: Scores::new(CLIENT_TERMS),
                clients: HashMap::new(),
            }),
            counts,
            clock,
        }
    }

    /// Indices mean the validators of another set from now on. Scores stay with the keys.
    pub fn set_validators(&self, set: &ValidatorSet) {
        let mut inner = self.inner.lock();
        inner.keys = set.iter().map(|validator| validator.key.id()).collect();
        inner.buckets = vec![[Bucket::full(self.clock.now().mono_us); 2]; set.len()];
    }

    /// Whether a validator's message may be looked at; if not it is dropped, and its sender pays.
    #[must_use]
    pub fn admits(&self, from: ValidatorIndex, message: &PeerMessage) -> bool {
        let now_us = self.clock.now().mono_us;
        let mut inner = self.inner.lock();
        let (class, price) = price(message);
        let Some(key) = inner.keys.get(from.at()).copied() else {
            if inner.followers.len() >= FOLLOWERS_MAX {
                inner.followers.clear();
            }
            let fresh = [Bucket::full(now_us); 2];
            let buckets = inner.followers.entry(from).or_insert(fresh);
            let admitted = buckets[class as usize].take(now_us, price, FOLLOWER_RATE);
            self.counts.throttled.inc_by(u64::from(!admitted));
            return admitted;
        };
        let banned = inner.validators.banned_until_us(now_us, key).is_some();
        let rate = match (class, banned) {
            (Class::Consensus, false) => CONSENSUS_RATE,
            (Class::Consensus, true) => CONSENSUS_RATE_BANNED,
            (Class::Data, false) => DATA_RATE,
            (Class::Data, true) => DATA_RATE_BANNED,
        };
        if inner.buckets[from.at()][class as usize].take(now_us, price, rate) {
            return true;
        }
        drop(inner);
        self.counts.throttled.inc();
        self.fault(from, Fault::Excessive, 1);
        false
    }

    /// A validator did something wrong, so many times.
    pub fn fault(&self, from: ValidatorIndex, fault: Fault, times: u64) {
        let cause = fault.name();
        self.counts
            .faults
            .get_or_create(&Cause { cause })
            .inc_by(times);
        let now_us = self.clock.now().mono_us;
        let mut inner = self.inner.lock();
        let Some(key) = inner.keys.get(from.at()).copied() else {
            return;
        };
        let Some(until) = inner.validators.fault(now_us, key, fault, times) else {
            return;
        };
        drop(inner);
        tracing::warn!(
            validator = from.0,
            fault = cause,
            time_s = (until - now_us) / 1_000_000,
            "throttled: its data is read at a low rate, its votes count on"
        );
    }

    /// How a validator stands.
    #[must_use]
    pub fn of(&self, index: ValidatorIndex) -> Stand {
        let now = self.clock.now();
        let inner = self.inner.lock();
        let Some(key) = inner.keys.get(index.at()).copied() else {
            return Stand {
                score: super::score::SCORE_MAX,
                banned_until_ms: None,
            };
        };
        let until_us = inner.validators.banned_until_us(now.mono_us, key);
        Stand {
            score: inner.validators.score(now.mono_us, key),
            banned_until_ms: until_us.map(|us| now.wall_ms + (us - now.mono_us) / 1_000),
        }
    }

    /// Validators and prefixes of clients that are banned now.
    #[must_use]
    pub fn banned(&self) -> (usize, usize) {
        let now_us = self.clock.now().mono_us;
        let inner = self.inner.lock();
        let validators = inner.validators.banned(now_us);
        (validators, inner.prefixes.banned(now_us))
    }

    /// A client connected: its handshake proved its address. False when its prefix is banned.
    #[must_use]
    pub fn client_up(&self, conn: ConnId, address: Ipv6Addr) -> bool {
        let now_us = self.clock.now().mono_us;
        let mut inner = self.inner.lock();
        let banned = inner.prefixes.banned_until_us(now_us, prefix_of(address));
        if banned.is_none() {
            inner.clients.insert(conn, address);
        }
        banned.is_none()
    }

    /// A client's connection ended; a client who broke the protocol is remembered.
    pub fn client_down(&self, conn: ConnId, reason: &CloseReason) -> Option<PrefixBan> {
        let address = self.inner.lock().clients.remove(&conn)?;
        self.judge(address, reason)
    }

    fn judge(&self, address: Ipv6Addr, reason: &CloseReason) -> Option<PrefixBan> {
        let now_us = self.clock.now().mono_us;
        let mut inner = self.inner.lock();
        let prefix = prefix_of(address);
        if !is_fault(reason) || self.homes.contains(&prefix) {
            return None;
        }
        let until = inner.prefixes.fault(now_us, prefix, Fault::Malformed, 1)?;
        Some(PrefixBan {
            prefix,
            time_us: until - now_us,
        })
    }
}

fn prefix_of(address: Ipv6Addr) -> Prefix {
    Prefix::new(address, PREFIX_BITS)
}

/// What a message costs its sender: the work that it makes.
fn price(message: &PeerMessage) -> (Class, u64) {
    match message {
        PeerMessage::Qc(qc) => (Class::Consensus, 1 + qc.votes.len() as u64),
        PeerMessage::Tc(tc) => {
            let signatures = tc.entries.len() + tc.max_qc.votes.len();
            (Class::Consensus, 1 + signatures as u64)
        }
        PeerMessage::Batch(_)
        | PeerMessage::Watermark(_)
        | PeerMessage::GetBatches(_)
        | PeerMessage::GetSnapshot(_)
        | PeerMessage::GetChunk(_)
        | PeerMessage::Chunk(_)
        | PeerMessage::GetBlocks(_) => (Class::Data, 1),
        PeerMessage::Snapshot(offer) => {
            let manifest = offer.manifest.iter();
            let signatures: usize = manifest.map(|m| m.headers.len() + m.qc.votes.len()).sum();
            (Class::Consensus, 1 + signatures as u64)
        }
        PeerMessage::Blocks(headers) => (Class::Consensus, 1 + headers.len() as u64),
        _ => (Class::Consensus, 1),
    }
}

/// Whether this side closed the connection because the client broke a rule that no bad network and
/// no impatient user can break.
fn is_fault(reason: &CloseReason) -> bool {
    let CloseReason::Local { code, .. } = reason else {
        return false;
    };
    matches!(
        code,
        CloseCode::BadHello
            | CloseCode::FrameTooLong
            | CloseCode::BadFrame
            | CloseCode::BadStream
            | CloseCode::ChannelNotAllowed
    ) || *code == CLOSE_BAD_MESSAGE
}

#[cfg(test)]
mod tests;
