//! Tests of the whole core: single nodes driven by hand, and small clusters in virtual time.

mod cluster;
mod epochs;
mod fixtures;
mod following;
mod lanes;
mod net;
mod own;
mod rules;
