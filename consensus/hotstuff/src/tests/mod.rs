//! Tests of the core, one file an area; names carry the rule of `docs/protocol.md`.

mod chain;
mod cluster;
mod commit_votes;
mod epochs;
mod evidence;
mod following;
mod harness;
mod leading;
mod patience;
mod pulls;
mod reputation;
mod rounds;
mod safety;
mod serving;
mod voting;
