//! The state machine against peers that lie, withhold, have something else, or go away.

mod download;
mod world;
