//! Every bound of the download, named. None of them must be equal on all nodes.

/// A node that knows of certified blocks and could not execute them for this long asks its peers
/// which history and which snapshots they have, microseconds.
pub const ASK_AFTER_US: u64 = 1_000_000;
/// Least time between two such questions to one peer, microseconds.
pub const ASK_INTERVAL_US: u64 = 2_000_000;
/// A node that executed nothing for this long although it is behind takes a snapshot even if
/// peers claim to have its next block: they may lie, and did not deliver. Microseconds.
pub const PATIENCE_US: u64 = 30_000_000;
/// A question without an answer for this long is asked of somebody else, microseconds.
pub const ANSWER_TIMEOUT_US: u64 = 3_000_000;
/// Peers that may be asked for a manifest at one time. Each further one is asked when those before
/// it took too long, after twice the time of the one before.
pub const MANIFEST_REQUESTS_MAX: usize = 4;
/// That time for the second peer while nothing was measured, microseconds.
pub const MANIFEST_HEDGE_US: u64 = 250_000;
/// A snapshot that peers of less than weight F1 offer, while another is offered by weight F1, is
/// fetched for this long still, microseconds: those who offer it may be faulty, and deliver little.
pub const DOUBTED_US: u64 = 10_000_000;
/// A part is asked of a second peer too when its answer takes this many times as long as answers
/// of late did.
pub const HEDGE_FACTOR: u64 = 4;
/// But not before this time, microseconds.
pub const HEDGE_US_MIN: u64 = 100_000;
/// Parts that are asked of a second peer at one time; beside those of [`REQUESTS_MAX`].
pub const HEDGES_MAX: usize = 2;
/// Latest answers that say how long an answer takes.
pub const ANSWER_TIMES_MAX: usize = 16;
/// Requests for chunks in flight; with the longest chunk this bounds the memory they take.
pub const REQUESTS_MAX: usize = 8;
/// Requests for chunks in flight at one peer.
pub const REQUESTS_PER_PEER_MAX: usize = 3;
/// Most buckets in one request, so that several peers have work from the beginning.
pub const REQUEST_BUCKETS_MAX: u64 = 4_096;
/// A peer that sent wrong bytes is not asked for this long, microseconds.
pub const DEMOTED_US: u64 = 300_000_000;
/// A peer that did not answer is not asked for this long, microseconds, doubled for each further
/// time.
pub const SILENT_US: u64 = 1_000_000;
/// Longest such time, microseconds.
pub const SILENT_US_MAX: u64 = 60_000_000;
/// How often the machine is told how far this node is, microseconds.
pub const PROGRESS_INTERVAL_US: u64 = 250_000;
/// A node that is behind and executes nothing for this long asks whether its epoch is over,
/// microseconds.
pub const EPOCHS_ASK_AFTER_US: u64 = 500_000;
/// Time between two rounds of that question, microseconds.
pub const EPOCHS_ASK_INTERVAL_US: u64 = 1_000_000;
/// The same after an epoch was learned of, microseconds: whoever told of it was asked for the next
/// one at once, and may be faulty and keep silent.
pub const EPOCHS_HEDGE_US: u64 = 150_000;
/// Peers that are asked in one round.
pub const EPOCHS_ASKED: usize = 3;
