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
/// Answers to one peer in one answer interval.
pub(crate) const ANSWERS_PER_INTERVAL_MAX: u32 = 32;
/// Bytes of headers in one answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Committed headers kept in memory to serve peers that lag a little.
pub(crate) const RECENT_HEADERS_MAX: usize = 128;
/// Headers held while walking back to the committed block; beyond that only checkpoints are kept
/// and the headers are fetched again on the way up.
pub(crate) const SYNC_RUN_MAX: usize = 4096;
/// The round timer grows with at most this many consecutive failed rounds.
pub(crate) const BACKOFF_ROUNDS_MAX: u32 = 8;
/// Steps that one input may cause. Each step signs, commits, enters a round or walks a batch of
/// headers, so a turn that reaches this bound has run away.
pub(crate) const STEPS_PER_INPUT_MAX: usize = 10_000;
/// A leader that was not heard of for this many turns of leadership of everybody is skipped at
/// once, while a quorum is heard of.
pub(crate) const SILENT_CYCLES: u64 = 2;

/// Times in microseconds, all derived from the base of the round timer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Base of the round timer.
    pub round_us: u64,
    /// The round timer never grows beyond this.
    pub round_us_max: u64,
    /// How long something that should arrive by itself is waited for before it is pulled.
    pub grace_us: u64,
    /// First wait for an answer to a request; doubles up to the round timer's base.
    pub retry_us: u64,
    /// In a round that lasts longer, the last messages are sent again, over and over.
    pub resend_us: u64,
    /// A peer that lags is told so at most once in this time.
    pub answer_us: u64,
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
            grace_us: round_us / 20,
            retry_us: (round_us / 8).max(1),
            resend_us: round_us,
            answer_us: (round_us / 4).max(1),
        }
    }

    /// The round timer after `failed` consecutive rounds without progress: base * 1.5^failed.
    pub(crate) fn round_timer_us(&self, failed: u32) -> u64 {
        let mut timer = self.round_us;
        for _ in 0..failed.min(BACKOFF_ROUNDS_MAX) {
            timer = timer.saturating_add(timer / 2);
        }
        timer.min(self.round_us_max)
    }
}
