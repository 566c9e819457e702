//! Kinds of network paths, and how a connection is tuned to its own.

use std::{fmt, time::Duration};

/// What kind of path a connection takes, by its round-trip time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PathTier {
    /// To this machine itself.
    Loopback,
    /// A local network: below a millisecond.
    Lan,
    /// The same city or region: below 20 ms. What is assumed of a peer not met before.
    Metro,
    /// Further.
    Wide,
}

impl PathTier {
    /// Every tier, the nearest first.
    pub const ALL: [PathTier; 4] = [
        PathTier::Loopback,
        PathTier::Lan,
        PathTier::Metro,
        PathTier::Wide,
    ];

    /// The name used in configuration and status.
    pub const fn name(self) -> &'static str {
        match self {
            PathTier::Loopback => "loopback",
            PathTier::Lan => "lan",
            PathTier::Metro => "metro",
            PathTier::Wide => "wide",
        }
    }

    /// The tier with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// The tier of a path to another machine, from its least round-trip time. A path stays in
    /// `before` until it is clearly outside, so that a time near a limit does not make it swing.
    pub(crate) fn of_rtt(rtt: Duration, before: PathTier) -> Self {
        let beyond = |limit: Duration, tier_below: PathTier| {
            let limit = if before <= tier_below {
                limit * 5 / 4
            } else {
                limit
            };
            rtt >= limit
        };
        if beyond(METRO_RTT_MAX, PathTier::Metro) {
            PathTier::Wide
        } else if beyond(LAN_RTT_MAX, PathTier::Lan) {
            PathTier::Metro
        } else {
            PathTier::Lan
        }
    }

    /// The settings of this tier.
    pub(crate) const fn settings(self) -> PathSettings {
        match self {
            // The kernel hands over 64 KB at a time and loses nothing but by a full socket buffer.
            PathTier::Loopback => PathSettings {
                mtu_max: u16::MAX,
                ack_bytes: 128 << 10,
                ack_delay_max: Duration::from_millis(2),
                segments_max: 44,
                send_window_share: 2,
                initial_window_bytes: 256 << 10,
                initial_rtt: Duration::from_millis(100),
            },
            PathTier::Lan => PathSettings {
                mtu_max: crate::MTU_JUMBO,
                ack_bytes: 64 << 10,
                ack_delay_max: Duration::from_millis(5),
                segments_max: 44,
                send_window_share: 2,
                initial_window_bytes: 64 << 10,
                initial_rtt: Duration::from_millis(100),
            },
            PathTier::Metro => PathSettings {
                mtu_max: crate::MTU_JUMBO,
                ack_bytes: 16 << 10,
                ack_delay_max: Duration::from_millis(10),
                segments_max: 32,
                send_window_share: 1,
                initial_window_bytes: INITIAL_WINDOW_BYTES,
                initial_rtt: INITIAL_RTT,
            },
            // Short bursts: a long one overflows some queue on the way. Jumbo frames do not cross
            // the Internet, and looking for them costs probes.
            PathTier::Wide => PathSettings {
                mtu_max: MTU_INTERNET,
                ack_bytes: 16 << 10,
                ack_delay_max: Duration::from_millis(25),
                segments_max: 10,
                send_window_share: 1,
                initial_window_bytes: INITIAL_WINDOW_BYTES,
                initial_rtt: INITIAL_RTT,
            },
        }
    }
}

impl fmt::Display for PathTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Round-trip times from which a path is no longer of the tier.
const LAN_RTT_MAX: Duration = Duration::from_millis(1);
const METRO_RTT_MAX: Duration = Duration::from_millis(20);

/// UDP payload of an Ethernet frame: 1500 less the IPv6 and UDP headers.
const MTU_INTERNET: u16 = 1500 - 48;

