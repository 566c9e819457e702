//! Whose directory it is, and who has it.

use std::os::unix::fs::PermissionsExt;

use falconet_types::Digest;

use super::{CHAIN, Chain, KEY, config, open};
use crate::{Store, StoreConfig, StoreError};

#[test]
fn the_directory_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    drop(open(&data));
    let mode = |name: &str| {
        std::fs::metadata(data.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("."), 0o700);
    assert_eq!(mode("log"), 0o700);
    assert_eq!(mode("META"), 0o600);
    assert_eq!(mode("log/0000000001.seg"), 0o600);
}

#[test]
fn a_directory_of_another_chain_or_key_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    Chain::new(100).next().write(&mut store);
    drop(store);
    let listing = || {
        let mut files: Vec<_> = ["META", "LOCK", "log/0000000001.seg", "state.redb"]
            .map(|name| std::fs::read(dir.path().join(name)).unwrap())
            .into();
        let count = std::fs::read_dir(dir.path()).unwrap().count();
        files.push(vec![count as u8]);
        files
    };
    let before = listing();
    let other = StoreConfig {
        chain_id: Digest([9; 32]),
        ..config()
    };
    let error = Store::open(dir.path(), &other).unwrap_err();
    assert!(
        matches!(&error, StoreError::OtherChain { found, expected, .. }
        if *found == CHAIN && *expected == other.chain_id)
    );
    let text = error.to_string();
    for part in [
        &dir.path().display().to_string(),
        &CHAIN.to_string(),
        &other.chain_id.to_string(),
    ] {
        assert!(text.contains(part.as_str()), "{text}");
    }
    let other = StoreConfig {
        key_id: Digest([9; 32]),
        ..config()
    };
    let error = Store::open(dir.path(), &other).unwrap_err();
    assert!(
        matches!(error, StoreError::OtherKey { found: KEY, .. }),
        "{error}"
    );
    assert_eq!(listing(), before);
}

#[test]
fn a_directory_in_use_is_refused_until_every_part_of_the_store_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let error = Store::open(dir.path(), &config()).unwrap_err();
    assert!(error.to_string().contains("is in use"), "{error}");
    let reader = store.reader.clone();
    drop(store);
    assert!(matches!(
        Store::open(dir.path(), &config()),
        Err(StoreError::InUse(_))
    ));
    drop(reader);
    drop(open(dir.path()));
}

#[test]
fn a_damaged_or_missing_meta_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    Chain::new(100).next().write(&mut store);
    drop(store);
    let meta = dir.path().join("META");
    let good = std::fs::read(&meta).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&meta, &bad).unwrap();
        let error = Store::open(dir.path(), &config()).unwrap_err();
        let expected = matches!(
            error,
            StoreError::Corrupt { .. } | StoreError::Version { .. }
        );
        assert!(expected, "byte {at}: {error}");
    }
    std::fs::remove_file(&meta).unwrap();
    assert!(matches!(
        Store::open(dir.path(), &config()),
        Err(StoreError::Corrupt { .. })
    ));
    // Not even when the state is gone as well: the log has records.
    std::fs::remove_file(dir.path().join("state.redb")).unwrap();
    assert!(matches!(
        Store::open(dir.path(), &config()),
        Err(StoreError::Corrupt { .. })
    ));
}

#[test]
fn a_creation_that_a_crash_interrupted_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::remove_file(dir.path().join("META")).unwrap();
    std::fs::remove_file(dir.path().join("state.redb")).unwrap();
    std::fs::write(dir.path().join("log/0000000002.tmp"), b"half").unwrap();
    let (store, recovered) = open(dir.path());
    assert!(recovered.fresh);
    assert!(!dir.path().join("log/0000000002.tmp").exists());
    drop(store);
}
