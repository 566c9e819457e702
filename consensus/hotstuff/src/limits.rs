//! Named bounds on everything that a peer can make the core hold or do, and the times that are
//! derived from the round timer.

use falconet_types::genesis::Params;

/// Messages for rounds further ahead than this are not kept; the certificates that lead there are
/// pulled instead.
pub(crate) const ROUNDS_AHEAD_MAX: u64 = 8;
/// Votes and headers are kept this many rounds behind the current one, for certificates that form
/// late and for evidence.
pub(crate) const ROUNDS_BEHIND_MAX: u64 = 2;
/// QCs kept above the committed block. Only a chain that certifies but does not commit has more.
pub(crate) const QCS_MAX: usize = 256;
/// Certificates asked for at one time because of one peer.
pub(crate) const PULLS_PER_PEER_MAX: usize = 4;
/// Times that a certificate is asked of each peer that should hold it, before the wish is dropped
/// (it returns with the next message that names the certificate).
pub(crate) const PULL_ATTEMPTS_MAX: u32 = 3;
/// Peers that are asked for one certificate at one time: one at first, then twice as many each time.
pub(crate) const PULL_ASKED_AT_ONCE_MAX: usize = 8;
/// Times that are counted in which a peer did not hand over what it must hold.
pub(crate) const KEPT_BACK_MAX: u32 = 8;
/// Answers to one peer in one answer interval.
pub(crate) const ANSWERS_PER_INTERVAL_MAX: u32 = 32;
/// Bytes of headers in one answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Committed headers kept in memory to serve peers that lag a little.
pub(crate) const RECENT_HEADERS_MAX: usize = 128;
/// Headers held while walking back to the committed block; beyond that only checkpoints are kept
/// and the headers are fetched again on the way up.
pub(crate) const SYNC_RUN_MAX: usize = 4096;
/// Genesis' round timer grows with at most this many consecutive failed rounds.
pub(crate) const BACKOFF_ROUNDS_MAX: u32 = 8;
/// A shorter base grows until it meets that timer, which takes fewer failed rounds than this.
pub(crate) const BACKOFF_STEPS_MAX: u32 = 64;
/// A leader whose proposal is late by this many times the grace is told the certificate that
/// brought this node into the round.
pub(crate) const TELL_LEADER_GRACES: u64 = 2;
/// Latest turns of a leader that say what its rounds take.
pub(crate) const PATIENCE_TURNS: usize = 8;
/// The base of the round timer in the slowest of those rounds. Large enough for a round that takes
/// two requests for what did not arrive by itself, each of a round trip.
pub(crate) const BASE_ROUNDS: u64 = 4;
/// The base is never below this part of genesis' `round_timeout_ms`: a sync that takes long for once,
/// or a thread that does not get its core, is no failure.
pub(crate) const BASE_FLOOR_PART: u64 = 10;
/// A leader whose turn failed is passed over for this many times as long as it was waited for,
/// twice as long for each further turn that fails.
pub(crate) const PASSED_OVER_FACTOR: u64 = 8;
/// Failed turns that are counted.
pub(crate) const TURN_FAILURES_MAX: u32 = 8;
/// A leader is passed over no longer than this, microseconds: then it may show itself again.
pub(crate) const PASSED_OVER_US_MAX: u64 = 10_000_000;
/// Requests without an answer after which another proof that the epoch is over is followed.
pub(crate) const END_FAILURES_MAX: u32 = 8;
/// Steps that one input may cause. Each step signs, commits, enters a round or walks a batch of
/// headers, so a turn that reaches this bound has run away.
pub(crate) const STEPS_PER_INPUT_MAX: usize = 10_000;
/// A leader that was not heard of for this many turns of leadership of everybody is skipped at
/// once, while a quorum is heard of.
pub(crate) const SILENT_CYCLES: u64 = 2;

/// Times in microseconds, all derived from genesis' round timer and from the base that follows
/// what rounds take ([`crate::patience`]).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Genesis' base of the round timer: the highest.
    pub round_us: u64,
    /// The round timer never grows beyond this.
    pub round_us_max: u64,
    /// How long a leader without payload may wait.
    pub idle_us: u64,
    /// In this time a peer gets so many answers at most. Does not follow the base: it bounds work.
    pub answer_us: u64,
    /// The base of the round timer.
    pub base_us: u64,
}

impl Times {
    pub(crate) fn new(params: &Params) -> Self {
        let round_us = params.round_timeout_ms.max(1).saturating_mul(1_000);
        Self {
            round_us,
            round_us_max: params
                .round_timeout_ms_max
                .saturating_mul(1_000)
                .max(round_us),
            idle_us: params.block_interval_ms_idle.saturating_mul(1_000),
            answer_us: (round_us / 4).max(1),
            base_us: round_us,
        }
    }

    /// The base is never below this.
    pub(crate) fn floor_us(&self) -> u64 {
        self.round_us / BASE_FLOOR_PART
    }

    /// How long something that should arrive by itself is waited for before it is pulled.
    pub(crate) fn grace_us(&self) -> u64 {
        self.base_us / 20
    }

    /// First wait for an answer to a request; doubles up to genesis' round timer. The base is at
    /// least [`BASE_ROUNDS`] round trips. Half of one is enough for most answers, and who waits for
    /// one that does not come, after the grace, has lost less than the base can bear: rounds in which
    /// faulty holders keep something back must take less than a part in [`BASE_ROUNDS`] of it, or
    /// the base would never come down.
    pub(crate) fn retry_us(&self) -> u64 {
        (self.base_us / (2 * BASE_ROUNDS)).max(1)
    }

    /// In a round that lasts longer, the last messages are sent again, over and over.
    pub(crate) fn resend_us(&self) -> u64 {
        self.base_us.saturating_add(self.idle_us).min(self.round_us)
    }

    /// A peer that lags is told so at most once in this time.
    pub(crate) fn tell_us(&self) -> u64 {
        (self.base_us / 4).max(1)
    }

    /// Genesis' round timer after `failed` consecutive rounds without progress: 1.5^failed times its
    /// base. No round waits longer.
    pub(crate) fn genesis_timer_us(&self, failed: u32) -> u64 {
        grown(self.round_us, failed.min(BACKOFF_ROUNDS_MAX)).min(self.round_us_max)
    }

    /// The round timer after `failed` consecutive rounds without progress: the base times
    /// 1.5^failed, until that is genesis' timer. So it ends where it would without a shorter base.
    pub(crate) fn round_timer_us(&self, failed: u32) -> u64 {
        let timer = grown(self.base_us, failed.min(BACKOFF_STEPS_MAX));
        timer.min(self.genesis_timer_us(failed))
    }
}

fn grown(base_us: u64, steps: u32) -> u64 {
    let grow = |timer: u64, _| timer.saturating_add(timer / 2);
    (0..steps).fold(base_us, grow)
}
