//! Who is compared at what.

use std::fmt;

use falconet_dataplane::{Backend, PathPolicy, PathTier};
use hdrhistogram::Histogram;

use super::meter::Window;
use super::{Extra, How, NetError, Running, Setup, UDP_PAYLOAD_1500, UDP_PAYLOAD_9000, stoq};

/// Size of what bulk senders hand over at a time, bytes.
pub(crate) const BULK_CHUNK: usize = 1 << 20;
/// Payload of a round trip, bytes.
pub(crate) const ROUND_TRIP_BYTES: usize = 64;

/// Name of the contender whose consumer gets large frames copied together.
const GATHERED: &str = "stoq_gathered";

/// A task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// As many bytes as possible, in large messages, in packets of at most this UDP payload;
    /// `u16::MAX` for no limit.
    Bulk {
        /// Largest UDP payload, bytes.
        udp_payload: u16,
    },
    /// As many unreliable messages as possible.
    Datagrams {
        /// Payload, bytes.
        bytes: usize,
    },
    /// As many reliable messages as possible that do not wait for each other.
    Messages {
        /// Payload, bytes.
        bytes: usize,
    },
    /// One message there and back, then the next.
    RoundTrip {
        /// Whether threads poll instead of sleeping.
        spin: bool,
    },
}

impl Work {
    /// Largest UDP payload.
    pub(crate) fn udp_payload(self) -> u16 {
        match self {
            Self::Bulk { udp_payload } => udp_payload,
            _ => UDP_PAYLOAD_1500,
        }
    }

    /// Bytes of one message.
    pub(crate) fn message_bytes(self) -> usize {
        match self {
            Self::Bulk { .. } => BULK_CHUNK,
            Self::Datagrams { bytes } | Self::Messages { bytes } => bytes,
            Self::RoundTrip { .. } => ROUND_TRIP_BYTES,
        }
    }

    /// Unit of the figure.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Bulk { .. } => "Gbit/s",
            Self::Datagrams { .. } | Self::Messages { .. } => "messages/s",
            Self::RoundTrip { .. } => "us",
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bulk { udp_payload } if *udp_payload == u16::MAX => f.write_str("bulk_mtu64k"),
            Self::Bulk { udp_payload } => write!(f, "bulk_mtu{}", udp_payload + 48),
            Self::Datagrams { bytes } => write!(f, "datagram{bytes}"),
            Self::Messages { bytes } => write!(f, "uni{bytes}"),
            Self::RoundTrip { spin: true } => f.write_str("rtt_spin"),
            Self::RoundTrip { spin: false } => f.write_str("rtt_block"),
        }
    }
}

/// A contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Ours.
    Stoq {
        /// With which settings.
        how: How,
        /// How it is called in the report.
        name: &'static str,
    },
    /// quinn; with `ack_frequency` as STOQ sets it, or as it comes.
    #[cfg(feature = "peers")]
    Quinn {
        /// Whether the ACK frequency extension is used.
        ack_frequency: bool,
    },
    /// s2n-quic.
    #[cfg(feature = "peers")]
    S2n,
    /// TCP with rustls.
    #[cfg(feature = "peers")]
    Tcp,
}

impl Who {
    /// Begins the work of `setup`; returns once both sides are connected.
    pub(crate) fn start(self, setup: &Setup) -> Result<Box<dyn Running>, NetError> {
        match self {
            Self::Stoq { how, .. } => stoq::start(setup, how),
            #[cfg(feature = "peers")]
            Self::Quinn { ack_frequency } => super::quinn::start(setup, ack_frequency),
            #[cfg(feature = "peers")]
            Self::S2n => super::s2n::start(setup),
            #[cfg(feature = "peers")]
            Self::Tcp => super::tcp::start(setup),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stoq { name, .. } => name,
            #[cfg(feature = "peers")]
            Self::Quinn {
                ack_frequency: true,
            } => "quinn_ack_frequency",
            #[cfg(feature = "peers")]
            Self::Quinn { .. } => "quinn",
            #[cfg(feature = "peers")]
            Self::S2n => "s2n_quic",
            #[cfg(feature = "peers")]
            Self::Tcp => "tcp_tls",
        })
    }
}

/// A contender at a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The task.
    pub work: Work,
    /// The contender.
    pub who: Who,
}

impl Case {
    /// Task and contender: `bulk_mtu1500.quinn`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.work, self.who)
    }
}

