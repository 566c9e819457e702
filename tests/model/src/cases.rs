//! What is checked: configurations of the rules, and for each seeded flaw one that must show it.

use stateright::HasDiscoveries;

use crate::rules::machine::{AGREEMENT, AVAILABLE, BLAMELESS, COMMITS};
use crate::rules::{Crowd, Flaw, Machine, Options, Shape};
use crate::search::{Outcome, Search};

/// A configuration.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// What is modelled.
    pub options: Options,
    /// The property that must fail; `None` when all must hold.
    pub breaks: Option<&'static str>,
}

const ONE_EPOCH: Shape = Shape {
    rounds: 3,
    siblings: 1,
    rounds_after: 0,
};
const PLAIN: Options = Options {
    shape: ONE_EPOCH,
    commit_votes: false,
    leaders: false,
    payload: false,
    flaw: None,
};
/// A fork by a broken vote rule needs a fourth round to commit its second branch.
const FOUR_ROUNDS: Options = Options {
    shape: Shape {
        rounds: 4,
        ..ONE_EPOCH
    },
    ..PLAIN
};
const COMMIT_VOTES: Options = Options {
    commit_votes: true,
    ..PLAIN
};
const OPTIMISTIC: Options = Options {
    shape: Shape {
        rounds: 4,
        ..ONE_EPOCH
    },
    leaders: true,
    ..PLAIN
};
const PAYLOAD: Options = Options {
    shape: Shape {
        rounds: 2,
        ..ONE_EPOCH
    },
    payload: true,
    ..PLAIN
};
const EPOCHS: Options = Options {
    shape: Shape {
        rounds: 3,
        siblings: 1,
        rounds_after: 2,
    },
    ..PLAIN
};

const COMMIT_VOTES_EPOCHS: Options = Options {
    shape: Shape {
        rounds: 2,
        siblings: 1,
        rounds_after: 2,
    },
    ..COMMIT_VOTES
};

/// All rules as written, in each setting.
pub const SOUND: &[Case] = &[
    sound("2-chain rules, 3 rounds", PLAIN),
    sound("with commit votes, 3 rounds", COMMIT_VOTES),
    sound(
        "commit votes over a change of epoch, 2 and 2 rounds",
        COMMIT_VOTES_EPOCHS,
    ),
    sound("with optimistic proposals, 4 rounds", OPTIMISTIC),
    sound("with payload, 2 rounds", PAYLOAD),
    sound("over a change of epoch, 3 and 2 rounds", EPOCHS),
];

/// One broken rule each.
pub const FLAWED: &[Case] = &[
    flawed(
        "TC maximum unchecked",
        FOUR_ROUNDS,
        Flaw::TcMaximumUnchecked,
        AGREEMENT,
    ),
    flawed(
        "vote after timeout",
        FOUR_ROUNDS,
        Flaw::VoteAfterTimeout,
        AGREEMENT,
    ),
    flawed(
        "commit across gaps",
        FOUR_ROUNDS,
        Flaw::CommitAcrossGaps,
        AGREEMENT,
    ),
    flawed(
        "timeout below the lock",
        FOUR_ROUNDS,
        Flaw::LostLock,
        AGREEMENT,
    ),
    flawed(
        "timeout below the lock is evidence",
        PLAIN,
        Flaw::LostLock,
        BLAMELESS,
    ),
    flawed(
        "votes forgotten over a restart",
        PLAIN,
        Flaw::Amnesia,
        AGREEMENT,
    ),
    flawed(
        "vote without the parent's QC",
        FOUR_ROUNDS,
        Flaw::ParentUncertified,
        AGREEMENT,
    ),
    flawed(
        "commit vote after timeout",
        COMMIT_VOTES,
        Flaw::CommitVoteAfterTimeout,
        AGREEMENT,
    ),
    flawed(
        "commit vote without a lock",
        COMMIT_VOTES,
        Flaw::CommitVoteWithoutLock,
        AGREEMENT,
    ),
    flawed(
        "commit vote without a lock is evidence",
        COMMIT_VOTES,
        Flaw::CommitVoteWithoutLock,
        BLAMELESS,
    ),
    flawed(
        "commit vote without the QC",
        COMMIT_VOTES,
        Flaw::CommitVoteUncertified,
        BLAMELESS,
    ),
    flawed(
        "proposals forgotten over a restart",
        OPTIMISTIC,
        Flaw::ProposeTwice,
        BLAMELESS,
    ),
    flawed(
        "acknowledged before durable",
        PAYLOAD,
        Flaw::AcknowledgeEarly,
        AVAILABLE,
    ),
    flawed(
        "one watermark is enough",
        PAYLOAD,
        Flaw::OneWatermark,
        AVAILABLE,
    ),
    flawed(
        "commit past the end of an epoch",
        EPOCHS,
        Flaw::CommitPastEnd,
        AGREEMENT,
    ),
    flawed(
        "epoch entered before its end is final",
        EPOCHS,
        Flaw::EnterEarly,
        AGREEMENT,
    ),
    flawed(
        "signatures of leavers count",
        EPOCHS,
        Flaw::LeaversCount,
        AGREEMENT,
    ),
];

const fn sound(name: &'static str, options: Options) -> Case {
    Case {
        name,
        options,
        breaks: None,
    }
}

const fn flawed(name: &'static str, options: Options, flaw: Flaw, breaks: &'static str) -> Case {
    Case {
        name,
        options: Options {
            flaw: Some(flaw),
            ..options
        },
        breaks: Some(breaks),
    }
}

impl Case {
    /// The same with other rounds and siblings in its first epoch.
    #[must_use]
    pub fn reshaped(mut self, rounds: u8, siblings: u8) -> Self {
        self.options.shape.rounds = rounds;
        self.options.shape.siblings = siblings;
        self
    }

    /// Searches. A case that must break ends with the first failure of its property, any other
    /// with the first failure.
    #[must_use]
    pub fn search(&self, search: Search) -> Outcome {
        let until = match self.breaks {
            Some(property) => HasDiscoveries::AnyOf([property].into()),
            None => HasDiscoveries::AnyFailures,
        };
        search.run(Machine::new(self.options), Crowd, until, COMMITS)
    }
}
