//! The filter before the network stack, as far as the validator looks after it: the other
//! validators are in its allow list, where they are said to be and where they connect from, and
//! prefixes that [`crate::peers::standing`] bans are blocked until their bans end.
//!
//! The filter is pinned: when the validator crashes it stays as it is, so that a flood cannot use
//! the time of a restart; the next start takes it over. A validator that stops in good order takes
//! its filter along, and of an operator's filter its entries. Without the rights or the kernel for
//! a filter the validator says why and runs without.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use falconet_dataplane::ConnId;
use falconet_ebpf::{Counters, Fate, Filter, FilterConfig, FilterError, Owner, Prefix};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::config::XdpSection;
use crate::peers::standing::PrefixBan;

/// A validator's hold on its filter.
pub struct Guard {
    filter: Filter,
    pins: PathBuf,
    /// Whether the filter is this validator's own and goes with it.
    own: bool,
    validators: Mutex<Validators>,
}

/// Whose packets get a validator's budget.
#[derive(Default)]
struct Validators {
    /// Where the validators of the set are said to be.
    known: Vec<Ipv6Addr>,
    /// From where they are connected, which their keys proved; the endpoint bounds their number.
    connected: HashMap<ConnId, Ipv6Addr>,
    /// What the allow list holds.
    entered: BTreeSet<Ipv6Addr>,
}

/// What a validator's filter is and did, as `GET /v1/live` answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterStatus {
    /// The network device.
    pub device: String,
    /// Where it is attached: native XDP, generic XDP or tc.
    pub mode: String,
    /// Whether it filters: false when its device has gone, or its tables cannot be read.
    pub attached: bool,
    /// Packets that went on to the network stack, since it was attached.
    pub passed: u64,
    /// Packets that went to an AF_XDP socket.
    pub redirected: u64,
    /// Packets that ended there.
    pub dropped: u64,
    /// Packets by cause; every cause is there. `docs/xdp.md` says what each means.
    pub causes: BTreeMap<String, u64>,
}

impl FilterStatus {
    fn new(device: &str, mode: String, attached: bool, counters: &Counters) -> Self {
        Self {
            device: device.into(),
            mode,
            attached,
            passed: counters.total(Fate::Pass),
            redirected: counters.total(Fate::Redirect),
            dropped: counters.total(Fate::Drop),
            causes: counters
                .iter()
                .map(|(cause, packets)| (cause.name().into(), packets))
                .collect(),
        }
    }
}

impl Guard {
    /// Attaches or takes over the filter; `None`, with a warning that says why, when there is none
    /// to be had.
    #[must_use]
    pub fn start(
        section: &XdpSection,
        listen: SocketAddrV6,
        validators: Vec<Ipv6Addr>,
    ) -> Option<Self> {
        match Self::try_start(section, listen, validators) {
            Ok(guard) => {
                tracing::info!(
                    device = guard.filter.device(),
                    attached = %guard.filter.attachment(),
                    own = guard.own,
                    "filter"
                );
                Some(guard)
            }
            Err(error) => {
                tracing::warn!(device = section.device, %error, "running without a filter");
                None
            }
        }
    }

    fn try_start(
        section: &XdpSection,
        listen: SocketAddrV6,
        validators: Vec<Ipv6Addr>,
    ) -> Result<Self, FilterError> {
        let config = FilterConfig {
            address: Some(*listen.ip()),
            limits: section.limits,
            owner: Owner::Node,
            ..FilterConfig::new(listen.port())
        };
        let (filter, own) = match Filter::open(&section.pins, &section.device) {
            Ok(filter) => {
                let status = filter.status()?;
                if status.owner == Owner::Node && !status.alive {
                    // What a crash left on a device that has gone since.
                    filter.detach()?;
                    (Self::attach(section, &config)?, true)
                } else if status.owner == Owner::Node {
                    filter.configure(&config)?;
                    (filter, true)
                } else {
                    (filter, false)
                }
            }
            Err(FilterError::NotAttached { .. }) => (Self::attach(section, &config)?, true),
            Err(error) => return Err(error),
        };
        let guard = Self {
            filter,
            pins: section.pins.clone(),
            own,
            validators: Mutex::default(),
        };
        // Also takes out what a crash left there.
        guard.filter.allow_exactly(&validators, Owner::Node)?;
        guard.validators.lock().entered = validators.iter().copied().collect();
        guard.validators.lock().known = validators;
        Ok(guard)
    }

