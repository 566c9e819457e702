//! What a filter is told: which packets are ours, and how many of them may come.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::abi::{ABI_VERSION, Budget, FLAG_ADDRESS, FLAG_CLOSED, RawBudgets, Settings};
use crate::{FilterError, Mode, XSK_MAX};

const NS_PER_S: u64 = 1_000_000_000;
/// Longest connection id of QUIC version 1 (RFC 9000, section 17.2).
const CID_BYTES_MAX: u8 = 20;
/// Source prefixes remembered at most; each costs about 100 bytes of kernel memory.
const SOURCES_MAX: u32 = 1 << 22;

/// A filter's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// UDP port of the STOQ endpoint.
    pub port: u16,
    /// Address of the endpoint; `None` takes packets to the port at every address, which suits an
    /// endpoint bound to `[::]`.
    pub address: Option<Ipv6Addr>,
    /// Length of the prefix that counts as one source, bits.
    pub source_prefix_bits: u8,
    /// Sources remembered at most; beyond, the one silent for longest is forgotten.
    pub sources_max: u32,
    /// Length of the connection ids that the endpoint gives out, bytes.
    pub cid_bytes: u8,
    /// AF_XDP sockets on each queue, one a thread of the endpoint.
    pub net_threads: u32,
    /// Byte of the destination connection id that, modulo `net_threads`, names the thread.
    pub steer_byte: u32,
    /// Whether anybody outside the allow list may enter.
    pub clients: bool,
    /// Budgets.
    pub limits: Limits,
    /// Of every cause the first dropped packet and then one in so many is kept for diagnosis; a
    /// power of two.
    pub sample_every: u32,
    /// Who attaches it.
    pub owner: Owner,
}

impl FilterConfig {
    /// The defaults for an endpoint on `port`, any address.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self {
            port,
            address: None,
            source_prefix_bits: 64,
            sources_max: 65536,
            cid_bytes: 8,
            net_threads: 1,
            steer_byte: 0,
            clients: true,
            limits: Limits::default(),
            sample_every: 1024,
            owner: Owner::Operator,
        }
    }

    pub(crate) fn check(&self) -> Result<(), FilterError> {
        let refuse = |what: &'static str| Err(FilterError::Config(what));
        if self.port == 0 {
            return refuse("the port is 0; give the UDP port of the endpoint");
        }
        if self.source_prefix_bits == 0 || self.source_prefix_bits > 128 {
            return refuse("the source prefix must have 1 to 128 bits");
        }
        if self.sources_max == 0 || self.sources_max > SOURCES_MAX {
            return refuse("the number of sources must be 1 to 4194304");
        }
        if self.cid_bytes == 0 || self.cid_bytes > CID_BYTES_MAX {
            return refuse("connection ids have 1 to 20 bytes");
        }
        if self.net_threads == 0 || self.net_threads > XSK_MAX {
            return refuse("the number of threads must be 1 to 1024");
        }
        if !self.sample_every.is_power_of_two() {
            return refuse("the sampling interval must be a power of two");
        }
        self.limits.check()
    }

    pub(crate) fn settings(&self, mode: Mode) -> Settings {
        let mask = u128::MAX << (128 - u32::from(self.source_prefix_bits));
        let address = self.address.filter(|address| !address.is_unspecified());
        let mut flags = 0;
        if address.is_some() {
            flags |= FLAG_ADDRESS;
        }
        if !self.clients {
            flags |= FLAG_CLOSED;
        }
        let mut settings = Settings {
            prefix_mask: mask.to_be_bytes(),
            address: address.map_or([0; 16], |address| address.octets()),
            flags,
            sample_mask: self.sample_every - 1,
            net_threads: self.net_threads,
            steer_byte: self.steer_byte,
            port: self.port.to_be_bytes(),
            cid_bytes: self.cid_bytes.into(),
            abi: ABI_VERSION,
            mode: mode.to_raw(),
            owner: self.owner.to_raw(),
            ..Settings::default()
        };
        self.limits.store(&mut settings);
        settings
    }
}

/// Who attached a filter, or asked for an entry of the allow list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A person, by `falconet xdp`.
    Operator,
    /// A running node.
    Node,
}

impl Owner {
    pub(crate) fn to_raw(self) -> u32 {
        match self {
            Owner::Operator => 1,
            Owner::Node => 2,
        }
    }

    pub(crate) fn from_raw(raw: u32) -> Self {
        if raw == Owner::Node.to_raw() {
            Owner::Node
        } else {
            Owner::Operator
        }
    }
}