/// Initial congestion window (RFC 9002, section 7.2) and round-trip time (section 6.2.2) where
/// nothing is known of the path.
const INITIAL_WINDOW_BYTES: u64 = 12_000;
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// How paths are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PathPolicy {
    /// Each connection by the tier that is measured for it.
    #[default]
    Adaptive,
    /// All connections as if they were of one tier; to compare, or where the operator knows better.
    Fixed(PathTier),
    /// No adaptation: what a QUIC implementation does that knows nothing of the path. To compare.
    Off,
}

/// What a tier sets. From the start of a connection: MTU, acknowledgements, initial window and
/// round-trip time, which quinn-proto does not change later. During it: segments and send window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathSettings {
    /// Largest UDP payload that MTU discovery tries, bytes.
    pub(crate) mtu_max: u16,
    /// The peer acknowledges about once in so many bytes; see `ack_threshold`.
    pub(crate) ack_bytes: u32,
    /// How long the peer may withhold an acknowledgement.
    pub(crate) ack_delay_max: Duration,
    /// Datagrams that leave in one burst (UDP GSO).
    pub(crate) segments_max: usize,
    /// The send window is the configured one divided by this: a short path never needs the memory.
    pub(crate) send_window_share: u64,
    /// Initial congestion window, bytes; pacing follows from the window.
    pub(crate) initial_window_bytes: u64,
    /// Round-trip time assumed until one is measured.
    pub(crate) initial_rtt: Duration,
}

impl PathSettings {
    /// Packets of `mtu` bytes after which the peer acknowledges. Acknowledgements cost both sides
    /// as much as packets of data do; too few of them starve a small congestion window.
    pub(crate) fn ack_threshold(&self, mtu: u16) -> u32 {
        (self.ack_bytes / u32::from(mtu)).clamp(ACK_THRESHOLD_MIN, ACK_THRESHOLD_MAX)
    }
}

const ACK_THRESHOLD_MIN: u32 = 2;
const ACK_THRESHOLD_MAX: u32 = 40;

/// What is known of a connection's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The tier in force.
    pub tier: PathTier,
    /// The least round-trip time seen.
    pub rtt_min: Duration,
    /// The smoothed round-trip time, with queueing.
    pub rtt: Duration,
    /// The largest UDP payload found to pass, bytes.
    pub mtu: u16,
    /// Datagrams in one burst at present.
    pub segments_max: usize,
    /// Bytes that may be sent and not acknowledged at present, by congestion control.
    pub congestion_window_bytes: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets lost.
    pub packets_lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_by_round_trip_time_do_not_swing() {
        let of = |us, before| PathTier::of_rtt(Duration::from_micros(us), before);
        assert_eq!(of(100, PathTier::Metro), PathTier::Lan);
        assert_eq!(of(999, PathTier::Metro), PathTier::Lan);
        assert_eq!(of(1_100, PathTier::Metro), PathTier::Metro);
        assert_eq!(of(1_100, PathTier::Lan), PathTier::Lan);
        assert_eq!(of(1_300, PathTier::Lan), PathTier::Metro);
        assert_eq!(of(22_000, PathTier::Metro), PathTier::Metro);
        assert_eq!(of(22_000, PathTier::Wide), PathTier::Wide);
        assert_eq!(of(30_000, PathTier::Lan), PathTier::Wide);
        assert_eq!(of(100, PathTier::Wide), PathTier::Lan);
    }

    #[test]
    fn names_are_read_back() {
        for tier in PathTier::ALL {
            assert_eq!(PathTier::from_name(tier.name()), Some(tier));
        }
        assert_eq!(PathTier::from_name("moon"), None);
    }

    #[test]
    fn acknowledgements_follow_bytes_not_packets() {
        let lan = PathTier::Lan.settings();
        assert_eq!(lan.ack_threshold(1452), 40);
        assert_eq!(lan.ack_threshold(8952), 7);
        assert_eq!(lan.ack_threshold(65_488), 2);
        assert_eq!(PathTier::Metro.settings().ack_threshold(1452), 11);
    }
}
