//! The Debian package: made from the program under test, unpacked, looked at.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::{FALCONET, falconet};

fn run(program: &str, arguments: &[&str], dir: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("DEB_COMPRESSION", "none")
        .output()
        .expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_debian_package_holds_what_a_machine_needs() {
    let installed = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !installed("dpkg-deb") || !installed("gzip") {
        eprintln!("skipped: dpkg-deb and gzip are needed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../package/build-deb");
    let said = run(script.to_str().unwrap(), &[FALCONET, "out"], dir.path());
    let package = said.trim_end();
    let name = Path::new(package).file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("falconet_0."), "{name}");

    let control = run("dpkg-deb", &["--field", package], dir.path());
    for field in [
        "Package: falconet",
        "Depends: libc6 (>= ",
        "Maintainer: ",
        "Installed-Size: ",
    ] {
        assert!(control.contains(field), "{field:?} is missing:\n{control}");
    }
    run("dpkg-deb", &["--raw-extract", package, "root"], dir.path());
    let root = dir.path().join("root");
    run("md5sum", &["--check", "--quiet", "DEBIAN/md5sums"], &root);
    for script in ["postinst", "prerm", "postrm"] {
        let path = root.join("DEBIAN").join(script);
        assert_eq!(mode(&path), 0o755, "{script}");
        run("sh", &["-n", path.to_str().unwrap()], &root);
    }

    // It runs, and it is what it says.
    let program = root.join("usr/bin/falconet");
    assert_eq!(mode(&program), 0o755);
    let version = run(program.to_str().unwrap(), &["--version"], &root);
    assert_eq!(version, falconet(&root, &["--version"]).ok());

    // The unit starts a program of the package, with options that it has.
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/falconet.service")).unwrap();
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    assert!(
        root.join(start.split(' ').next().unwrap().trim_start_matches('/'))
            .exists()
    );
    let help = run(program.to_str().unwrap(), &["run", "--help"], &root);
    for option in start.split(' ').filter(|word| word.starts_with("--")) {
        assert!(help.contains(option), "{option}");
    }
    for line in [
        "Type=notify",
        "WatchdogSec=60",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "LimitCORE=0",
        "CapabilityBoundingSet=",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }

    // The example is a configuration, apart from the files that it names.
    let example = root.join("usr/share/doc/falconet/examples/falconet.toml");
    let config: falconet_validator::config::Config = toml_of(&example);
    assert!(
        unit.contains("StateDirectory=falconet") && config.key.starts_with("/var/lib/falconet")
    );

    // A manual page for every command that help lists.
    let help = run(program.to_str().unwrap(), &["--help"], &root);
    let commands = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|rest| !rest.starts_with(' '))
        })
        .filter_map(|line| line.split(' ').next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let page = root.join(format!("usr/share/man/man1/falconet-{command}.1.gz"));
        assert!(page.exists(), "{}", page.display());
    }
    let page = run("gzip", &["-dc", "usr/share/man/man1/falconet.1.gz"], &root);
    assert!(page.contains(".TH falconet 1"), "{page}");
    for completion in [
        "usr/share/bash-completion/completions/falconet",
        "usr/share/zsh/vendor-completions/_falconet",
        "usr/share/fish/vendor_completions.d/falconet.fish",
    ] {
        let script = fs::read_to_string(root.join(completion)).unwrap();
        assert!(script.contains("log-level"), "{completion}");
    }
    // Nothing that others may write, nothing outside the places that a package owns.
    for line in run("dpkg-deb", &["--contents", package], dir.path()).lines() {
        let mode = line.split_whitespace().next().unwrap();
        assert_ne!(mode.as_bytes()[8], b'w', "{line}");
        assert!(line.contains(" root/root "), "{line}");
        let path = line.split(" ./").nth(1).unwrap_or_default();
        assert!(
            path.is_empty() || path.starts_with("usr") || path.starts_with("etc"),
            "{line}"
        );
    }
}

fn toml_of(path: &Path) -> falconet_validator::config::Config {
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}
