//! Directories of local networks: made, opened, moved, refused.

use super::*;
use crate::progress::silent;

fn spec() -> TestnetSpec {
    TestnetSpec {
        validators: 2,
        scheme: Scheme::Falcon512,
        accounts: 2,
        base_port: Some(30_000),
        ..TestnetSpec::new("test")
    }
}

#[test]
fn a_created_network_opens_again_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("net");
    let created = Testnet::create(&dir, &spec(), &silent).unwrap();
    let opened = Testnet::open(&dir).unwrap();
    assert_eq!(opened.manifest, created.manifest);
    assert_eq!(opened.chain_id(), created.chain_id());
    assert_eq!(
        opened.genesis().accounts.len(),
        3,
        "two for the load, one for people"
    );
    let accounts = opened.load_accounts(&silent).unwrap();
    for index in 0..accounts.len() {
        assert!(
            opened
                .genesis()
                .accounts
                .iter()
                .any(|a| a.id == accounts.id(index))
        );
    }
    for (validator, listed) in opened.validators().iter().zip(&opened.genesis().validators) {
        assert_eq!(keyfile::read(&validator.key).unwrap().public(), &listed.key);
        let config: toml::Table = fs::read_to_string(&validator.config)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(
            config["stoq"]["listen"].as_str(),
            Some(&*validator.stoq.to_string())
        );
        let peers = config["peers"].as_table().unwrap();
        assert!(peers.len() == 1 && !peers.contains_key(&validator.name));
    }
    let again = Testnet::create(&dir, &spec(), &silent).unwrap_err();
    assert!(matches!(again, TestnetError::NotEmpty(_)), "{again}");
}

#[test]
fn ports_move_and_stay_moved() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("net");
    let mut testnet = Testnet::create(&dir, &spec(), &silent).unwrap();
    testnet.assign_ports(Some(31_000)).unwrap();
    let validators = Testnet::open(&dir).unwrap().validators();
    assert_eq!(validators[1].stoq.port(), 31_001);
    let config = fs::read_to_string(&validators[0].config).unwrap();
    assert!(config.contains("validator-1 = \"[::1]:31001\""), "{config}");
    assert!(matches!(
        testnet.assign_ports(Some(65_500)),
        Err(TestnetError::Ports {
            base: 65_500,
            validators: 2
        })
    ));
}

#[test]
fn an_opaque_network_has_no_accounts() {
    let temp = tempfile::tempdir().unwrap();
    let spec = TestnetSpec {
        application: ApplicationKind::Opaque,
        ..spec()
    };
    let testnet = Testnet::create(temp.path(), &spec, &silent).unwrap();
    assert!(testnet.genesis().accounts.is_empty());
    assert!(!testnet.faucet_path().exists());
}

#[test]
fn what_is_no_network_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let error = Testnet::open(temp.path()).unwrap_err();
    assert!(matches!(error, TestnetError::Absent(_)), "{error}");
    fs::write(temp.path().join(MANIFEST), "{}").unwrap();
    let error = Testnet::open(temp.path()).unwrap_err();
    assert!(matches!(error, TestnetError::Manifest { .. }), "{error}");
    let none = TestnetSpec {
        validators: 0,
        ..spec()
    };
    let error = Testnet::create(&temp.path().join("x"), &none, &silent).unwrap_err();
    assert!(matches!(error, TestnetError::Validators(0)), "{error}");
    assert!(!temp.path().join("x").exists(), "nothing is changed");
}

#[test]
fn wiping_removes_data_and_keeps_keys() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("net");
    let testnet = Testnet::create(&dir, &spec(), &silent).unwrap();
    let first = &testnet.validators()[0];
    fs::create_dir(&first.data).unwrap();
    fs::write(first.data.join("log"), "x").unwrap();
    testnet.wipe_data().unwrap();
    assert!(!first.data.exists() && first.key.exists());
}
