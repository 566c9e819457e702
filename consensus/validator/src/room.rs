//! Room for transactions, given out before a signature is checked.
//!
//! To verify a signature costs many times what it costs to say *busy*. So the core publishes, turn
//! by turn, how much its lane takes; the verify stage reserves a place for each transaction that
//! it can parse, and one that finds none is refused at once. A reservation is released when the
//! core has dealt with the submission, or with the stage when it fails.
//!
//! **Nothing here can be won by lying.** Who sends and what is paid is not proven yet, so it
//! decides little: a reservation counts for its connection, of which none may hold more than its
//! share of the room, and lasts as long as the verification. Quotas of senders, evictions, and
//! duplicates are judged by the core, after it. A fee that would outbid a waiting transaction
//! gets past a full queue, but only into [`BIDS_BYTES_MAX`].
//!
//! **When to come back.** If *N* refused transactions wait outside and come back after *T*, then
//! *N / T* a second do, and each costs its way here. *T* is right when they come at the rate at
//! which there is room. *N* need not be guessed: each refusal adds one for as long as it was told
//! to stay away, so the times told in a second are the mean number of those that wait (Little's
//! law). Both rates are averaged over about [`HINT_STEPS`] times [`HINT_STEP_US`]. Offers so stay
//! within about twice of what is taken, whatever waits outside. Each transaction is told another
//! time, within a quarter of *T* around it, in a sequence that spreads any number of them evenly,
//! so that those who were refused together do not return together. To refuse takes no more than
//! the length of a transaction and its fee: not even its id is computed.

use std::collections::HashMap;
use std::sync::Arc;

use falconet_mempool::Intake;
use falconet_types::batch::TX_PREFIX_LEN;
use parking_lot::Mutex;

/// Bytes of unverified transactions beyond the room, whose fees would make room.
pub const BIDS_BYTES_MAX: u64 = 256 << 10;
/// One connection may hold so much of the room: three quarters.
const CONN_SHARE: (u64, u64) = (3, 4);
/// How often the time to come back is judged, microseconds.
pub const HINT_STEP_US: u64 = 100_000;
/// Steps over which the rates behind it are averaged.
pub const HINT_STEPS: u64 = 8;
/// Longest time that a refused transaction is told to wait, milliseconds.
pub const HINT_MS_MAX: u64 = 5_000;

/// What the core last said, and what was given out since.
#[derive(Debug)]
pub struct Room(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    intake: Intake,
    /// Bytes between the door and the core, within the room.
    reserved: u64,
    /// Bytes between the door and the core, beyond it.
    bids: u64,
    /// Both, of each connection that has any, by number. What has none (HTTP, relays) counts as one.
    by_conn: HashMap<Option<u64>, u64>,
    hint: Hint,
}

/// See the module's text.
#[derive(Debug, Default)]
struct Hint {
    ms: u64,
    /// Times told since the last step, milliseconds.
    told_ms: u64,
    admitted: u64,
    since_us: u64,
    /// Averages: those that wait outside, and those admitted in a second.
    outside: f64,
    admitted_per_s: f64,
    /// Where in the span of times the last refused was.
    place: u16,
}

/// Multiples of the golden ratio, modulo 1, fill any span evenly (an additive recurrence); in parts
/// of 65,536.
const GOLDEN: u16 = 40_503;

impl Hint {
    fn step(&mut self, now_us: u64, least_ms: u64) {
        let elapsed_us = now_us.saturating_sub(self.since_us);
        if elapsed_us >= HINT_STEP_US {
            let elapsed_s = elapsed_us as f64 / 1e6;
            let follow =
                |average: f64, sample: f64| average + (sample - average) / HINT_STEPS as f64;
            self.outside = follow(self.outside, self.told_ms as f64 / 1e3 / elapsed_s);
            self.admitted_per_s = follow(self.admitted_per_s, self.admitted as f64 / elapsed_s);
            // With nothing admitted: the longest.
            let wanted_s = self.outside / self.admitted_per_s.max(f64::MIN_POSITIVE);
            self.ms = (wanted_s * 1e3).min(HINT_MS_MAX as f64) as u64;
            (self.told_ms, self.admitted, self.since_us) = (0, 0, now_us);
        }
        self.ms = self.ms.clamp(least_ms.clamp(1, HINT_MS_MAX), HINT_MS_MAX);
    }

