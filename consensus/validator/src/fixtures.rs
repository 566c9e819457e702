//! What tests begin with.

use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::{AccountId, KeyPair};

/// Genesis of a ledger with one validator, and with these accounts and what they have.
pub fn alone(validator: &KeyPair, accounts: impl IntoIterator<Item = (AccountId, u64)>) -> Genesis {
    let accounts = accounts.into_iter().map(|(id, balance)| GenesisAccount {
        id,
        balance,
        key: None,
    });
    Genesis {
        name: "test".into(),
        time_ms: 1_000,
        application: ApplicationKind::Ledger,
        params: Params::default(),
        validators: vec![GenesisValidator {
            name: "v".into(),
            key: validator.public().clone(),
            weight: 1,
            owner: None,
            address: None,
        }],
        stake: StakeParams::default(),
        accounts: accounts.collect(),
    }
}
