//! `docs/scenarios.md` names tests; each of them exists, and each test of this directory is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Groups of scenarios.
const GROUPS: usize = 22;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names of the tests in a source file.
fn tests_in(path: &Path) -> BTreeSet<String> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        // proptest! puts its tests into a macro, with the same mark.
        marked |= line.starts_with("#[test]");
        if let Some(rest) = line.strip_prefix("fn ")
            && std::mem::take(&mut marked)
        {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            names.insert(name.to_owned());
        }
    }
    names
}

/// Rows of the table: group, and the tests that it names as `path::name`.
fn rows() -> Vec<(usize, Vec<(String, String)>)> {
    let text = fs::read_to_string(root().join("docs/scenarios.md")).expect("the page is there");
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Ok(group) = cells[0].parse() else {
            continue;
        };
        let mut named = Vec::new();
        for quoted in cells[cells.len() - 1].split('`').skip(1).step_by(2) {
            let (path, name) = quoted
                .rsplit_once("::")
                .unwrap_or_else(|| panic!("no path::name: {quoted}"));
            named.push((path.to_owned(), name.to_owned()));
        }
        rows.push((group, named));
    }
    rows
}

#[test]
fn every_test_that_the_table_names_exists() {
    let rows = rows();
    for group in 1..=GROUPS {
        assert!(
            rows.iter().any(|(g, _)| *g == group),
            "group {group} has no row"
        );
    }
    for (group, named) in rows {
        for (path, name) in named {
            let file = root().join(&path);
            assert!(file.is_file(), "group {group}: there is no {path}");
            assert!(
                tests_in(&file).contains(&name),
                "group {group}: {path} has no test {name}"
            );
        }
    }
}

#[test]
fn every_scenario_is_in_the_table() {
    let named: BTreeSet<String> = rows()
        .into_iter()
        .flat_map(|(_, n)| n)
        .map(|(_, n)| n)
        .collect();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    for file in fs::read_dir(here).expect("this directory") {
        for test in tests_in(&file.expect("readable").path()) {
            if test.starts_with('s') && test.as_bytes()[1].is_ascii_digit() {
                assert!(named.contains(&test), "docs/scenarios.md lacks {test}");
            }
        }
    }
}
