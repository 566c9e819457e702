//! What execution knows of the end of an epoch.

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

/// What the next epoch is made of, once `last`, the last block of the current one, is the last
/// executed block. `None` where the state that it names is not known well enough any more: peers
/// have the proof.
pub fn ending<C: Chronicle>(
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
            // Blocks above the state that is named may have changed the registry.
            let noted = log.registry_root_at(named)?;
            let registry = noted.unwrap_or_else(|| application.registry_root());
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
