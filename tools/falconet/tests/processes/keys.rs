//! `keygen`, `key show`, and what happens when the command line is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::falconet;

#[test]
fn keygen_makes_a_private_file_and_key_show_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    for scheme in ["falcon512", "falcon1024"] {
        let file = format!("{scheme}.key");
        let made = falconet(
            dir.path(),
            &["keygen", "--out", &file, "--scheme", scheme, "--json"],
        )
        .json();
        let shown = falconet(dir.path(), &["key", "show", &file, "--json"]).json();
        assert_eq!(made, shown);
        assert_eq!(shown["scheme"], scheme);
        assert!(
            shown["public_key"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{scheme}:"))
        );
        assert_eq!(shown["account"].as_str().unwrap().len(), 64);
        let mode = fs::metadata(dir.path().join(&file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn key_show_never_prints_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    falconet(
        dir.path(),
        &["keygen", "--out", "a.key", "--scheme", "falcon512"],
    )
    .ok();
    let file = fs::read_to_string(dir.path().join("a.key")).unwrap();
    let secret = file
        .lines()
        .find_map(|line| line.strip_prefix("secret: "))
        .unwrap();
    for arguments in [
        &["key", "show", "a.key"][..],
        &["key", "show", "a.key", "--json"],
    ] {
        let shown = falconet(dir.path(), arguments).ok();
        assert!(!shown.contains(&secret[..40]), "{shown}");
    }
}

#[test]
fn keygen_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    falconet(
        dir.path(),
        &["keygen", "--out", "a.key", "--scheme", "falcon512"],
    )
    .ok();
    let before = fs::read(dir.path().join("a.key")).unwrap();
    falconet(
        dir.path(),
        &["keygen", "--out", "a.key", "--scheme", "falcon512"],
    )
    .fails_with(&["a.key exists", "choose another name"]);
    assert_eq!(fs::read(dir.path().join("a.key")).unwrap(), before);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    falconet(
        dir.path(),
        &["keygen", "--out", "a.key", "--scheme", "falcon512"],
    )
    .ok();
    let path = dir.path().join("a.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    falconet(dir.path(), &["key", "show", "a.key"]).fails_with(&["a.key", "chmod 600"]);
}

#[test]
fn a_damaged_key_is_refused_without_quoting_it() {
    let dir = tempfile::tempdir().unwrap();
    falconet(
        dir.path(),
        &["keygen", "--out", "a.key", "--scheme", "falcon512"],
    )
    .ok();
    let path = dir.path().join("a.key");
    let text = fs::read_to_string(&path).unwrap();
    let secret = text
        .lines()
        .find_map(|line| line.strip_prefix("secret: "))
        .unwrap()
        .to_owned();
    fs::write(&path, text.replace(&secret, &secret[..100])).unwrap();
    let said = falconet(dir.path(), &["key", "show", "a.key"]);
    assert!(!said.stderr.contains(&secret[..20]), "{}", said.stderr);
    said.fails_with(&["a.key", "not a valid key file"]);
}

#[test]
fn a_wrong_call_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["nonsense"][..],
        &["keygen"],
        &["keygen", "--out", "x", "--scheme", "rsa"],
        &["account", "show", "not-hex"],
        &[
            "tx", "transfer", "--key", "k", "--to", "00", "--amount", "1",
        ],
        &["tx", "show", &"0".repeat(64), "--out", "x"],
    ] {
        let said = falconet(dir.path(), arguments);
        assert_eq!(said.code, 2, "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.starts_with("error: "), "{}", said.stderr);
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was created"
    );
}

#[test]
fn a_validator_that_cannot_be_reached_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // Port 1 is reserved and nothing listens on it in a test.
    falconet(dir.path(), &["status", "--http", "http://[::1]:1"]).fails_with(&[
        "http://[::1]:1",
        "Connection refused",
        "--http",
    ]);
    falconet(dir.path(), &["status", "--http", "[::1]:1"])
        .fails_with(&["[::1]:1", "http://[address]:port"]);
}

#[test]
fn completions_know_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = falconet(dir.path(), &["completions", shell]).ok();
        assert!(
            script.contains("keygen") && script.contains("transfer"),
            "{shell}"
        );
    }
}
