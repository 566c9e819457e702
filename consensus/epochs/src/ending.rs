//! What execution knows of the end of an epoch.

use std::collections::BTreeMap;

use falconet_ledger::Application;
use falconet_types::block::SignedHeader;
use falconet_types::validators::{Member, members_digest, validators_root};
use falconet_types::{Digest, Height};

use crate::chronicle::Chronicle;

/// What execution knows of the end of an epoch once its last block is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Height of the epoch's last block.
    pub height: Height,
    /// Accounts root at the height that the last block names.
    pub accounts: Digest,
    /// Results digest at that height.
    pub results: Digest,
    /// The next validators and the root of the registry at that height.
    pub next: Option<(Vec<Member>, Digest)>,
}

/// Remembers, while blocks execute, what an [`Ending`] needs.
#[derive(Debug, Default)]
pub struct EndWatch {
    /// Registry roots at the heights from the end of the epoch that is under way.
    registry_roots: BTreeMap<Height, Digest>,
}

impl EndWatch {
    /// Begins with a state that was restored from the disk; `past_end` says of its block what it says
    /// in [`EndWatch::executed`]. Blocks above it may change the registry before one of them names it.
    #[must_use]
    pub fn starting(application: &dyn Application, past_end: bool) -> Self {
        let mut watch = Self::default();
        watch.executed(application, past_end);
        watch
    }

    /// A block was executed by `application`; `past_end` for the one at the last height of its
    /// epoch and those above it ([`crate::Timeline::is_past_end`]).
    pub fn executed(&mut self, application: &dyn Application, past_end: bool) {
        if past_end {
            let root = application.registry_root();
            self.registry_roots.insert(application.height(), root);
        } else {
            self.registry_roots.clear();
        }
    }

    /// What the next epoch is made of, once `last`, the last block of the current one, is the last
    /// executed block. `None` where the state that it names is not known well enough any more:
    /// peers have the proof.
    pub fn ending<C: Chronicle>(
        &self,
        application: &dyn Application,
        log: &C,
        last: &SignedHeader,
    ) -> Result<Option<Ending>, C::Error> {
        assert_eq!(last.height, application.height(), "it is executed");
        let named = last.executed.height;
        let Some(roots) = log.roots_at(named)? else {
            return Ok(None);
        };
        let next = match application.next_validators() {
            None => None,
            Some(members) => {
                // The registry may have changed between the state that is named and the present
                // one, but only at a checkpoint; then it must have been noted on the way.
                let known = self.registry_roots.get(&named).copied();
                let registry = known.unwrap_or_else(|| application.registry_root());
                let digest = members_digest(last.epoch.next(), &members);
                if validators_root(digest, registry) != roots.validators {
                    return Ok(None);
                }
                Some((members, registry))
            }
        };
        Ok(Some(Ending {
            height: last.height,
            accounts: roots.accounts,
            results: roots.results,
            next,
        }))
    }
}

#[cfg(test)]
mod tests {
    use falconet_ledger::Ledger;

    use super::*;
    use crate::fixtures::genesis;

    /// Found by the simulator: a validator alone, whose state became durable at the last height of the
    /// epoch, could not prove its end after a restart, and there was nobody to show it.
    #[test]
    fn the_state_that_a_node_starts_from_may_be_the_one_that_the_last_block_names() {
        let ledger = Ledger::from_genesis(&genesis(&[0]));
        let root = ledger.registry_root();
        let noted = |past_end| EndWatch::starting(&ledger, past_end).registry_roots;
        assert_eq!(noted(true).get(&ledger.height()), Some(&root));
        assert!(noted(false).is_empty());
    }
}
