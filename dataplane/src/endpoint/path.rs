//! The path of one connection: measured while it works, acted upon at once where QUIC permits, and
//! remembered for the next connection to the same place.

use std::{
    collections::HashMap,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use quinn_proto::Connection;

use super::{admission::Prefix, core::Core, transport::is_loopback};
use crate::{PathInfo, PathPolicy, PathTier, Stats, stats::Count};

/// How often a path is looked at while its connection works.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Packets in an interval below which its share of losses says nothing.
const PACKETS_MIN: u64 = 100;

/// One packet lost of so many is a lossy path: bursts overflow a queue on it.
const LOSSY_ONE_OF: u64 = 50;

/// How much shorter bursts are on a lossy path.
const LOSSY_DIVISOR: usize = 4;

/// Prefixes remembered; beyond that all are forgotten.
const PREFIXES_MAX: usize = 1024;

/// What to assume of a path before it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathGuess {
    /// `None` when paths are not adapted to.
    pub(super) tier: Option<PathTier>,
    /// The MTU found on an earlier connection.
    pub(super) mtu: Option<u16>,
    pub(super) is_loopback: bool,
}

/// What earlier connections measured, by /64 prefix.
#[derive(Default)]
pub(super) struct PathMemory(HashMap<Prefix, (PathTier, u16)>);

impl PathMemory {
    pub(super) fn guess(&self, ip: &Ipv6Addr, policy: PathPolicy) -> PathGuess {
        let is_loopback = is_loopback(ip);
        let known = self.0.get(&Prefix::from(ip)).copied();
        let tier = match policy {
            PathPolicy::Off => None,
            PathPolicy::Fixed(tier) => Some(tier),
            PathPolicy::Adaptive if is_loopback => Some(PathTier::Loopback),
            PathPolicy::Adaptive => Some(known.map_or(PathTier::Metro, |(tier, _)| tier)),
        };
        PathGuess {
            tier,
            mtu: known.map(|(_, mtu)| mtu),
            is_loopback,
        }
    }

    pub(super) fn remember(&mut self, ip: &Ipv6Addr, path: &Path) {
        if path.guess.tier.is_none() || path.mtu == 0 {
            return;
        }
        if self.0.len() >= PREFIXES_MAX {
            self.0.clear();
        }
        self.0.insert(Prefix::from(ip), (path.tier, path.mtu));
    }
}

/// The path of one connection.
pub(super) struct Path {
    guess: PathGuess,
    policy: PathPolicy,
    tier: PathTier,
    segments_max: usize,
    mtu: u16,
    next_check: Option<Instant>,
    /// Packets sent and lost at the last look.
    counted: (u64, u64),
    /// Whether the gauge of the tier counts this path.
    is_counted: bool,
}

/// Bursts where paths are not adapted to, as quinn sends them.
const SEGMENTS_UNTUNED: usize = 10;

impl Path {
    pub(super) fn new(guess: PathGuess, policy: PathPolicy) -> Self {
        let tier = guess.tier.unwrap_or(PathTier::Metro);
        Path {
            guess,
            policy,
            tier,
            segments_max: guess
                .tier
                .map_or(SEGMENTS_UNTUNED, |tier| tier.settings().segments_max),
            mtu: 0,
            next_check: None,
            counted: (0, 0),
            is_counted: false,
        }
    }

    /// Datagrams in one burst.
    pub(super) fn segments_max(&self) -> usize {
        self.segments_max
    }

    /// Bytes sent and not acknowledged that the connection may hold in memory.
    pub(super) fn send_window_bytes(&self, core: &Core) -> u64 {
        let share = match self.guess.tier {
            Some(_) => self.tier.settings().send_window_share,
            None => 1,
        };
        // The part kept free of Bulk must stay a part.
        (core.limits.send_window_bytes / share).max(core.limits.send_window_reserve_bytes + 1)
    }

    /// The connection is open: from now on the path counts.
    pub(super) fn open(&mut self, now: Instant, quic: &mut Connection, core: &Core) {
        assert!(!self.is_counted, "opened twice");
        self.is_counted = true;
        gauge(&core.stats, self.tier).inc();
        quic.set_send_window(self.send_window_bytes(core));
        self.next_check = Some(now);
    }

    /// The connection has ended. It may linger until the peer has heard of it, and is not looked
    /// at meanwhile.
    pub(super) fn close(&mut self, stats: &Stats) {
        self.next_check = None;
        if std::mem::take(&mut self.is_counted) {
            gauge(stats, self.tier).dec();
        }
    }

    /// Measures when it is time to, and acts upon it. Returns what is then known.
    pub(super) fn check(
        &mut self,
        now: Instant,
        quic: &mut Connection,
        core: &Core,
    ) -> Option<PathInfo> {
        if self.next_check.is_none_or(|at| now < at) {
            return None;
        }
        self.next_check = Some(now + CHECK_INTERVAL);
        let path = quic.stats().path;
        self.mtu = path.current_mtu;
        let adapts = self.policy == PathPolicy::Adaptive && !self.guess.is_loopback;
        if adapts {
            let tier = PathTier::of_rtt(path.min_rtt, self.tier);
            if tier != self.tier {
                gauge(&core.stats, self.tier).dec();
                gauge(&core.stats, tier).inc();
                core.stats.path_tier_changes.inc();
                self.tier = tier;
                quic.set_send_window(self.send_window_bytes(core));
            }
        }
        if let Some(lossy) = self.is_lossy(path.sent_packets, path.lost_packets)
            && self.guess.tier.is_some()
        {
            let divisor = if lossy { LOSSY_DIVISOR } else { 1 };
            self.segments_max = self.tier.settings().segments_max / divisor;
        } else if adapts {
            self.segments_max = self.segments_max.min(self.tier.settings().segments_max);
        }
        Some(PathInfo {
            tier: self.tier,
            rtt_min: path.min_rtt,
            rtt: path.rtt,
            mtu: path.current_mtu,
            segments_max: self.segments_max,
            congestion_window_bytes: path.cwnd,
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
        })
    }

    /// Whether the packets since the last answer got lost too often; `None` while they are few.
    fn is_lossy(&mut self, sent: u64, lost: u64) -> Option<bool> {
        let (sent_before, lost_before) = self.counted;
        let packets = sent.saturating_sub(sent_before);
        if packets < PACKETS_MIN {
            return None;
        }
        self.counted = (sent, lost);
        Some(lost.saturating_sub(lost_before) * LOSSY_ONE_OF >= packets)
    }
}

fn gauge(stats: &Stats, tier: PathTier) -> &std::sync::atomic::AtomicU64 {
    match tier {
        PathTier::Loopback => &stats.paths_loopback,
        PathTier::Lan => &stats.paths_lan,
        PathTier::Metro => &stats.paths_metro,
        PathTier::Wide => &stats.paths_wide,
    }
}
