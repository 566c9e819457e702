//! The genesis document: what it must fulfil, and that its identity covers every field.

use falconet_crypto::falcon::Scheme;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisError, GenesisValidator,
    HISTORY_HEIGHTS_FLOOR, NAME_LEN_MAX, PARAM_MS_MAX, Params, StakeParams,
};
use falconet_types::validators::{ValidatorSet, WEIGHT_MAX};

use crate::generate::{Gen, public_key};

type ParamChange = fn(&mut Params);
type Change = Box<dyn Fn(&mut Genesis)>;

/// A document with made-up keys, the same in every run.
pub fn example() -> Genesis {
    let mut g = Gen::new(77);
    let validators = (0..4u64).map(|n| GenesisValidator {
        name: format!("validator-{n}"),
        key: public_key(&mut g, Scheme::Falcon1024),
        weight: 10 + n,
        owner: None,
        address: None,
    });
    let validators = validators.collect();
    let mut accounts: Vec<GenesisAccount> = (0..4u64)
        .map(|n| {
            let key = public_key(&mut g, Scheme::Falcon512);
            GenesisAccount {
                id: key.id(),
                balance: 1000 * n,
                key: (n % 2 == 0).then_some(key),
            }
        })
        .collect();
    accounts.sort_by_key(|account| account.id);
    Genesis {
        name: "example".into(),
        time_ms: 1_700_000_000_000,
        application: ApplicationKind::Ledger,
        params: Params::default(),
        validators,
        stake: StakeParams::default(),
        accounts,
    }
}

/// The message with which the changed document is refused.
fn refusal(change: impl FnOnce(&mut Genesis)) -> String {
    let mut genesis = example();
    genesis.check().expect("the example is valid");
    change(&mut genesis);
    genesis
        .check()
        .expect_err("the change breaks a rule")
        .to_string()
}

#[test]
fn rules_on_accounts() {
    let text = refusal(|g| g.accounts.swap(0, 1));
    assert!(text.contains("is not above the one before it"), "{text}");
    let text = refusal(|g| g.accounts.insert(0, g.accounts[0].clone()));
    assert!(text.contains("is not above the one before it"), "{text}");
    let text = refusal(|g| g.accounts[0].balance = u64::MAX);
    assert!(text.contains("more than 2^64 - 1"), "{text}");
    let text = refusal(|g| {
        let with_key = g.accounts.iter().position(|a| a.key.is_some()).unwrap();
        g.accounts[with_key].id.0[31] ^= 1;
    });
    assert!(text.contains("is not the id of its key"), "{text}");
    let text = refusal(|g| g.application = ApplicationKind::Opaque);
    assert!(
        text.contains("opaque application has no accounts"),
        "{text}"
    );
}

#[test]
fn rules_on_validators() {
    let text = refusal(|g| g.validators.clear());
    assert!(text.contains("0 validators"), "{text}");
    let text = refusal(|g| g.validators[1].weight = 0);
    assert!(text.contains("validator 1 has weight 0"), "{text}");
    let text = refusal(|g| g.validators[1].weight = WEIGHT_MAX + 1);
    assert!(text.contains("validator 1 has weight"), "{text}");
    let text = refusal(|g| g.validators[3].key = g.validators[1].key.clone());
    assert!(
        text.contains("validators 1 and 3 have the same key"),
        "{text}"
    );
    let text = refusal(|g| g.validators[3].name = "validator-1".into());
    assert!(
        text.contains("validators 1 and 3 are both called \"validator-1\""),
        "{text}"
    );
    for name in ["", "two words", "a=b", &"x".repeat(NAME_LEN_MAX + 1)] {
        let text = refusal(|g| g.validators[2].name = name.into());
        assert!(text.contains("name of validator 2"), "{text}");
    }
    let text = refusal(|g| {
        let mut keys = Gen::new(5);
        g.validators = (0..257)
            .map(|n| GenesisValidator {
                name: format!("v{n}"),
                key: public_key(&mut keys, Scheme::Falcon512),
                weight: 1,
                owner: None,
                address: None,
            })
            .collect();
    });
    assert!(text.contains("257 validators"), "{text}");
}

#[test]
fn rules_on_stake() {
    let text = refusal(|g| g.stake.unit = 0);
    assert!(text.contains("stake.unit"), "{text}");
    let text = refusal(|g| g.stake.bond_min = g.stake.unit - 1);
    assert!(text.contains("stake.bond_min"), "{text}");
    let text = refusal(|g| g.stake.slash_basis_points = 10_001);
    assert!(text.contains("stake.slash_basis_points"), "{text}");
    let text = refusal(|g| g.stake.evidence_window_epochs = 65);
    assert!(text.contains("stake.evidence_window_epochs"), "{text}");
    let text = refusal(|g| g.stake.unbonding_epochs = g.stake.evidence_window_epochs);
    assert!(text.contains("stake.unbonding_epochs"), "{text}");
    let text = refusal(|g| g.stake.unit = u64::MAX / 10);
    assert!(text.contains("stake add up to more"), "{text}");
    let text = refusal(|g| g.params.epoch_heights = 15);
    assert!(text.contains("epoch_heights"), "{text}");
    let text = refusal(|g| g.validators[0].address = Some("[fe80::1%3]:9".parse().unwrap()));
    assert!(text.contains("address of validator 0"), "{text}");
}

