//! Who may have a place: handshakes in progress, anonymous clients, validators. Each kind has its
//! own places, so that strangers can never use up those of trusted keys.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::Ipv6Addr,
};

use falconet_crypto::hash::Digest;

use crate::{ConnId, Limits};

/// A /64: what one subscriber usually gets, so the unit in which addresses are cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prefix([u8; 8]);

impl From<&Ipv6Addr> for Prefix {
    fn from(ip: &Ipv6Addr) -> Self {
        Prefix(
            *ip.octets()
                .first_chunk()
                .expect("an address has sixteen bytes"),
        )
    }
}

/// The place that a connection occupies until it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Dialled from here; the number of targets bounds these.
    Dialled,
    /// Accepted, not yet known.
    Handshake(Prefix),
    /// Accepted, anonymous.
    Anonymous(Prefix),
    /// Accepted, proved a trusted key.
    Validator,
}

/// Why a place is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Busy,
    Prefix,
    Full,
}

/// What to do with an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept(Place),
    /// Let the peer prove its address first.
    Retry,
    Refuse(Refusal),
}

/// Counts of occupied places.
#[derive(Debug, Default)]
pub(super) struct Admission {
    handshakes: usize,
    anonymous: usize,
    validators: usize,
    handshakes_by_prefix: HashMap<Prefix, usize>,
    anonymous_by_prefix: HashMap<Prefix, usize>,
    /// The open connections between pairs of keys.
    by_keys: HashMap<(Digest, Dialled), ConnId>,
}

/// Which side dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dialled {
    ByUs,
    ByPeer,
}

impl Dialled {
    pub(super) fn by_us(is_initiator: bool) -> Self {
        if is_initiator {
            Self::ByUs
        } else {
            Self::ByPeer
        }
    }

    pub(super) fn other(self) -> Self {
        Self::by_us(self == Self::ByPeer)
    }
}

impl Admission {
    /// Decides on a handshake from `ip`, and takes its place when it may go on.
    pub(super) fn handshake(&mut self, ip: &Ipv6Addr, validated: bool, limits: &Limits) -> Verdict {
        let prefix = Prefix::from(ip);
        if self.handshakes >= limits.handshakes_max {
            return Verdict::Refuse(Refusal::Busy);
        }
        if self.handshakes >= limits.handshakes_before_retry && !validated {
            return Verdict::Retry;
        }
        if self.anonymous >= limits.anonymous_max && self.validators >= limits.validators_max {
            return Verdict::Refuse(Refusal::Full);
        }
        let here = self.handshakes_by_prefix.entry(prefix).or_default();
        if *here >= limits.handshakes_per_prefix_max {
            return Verdict::Refuse(Refusal::Prefix);
        }
        *here += 1;
        self.handshakes += 1;
        Verdict::Accept(Place::Handshake(prefix))
    }

    /// Moves a finished handshake to its lasting place, or refuses; then it keeps the old one.
    pub(super) fn settle(
        &mut self,
        place: &mut Place,
        validator: bool,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let Place::Handshake(prefix) = *place else {
            assert_eq!(*place, Place::Dialled, "a place is settled once");
            return Ok(());
        };
        let settled = if validator {
            if self.validators >= limits.validators_max {
                return Err(Refusal::Full);
            }
            self.validators += 1;
            Place::Validator
        } else {
            if self.anonymous >= limits.anonymous_max {
                return Err(Refusal::Full);
            }
            let here = self.anonymous_by_prefix.entry(prefix).or_default();
            if *here >= limits.anonymous_per_prefix_max {
                return Err(Refusal::Prefix);
            }
            *here += 1;
            self.anonymous += 1;
            Place::Anonymous(prefix)
        };
        self.release(*place);
        *place = settled;
        Ok(())
    }

    /// Gives a place back.
    pub(super) fn release(&mut self, place: Place) {
        match place {
            Place::Dialled => {}
            Place::Handshake(prefix) => {
                self.handshakes -= 1;
                decrement(&mut self.handshakes_by_prefix, prefix);
            }
            Place::Anonymous(prefix) => {
                self.anonymous -= 1;
                decrement(&mut self.anonymous_by_prefix, prefix);
            }
            Place::Validator => self.validators -= 1,
        }
    }

