//! Random walks that lean towards what others have done already: quorums form, and a walk gets
//! somewhere. Uniform choices scatter votes over siblings and seldom certify anything.

use stateright::Chooser;

use super::machine::{Action, Machine};
use super::state::{State, bit};

/// Weight that each other validator's vote for the same block adds to a vote.
const COMPANY: u64 = 3;

/// Chooses votes in proportion to how many have voted so.
#[derive(Debug, Clone, Copy)]
pub struct Crowd;

impl Chooser<Machine> for Crowd {
    type State = u64;

    fn new_state(&self, seed: u64) -> u64 {
        seed
    }

    fn choose_initial_state(&self, _: &mut u64, _: &[State]) -> usize {
        0
    }

    fn choose_action(&self, random: &mut u64, state: &State, actions: &[Action]) -> usize {
        let weight = |action: &Action| match action {
            Action::Vote(_, b) => {
                let voters = state.0.iter().filter(|node| node.votes & bit(*b) != 0);
                1 + COMPANY * voters.count() as u64
            }
            _ => 1,
        };
        let total: u64 = actions.iter().map(weight).sum();
        let mut at = next(random) % total;
        actions
            .iter()
            .position(|action| {
                let weight = weight(action);
                let here = at < weight;
                at = at.saturating_sub(weight);
                here
            })
            .expect("the weights add up to the total")
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same walk from the same seed in every version.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
