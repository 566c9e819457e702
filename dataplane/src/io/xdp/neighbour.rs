//! Where a packet goes on the wire: the next hop of a destination and its hardware address, as
//! the kernel knows them, kept current by its notifications.
//!
//! What the kernel must do stays with the kernel. A destination that is new, is not reached
//! through our device, or whose next hop has no hardware address yet is sent through the ordinary
//! UDP socket: that makes the kernel solicit the neighbour (RFC 4861, section 7.2), and the
//! notification about the answer opens the direct way. For the same reason one datagram to a
//! next hop that the kernel calls stale goes through the socket now and then: the kernel then
//! checks that the neighbour still lives (section 7.3). Addresses are never learned from received
//! packets, whose sources may be forged.

use std::{
    collections::HashMap,
    io,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use super::{
    netlink::{Netlink, as_u32, attributes, push_attribute},
    packet::Mac,
    probe::Device,
};

/// Destinations in one generation of the cache; there are two.
const ROUTES_MAX: usize = 2048;

/// Neighbours kept; the kernel's own table has 1024 by default.
const NEIGHBOURS_MAX: usize = 4096;

/// How often a stale next hop is given a datagram through the kernel.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);

/// How a destination is reached directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) mac: Mac,
    /// The source address that the kernel would choose.
    pub(super) source: Ipv6Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Seen once. A look-up costs two system calls: nobody shall cause one with a forged source.
    New,
    /// Not through our device, or not at all: the kernel's business.
    Kernel,
    Via {
        next_hop: Ipv6Addr,
        source: Ipv6Addr,
    },
}

struct Neighbour {
    mac: Mac,
    is_stale: bool,
    /// When a datagram last went through the kernel because this was stale.
    confirmed: Option<Instant>,
}

/// Routes and neighbours of one device.
pub(super) struct Neighbours {
    device: u32,
    requests: Netlink,
    monitor: Netlink,
    recent: HashMap<(Ipv6Addr, u32), Route>,
    older: HashMap<(Ipv6Addr, u32), Route>,
    neighbours: HashMap<Ipv6Addr, Neighbour>,
}

impl Neighbours {
    /// Subscribes, then reads what is there, so that no change falls between.
    pub(super) fn new(device: &Device) -> io::Result<Self> {
        let groups = libc::RTMGRP_NEIGH | libc::RTMGRP_IPV6_ROUTE | libc::RTMGRP_IPV6_IFADDR;
        let mut neighbours = Neighbours {
            device: device.index,
            requests: Netlink::open(libc::NETLINK_ROUTE, 0)?,
            monitor: Netlink::open(libc::NETLINK_ROUTE, groups as u32)?,
            recent: HashMap::with_capacity(ROUTES_MAX),
            older: HashMap::with_capacity(ROUTES_MAX),
            neighbours: HashMap::new(),
        };
        neighbours.read_all()?;
        Ok(neighbours)
    }

