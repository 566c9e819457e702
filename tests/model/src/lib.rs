//! Model checks of the consensus: [`rules`] explores the rules of `docs/protocol.md` as an
//! abstract machine, [`step`] explores the step function of `falconet-hotstuff` itself. Both are
//! driven by stateright; what they cover and what not is in `docs/model-check.md`.

pub mod cases;
pub mod rules;
pub mod search;
pub mod step;
