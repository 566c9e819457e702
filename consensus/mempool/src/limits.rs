//! Every bound of the mempool, named. Bounds that must be equal on all nodes are parameters of
//! genesis and not here; those below may differ between nodes without harm to safety.

/// Transactions that wait to be sealed, bytes, while the window is wide; half of a narrower one.
/// Sealing normally follows admission at once, so this fills only while the lane may not seal.
pub const PENDING_BYTES_MAX: u64 = 8 << 20;
/// Transactions that wait to be sealed, number.
pub const PENDING_TXS_MAX: usize = 65_536;
/// The same however narrow the window is, unless what was sealed takes too long.
pub const PENDING_BYTES_MIN: u64 = 1 << 20;
/// The queue counts as contended, and senders have quotas, beyond this part of what may wait.
pub const CONTENDED_PART: u64 = 8;
/// Transactions of one sender that may wait in a contended queue: as many as can execute in any
/// order.
pub const PENDING_PER_SENDER_MAX: u32 = falconet_types::transaction::NONCE_WINDOW as u32;
/// Time from sealing to execution for which a lane may have batches on their way, microseconds,
/// where the path itself does not take longer.
pub const INTAKE_LATENCY_US: u64 = 400_000;
/// The rate of execution is sampled over so long, microseconds: long enough that what piled up in a
/// stall and is executed at once makes no rate.
pub const RATE_SAMPLE_US: u64 = 500_000;
/// The best rate of the last one to two of these counts, microseconds: twice a sample, so that one
/// stall between samples is not taken for a slow machine, and no more, so that a slow machine is
/// seen within two seconds.
pub const BEST_RATE_WINDOW_US: u64 = 1_000_000;
/// Batches that take so many times the time allowed make the lane *crowded*: its window and queue
/// are then not kept above what the rate says.
pub const CROWDED_TIMES: u64 = 2;
/// In a crowded lane the least window and the least queue are so many times smaller.
pub const CROWDED_PART: u64 = 8;
/// Nothing is admitted while a batch waits to be executed for so many times the time allowed.
pub const INTAKE_AGE_TIMES: u64 = 5;
/// The least latency of the last one to two of these counts, microseconds: longer, so that the
/// queues of an overload are not taken for the path.
pub const LEAST_LATENCY_WINDOW_US: u64 = 60_000_000;
/// Ids of admitted transactions that are remembered to refuse duplicates; the oldest is
/// forgotten first.
pub const RECENT_IDS_MAX: usize = 1 << 18;
/// Batches sealed in one call of `handle`; more wait for the next call, which is due at once.
pub const SEALS_PER_TURN_MAX: usize = 16;
/// The timer that seals a batch stretches with the batches in flight, at most this many times.
pub const SEAL_STRETCH_MAX: u64 = 8;
/// In-flight batches that stretch the sealing timer by one interval.
pub const SEAL_STRETCH_BATCHES: u64 = 2;
/// A batch is full at so many times `batch_bytes_target`, and never above the protocol's bound.
pub const BATCH_FULL_TARGETS: u64 = 4;
/// The interval between blocks with payload stretches with the load, at most this many times.
pub const BLOCK_STRETCH_MAX: u64 = 6;
/// What another's batch or vote costs a node (to receive, verify, record and acknowledge it): one in
/// so many parts of what its own costs it, most of which is the signature.
pub const OWN_COSTS_PEERS: u64 = 8;
/// The number of validators for which the longest intervals are stated; more of them stretch further.
pub const CROWD_FROM: u64 = 4;
/// Payload that makes a block worth its signatures, bytes.
pub const BLOCK_BYTES_WORTH: u64 = 2 << 20;
/// Up to this busy part of the machine's time, per mille, intervals do not stretch.
pub const BUSY_FROM: u64 = 800;
/// From this on they stretch as far as the load says.
pub const BUSY_TO: u64 = 950;
/// Rates of bytes are averaged over about so long, microseconds: several intervals, and less than
/// anybody waits for.
pub const METER_WINDOW_US: u64 = 200_000;
/// A rate is computed anew after so long, microseconds.
pub const METER_STEP_US: u64 = 10_000;

/// Sealed batches that the own lane may be ahead of its last committed one.
pub const OWN_BATCHES_AHEAD_MAX: u64 = 1024;
/// The same bound as peers enforce it. A quarter above, because a peer that learns of commits
/// later than the owner sees the lane further ahead.
pub const LANE_BATCHES_AHEAD_MAX: u64 = OWN_BATCHES_AHEAD_MAX + OWN_BATCHES_AHEAD_MAX / 4;
/// Batches by which one block may advance one lane.
pub const BLOCK_LANE_BATCHES_MAX: u64 = LANE_BATCHES_AHEAD_MAX;
/// Batches that are kept although the one before them is missing, a lane.
pub const EARLY_BATCHES_MAX: usize = 32;
/// The same in bytes.
pub const EARLY_BYTES_MAX: u64 = 4 << 20;

