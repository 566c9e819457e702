//! See `targets::signature`.
#![no_main]

// The other targets are in the same file.
#[allow(dead_code)]
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::signature(data));