#[test]
fn rules_on_parameters() {
    let cases: [(ParamChange, &str); 13] = [
        (|p| p.round_timeout_ms = 0, "round_timeout_ms"),
        (
            |p| p.round_timeout_ms_max = p.round_timeout_ms - 1,
            "round_timeout_ms_max",
        ),
        (
            |p| p.round_timeout_ms_max = PARAM_MS_MAX + 1,
            "round_timeout_ms_max must be at most",
        ),
        (
            |p| p.block_interval_ms_idle = p.round_timeout_ms / 2 + 1,
            "block_interval_ms_idle",
        ),
        (
            |p| p.block_interval_ms_min = p.block_interval_ms_idle + 1,
            "block_interval_ms_min",
        ),
        (|p| p.clock_drift_ms_max = u64::MAX, "clock_drift_ms_max"),
        (|p| p.batch_bytes_target = 0, "batch_bytes_target"),
        (
            |p| p.batch_bytes_target = (1 << 20) + 1,
            "batch_bytes_target must be at most",
        ),
        (|p| p.batch_interval_ms = u64::MAX, "batch_interval_ms"),
        (|p| p.block_bytes_max = (1 << 20) - 1, "block_bytes_max"),
        (|p| p.block_bytes_max = u64::MAX, "block_bytes_max"),
        (
            |p| p.lane_backlog_bytes_max = (2 << 20) - 1,
            "lane_backlog_bytes_max",
        ),
        (|p| p.history_heights_min = u64::MAX, "history_heights_min"),
    ];
    for (change, name) in cases {
        let text = refusal(|g| change(&mut g.params));
        assert!(text.contains(name), "{name}: {text}");
    }
    let text = refusal(|g| g.time_ms = u64::MAX);
    assert!(text.contains("time_ms"), "{text}");
    for name in ["", "line\nbreak", &"x".repeat(NAME_LEN_MAX + 1)] {
        let text = refusal(|g| g.name = name.into());
        assert!(text.contains("name must have"), "{text}");
    }
}

#[test]
fn a_document_survives_its_json() {
    let genesis = example();
    let json = serde_json::to_string_pretty(&genesis).unwrap();
    let again: Genesis = serde_json::from_str(&json).unwrap();
    assert_eq!(again, genesis);
    assert_eq!(again.chain_id(), genesis.chain_id());
}

