//! The packet filter at the door of each validator in a namespace, see [`Namespaces`].

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use falconet_ebpf::{Attach, Fate, Filter, FilterConfig, FilterError, Owner};

use super::{DEVICE, Namespaces};

/// Causes that a line about a filter names.
const CAUSES_SHOWN: usize = 6;

/// Filters that belong to this process: they end with it, whatever ends it.
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
    /// Attaches a filter to the device of every validator; the allow list holds the other
    /// validators, everybody else is a client.
    pub fn attach(namespaces: &Namespaces, how: Attach) -> Result<Self, FiltersError> {
        let listens = namespaces.listens();
        let mut filters = Vec::with_capacity(listens.len());
        for (index, (stoq, _)) in listens.iter().enumerate() {
            let config = FilterConfig {
                address: Some(*stoq.ip()),
                ..FilterConfig::new(stoq.port())
            };
            let others: Vec<Ipv6Addr> = listens
                .iter()
                .map(|(other, _)| *other.ip())
                .filter(|other| other != stoq.ip())
                .collect();
            let filter = namespaces
                .within(index, || Filter::attach(DEVICE, &config, how, None))
                .map_err(|source| FiltersError::Enter { index, source })?
                .and_then(|filter| {
                    filter.allow_exactly(&others, Owner::Operator)?;
                    Ok(filter)
                })
                .map_err(|source| FiltersError::Filter { index, source })?;
            filters.push(filter);
        }
        Ok(Self(filters))
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
            "{} packets passed, {} dropped",
            counters.total(Fate::Pass),
            counters.total(Fate::Drop)
        );
        for (cause, count) in dropped.iter().take(CAUSES_SHOWN) {
            let _ = write!(text, ", {cause} {count}");
        }
        Ok(text)
    }
}
