//! Documentation that is generated must be the one in the repository.

#[test]
fn the_table_of_probes_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/probes.md");
    let written = std::fs::read_to_string(path).expect("docs/probes.md exists");
    assert!(
        written == falconet_probes::markdown(),
        "docs/probes.md is out of date; run: make docs"
    );
}
