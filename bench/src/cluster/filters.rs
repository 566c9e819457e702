//! The packet filter at the door of each validator in a namespace, see [`Namespaces`].

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::path::Path;

use falconet_ebpf::{
    Attach, Fate, Filter, FilterConfig, FilterError, Limits, Mode, Owner, PIN_ROOT, Prefix,
};

use super::Namespaces;

/// Causes that a line about a filter names.
const CAUSES_SHOWN: usize = 6;

/// Filters that end with this network, whatever ends it. Where they can be pinned the validators
/// find them, keep their allow lists and feed their AF_XDP sockets by them.
#[derive(Debug)]
pub struct Filters(Vec<Filter>);

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FiltersError {
    /// It cannot be attached or told whom to allow.
    #[error("validator {index}: {source}; to go without: --filter off")]
    Filter {
        /// The validator.
        index: usize,
        /// Why.
        source: FilterError,
    },
    /// Its namespace cannot be entered.
    #[error("validator {index}: setns: {source}")]
    Enter {
        /// The validator.
        index: usize,
        /// Why.
        source: std::io::Error,
    },
}

impl Filters {
    /// Attaches a filter with these budgets to the device of every validator. Everybody but the
    /// other validators is a client; where the filters are not pinned, they are entered here.
    pub fn attach(
        namespaces: &Namespaces,
        how: Attach,
        limits: Limits,
    ) -> Result<Self, FiltersError> {
        let listens = namespaces.listens();
        let pins = namespaces.can_pin().then_some(Path::new(PIN_ROOT));
        let mut filters = Vec::with_capacity(listens.len());
        for (index, (stoq, _)) in listens.iter().enumerate() {
            let config = FilterConfig {
                address: Some(*stoq.ip()),
                limits,
                ..FilterConfig::new(stoq.port())
            };
            let others: Vec<Ipv6Addr> = listens
                .iter()
                .map(|(other, _)| *other.ip())
                .filter(|other| other != stoq.ip())
                .collect();
            let device = namespaces.device(index);
            let filter = namespaces
                .within(index, || Filter::attach(&device, &config, how, pins))
                .map_err(|source| FiltersError::Enter { index, source })?
                .and_then(|filter| {
                    if pins.is_none() {
                        filter.allow_exactly(&others, Owner::Operator)?;
                    }
                    Ok(filter)
                })
                .map_err(|source| FiltersError::Filter { index, source })?;
            filters.push(filter);
        }
        Ok(Self(filters))
    }

    /// Drops at the door of a validator what comes from a prefix.
    pub fn block(&self, index: usize, prefix: Prefix) -> Result<(), FiltersError> {
        self.0[index]
            .block(prefix, None)
            .map_err(|source| FiltersError::Filter { index, source })
    }

    /// Whether they can feed AF_XDP sockets.
    #[must_use]
    pub fn are_xdp(&self) -> bool {
        self.0
            .iter()
            .all(|filter| filter.attachment().mode != Mode::Tc)
    }

    /// Where a validator's filter is attached.
    #[must_use]
    pub fn mode(&self, index: usize) -> String {
        self.0[index].attachment().to_string()
    }

    /// What a validator's filter passed and dropped, with the most frequent causes.
    pub fn counts(&self, index: usize) -> Result<String, FiltersError> {
        let counters = self.0[index]
            .counters()
            .map_err(|source| FiltersError::Filter { index, source })?;
        let mut dropped: Vec<_> = counters
            .iter()
            .filter(|(cause, count)| cause.fate() == Fate::Drop && *count > 0)
            .collect();
        dropped.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut text = format!(
            "{} packets passed, {} redirected to AF_XDP, {} dropped",
            counters.total(Fate::Pass),
            counters.total(Fate::Redirect),
            counters.total(Fate::Drop)
        );
        for (cause, count) in dropped.iter().take(CAUSES_SHOWN) {
            let _ = write!(text, ", {cause} {count}");
        }
        Ok(text)
    }
}
