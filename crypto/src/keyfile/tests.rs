//! What the file looks like, who may read it, and what is refused.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn pair() -> KeyPair {
    KeyPair::from_seed(Scheme::Falcon512, &[3; 32])
}

fn malformed(bytes: &[u8]) -> String {
    decode(bytes).expect_err("the content is refused")
}

#[test]
fn a_key_survives_the_round_trip() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for scheme in Scheme::ALL {
        let path = directory.path().join(scheme.to_string());
        let pair = KeyPair::from_seed(scheme, &[3; 32]);
        write(&path, &pair).expect("written");
        let mode = std::fs::metadata(&path)
            .expect("exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let back = read(&path).expect("read");
        assert_eq!(back.public(), pair.public());
        let signature = back.sign(b"message");
        let key = crate::PreparedKey::from_public(pair.public());
        assert!(crate::falcon::verify(
            &key,
            b"message",
            signature.as_bytes()
        ));
    }
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("key");
    std::fs::write(&path, "precious").expect("written");
    assert!(matches!(
        write(&path, &pair()),
        Err(KeyFileError::Exists(_))
    ));
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
}

#[test]
fn links_and_directories_are_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("key");
    write(&path, &pair()).expect("written");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    assert!(matches!(read(&link), Err(KeyFileError::NotAFile(_))));
    assert!(matches!(
        read(directory.path()),
        Err(KeyFileError::NotAFile(_))
    ));
    assert!(matches!(
        write(&link, &pair()),
        Err(KeyFileError::Exists(_))
    ));
}

#[test]
fn a_file_that_others_can_access_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("key");
    write(&path, &pair()).expect("written");
    for mode in [0o640, 0o604, 0o610, 0o666] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        let error = read(&path).expect_err("refused").to_string();
        assert!(
            error.contains(&format!("chmod 600 {}", path.display())),
            "{error}"
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = read(Path::new("/nonexistent/key"))
        .expect_err("refused")
        .to_string();
    assert!(error.contains("cannot open /nonexistent/key"), "{error}");
}

#[test]
fn a_key_in_use_stays_locked_until_it_is_dropped() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("key");
    write(&path, &pair()).expect("written");
    let held = LockedKey::open(&path).expect("locked");
    let error = LockedKey::open(&path).expect_err("refused");
    assert!(matches!(error, KeyFileError::InUse(_)));
    assert!(
        error
            .to_string()
            .ends_with("is in use by another process; stop it first")
    );
    assert_eq!(held.key().public(), pair().public());
    drop(held);
    LockedKey::open(&path).expect("locked again");
}

#[test]
fn altered_content_is_refused() {
    let good = encode(&pair());
    assert!(decode(good.as_bytes()).is_ok());
    let other = encode(&KeyPair::from_seed(Scheme::Falcon512, &[4; 32]));
    let line = |text: &str, n: usize| text.split('\n').nth(n).expect("four lines").to_owned();

    let mixed = good.replace(&line(&good, 2), &line(&other, 2));
    assert_eq!(
        malformed(mixed.as_bytes()),
        "public and secret key do not belong together"
    );
    assert_eq!(
        malformed(&good.as_bytes()[..good.len() - 1]),
        "the last line is incomplete"
    );
    assert_eq!(
        malformed(format!("{}\n", *good).as_bytes()),
        "unexpected lines at the end"
    );
    assert_eq!(
        malformed(good.replace("512", "256").as_bytes()),
        "unknown scheme"
    );
    assert!(malformed(good.replace("512", "1024").as_bytes()).contains("1793 bytes"));
    assert!(malformed(good.replace("-v1", "-v2").as_bytes()).contains("first line"));
    assert!(malformed(good.replace("secret:", "sacred:").as_bytes()).contains("\"secret\""));
    assert_eq!(malformed(&[0xff; 10]), "not text");
    let cut = good.replace(&line(&good, 3), "secret: AAAA");
    assert_eq!(
        malformed(cut.as_bytes()),
        "a falcon512 secret key has 1281 bytes, not 3"
    );
}

#[test]
fn a_huge_file_is_not_read_into_memory() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("key");
    let file = File::create(&path).expect("created");
    file.set_len(1 << 40).expect("sparse");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
    let error = read(&path).expect_err("refused").to_string();
    assert!(error.contains("more than 16384 bytes"), "{error}");
}