#[test]
fn files_are_refused_by_name_and_reason() {
    let dir = std::env::temp_dir().join(format!("falconet-genesis-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("genesis.json");
    let load = |text: Option<&str>| {
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => drop(std::fs::remove_file(&path)),
        }
        Genesis::load(&path)
    };
    let json = serde_json::to_string(&example()).unwrap();
    assert_eq!(load(Some(&json)).unwrap(), example());

    let missing = load(None).unwrap_err();
    assert!(matches!(missing, GenesisError::Read { .. }));
    assert!(missing.to_string().contains("genesis.json"), "{missing}");

    // Wherever an unknown key stands, the message names it.
    for (after, key) in [
        ("{", "surprise"),
        ("\"params\":{", "round_timeout_seconds"),
        ("\"validators\":[{", "stake"),
        ("\"accounts\":[{", "nonce"),
    ] {
        let text = json.replacen(after, &format!("{after}\"{key}\":1,"), 1);
        let error = load(Some(&text)).unwrap_err().to_string();
        assert!(error.contains(&format!("unknown field `{key}`")), "{error}");
    }
    let bad_key = json.replacen("falcon1024:", "falcon1024:!", 1);
    let error = load(Some(&bad_key)).unwrap_err().to_string();
    assert!(
        error.contains("falcon1024:Cg"),
        "says how a key is written: {error}"
    );
    let truncated = load(Some(&json[..json.len() / 2])).unwrap_err();
    assert!(matches!(truncated, GenesisError::Parse { .. }));
    let rule = load(Some(&json.replacen("\"weight\":10", "\"weight\":0", 1))).unwrap_err();
    assert!(rule.to_string().contains("weight 0"), "{rule}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_chain_id_covers_every_field() {
    let base = example();
    let mut g = Gen::new(99);
    let other_key = public_key(&mut g, Scheme::Falcon1024);
    let changes: Vec<Change> = vec![
        Box::new(|_| ()),
        Box::new(|g| g.name.push('x')),
        Box::new(|g| g.time_ms += 1),
        Box::new(|g| g.application = ApplicationKind::Opaque),
        Box::new(|g| g.params.round_timeout_ms += 1),
        Box::new(|g| g.params.round_timeout_ms_max += 1),
        Box::new(|g| g.params.block_interval_ms_min += 1),
        Box::new(|g| g.params.block_interval_ms_idle += 1),
        Box::new(|g| g.params.clock_drift_ms_max += 1),
        Box::new(|g| g.params.batch_bytes_target += 1),
        Box::new(|g| g.params.batch_interval_ms += 1),
        Box::new(|g| g.params.block_bytes_max += 1),
        Box::new(|g| g.params.lane_backlog_bytes_max += 1),
        Box::new(|g| g.params.history_heights_min += 1),
        Box::new(|g| g.params.fee_min += 1),
        Box::new(|g| g.params.epoch_heights += 100),
        Box::new(|g| g.params.optimistic_proposals ^= true),
        Box::new(|g| g.params.commit_votes ^= true),
        Box::new(|g| g.params.leader_reputation ^= true),
        Box::new(|g| g.stake.unit += 1),
        Box::new(|g| g.stake.bond_min += 1),
        Box::new(|g| g.stake.slash_basis_points += 1),
        Box::new(|g| g.stake.evidence_window_epochs += 1),
        Box::new(|g| g.stake.unbonding_epochs += 1),
        Box::new(|g| g.validators[0].owner = Some(g.validators[1].key.id())),
        Box::new(|g| g.validators[0].address = Some("[::1]:1".parse().unwrap())),
        Box::new(|g| g.validators[0].name.push('x')),
        Box::new(move |g| g.validators[0].key = other_key.clone()),
        Box::new(|g| g.validators[0].weight += 1),
        Box::new(|g| g.validators.swap(0, 1)),
        Box::new(|g| drop(g.validators.pop())),
        Box::new(|g| g.accounts[0].id.0[0] ^= 1),
        Box::new(|g| g.accounts[0].balance += 1),
        Box::new(|g| {
            let with_key = g.accounts.iter().position(|a| a.key.is_some()).unwrap();
            g.accounts[with_key].key = None;
        }),
        Box::new(|g| drop(g.accounts.pop())),
    ];
    let mut ids: Vec<_> = changes
        .iter()
        .map(|change| {
            let mut genesis = base.clone();
            change(&mut genesis);
            genesis.chain_id()
        })
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(
        ids.len(),
        changes.len(),
        "two different documents have one chain id"
    );

    // A new parameter must be added to the identity, to the test above and to the file format.
    let fields = |value: serde_json::Value| value.as_object().unwrap().len();
    let params = fields(serde_json::to_value(&base.params).unwrap());
    let stake = fields(serde_json::to_value(&base.stake).unwrap());
    assert_eq!(
        (params, stake),
        (15, 5),
        "parameters that this test changes"
    );
}

#[test]
fn names_cannot_be_moved_between_fields() {
    let mut a = example();
    let mut b = example();
    (a.validators[0].name, a.name) = ("v".into(), "ab".into());
    (b.validators[0].name, b.name) = ("bv".into(), "a".into());
    assert_ne!(a.chain_id(), b.chain_id());
}

#[test]
fn the_order_of_leaders_depends_on_the_chain() {
    let genesis = example();
    let members: Vec<_> = genesis
        .validators
        .iter()
        .map(|v| (v.key.clone(), v.weight))
        .collect();
    let order = |byte| {
        let chain = falconet_types::Digest([byte; 32]);
        let set = ValidatorSet::new(chain, falconet_types::Epoch(0), &members).unwrap();
        (0..4)
            .map(|r| set.leader(falconet_types::Round(r)))
            .collect::<Vec<_>>()
    };
    assert!((1..20).any(|byte| order(byte) != order(0)));
}

#[test]
fn parameters_are_set_by_name() {
    let params = Params::default();
    assert!(params.changes().is_empty());
    let params = params.with("epoch_heights=64").unwrap();
    let params = params.with("optimistic_proposals=true").unwrap();
    assert_eq!(params.epoch_heights, 64);
    assert!(params.optimistic_proposals);
    assert_eq!(
        params.changes(),
        ["epoch_heights=64", "optimistic_proposals=true"]
    );
    for (wrong, says) in [
        ("epoch_heights", "NAME=VALUE"),
        ("epochs=1", "epoch_heights"),
        ("fee_min=-1", "fee_min"),
        ("optimistic_proposals=1", "optimistic_proposals"),
    ] {
        let error = params.with(wrong).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn history_is_never_shorter_than_what_decides_who_leads() {
    let least = Params {
        history_heights_min: 0,
        ..Params::default()
    };
    assert_eq!(least.history_heights_of(100), HISTORY_HEIGHTS_FLOOR);
    let reputation = Params {
        leader_reputation: true,
        ..least
    };
    assert_eq!(reputation.history_heights_of(4), HISTORY_HEIGHTS_FLOOR);
    assert_eq!(reputation.history_heights_of(100), 2_400);
}
