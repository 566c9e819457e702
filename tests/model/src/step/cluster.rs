//! The cores together: what is under way, which steps there are, what must hold.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use falconet_hotstuff::Effect;
use falconet_types::ValidatorIndex;
use falconet_types::certificate::{Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::message::PeerMessage;
use stateright::{Model, Property};

use super::node::{N, Node, Taken};
use super::{AGREEMENT, BLAMELESS, COMMITS, NO_ALARM, Setting, byzantine};

/// The model.
#[derive(Debug, Clone)]
pub struct Cluster {
    setting: Setting,
    honest: Vec<ValidatorIndex>,
}

/// A message under way, ordered and told apart by its bytes.
#[derive(Debug, Clone)]
struct Envelope {
    from: ValidatorIndex,
    to: usize,
    message: Arc<PeerMessage>,
    key: (u8, Vec<u8>),
}

impl Envelope {
    fn order(&self) -> (usize, ValidatorIndex, &(u8, Vec<u8>)) {
        (self.to, self.from, &self.key)
    }
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl Eq for Envelope {}
impl PartialOrd for Envelope {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Envelope {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}
impl Hash for Envelope {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.order().hash(state);
    }
}

/// All cores and what is under way.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct State {
    nodes: Vec<Node>,
    wire: BTreeSet<Envelope>,
    restarts: u8,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A message arrives.
    Deliver {
        /// Its sender.
        from: ValidatorIndex,
        /// The core, by its place among the honest ones.
        to: usize,
        /// The message.
        message: Arc<PeerMessage>,
    },
    /// A core's next timer fires.
    Timer(usize),
    /// A core dies and comes back with its log.
    Restart(usize),
}

impl Cluster {
    /// A model.
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        let all = (0..N).map(|i| ValidatorIndex(u16::try_from(i).expect("few")));
        Self {
            setting,
            honest: all.filter(|i| *i != byzantine::who()).collect(),
        }
    }

    fn send(&self, state: &mut State, from: ValidatorIndex, to: usize, message: &PeerMessage) {
        if self.honest[to] == from {
            return;
        }
        state.wire.insert(Envelope {
            from,
            to,
            message: Arc::new(message.clone()),
            key: (message.kind(), message.payload().to_vec()),
        });
    }

    /// Puts what core `i` said on the wire, and what the Byzantine validator makes of it.
    fn spread(&self, state: &mut State, i: usize, effects: &[Effect]) {
        for effect in effects {
            let (message, to) = match effect {
                Effect::Broadcast(message) => (message, None),
                Effect::Send { to, message } => (message, Some(*to)),
                _ => continue,
            };
            let carries_signatures = matches!(
                message,
                PeerMessage::Header(_)
                    | PeerMessage::Vote(_)
                    | PeerMessage::CommitVote(_)
                    | PeerMessage::Timeout(_)
                    | PeerMessage::Qc(_)
                    | PeerMessage::Tc(_)
            );
            if !carries_signatures {
                continue;
            }
            for j in 0..self.honest.len() {
                if to.is_none_or(|to| to == self.honest[j]) {
                    self.send(state, self.honest[i], j, message);
                }
                if let PeerMessage::Header(header) = message {
                    self.send(state, byzantine::who(), j, &byzantine::vote(header));
                    if self.setting.commit_votes {
                        let vote = byzantine::commit_vote(header);
                        self.send(state, byzantine::who(), j, &vote);
                    }
                }
            }
        }
    }

    fn take(&self, state: &State, i: usize, taken: Taken) -> State {
        let mut next = state.clone();
        let (node, effects) = state.nodes[i].take(taken);
        next.nodes[i] = node;
        self.spread(&mut next, i, &effects);
        next
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let (nodes, said): (Vec<_>, Vec<_>) = self
            .honest
            .iter()
            .map(|i| Node::start(*i, &self.setting))
            .unzip();
        let mut state = State {
            nodes,
            wire: BTreeSet::new(),
            restarts: 0,
        };
        for (i, effects) in said.iter().enumerate() {
            self.spread(&mut state, i, effects);
        }
        for message in byzantine::prepared(self.setting.rounds, self.setting.commit_votes) {
            for to in 0..self.honest.len() {
                self.send(&mut state, byzantine::who(), to, &message);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for envelope in &state.wire {
            actions.push(Step::Deliver {
                from: envelope.from,
                to: envelope.to,
                message: envelope.message.clone(),
            });
        }
        for (i, node) in state.nodes.iter().enumerate() {
            if node.timers < self.setting.timers {
                actions.push(Step::Timer(i));
            }
            if state.restarts < self.setting.restarts {
                actions.push(Step::Restart(i));
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(match step {
            Step::Deliver { from, to, message } => {
                let taken = Taken::Message(from, message.clone());
                let mut next = self.take(state, to, taken);
                let key = (message.kind(), message.payload().to_vec());
                next.wire.remove(&Envelope {
                    from,
                    to,
                    message,
                    key,
                });
                next
            }
            Step::Timer(i) => self.take(state, i, Taken::Timer),
            Step::Restart(i) => {
                let mut next = self.take(state, i, Taken::Restart);
                next.restarts += 1;
                next
            }
        })
    }

    fn within_boundary(&self, state: &State) -> bool {
        let in_bounds = |node: &Node| node.round.0 <= self.setting.rounds;
        state.nodes.iter().all(in_bounds)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREEMENT, |_: &Self, state: &State| {
                let chains: Vec<_> = state.nodes.iter().map(|node| &node.committed).collect();
                chains.iter().all(|a| {
                    chains
                        .iter()
                        .all(|b| a.iter().zip(b.iter()).all(|(a, b)| a == b))
                })
            }),
            Property::always(BLAMELESS, |_: &Self, state: &State| {
                !state.nodes.iter().any(|node| slashable(&node.said))
            }),
            Property::always(NO_ALARM, |_: &Self, state: &State| {
                state.nodes.iter().all(|node| node.alarms == 0)
            }),
            Property::sometimes(COMMITS, |_: &Self, state: &State| {
                state.nodes.iter().any(|node| !node.committed.is_empty())
            }),
        ]
    }
}

/// Rules E2, E3, E5 and E6, on all that one core has sent, written again without the core's help.
fn slashable(said: &[PeerMessage]) -> bool {
    let votes: Vec<&Vote> = said
        .iter()
        .filter_map(|m| match m {
            PeerMessage::Vote(vote) => Some(vote),
            _ => None,
        })
        .collect();
    let timeouts: Vec<&Timeout> = said
        .iter()
        .filter_map(|m| match m {
            PeerMessage::Timeout(timeout) => Some(timeout),
            _ => None,
        })
        .collect();
    let twice = votes.iter().enumerate().any(|(at, a)| {
        votes[..at]
            .iter()
            .any(|b| a.round == b.round && a.block_id != b.block_id)
    });
    let lock = votes.iter().any(|vote| {
        timeouts
            .iter()
            .any(|t| t.round >= vote.round && t.hqc_round < vote.parent_round)
    });
    let commits: Vec<&CommitVote> = said
        .iter()
        .filter_map(|m| match m {
            PeerMessage::CommitVote(vote) => Some(vote),
            _ => None,
        })
        .collect();
    let commits_twice = commits.iter().enumerate().any(|(at, a)| {
        commits[..at]
            .iter()
            .any(|b| a.round == b.round && a.block_id != b.block_id)
    });
    let commit_lock = commits.iter().any(|vote| {
        timeouts
            .iter()
            .any(|t| t.round >= vote.round && t.hqc_round < vote.round)
    });
    twice || lock || commits_twice || commit_lock
}