/// How much may come. Where a class lacks a limit its packets pass freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Each source prefix outside the allow list.
    pub client: Budgets,
    /// All sources outside the allow list together, on each core that receives packets.
    pub clients: Budgets,
    /// Each address of the allow list. Addresses can be forged, so that even these have limits.
    pub validator: Budgets,
}

/// Budgets of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Packets that may start a connection (Initial, 0-RTT): each may cost a handshake.
    pub initials: Rate,
    /// All other packets.
    pub packets: Rate,
}

/// A rate and what may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Packets a second in the long run; 0 is no limit.
    pub per_s: u64,
    /// Packets at once, at least 1.
    pub burst: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate { per_s: 0, burst: 1 };

    /// `per_s` packets a second, `burst` at once.
    #[must_use]
    pub const fn new(per_s: u64, burst: u64) -> Self {
        Self { per_s, burst }
    }

    fn to_raw(self) -> Budget {
        if self.per_s == 0 {
            return Budget::default();
        }
        let cost_ns = NS_PER_S / self.per_s;
        Budget {
            cost_ns,
            burst_ns: cost_ns * self.burst,
        }
    }

    fn from_raw(raw: Budget) -> Self {
        if raw.cost_ns == 0 {
            return Rate::UNLIMITED;
        }
        Self {
            per_s: NS_PER_S / raw.cost_ns,
            burst: raw.burst_ns / raw.cost_ns,
        }
    }

    fn check(self) -> Result<(), FilterError> {
        // Above, a packet would cost less than 10 ns and the rounding would show.
        if self.per_s > NS_PER_S / 10 {
            return Err(FilterError::Config(
                "a rate may be at most 100000000 packets a second; 0 is no limit",
            ));
        }
        if self.burst == 0 || self.burst > 1 << 30 {
            return Err(FilterError::Config(
                "a burst must be 1 to 1073741824 packets",
            ));
        }
        Ok(())
    }
}

impl Budgets {
    /// No limits.
    pub const UNLIMITED: Budgets = Budgets {
        initials: Rate::UNLIMITED,
        packets: Rate::UNLIMITED,
    };

    fn to_raw(self) -> RawBudgets {
        RawBudgets {
            initials: self.initials.to_raw(),
            packets: self.packets.to_raw(),
        }
    }

    fn from_raw(raw: RawBudgets) -> Self {
        Self {
            initials: Rate::from_raw(raw.initials),
            packets: Rate::from_raw(raw.packets),
        }
    }
}

impl Limits {
    /// No limits.
    pub const UNLIMITED: Limits = Limits {
        client: Budgets::UNLIMITED,
        clients: Budgets::UNLIMITED,
        validator: Budgets::UNLIMITED,
    };

    pub(crate) fn check(&self) -> Result<(), FilterError> {
        for budgets in [self.client, self.clients, self.validator] {
            budgets.initials.check()?;
            budgets.packets.check()?;
        }
        Ok(())
    }

    pub(crate) fn store(&self, settings: &mut Settings) {
        settings.client = self.client.to_raw();
        settings.clients = self.clients.to_raw();
        settings.validator = self.validator.to_raw();
    }

    pub(crate) fn from_settings(settings: &Settings) -> Self {
        Self {
            client: Budgets::from_raw(settings.client),
            clients: Budgets::from_raw(settings.clients),
            validator: Budgets::from_raw(settings.validator),
        }
    }
}

impl Default for Limits {
    /// A client that fills 1 Gbit/s with small packets stays below; a handshake costs the node
    /// about a millisecond of one core, so that all clients together cannot take more than that
    /// core and validators still find theirs.
    fn default() -> Self {
        Self {
            client: Budgets {
                initials: Rate::new(50, 100),
                packets: Rate::new(200_000, 50_000),
            },
            clients: Budgets {
                initials: Rate::new(2_000, 2_000),
                packets: Rate::new(1_000_000, 250_000),
            },
            validator: Budgets {
                initials: Rate::new(200, 400),
                packets: Rate::new(2_000_000, 500_000),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_way_to_the_kernel_and_back() {
        for limits in [Limits::default(), Limits::UNLIMITED] {
            let mut settings = Settings::default();
            limits.store(&mut settings);
            assert_eq!(Limits::from_settings(&settings), limits);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = FilterConfig::new(26600);
        good.check().unwrap();
        let mut bad = good.clone();
        bad.source_prefix_bits = 129;
        assert!(bad.check().is_err());
        let mut bad = good.clone();
        bad.sample_every = 1000;
        assert!(bad.check().is_err());
        let mut bad = good;
        bad.limits.client.packets.burst = 0;
        assert!(bad.check().is_err());
    }
}
