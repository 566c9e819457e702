//! The programs on the running kernel, with packets.

mod programs;
#[allow(dead_code, reason = "the tests that use all of it come next")]
mod support;
