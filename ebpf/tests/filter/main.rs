//! The programs on the running kernel, with packets.

mod generate;
mod lists;
mod netns;
mod objects;
mod programs;
mod reference;
mod support;
