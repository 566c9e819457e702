//! A validator that cannot start: one line that names key or file and the remedy, exit code 1,
//! and nothing changed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use crate::harness::{Running, falconet, free_ports, snapshot};
use crate::offline::{genesis, genesis_of};

/// A directory in which `falconet run` would work: one validator, alone on its chain.
struct Site {
    dir: tempfile::TempDir,
    stoq: u16,
    http: u16,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        genesis(dir.path(), "genesis");
        let [stoq, http] = free_ports();
        let site = Self { dir, stoq, http };
        site.configure(&site.text());
        site
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn text(&self) -> String {
        format!(
            "genesis = \"genesis.json\"\nkey = \"validator.key\"\ndata = \"data\"\n\
             [stoq]\nlisten = \"[::1]:{}\"\n[http]\nlisten = \"[::1]:{}\"\n",
            self.stoq, self.http
        )
    }

    fn configure(&self, text: &str) {
        fs::write(self.path().join("config.toml"), text).unwrap();
    }

    fn start(&self) -> Running {
        Running::start(self.path(), "config.toml")
    }

    /// `falconet run` fails with these words and leaves everything as it was.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let before: BTreeMap<_, _> = snapshot(self.path());
        falconet(self.path(), &["run", "--config", "config.toml"]).fails_with(parts);
        assert_eq!(snapshot(self.path()), before, "nothing changed");
    }
}

#[test]
fn an_unknown_key_is_named() {
    let site = Site::new();
    site.configure(&format!("{}[log]\nlevle = \"info\"\n", site.text()));
    site.refused(&["config.toml", "levle"]);
}

#[test]
fn a_bad_address_is_named() {
    let site = Site::new();
    for bad in ["127.0.0.1:26600", "[::1]", "somewhere:1", "[::1]:99999"] {
        site.configure(&site.text().replace(&format!("[::1]:{}", site.stoq), bad));
        site.refused(&["config.toml", "listen"]);
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    let site = Site::new();
    // The documentation prefix of RFC 3849 belongs to nobody.
    site.configure(
        &site
            .text()
            .replace(&format!("[::1]:{}", site.http), "[2001:db8::1]:26700"),
    );
    site.refused(&["[2001:db8::1]:26700", "[http] listen"]);
}

#[test]
fn a_missing_file_is_named() {
    let site = Site::new();
    for (key, file) in [("genesis", "genesis.json"), ("key", "validator.key")] {
        site.configure(&site.text().replace(file, "absent.file"));
        site.refused(&["config.toml", key, "absent.file"]);
    }
    falconet(site.path(), &["run", "--config", "absent.toml"])
        .fails_with(&["absent.toml", "--config"]);
}

#[test]
fn an_address_in_use_is_named() {
    let site = Site::new();
    let http = TcpListener::bind(("::1", site.http)).unwrap();
    site.refused(&[&format!("[::1]:{}", site.http), "[http] listen"]);
    drop(http);
    let stoq = UdpSocket::bind(("::1", site.stoq)).unwrap();
    site.refused(&[&format!("[::1]:{}", site.stoq), "in use", "another port"]);
    drop(stoq);
    site.start().stop();
}

/// With another key a node follows, and needs somebody to follow.
#[test]
fn a_key_that_is_no_validators_needs_peers() {
    let site = Site::new();
    falconet(
        site.path(),
        &["keygen", "--out", "other.key", "--scheme", "falcon512"],
    )
    .ok();
    site.configure(&site.text().replace("validator.key", "other.key"));
    site.refused(&["config.toml", "[peers]", "follows", "addresses"]);
}

#[test]
fn a_peer_that_genesis_does_not_know_is_named() {
    let site = Site::new();
    site.configure(&format!("{}[peers]\nstranger = \"[::1]:1\"\n", site.text()));
    site.refused(&["config.toml", "stranger"]);
}

#[test]
fn the_same_key_does_not_run_twice() {
    let site = Site::new();
    let running = site.start();
    let [stoq, http] = free_ports();
    let second = Site {
        dir: tempfile::tempdir().unwrap(),
        stoq,
        http,
    };
    let shared = |file: &str| site.path().join(file).display().to_string();
    let text = second
        .text()
        .replace("genesis.json", &shared("genesis.json"))
        .replace("validator.key", &shared("validator.key"));
    second.configure(&text);
    second.refused(&["validator.key", "in use by another process"]);
    running.stop();
    second.start().stop();
}

#[test]
fn a_data_directory_of_another_chain_is_refused() {
    let site = Site::new();
    site.start().stop();
    genesis(site.path(), "other");
    site.configure(&site.text().replace("genesis.json", "other.json"));
    site.refused(&["data", "chain"]);
    site.configure(&site.text());
    site.start().stop();
}

#[test]
fn a_data_directory_of_another_key_is_refused() {
    let site = Site::new();
    genesis_of(site.path(), "genesis", &["validator.key", "second.key"]);
    let peer = |name: &str| format!("{}[peers]\n{name} = \"[::1]:1\"\n", site.text());
    site.configure(&peer("validator-1"));
    site.start().stop();
    site.configure(&peer("validator-0").replace("validator.key", "second.key"));
    site.refused(&["data", "key"]);
}

#[test]
fn a_log_level_that_is_none_is_named() {
    let site = Site::new();
    site.configure(&format!("{}[log]\nlevel = \"info,=,\"\n", site.text()));
    site.refused(&["[log] level"]);
}