    /// The open connection of a pair of keys that this side dialled.
    pub(super) fn bound(&self, pair: Digest, dialled: Dialled) -> Option<ConnId> {
        self.by_keys.get(&(pair, dialled)).copied()
    }

    /// Registers the connection of a pair of keys; returns the one that it replaces.
    pub(super) fn bind_key(
        &mut self,
        pair: Digest,
        dialled: Dialled,
        conn: ConnId,
    ) -> Option<ConnId> {
        self.by_keys.insert((pair, dialled), conn)
    }

    /// Forgets the connection of a pair of keys unless a newer one took its place.
    pub(super) fn unbind_key(&mut self, pair: Digest, dialled: Dialled, conn: ConnId) {
        if let Entry::Occupied(entry) = self.by_keys.entry((pair, dialled))
            && *entry.get() == conn
        {
            entry.remove();
        }
    }
}

fn decrement(counts: &mut HashMap<Prefix, usize>, prefix: Prefix) {
    let count = counts
        .get_mut(&prefix)
        .expect("an occupied place is counted under its prefix");
    *count -= 1;
    if *count == 0 {
        counts.remove(&prefix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            validators_max: 2,
            anonymous_max: 3,
            anonymous_per_prefix_max: 2,
            handshakes_max: 6,
            handshakes_per_prefix_max: 4,
            handshakes_before_retry: 5,
            ..Limits::default()
        }
    }

    fn ip(prefix: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, prefix, 0, 0, 0, 1)
    }

    fn begin(admission: &mut Admission, prefix: u16) -> Place {
        match admission.handshake(&ip(prefix), true, &limits()) {
            Verdict::Accept(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn anonymous_clients_never_take_validator_places() {
        let mut admission = Admission::default();
        let mut settle = |prefix, validator| {
            let mut place = begin(&mut admission, prefix);
            let result = admission.settle(&mut place, validator, &limits());
            if result.is_err() {
                admission.release(place);
            }
            result
        };
        assert_eq!(settle(1, false), Ok(()));
        assert_eq!(settle(1, false), Ok(()));
        assert_eq!(settle(1, false), Err(Refusal::Prefix));
        assert_eq!(settle(2, false), Ok(()));
        assert_eq!(settle(3, false), Err(Refusal::Full));
        assert_eq!(settle(3, true), Ok(()));
        assert_eq!(settle(1, true), Ok(()));
        let full = admission.handshake(&ip(9), true, &limits());
        assert_eq!(full, Verdict::Refuse(Refusal::Full));
        admission.release(Place::Validator);
        assert!(matches!(
            admission.handshake(&ip(9), true, &limits()),
            Verdict::Accept(_)
        ));
    }

    #[test]
    fn handshakes_are_bounded_and_retried_under_load() {
        let mut admission = Admission::default();
        let places: Vec<Place> = (0..4).map(|_| begin(&mut admission, 1)).collect();
        let one_more = admission.handshake(&ip(1), true, &limits());
        assert_eq!(one_more, Verdict::Refuse(Refusal::Prefix));
        begin(&mut admission, 2);
        let unproved = admission.handshake(&ip(3), false, &limits());
        assert_eq!(unproved, Verdict::Retry);
        begin(&mut admission, 3);
        let busy = admission.handshake(&ip(4), true, &limits());
        assert_eq!(busy, Verdict::Refuse(Refusal::Busy));
        for place in places {
            admission.release(place);
        }
        begin(&mut admission, 1);
        assert!(admission.handshakes_by_prefix.len() <= 3);
    }

    #[test]
    fn a_newer_connection_replaces_an_older_one() {
        let mut admission = Admission::default();
        let key = Digest([1; 32]);
        assert_eq!(admission.bind_key(key, Dialled::ByPeer, ConnId(1)), None);
        assert_eq!(
            admission.bind_key(key, Dialled::ByPeer, ConnId(2)),
            Some(ConnId(1))
        );
        admission.unbind_key(key, Dialled::ByPeer, ConnId(1));
        assert_eq!(
            admission.bind_key(key, Dialled::ByPeer, ConnId(3)),
            Some(ConnId(2))
        );
        admission.unbind_key(key, Dialled::ByPeer, ConnId(3));
        assert_eq!(admission.bind_key(key, Dialled::ByPeer, ConnId(4)), None);
    }
}
