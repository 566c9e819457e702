//! Certificates that this node has heard of and asks its peers for (certificate elision, rules
//! P4 and Y1). Bounded per peer; a wish is dropped after a few attempts and returns with the next
//! message that names the certificate.

use std::collections::BTreeMap;

use falconet_types::ValidatorIndex;
use falconet_types::message::CertRef;

use crate::limits::{PULL_ATTEMPTS_MAX, PULLS_PER_PEER_MAX};

#[derive(Debug, Clone)]
struct Pull {
    /// Who made the node want it; counts against that peer's share.
    because_of: ValidatorIndex,
    holders: Vec<ValidatorIndex>,
    attempts: u32,
    due_us: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulls {
    wanted: BTreeMap<CertRef, Pull>,
}

impl Pulls {
    /// Wants a certificate that `because_of` holds, first asked for at `due_us`; `others` are
    /// asked after it. False when that peer's share is used up.
    pub(crate) fn want(
        &mut self,
        cert: CertRef,
        because_of: ValidatorIndex,
        others: impl IntoIterator<Item = ValidatorIndex>,
        due_us: u64,
    ) -> bool {
        if let Some(pull) = self.wanted.get_mut(&cert) {
            for holder in [because_of].into_iter().chain(others) {
                if !pull.holders.contains(&holder) {
                    pull.holders.push(holder);
                }
            }
            if pull.attempts == 0 {
                pull.due_us = pull.due_us.min(due_us);
            }
            return true;
        }
        let share = self
            .wanted
            .values()
            .filter(|pull| pull.because_of == because_of)
            .count();
        if share >= PULLS_PER_PEER_MAX {
            return false;
        }
        let mut holders = vec![because_of];
        for other in others {
            if !holders.contains(&other) {
                holders.push(other);
            }
        }
        self.wanted.insert(
            cert,
            Pull {
                because_of,
                holders,
                attempts: 0,
                due_us,
            },
        );
        true
    }

    /// Drops what is no longer useful.
    pub(crate) fn retain(&mut self, useful: impl Fn(&CertRef) -> bool) {
        self.wanted.retain(|cert, _| useful(cert));
    }

    /// The requests that are due now.
    pub(crate) fn due(
        &mut self,
        now_us: u64,
        retry_us: u64,
        retry_us_max: u64,
    ) -> Vec<(ValidatorIndex, CertRef)> {
        let mut out = Vec::new();
        self.wanted.retain(|cert, pull| {
            if pull.due_us > now_us {
                return true;
            }
            let holders = u32::try_from(pull.holders.len()).expect("at most one a validator");
            if pull.attempts >= PULL_ATTEMPTS_MAX * holders {
                return false;
            }
            out.push((pull.holders[(pull.attempts % holders) as usize], *cert));
            let doubled = retry_us << (pull.attempts / holders).min(8);
            pull.due_us = now_us + doubled.min(retry_us_max.max(retry_us));
            pull.attempts += 1;
            true
        });
        out
    }

    pub(crate) fn next_due_us(&self) -> Option<u64> {
        self.wanted.values().map(|pull| pull.due_us).min()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.wanted.len()
    }
}
