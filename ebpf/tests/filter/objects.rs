//! What is generated or compiled is current.

use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Compares a file with what it should hold; `FALCONET_WRITE=1` writes it instead.
fn check(path: &Path, expected: &str) {
    if std::env::var_os("FALCONET_WRITE").is_some() {
        std::fs::write(path, expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == expected,
        "{} is stale; run: make docs",
        path.display()
    );
}

#[test]
fn the_numbers_of_the_causes_are_those_of_the_list() {
    check(
        &Path::new(ROOT).join("src/bpf/causes.h"),
        &falconet_ebpf::header(),
    );
}

#[test]
fn the_documented_verdicts_are_those_of_the_list() {
    const BEGIN: &str = "<!-- verdicts: written by `make docs` -->\n";
    const END: &str = "<!-- end of verdicts -->";
    let path = Path::new(ROOT).join("../docs/xdp.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    check(
        &path,
        &format!("{before}{BEGIN}{}{END}{after}", falconet_ebpf::table()),
    );
}

#[test]
fn the_objects_are_those_of_the_sources() {
    let output = Command::new("sh")
        .arg("compile")
        .arg("--recorded")
        .current_dir(ROOT)
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