    /// A transaction is refused; the time that it is told.
    fn refuse(&mut self) -> u32 {
        self.place = self.place.wrapping_add(GOLDEN);
        let ms = self.of(self.place);
        self.told_ms += u64::from(ms);
        ms
    }

    /// The time for one transaction: from three to five quarters.
    fn of(&self, place: u16) -> u32 {
        let ms = self.ms * 3 / 4 + self.ms * u64::from(place) / (2 * 65_536);
        u32::try_from(ms.max(1)).expect("seconds")
    }
}

/// Room that one submission holds; released when dropped.
#[derive(Debug)]
pub struct Reserved {
    room: Arc<Room>,
    conn: Option<u64>,
    bytes: u64,
    bids: u64,
}

impl Room {
    /// As wide as `intake`.
    #[must_use]
    pub fn new(intake: Intake) -> Arc<Self> {
        let hint = Hint {
            ms: u64::from(intake.retry_after_ms),
            ..Hint::default()
        };
        Arc::new(Self(Mutex::new(Inner {
            intake,
            reserved: 0,
            bids: 0,
            by_conn: HashMap::new(),
            hint,
        })))
    }

    /// The core dealt with what it had, `admitted` transactions of it, and takes so much now.
    pub fn publish(&self, now_us: u64, intake: Intake, admitted: u64) {
        let mut inner = self.0.lock();
        inner.intake = intake;
        inner.hint.admitted += admitted;
        inner.hint.step(now_us, intake.retry_after_ms.into());
    }

    /// Reserves room for transactions of one submission, given by length and fee, that came by
    /// the connection of this number; for each the time after which to come back, milliseconds,
    /// when there is none.
    pub fn reserve(
        self: &Arc<Self>,
        conn: Option<u64>,
        txs: impl Iterator<Item = (usize, u64)>,
    ) -> (Reserved, Vec<Option<u32>>) {
        let mut inner = self.0.lock();
        let mut held = inner.by_conn.get(&conn).copied().unwrap_or(0);
        let (mut reserved, mut bids) = (0, 0);
        let answers = txs
            .map(|(len, fee)| {
                let size = (TX_PREFIX_LEN + len) as u64;
                let intake = inner.intake;
                let share = |room: u64| room / CONN_SHARE.1 * CONN_SHARE.0;
                let fits = inner.reserved + reserved + size <= intake.room_bytes
                    && held + size <= share(intake.room_bytes).max(size);
                let outbids = intake.outbid.is_some_and(|low| fee > low);
                if fits {
                    reserved += size;
                } else if outbids
                    && inner.bids + bids + size <= BIDS_BYTES_MAX
                    && held + size <= share(BIDS_BYTES_MAX.max(intake.room_bytes))
                {
                    bids += size;
                } else {
                    return Some(inner.hint.refuse());
                }
                held += size;
                None
            })
            .collect();
        if held > 0 {
            inner.by_conn.insert(conn, held);
        }
        inner.reserved += reserved;
        inner.bids += bids;
        drop(inner);
        let reserved = Reserved {
            room: Arc::clone(self),
            conn,
            bytes: reserved,
            bids,
        };
        (reserved, answers)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let total = self.bytes + self.bids;
        if total == 0 {
            return;
        }
        let mut inner = self.room.0.lock();
        inner.reserved -= self.bytes;
        inner.bids -= self.bids;
        let held = inner.by_conn.get_mut(&self.conn).expect("it holds some");
        *held -= total;
        if *held == 0 {
            inner.by_conn.remove(&self.conn);
        }
    }
}

#[cfg(test)]
mod tests;