/// Every case, in the order of their turns: contenders at the same task follow each other.
pub(crate) fn all(backend: Backend) -> Vec<Case> {
    let ours = |backend, paths, name| Who::Stoq {
        how: How {
            backend,
            paths,
            gathered: name == GATHERED,
        },
        name,
    };
    let stoq = ours(backend, PathPolicy::Adaptive, "stoq");
    let uring = ours(Backend::IoUring, PathPolicy::Adaptive, "stoq_uring");
    let mmsg = ours(Backend::Mmsg, PathPolicy::Adaptive, "stoq_mmsg");
    let off = ours(backend, PathPolicy::Off, "stoq_paths_off");
    let gathered = ours(backend, PathPolicy::Adaptive, GATHERED);
    let tier = |tier| {
        let name = match tier {
            PathTier::Loopback => "stoq_tier_loopback",
            PathTier::Lan => "stoq_tier_lan",
            PathTier::Metro => "stoq_tier_metro",
            PathTier::Wide => "stoq_tier_wide",
        };
        ours(backend, PathPolicy::Fixed(tier), name)
    };
    let [loopback, lan, metro, wide] = PathTier::ALL.map(tier);
    let bulk = |udp_payload| Work::Bulk { udp_payload };
    let spin = |spin| Work::RoundTrip { spin };
    let tasks = [
        (
            bulk(UDP_PAYLOAD_1500),
            vec![stoq, gathered, uring, mmsg, off],
        ),
        (
            bulk(UDP_PAYLOAD_9000),
            vec![stoq, gathered, uring, mmsg, off, loopback, lan, metro, wide],
        ),
        (spin(true), vec![stoq]),
        (spin(false), vec![stoq]),
        (Work::Datagrams { bytes: 64 }, vec![stoq, uring, mmsg]),
        (Work::Datagrams { bytes: 256 }, vec![stoq]),
        (Work::Messages { bytes: 256 }, vec![stoq, uring, mmsg]),
    ];
    let mut cases = Vec::new();
    for (work, ours) in tasks {
        cases.extend(
            ours.into_iter()
                .chain(peers(work))
                .map(|who| Case { work, who }),
        );
    }
    #[cfg(feature = "peers")]
    cases.push(Case {
        work: bulk(u16::MAX),
        who: Who::Tcp,
    });
    cases
}

#[cfg(not(feature = "peers"))]
fn peers(_: Work) -> Vec<Who> {
    Vec::new()
}

#[cfg(feature = "peers")]
fn peers(work: Work) -> Vec<Who> {
    let quinn = Who::Quinn {
        ack_frequency: false,
    };
    let tuned = Who::Quinn {
        ack_frequency: true,
    };
    match work {
        Work::Bulk { udp_payload } if udp_payload == UDP_PAYLOAD_1500 => {
            vec![quinn, tuned, Who::S2n, Who::Tcp]
        }
        Work::Bulk { .. } => vec![quinn, Who::S2n, Who::Tcp],
        Work::RoundTrip { spin: true } => vec![Who::Tcp],
        Work::RoundTrip { spin: false } => vec![quinn, Who::S2n, Who::Tcp],
        Work::Datagrams { .. } => vec![quinn],
        Work::Messages { .. } => vec![quinn, Who::S2n],
    }
}

/// What one turn gave.
#[derive(Debug, Clone)]
pub struct Sample {
    /// In the unit of the task; for round trips the median.
    pub value: f64,
    /// 99th percentile of round trips, microseconds.
    pub p99_us: Option<f64>,
    /// Cores kept busy, both sides together.
    pub cpu_cores: f64,
    /// What the contender counted itself.
    pub extra: Extra,
}

impl Sample {
    pub(crate) fn new(
        work: Work,
        window: &Window,
        trips_ns: Option<Histogram<u64>>,
        extra: Extra,
    ) -> Result<Self, NetError> {
        let trips_ns = trips_ns.filter(|trips| !trips.is_empty());
        let us = |quantile| {
            let trips = trips_ns.as_ref()?;
            Some(trips.value_at_quantile(quantile) as f64 / 1e3)
        };
        let value = match work {
            Work::Bulk { .. } => window.bytes_per_s * 8e-9,
            Work::Datagrams { .. } | Work::Messages { .. } => window.items_per_s,
            Work::RoundTrip { .. } => us(0.5).ok_or(NetError::Silent)?,
        };
        Ok(Self {
            value,
            p99_us: us(0.99),
            cpu_cores: window.cpu_cores,
            extra,
        })
    }
}