    /// What to poll; readable when [`Neighbours::update`] has something to do.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.monitor.fd()
    }

    /// Takes the kernel's notifications in.
    pub(super) fn update(&mut self) -> io::Result<()> {
        let Neighbours {
            device,
            monitor,
            recent,
            older,
            neighbours,
            ..
        } = self;
        let is_complete = monitor.notifications(|kind, body| match kind {
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => learn(neighbours, *device, kind, body),
            // Routes and addresses: rare, and any may concern any destination.
            _ => {
                recent.clear();
                older.clear();
            }
        })?;
        if !is_complete {
            self.recent.clear();
            self.older.clear();
            self.read_all()?;
        }
        Ok(())
    }

    /// The direct way to `to`, or `None` when the kernel shall send the datagram.
    pub(super) fn hop(&mut self, to: &SocketAddrV6, now: Instant) -> Option<Hop> {
        let key = (*to.ip(), to.scope_id());
        let route = match self.recent.get(&key) {
            Some(Route::New) => self.resolve(key),
            Some(known) => *known,
            None => {
                let route = self.older.remove(&key).unwrap_or(Route::New);
                if self.recent.len() == ROUTES_MAX {
                    self.older = std::mem::take(&mut self.recent);
                }
                self.recent.insert(key, route);
                route
            }
        };
        let Route::Via { next_hop, source } = route else {
            return None;
        };
        let neighbour = self.neighbours.get_mut(&next_hop)?;
        if neighbour.is_stale {
            let is_due = neighbour
                .confirmed
                .is_none_or(|at| now.saturating_duration_since(at) >= CONFIRM_INTERVAL);
            if is_due {
                neighbour.confirmed = Some(now);
                return None;
            }
        }
        Some(Hop {
            mac: neighbour.mac,
            source,
        })
    }

    fn resolve(&mut self, key: (Ipv6Addr, u32)) -> Route {
        let (ip, scope) = key;
        // struct rtmsg: family u8, destination length u8, source length u8, tos u8, table u8,
        // protocol u8, scope u8, type u8, flags u32.
        let mut body = vec![0; RTMSG_BYTES];
        body[0] = libc::AF_INET6 as u8;
        body[1] = 128;
        push_attribute(&mut body, libc::RTA_DST, &ip.octets());
        if scope != 0 {
            push_attribute(&mut body, libc::RTA_OIF, &scope.to_ne_bytes());
        }
        let (device, mut route) = (self.device, Route::Kernel);
        let answer = self
            .requests
            .request(libc::RTM_GETROUTE, 0, &body, |_, message| {
                route = parse_route(message, device, ip).unwrap_or(Route::Kernel);
            });
        if answer.is_err() {
            route = Route::Kernel;
        }
        self.recent.insert(key, route);
        route
    }

    fn read_all(&mut self) -> io::Result<()> {
        let Neighbours {
            device,
            requests,
            neighbours,
            ..
        } = self;
        neighbours.clear();
        // struct ndmsg.
        let mut body = [0; NDMSG_BYTES];
        body[0] = libc::AF_INET6 as u8;
        requests.request(
            libc::RTM_GETNEIGH,
            libc::NLM_F_DUMP,
            &body,
            |kind, message| {
                learn(neighbours, *device, kind, message);
            },
        )
    }
}

const RTMSG_BYTES: usize = 12;
const NDMSG_BYTES: usize = 12;

fn parse_route(message: &[u8], device: u32, to: Ipv6Addr) -> Option<Route> {
    let (header, rest) = message.split_first_chunk::<RTMSG_BYTES>()?;
    let (mut output, mut next_hop, mut source) = (None, to, None);
    for (kind, value) in attributes(rest) {
        match kind {
            libc::RTA_OIF => output = as_u32(value),
            libc::RTA_GATEWAY => next_hop = address(value)?,
            libc::RTA_PREFSRC => source = address(value),
            _ => {}
        }
    }
    (header[7] == libc::RTN_UNICAST && output == Some(device)).then_some(Route::Via {
        next_hop,
        source: source?,
    })
}

