//! The cases of `falconet-model`, each cut to what a test run may cost. The binary runs them whole.

use falconet_hotstuff::{HotStuff, Misbehaviour};
use falconet_model::cases::{FLAWED, SOUND};
use falconet_model::search::Search;
use falconet_model::step::{self, Setting};

/// States of a sound case.
const STATES: usize = 100_000;
/// States within which a flaw must show.
const STATES_FLAW: usize = 3_000_000;
/// States of the step function.
const STATES_STEP: usize = 4_000;
/// States of the step function within which a flaw must show.
const STATES_STEP_FLAW: usize = 40_000;

#[test]
fn sound_rules_hold() {
    for case in SOUND {
        let outcome = case.search(Search::Exhaustive(STATES));
        assert!(
            outcome.failures.is_empty(),
            "{}: {:#?}",
            case.name,
            outcome.failures
        );
    }
}

#[test]
fn every_flaw_is_found() {
    for case in FLAWED {
        let outcome = case.search(Search::Walks {
            seed: 1,
            states: STATES_FLAW,
        });
        let broken = case.breaks.expect("a flawed case names what it breaks");
        assert!(
            outcome.failures.contains_key(broken),
            "{}: not found in {} states",
            case.name,
            outcome.generated
        );
    }
}

#[test]
fn the_step_function_holds() {
    let mut commits = false;
    for setting in step::SETTINGS {
        let states = STATES_STEP;
        for search in [
            Search::Exhaustive(states),
            Search::Walks { seed: 1, states },
        ] {
            let outcome = step::check(setting, search);
            assert!(
                outcome.failures.is_empty(),
                "{}: {:#?}",
                setting.name,
                outcome.failures
            );
            commits |= outcome.commits;
        }
    }
    assert!(commits, "no walk committed a block");
}

#[test]
fn flaws_of_the_step_function_are_found() {
    let forget_lock = |core: &mut HotStuff| core.misbehave(Misbehaviour::ForgetLock);
    let vote_late = |core: &mut HotStuff| core.misbehave(Misbehaviour::VoteAfterTimeout);
    let commit_late = |core: &mut HotStuff| core.misbehave(Misbehaviour::CommitVoteAfterTimeout);
    let unlocked = |core: &mut HotStuff| core.misbehave(Misbehaviour::CommitVoteWithoutLock);
    let plain = &step::SETTINGS[2];
    let with_commit_votes = &step::SETTINGS[4];
    assert!(with_commit_votes.commit_votes && with_commit_votes.restarts > 0);
    for (setting, prepare) in [
        (plain, forget_lock as fn(&mut HotStuff)),
        (plain, vote_late),
        (with_commit_votes, commit_late),
        (with_commit_votes, unlocked),
    ] {
        let setting = Setting {
            prepare,
            ..*setting
        };
        let search = Search::Walks {
            seed: 1,
            states: STATES_STEP_FLAW,
        };
        let outcome = step::check(&setting, search);
        assert!(
            outcome.failures.contains_key(step::BLAMELESS),
            "{outcome:#?}"
        );
    }
}
