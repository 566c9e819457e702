//! The falconet command
fn main() {}
