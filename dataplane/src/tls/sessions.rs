//! Sessions that clients may resume (RFC 8446, section 2.2), kept on the server.
//!
//! A resumed handshake proves nobody's FALCON key again: it is worth what the full handshake before
//! it was worth. Hence the rules. A ticket is a random name for a session kept here, not the session
//! itself; it is good once, for an hour, and only while the server still proves the same key. The
//! key that the client proved is part of the session, and the endpoint checks it against the trusted
//! set of the moment after every handshake, resumed or not. Early data (0-RTT) does not exist.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use falconet_crypto::hash::Digest;
use rustls::server::StoresServerSessions;

use crate::{Stats, stats::Count};

/// Sessions kept; the oldest goes first. One is about 2 KB when the client proved FALCON-1024.
const SESSIONS_MAX: usize = 4096;

/// How long a session may be resumed.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Sessions of one endpoint, shared by its threads and outliving a change of its identity.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    by_ticket: HashMap<Vec<u8>, Session>,
    /// Tickets, oldest first; also of sessions taken meanwhile.
    order: VecDeque<Vec<u8>>,
}

struct Session {
    identity: Digest,
    since: Instant,
    value: Vec<u8>,
}

impl Table {
    fn insert(&mut self, ticket: Vec<u8>, session: Session) {
        while self.order.len() >= SESSIONS_MAX {
            let oldest = self.order.pop_front().expect("it is not empty");
            self.by_ticket.remove(&oldest);
        }
        self.order.push_back(ticket.clone());
        self.by_ticket.insert(ticket, session);
        assert!(
            self.by_ticket.len() <= self.order.len(),
            "a session that never goes"
        );
    }
}

/// The sessions as the TLS server of one identity sees them.
pub(super) struct SessionsOf {
    sessions: Sessions,
    identity: Digest,
    stats: Option<Arc<Stats>>,
}

impl SessionsOf {
    pub(super) fn new(sessions: Sessions, identity: Digest, stats: Option<Arc<Stats>>) -> Self {
        SessionsOf {
            sessions,
            identity,
            stats,
        }
    }

    fn take_at(&self, now: Instant, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut table = self.sessions.0.lock().expect("no holder panics");
        let session = table.by_ticket.remove(ticket)?;
        let age = now.saturating_duration_since(session.since);
        (session.identity == self.identity && age < LIFETIME).then_some(session.value)
    }
}

impl StoresServerSessions for SessionsOf {
    fn put(&self, ticket: Vec<u8>, value: Vec<u8>) -> bool {
        let session = Session {
            identity: self.identity,
            since: Instant::now(),
            value,
        };
        let mut table = self.sessions.0.lock().expect("no holder panics");
        table.insert(ticket, session);
        true
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        // TLS 1.3 takes; what could be read twice could be resumed twice.
        None
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let value = self.take_at(Instant::now(), ticket);
        if let (Some(_), Some(stats)) = (&value, &self.stats) {
            stats.handshakes_resumed.inc();
        }
        value
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for SessionsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionsOf")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sessions: &Sessions, identity: u8) -> SessionsOf {
        SessionsOf::new(sessions.clone(), Digest([identity; 32]), None)
    }

    #[test]
    fn a_ticket_is_good_once_and_for_one_identity() {
        let sessions = Sessions::default();
        let (old, new) = (of(&sessions, 1), of(&sessions, 2));
        old.put(vec![1], vec![7]);
        assert_eq!(old.get(&[1]), None);
        assert_eq!(old.take(&[1]), Some(vec![7]));
        assert_eq!(old.take(&[1]), None);
        old.put(vec![2], vec![8]);
        assert_eq!(new.take(&[2]), None, "another key is proved now");
        assert_eq!(old.take(&[2]), None, "and it is gone");
    }

    #[test]
    fn sessions_age_and_are_bounded() {
        let sessions = Sessions::default();
        let of = of(&sessions, 1);
        of.put(vec![1], vec![7]);
        assert_eq!(of.take_at(Instant::now() + LIFETIME, &[1]), None);
        for i in 0..3 * SESSIONS_MAX {
            of.put(i.to_le_bytes().to_vec(), vec![0]);
            if i % 3 == 0 {
                of.take(&i.to_le_bytes());
            }
        }
        let table = sessions.0.lock().unwrap();
        assert_eq!(table.order.len(), SESSIONS_MAX);
        assert!(table.by_ticket.len() <= SESSIONS_MAX);
        assert!(!table.by_ticket.contains_key(&1usize.to_le_bytes()[..]));
    }
}
