//! What tests of this crate start from: keys by number, and a chain of theirs.

use falconet_types::genesis::{ApplicationKind, Genesis, GenesisValidator, Params, StakeParams};
use falconet_types::{KeyPair, Scheme};

pub fn key(number: u8) -> KeyPair {
    KeyPair::from_seed(Scheme::Falcon512, &[number; 32])
}

/// A ledger with the validators of these keys, of equal weight, and nobody else.
pub fn genesis(validators: &[u8]) -> Genesis {
    let validator = |number: &u8| GenesisValidator {
        name: format!("v{number}"),
        key: key(*number).public().clone(),
        weight: 1,
        owner: None,
        address: None,
    };
    Genesis {
        name: "test".into(),
        time_ms: 1_000,
        application: ApplicationKind::Ledger,
        params: Params::default(),
        validators: validators.iter().map(validator).collect(),
        stake: StakeParams::default(),
        accounts: Vec::new(),
    }
}
