//! The programs on the running kernel, with packets.

mod generate;
mod lists;
mod net;
mod netns;
mod objects;
mod programs;
mod reference;
mod steering;
mod support;