/// Enters or removes one neighbour.
fn learn(neighbours: &mut HashMap<Ipv6Addr, Neighbour>, device: u32, kind: u16, body: &[u8]) {
    // struct ndmsg: family u8, pad, pad u16, index i32, state u16, flags u8, type u8.
    let Some((header, rest)) = body.split_first_chunk::<NDMSG_BYTES>() else {
        return;
    };
    let index = as_u32(&header[4..8]).expect("four bytes");
    if i32::from(header[0]) != libc::AF_INET6 || index != device {
        return;
    }
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let (mut ip, mut mac) = (None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            libc::NDA_DST => ip = address(value),
            libc::NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    let Some(ip) = ip else { return };
    let usable = libc::NUD_REACHABLE
        | libc::NUD_PERMANENT
        | libc::NUD_NOARP
        | libc::NUD_STALE
        | libc::NUD_DELAY
        | libc::NUD_PROBE;
    match mac {
        Some(mac) if kind == libc::RTM_NEWNEIGH && state & usable != 0 => {
            if neighbours.len() >= NEIGHBOURS_MAX && !neighbours.contains_key(&ip) {
                return;
            }
            let confirmed = neighbours.get(&ip).and_then(|known| known.confirmed);
            neighbours.insert(
                ip,
                Neighbour {
                    mac,
                    is_stale: state & libc::NUD_STALE != 0,
                    confirmed,
                },
            );
        }
        _ => {
            neighbours.remove(&ip);
        }
    }
}

fn address(value: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(value).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEVICE: u32 = 7;

    fn neighbour_message(state: u16, ip: Ipv6Addr, mac: Option<Mac>) -> Vec<u8> {
        let mut body = vec![libc::AF_INET6 as u8, 0, 0, 0];
        body.extend(DEVICE.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([0, 1]);
        push_attribute(&mut body, libc::NDA_DST, &ip.octets());
        if let Some(mac) = mac {
            push_attribute(&mut body, libc::NDA_LLADDR, &mac);
        }
        body
    }

    fn neighbours() -> Neighbours {
        Neighbours {
            device: DEVICE,
            requests: Netlink::open(libc::NETLINK_ROUTE, 0).unwrap(),
            monitor: Netlink::open(libc::NETLINK_ROUTE, 0).unwrap(),
            recent: HashMap::new(),
            older: HashMap::new(),
            neighbours: HashMap::new(),
        }
    }

    #[test]
    fn a_neighbour_is_used_while_the_kernel_says_so() {
        let mut all = neighbours();
        let to: SocketAddrV6 = "[fd00::1]:1".parse().unwrap();
        let (ip, now) = (*to.ip(), Instant::now());
        let via = Route::Via {
            next_hop: ip,
            source: ip,
        };
        all.recent.insert((ip, 0), via);
        assert_eq!(all.hop(&to, now), None, "unknown");
        let say = |all: &mut Neighbours, kind, state, mac| {
            learn(
                &mut all.neighbours,
                DEVICE,
                kind,
                &neighbour_message(state, ip, mac),
            );
        };
        say(
            &mut all,
            libc::RTM_NEWNEIGH,
            libc::NUD_REACHABLE,
            Some([1; 6]),
        );
        assert_eq!(all.hop(&to, now).unwrap().mac, [1; 6]);
        say(
            &mut all,
            libc::RTM_NEWNEIGH,
            libc::NUD_REACHABLE,
            Some([2; 6]),
        );
        assert_eq!(all.hop(&to, now).unwrap().mac, [2; 6], "it moved");
        say(&mut all, libc::RTM_NEWNEIGH, libc::NUD_FAILED, None);
        assert_eq!(all.hop(&to, now), None, "it failed");
        say(
            &mut all,
            libc::RTM_NEWNEIGH,
            libc::NUD_REACHABLE,
            Some([2; 6]),
        );
        say(
            &mut all,
            libc::RTM_DELNEIGH,
            libc::NUD_REACHABLE,
            Some([2; 6]),
        );
        assert_eq!(all.hop(&to, now), None, "it was removed");
    }

    #[test]
    fn a_stale_neighbour_is_confirmed_through_the_kernel_now_and_then() {
        let mut all = neighbours();
        let to: SocketAddrV6 = "[fd00::1]:1".parse().unwrap();
        let ip = *to.ip();
        let via = Route::Via {
            next_hop: ip,
            source: ip,
        };
        all.recent.insert((ip, 0), via);
        let message = neighbour_message(libc::NUD_STALE, ip, Some([1; 6]));
        learn(&mut all.neighbours, DEVICE, libc::RTM_NEWNEIGH, &message);
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(all.hop(&to, now), None);
            for _ in 0..5 {
                assert!(all.hop(&to, now).is_some());
            }
            // Hearing of the same state again is no reason to ask again.
            learn(&mut all.neighbours, DEVICE, libc::RTM_NEWNEIGH, &message);
            assert!(all.hop(&to, now).is_some());
            now += CONFIRM_INTERVAL;
        }
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut all = neighbours();
        let now = Instant::now();
        let friend: SocketAddrV6 = "[fd00::1]:1".parse().unwrap();
        let via = Route::Via {
            next_hop: *friend.ip(),
            source: *friend.ip(),
        };
        all.recent.insert((*friend.ip(), 0), via);
        let message = neighbour_message(libc::NUD_REACHABLE, *friend.ip(), Some([1; 6]));
        learn(&mut all.neighbours, DEVICE, libc::RTM_NEWNEIGH, &message);
        for i in 0..20_000u128 {
            let forged = SocketAddrV6::new((0x2000 << 112 | i).into(), 1, 0, 0);
            assert_eq!(all.hop(&forged, now), None);
            if i % 500 == 0 {
                assert!(all.hop(&friend, now).is_some(), "after {i} others");
            }
            assert!(all.recent.len() <= ROUTES_MAX && all.older.len() <= ROUTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut neighbours = HashMap::new();
            learn(&mut neighbours, DEVICE, libc::RTM_NEWNEIGH, &bytes);
            let _ = parse_route(&bytes, DEVICE, Ipv6Addr::LOCALHOST);
        }
    }
}
