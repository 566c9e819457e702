//! The way to the thread: bounded, and no peer takes the places of others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use falconet_sync::limits::REQUESTS_PER_PEER_MAX;
use parking_lot::Mutex;

use super::CatchupInput;

/// Inputs that may wait for the thread; what peers say beyond it is dropped and asked for again.
pub const CATCHUP_QUEUE_MAX: usize = 64;
/// Things that one peer said that may wait: the parts that it was asked for, what it has, and the
/// proof that an epoch is over. Whoever sends more was not asked for it.
pub const INPUTS_PER_PEER_MAX: usize = REQUESTS_PER_PEER_MAX + 2;

/// Makes the way.
#[must_use]
pub fn queue() -> (CatchupSender, CatchupReceiver) {
    let (to, from) = bounded(CATCHUP_QUEUE_MAX);
    let places = Arc::new(Places::default());
    let sender = CatchupSender {
        to,
        places: Arc::clone(&places),
    };
    (sender, CatchupReceiver { from, places })
}

/// How many places each connection has, by its number.
#[derive(Debug, Default)]
struct Places(Mutex<BTreeMap<u64, usize>>);

impl Places {
    /// False when it has as many as it may.
    fn take(&self, conn: u64) -> bool {
        let mut taken = self.0.lock();
        let count = taken.entry(conn).or_default();
        let free = *count < INPUTS_PER_PEER_MAX;
        *count += usize::from(free);
        free
    }

    fn give_back(&self, conn: u64) {
        let mut taken = self.0.lock();
        let count = taken.get_mut(&conn).expect("it has a place");
        *count -= 1;
        if *count == 0 {
            taken.remove(&conn);
        }
    }
}

/// Where inputs go.
#[derive(Clone)]
pub struct CatchupSender {
    to: Sender<CatchupInput>,
    places: Arc<Places>,
}

impl CatchupSender {
    /// What a peer says. What finds no place is dropped, and asked for again if it was asked for.
    ///
    /// # Panics
    /// If no peer says this.
    pub fn said(&self, input: CatchupInput) {
        let conn = input.said_by().expect("what a peer says").number();
        if self.places.take(conn) && self.to.try_send(input).is_err() {
            self.places.give_back(conn);
        }
    }

    /// A connection is up or down: waits for a place.
    ///
    /// # Panics
    /// If a peer says this.
    pub fn connection(&self, input: CatchupInput) {
        assert!(input.said_by().is_none(), "no peer may make anybody wait");
        // An error means that the process stops.
        let _ = self.to.send(input);
    }
}

/// Where inputs come from.
pub struct CatchupReceiver {
    from: Receiver<CatchupInput>,
    places: Arc<Places>,
}

impl CatchupReceiver {
    /// The next input, waiting for it until then.
    ///
    /// # Errors
    /// There was none, or there will be none any more.
    pub fn recv_deadline(&self, end: Instant) -> Result<CatchupInput, RecvTimeoutError> {
        let input = self.from.recv_deadline(end)?;
        self.taken(&input);
        Ok(input)
    }

    /// Takes inputs and forgets them until there will be none any more.
    pub fn drain(&self) {
        while let Ok(input) = self.from.recv() {
            self.taken(&input);
        }
    }

    fn taken(&self, input: &CatchupInput) {
        if let Some(conn) = input.said_by() {
            self.places.give_back(conn.number());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_takes_few_places_and_gets_them_back() {
        let places = Places::default();
        for _ in 0..3 {
            let taken = (0..100).filter(|_| places.take(1)).count();
            assert_eq!(taken, INPUTS_PER_PEER_MAX);
            assert!(places.take(2), "there is room for others");
            places.give_back(2);
            places.give_back(1);
            assert!(places.take(1));
            (0..INPUTS_PER_PEER_MAX).for_each(|_| places.give_back(1));
            assert!(
                places.0.lock().is_empty(),
                "nothing is kept of who has none"
            );
        }
    }
}
