//! What the endpoints of one process share when there are several, one for each network thread:
//! the places and who holds them. All limits count over the whole group.

use std::sync::{Arc, Mutex, MutexGuard};

use super::admission::Admission;

/// Shared by the endpoints of a group. Touched when a handshake begins, ends or a connection is
/// forgotten, never for a packet.
#[derive(Debug, Default)]
pub(super) struct Group(Mutex<Admission>);

impl Group {
    pub(super) fn admission(&self) -> MutexGuard<'_, Admission> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// One endpoint's place in its group.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) group: Arc<Group>,
    /// Below `threads`.
    pub(super) index: usize,
    pub(super) threads: usize,
}
