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
    checked_by_tools(package, &root, dir.path());
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

/// The tools of those who will use the files, as far as they are installed.
fn checked_by_tools(package: &str, root: &Path, dir: &Path) {
    let tool = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(dir)
            .env("LC_ALL", "C.UTF-8")
            // man's own lint, as lintian calls it.
            .env("MANROFFSEQ", "")
            .output();
        match output {
            Ok(output) => Some(output),
            Err(error) => {
                eprintln!("skipped: {program}: {error}");
                None
            }
        }
    };
    // The unit, beside a machine's own.
    let unit = root.join("usr/lib/systemd/system/falconet.service");
    let unit = unit.to_str().unwrap();
    if let Some(output) = tool("systemd-analyze", &["verify", "--man=no", unit]) {
        let said = String::from_utf8_lossy(&output.stderr);
        // The program is in the package's tree and not on this machine.
        let found = said
            .lines()
            .filter(|line| line.contains("falconet.service"));
        let found: Vec<&str> = found
            .filter(|line| !line.contains("is not executable"))
            .collect();
        assert_eq!(found, [""; 0], "{said}");
        // 0 is no exposure, 100 is a service without any restriction.
        let arguments = ["security", "--offline=true", "--threshold=20", unit];
        let rated = tool("systemd-analyze", &arguments).expect("it started before");
        assert!(
            rated.status.success(),
            "{}",
            String::from_utf8_lossy(&rated.stdout)
        );
    }
    for entry in fs::read_dir(root.join("usr/share/man/man1")).unwrap() {
        let page = entry.unwrap().path();
        let arguments = [
            "--warnings",
            "-E",
            "UTF-8",
            "-l",
            "-Tutf8",
            "-Z",
            page.to_str().unwrap(),
        ];
        let Some(output) = tool("man", &arguments) else {
            break;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{}: {said}",
            page.display()
        );
    }
    // Who packages for others gives a mail address (DEB_MAINTAINER) and compresses; here neither is.
    let ours = "bogus-mail-host,bogus-mail-host-in-debian-changelog,\
                uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball";
    let arguments = ["--fail-on", "error", "--suppress-tags", ours, package];
    if let Some(output) = tool("lintian", &arguments) {
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
    // Installed into a directory, and removed from it.
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: dpkg installs as root only");
        return;
    }
    let system = dir.join("system");
    for file in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        fs::create_dir_all(system.join(file)).unwrap();
    }
    fs::write(system.join("var/lib/dpkg/status"), "").unwrap();
    let at = format!("--root={}", system.display());
    let arguments = [
        &at,
        "--force-depends",
        "--force-script-chrootless",
        "--install",
        package,
    ];
    let output = tool("dpkg", &arguments).expect("dpkg-deb is here");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let program = system.join("usr/bin/falconet");
    let version = run(program.to_str().unwrap(), &["--version"], dir);
    assert_eq!(version, falconet(dir, &["--version"]).ok());
    if Command::new("systemd-sysusers")
        .arg("--version")
        .output()
        .is_ok()
    {
        let users = fs::read_to_string(system.join("etc/passwd")).unwrap();
        assert!(users.contains("falconet:"), "{users}");
    }
    let output = tool("dpkg", &[&at, "--verify", "falconet"]).expect("dpkg is here");
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let arguments = [&at, "--force-script-chrootless", "--purge", "falconet"];
    let output = tool("dpkg", &arguments).expect("dpkg is here");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!program.exists());
}

fn toml_of(path: &Path) -> falconet_validator::config::Config {
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}
