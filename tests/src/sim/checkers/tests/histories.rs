//! Tests of the checkers of whole histories: epochs, snapshots, what is seen, rounds that bring nothing.

use super::*;

#[test]
fn eras_notice_words_of_a_node_in_an_epoch_to_which_it_does_not_belong() {
    let made = Made::new();
    let vote = PeerMessage::Vote(made.vote(1, 5, 4, 1));
    made.eras.sent(1, &vote).unwrap();
    fails(made.eras.sent(2, &vote), "which it is not");
    let mut timeout = made.timeout(1, 5, 4);
    timeout.epoch = Epoch(1);
    fails(
        made.eras.sent(1, &PeerMessage::Timeout(timeout)),
        "which it is not",
    );
}

#[test]
fn eras_notice_an_epoch_that_ends_without_a_quorum() {
    let mut world = World::new(Scenario::scripted(1, 4).with_epochs(16, 0), false);
    let over = |world: &World| world.eras().changes() > 0;
    assert!(world.run_until(3_000_000, over).unwrap());
    let node = world
        .correct()
        .find(|i| world.node(*i).epoch() > Some(Epoch(0)));
    let disk = &world.node(node.expect("somebody went on")).disk;
    let proof = disk.proof(Epoch(0)).expect("it is on disk").clone();
    let mut eras = Eras::new(world.chain());
    eras.ended(0, &proof).unwrap();
    eras.ended(1, &proof).unwrap();
    assert_eq!(eras.changes(), 1);
    let mut forged = proof.clone();
    forged.qc.votes.truncate(2);
    fails(eras.ended(2, &forged), "its proof that epoch 0 is over");
    let mut forged = proof;
    forged.qc.epoch = Epoch(2);
    fails(eras.ended(2, &forged), "which nobody began");
}

#[test]
fn history_must_not_go_too_early_nor_be_claimed_when_it_is_gone() {
    fails(snapshots::pruned(0, Height(10), 73, 64), "must keep 64");
    snapshots::pruned(0, Height(9), 73, 64).unwrap();

    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let mark = Record::Committed {
        height: Height(1),
        block_id: one.id(),
        proof: made.committed(&one, &two, &[0, 1, 2]).proof,
    };
    made.disk.append([LogRecord::Consensus(mark)]);
    made.disk.sync(1);
    let offer = |horizon| SnapshotOffer {
        horizon: Height(horizon),
        heights: Vec::new(),
        manifest: None,
    };
    let agreement = Agreement::default();
    snapshots::offered(0, &offer(1), &made.disk, &agreement).unwrap();
    let claimed = snapshots::offered(0, &offer(0), &made.disk, &agreement);
    fails(claimed, "lacks 0");
}

#[test]
fn history_that_is_gone_must_leave_a_snapshot_that_can_be_proven() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let three = made.header(Some(&two), 3, 3);
    let headers = [&one, &two, &three].map(|header| Record::Header(Arc::new(header.clone())));
    made.disk.append(headers.map(LogRecord::Consensus));
    made.disk.append([LogRecord::Anchor(Box::new(Anchor {
        height: Height(2),
        id: two.id(),
        child: three.id(),
        qc: made.qc(&three, &[0, 1, 2]),
    }))]);
    made.disk.sync(4);
    fails(
        snapshots::left(0, &made.disk),
        "no snapshot that it can prove",
    );

    // In a run that deletes, there is one.
    let scenario = Scenario::scripted(1, 4).with_history(32);
    let mut world = World::new(scenario, false);
    let pruned = |world: &World| world.node(0).disk.first_of_last_run() > Height(1);
    assert_eq!(world.run_until(2_900_000, pruned), Ok(true));
    snapshots::left(0, &world.node(0).disk).unwrap();
}