/// Watermarks of one peer for one lane that name batches which this node does not hold yet.
pub const WATERMARKS_AHEAD_MAX: usize = 4;
/// Least time between two watermarks, microseconds, plus [`WATERMARK_INTERVAL_PEER_US`] for each
/// validator: the traffic of watermarks grows with the cube of their number otherwise.
pub const WATERMARK_INTERVAL_US: u64 = 1_000;
/// See [`WATERMARK_INTERVAL_US`].
pub const WATERMARK_INTERVAL_PEER_US: u64 = 250;
/// On a busy machine the interval stretches with the number of validators above [`CROWD_FROM`], up to
/// this, microseconds.
pub const WATERMARK_INTERVAL_US_MAX: u64 = 50_000;
/// Newly held bytes that send a watermark before its interval has passed.
pub const WATERMARK_BYTES: u64 = 1 << 20;
/// While a lane has uncommitted batches, a full watermark goes out at least this often,
/// microseconds: it repairs what a lost message would break.
pub const WATERMARK_REFRESH_US: u64 = 500_000;

/// Committed headers that wait for their payload's delivery or execution.
pub const COMMITTED_QUEUE_MAX: usize = 65_536;
/// Blocks ahead of execution whose payload is fetched, held or delivered.
pub const PAYLOAD_WINDOW_BLOCKS: u64 = 256;
/// No payload is fetched ahead while this much waits for delivery or execution, in blocks of
/// `block_bytes_max`; the block next in turn is fetched regardless when execution is idle.
pub const PAYLOAD_WINDOW_FULL_BLOCKS: u64 = 2;
/// Batches of committed blocks that may be missing here while this node still votes for more.
pub const FETCH_DEBT_BATCHES_MAX: u64 = 256;
/// Committed payload that may wait for execution while this node still votes for more, in blocks
/// of `block_bytes_max`. A leader stops at half of it, so that slow execution makes blocks empty
/// before it makes rounds fail. At the full debt the node takes no more batches from streams
/// either: it fetches them later, when their block is next in turn.
pub const EXECUTION_DEBT_FULL_BLOCKS: u64 = 4;

/// Requests for batches in flight, over all lanes and peers.
pub const REQUESTS_MAX: usize = 32;
/// Requests in flight for one lane: one, and a second to another peer when the first is slow.
pub const REQUESTS_PER_LANE_MAX: usize = 2;
/// Batches named by one request.
pub const REQUEST_BATCHES_MAX: u64 = 64;
/// A request without progress for this long is given a second one beside it, microseconds.
pub const REQUEST_HEDGE_US: u64 = 150_000;
/// So is one that takes [`REQUEST_TIMEOUT_US`] and, beyond that, this many times as long as requests
/// of late did for as much.
pub const SLOW_FACTOR: u64 = 4;
/// Latest requests that say how fast answers come.
pub const PACES_MAX: usize = 16;
/// A request without progress for this long has failed, microseconds.
pub const REQUEST_TIMEOUT_US: u64 = 500_000;
/// A lane waits this long after a failed request, microseconds, doubled for each further failure.
pub const RETRY_US: u64 = 25_000;
/// Longest wait between two attempts, microseconds.
pub const RETRY_US_MAX: u64 = 2_000_000;
/// A peer that failed or sent another branch is asked last for this long, microseconds.
pub const PEER_DEMOTED_US: u64 = 2_000_000;
/// Batches that peers hold and this node lacks are asked for after the lane made no progress for
/// this long, microseconds; usually they are just on their way.
pub const REPAIR_AFTER_US: u64 = 60_000;

/// A lane whose owner's stream brought a batch so lately is given time before anything of it is
/// asked for, microseconds.
pub const STREAM_ALIVE_US: u64 = REPAIR_AFTER_US;
/// While batches of its owner wait to be verified, a lane is given so much time, microseconds.
/// Bounded, because what waits need not be what is wanted.
pub const ARRIVING_US_MAX: u64 = 300_000;

/// Bytes sent in answer to one request: batches go out until this is reached or passed.
pub const SERVE_BYTES_MAX: u64 = 4 << 20;
/// Bytes a second that one peer may ask for.
pub const SERVE_BYTES_PER_S: u64 = 128 << 20;
/// Bytes that one peer may ask for at once after a pause.
pub const SERVE_BURST_BYTES: u64 = 16 << 20;
/// Least charge of one request, bytes, so that requests for nothing are bounded too.
pub const SERVE_CHARGE_MIN_BYTES: u64 = 16 << 10;

/// Points within the kept history at which it can be cut off.
pub const PRUNE_CHECKPOINTS: u64 = 16;
/// Bounds of the time that a refused client is told to wait, milliseconds.
pub const RETRY_AFTER_MS: std::ops::RangeInclusive<u64> = 10..=5_000;
