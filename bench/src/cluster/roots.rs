//! Do all validators hold the same state?

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::http::Node;

/// How long to look for a height that every validator has executed and still remembers.
const LOOK_TIME_MAX: Duration = Duration::from_secs(20);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What the validators answered about one height.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsCheck {
    /// Whether at least one validator answered and all that answered gave the same block and the
    /// same state commitment.
    pub agree: bool,
    /// The height that was compared; nothing when none was found.
    pub height: Option<u64>,
    /// Block id and state commitment of each validator, in order; nothing for one that did not
    /// answer.
    pub answers: Vec<Option<(String, String)>>,
}

/// Asks every validator for the block and the state commitment at one height that all of those
/// which answer have executed, and compares.
#[must_use]
pub fn check_roots(nodes: &[Node]) -> RootsCheck {
    let give_up = Instant::now() + LOOK_TIME_MAX;
    loop {
        let check = look(nodes);
        if check.height.is_some() || Instant::now() >= give_up {
            return check;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn look(nodes: &[Node]) -> RootsCheck {
    let statuses: Vec<_> = nodes.iter().map(|node| node.status().ok()).collect();
    let none = RootsCheck {
        agree: false,
        height: None,
        answers: vec![None; nodes.len()],
    };
    let Some(height) = statuses
        .iter()
        .flatten()
        .map(|status| status.executed_height)
        .min()
    else {
        return none;
    };
    if height == 0 {
        return none;
    }
    let mut answers = Vec::with_capacity(nodes.len());
    for (node, status) in nodes.iter().zip(&statuses) {
        if status.is_none() {
            answers.push(None);
            continue;
        }
        // A validator that answered before and has no commitment: look again at another height.
        let Ok(block) = node.block(height) else {
            return none;
        };
        let Some(commitment) = block.state_commitment else {
            return none;
        };
        answers.push(Some((block.id, commitment)));
    }
    compare(height, answers)
}

fn compare(height: u64, answers: Vec<Option<(String, String)>>) -> RootsCheck {
    let mut given = answers.iter().flatten();
    let first = given.next();
    let agree = first.is_some() && given.all(|answer| Some(answer) == first);
    RootsCheck {
        agree,
        height: Some(height),
        answers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, commitment: &str) -> Option<(String, String)> {
        Some((id.into(), commitment.into()))
    }

    #[test]
    fn only_equal_answers_agree() {
        assert!(compare(3, vec![answer("a", "s"), None, answer("a", "s")]).agree);
        assert!(
            !compare(3, vec![answer("a", "s"), answer("a", "t")]).agree,
            "state differs"
        );
        assert!(
            !compare(3, vec![answer("a", "s"), answer("b", "s")]).agree,
            "block differs"
        );
        assert!(
            !compare(3, vec![None, None]).agree,
            "silence is no agreement"
        );
    }

    #[test]
    fn nobody_there_is_no_agreement() {
        let nodes = [Node::new("[::1]:1".parse().unwrap())];
        let check = look(&nodes);
        assert_eq!((check.agree, check.height), (false, None));
    }
}