#[test]
fn eras_notice_a_scenario_that_gives_the_faulty_a_third() {
    let scenario = Scenario::scripted(1, 4).with_epochs(16, 0);
    let mut world = World::new(scenario, false);
    let over = |world: &World| world.eras().changes() > 0;
    assert!(world.run_until(3_000_000, over).unwrap());
    let ended = |world: &World| world.node(0).disk.proof(Epoch(0)).cloned();
    assert!(
        world
            .run_until(3_000_000, |world| ended(world).is_some())
            .unwrap()
    );
    let proof = ended(&world).expect("just seen");
    let mut eras = Eras::new(world.chain()).with_faulty(vec![3]);
    eras.ended(0, &proof).unwrap();
    assert_eq!(eras.correct_weight(), 3);
    let mut eras = Eras::new(world.chain()).with_faulty(vec![2, 3]);
    fails(eras.ended(0, &proof), "the scenario is at fault");
}

#[test]
fn a_state_that_came_by_snapshot_must_be_that_of_all_others() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let mut agreement = Agreement::default();
    let block = made.committed(&one, &two, &[0, 1, 2]);
    made.commits(&mut agreement, 0, &block).unwrap();
    let state = |byte| Digest([byte; 32]);
    agreement.holds(0, Height(1), state(1)).unwrap();
    fails(agreement.holds(1, Height(1), state(2)), "states differ");
    let nowhere = agreement.holds(1, Height(9), state(2));
    fails(nowhere, "nothing was committed");
}

#[test]
fn a_vote_for_a_state_that_the_voter_does_not_know_is_noticed() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let mut above = made.header(Some(&one), 2, 2).header().clone();
    let mut sight = Sight::default();
    let agreement = Agreement::default();
    let mut votes_for = |header: &Header| {
        let signer = SimSigner(header.author.at());
        let header = SignedHeader::sign(header.clone(), made.chain.id, &signer);
        let (round, parent, voter) = (header.round, header.parent_round, ValidatorIndex(0));
        let (id, chain) = (header.id(), made.chain.id);
        let vote = Vote::sign(Epoch(0), round, id, parent, voter, chain, &SimSigner(0));
        let mut say = |message| sight.sent(0, &message, &made.disk, &agreement);
        say(PeerMessage::Header(header))?;
        say(PeerMessage::Vote(vote))
    };
    votes_for(&above).unwrap();
    above.executed.height = Height(1);
    fails(votes_for(&above), "before it is synced");
}

#[test]
fn rounds_that_bring_nothing_are_noticed_once_nobody_has_anything_to_catch_up_with() {
    let bound = rounds_max(&Made::new().chain.set);
    let moment = |round, everybody, somebody| Moment {
        place: (Epoch(1), Round(round)),
        rounds_max: bound,
        together: true,
        everybody,
        somebody,
    };
    let mut liveness = Liveness::default();
    // One is behind: nothing is asked for.
    for round in 1..=5 * bound {
        liveness.saw(moment(round, 6, 7)).unwrap();
    }
    let start = 5 * bound;
    for round in 1..=bound {
        liveness.saw(moment(start + round, 7, 7)).unwrap();
    }
    // A commit, another epoch, and one that is elsewhere begin anew.
    let again = |moment| {
        let mut liveness = Liveness::default();
        liveness
            .saw(self::Moment {
                place: (Epoch(1), Round(1)),
                ..moment
            })
            .unwrap();
        liveness.saw(moment)
    };
    fails(again(moment(bound + 2, 7, 7)), "with everybody there");
    again(moment(bound + 1, 7, 7)).unwrap();
    again(Moment {
        together: false,
        ..moment(bound + 2, 7, 7)
    })
    .unwrap();
    liveness.saw(moment(start + bound + 1, 7, 8)).unwrap();
    liveness.saw(moment(start + 2 * bound + 1, 8, 8)).unwrap();
    fails(
        liveness.saw(moment(start + 2 * bound + 2, 8, 8)),
        "since height 8",
    );
    let next = Moment {
        place: (Epoch(2), Round(9 * bound)),
        ..moment(0, 8, 8)
    };
    liveness.saw(next).unwrap();
}