    fn attach(section: &XdpSection, config: &FilterConfig) -> Result<Filter, FilterError> {
        Filter::attach(&section.device, config, section.mode, Some(&section.pins))
    }

    /// The validator set, or where its validators are, changed: `addresses` are those of all of
    /// them now. To be called at each change; without one it does nothing.
    pub fn set_validators(&self, addresses: Vec<Ipv6Addr>) {
        let mut validators = self.validators.lock();
        validators.known = addresses;
        self.enter(&mut validators);
    }

    /// A validator of the set connected and proved its key. It may be elsewhere than was said: it
    /// has a validator's budget there too, as long as it is connected.
    pub fn validator_up(&self, conn: ConnId, address: Ipv6Addr) {
        let mut validators = self.validators.lock();
        validators.connected.insert(conn, address);
        self.enter(&mut validators);
    }

    /// Makes the allow list what it should be, when that changed.
    fn enter(&self, validators: &mut Validators) {
        let wanted = validators.wanted();
        if wanted == validators.entered {
            return;
        }
        let list: Vec<Ipv6Addr> = wanted.iter().copied().collect();
        match self.filter.allow_exactly(&list, Owner::Node) {
            Ok(()) => {
                tracing::info!(addresses = list.len(), "allow list of the filter changed");
                validators.entered = wanted;
            }
            // Tried again at the next change; meanwhile those left out have a client's budget.
            Err(error) => tracing::warn!(%error, "cannot change the allow list of the filter"),
        }
    }

    /// A connection ended; that of a validator takes its budget along.
    pub fn down(&self, conn: ConnId) {
        let mut validators = self.validators.lock();
        if validators.connected.remove(&conn).is_some() {
            self.enter(&mut validators);
        }
    }

    /// Keeps a banned prefix away from the network stack until its ban ends, unless a validator
    /// lives there.
    pub fn block(&self, ban: PrefixBan) {
        let PrefixBan { prefix, time_us } = ban;
        if self.holds_a_validator(prefix) {
            return;
        }
        let time = Duration::from_micros(time_us);
        match self.filter.block(prefix, Some(time)) {
            Ok(()) => tracing::info!(%prefix, time_s = time.as_secs(), "blocked"),
            Err(error) => tracing::warn!(%prefix, %error, "cannot block"),
        }
    }

    /// What it counted, and whether it filters. `None` when its tables cannot be read.
    #[must_use]
    pub fn counters(&self) -> Option<Counters> {
        // Who may not ask for the link hears of a missing device from the network itself.
        let alive = self.filter.status().map_or(true, |status| status.alive);
        self.filter.counters().ok().filter(|_| alive)
    }

    /// The same for people and scripts.
    #[must_use]
    pub fn status(&self) -> FilterStatus {
        let counters = self.counters();
        FilterStatus::new(
            self.filter.device(),
            self.filter.attachment().mode.to_string(),
            counters.is_some(),
            &counters.unwrap_or_default(),
        )
    }

    fn holds_a_validator(&self, prefix: Prefix) -> bool {
        let validators = self.validators.lock();
        validators
            .wanted()
            .iter()
            .any(|address| prefix.covers(&Prefix::new(*address, 128)))
    }
}

impl Drop for Guard {
    /// Takes the filter along, or the validator's entries out of an operator's.
    fn drop(&mut self) {
        let result = if self.own {
            Filter::remove(&self.pins, self.filter.device())
        } else {
            self.filter.allow_exactly(&[], Owner::Node)
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the filter stays behind");
        }
    }
}

impl Validators {
    /// Addresses that belong into the allow list.
    fn wanted(&self) -> BTreeSet<Ipv6Addr> {
        let connected = self.connected.values();
        self.known.iter().chain(connected).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_reported_from_the_start() {
        let status = FilterStatus::new("eth0", "native XDP".into(), true, &Counters::default());
        assert_eq!(status.causes.len(), falconet_ebpf::CAUSES);
        assert_eq!(
            (status.passed, status.redirected, status.dropped),
            (0, 0, 0)
        );
    }
}
