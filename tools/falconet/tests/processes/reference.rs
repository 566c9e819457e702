//! Documentation that is generated must be the one in the repository.

use std::fs;
use std::path::Path;

use crate::harness::falconet;

#[test]
fn the_command_line_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let written = fs::read_to_string(path).expect("docs/cli.md exists");
    let current = falconet(Path::new("/"), &["cli-reference"]).ok();
    assert!(
        written == current,
        "docs/cli.md is out of date; run: make docs"
    );
}
