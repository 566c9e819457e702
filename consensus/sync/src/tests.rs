//! The state machine against peers that lie, withhold, have something else, or go away.

mod download;
mod epochs;
mod keeping;
mod manifest;
mod scripts;
mod world;
