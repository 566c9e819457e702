//! Rules S1 to S6 and H2: what survives a restart, and when a node must not sign.

use falconet_types::certificate::Qc;
use falconet_types::message::PeerMessage;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Height, Round, ValidatorIndex};

use super::harness::{CHAIN, Log, Solo, config, genesis_qc, set, signer};
use crate::{Alarm, Effect, HotStuff, Input, RecoverError, Recovered, SafetyRecord};

/// A follower of rounds 1 and 2 that voted in both, with its log.
fn voted_twice() -> (Solo, Log) {
    let mut solo = Solo::follower([1, 2, 3]);
    let chain = solo.maker.chain([1, 2]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    solo.header(&chain[1]);
    let mut log = Log::default();
    for record in solo.said().records() {
        log.append(record);
    }
    (solo, log)
}

/// Scenario 2: a crash after the write, before or after the send: the vote is sent again as it
/// was signed, and no other of that round.
#[test]
fn s2_a_restarted_node_resends_the_bytes_and_never_votes_again_in_the_round() {
    let (solo, log) = voted_twice();
    let record = log.recovered().safety.unwrap();
    let mut again = Solo::recover(solo.me(), log.recovered());
    let sent: Vec<PeerMessage> = again.said().sends().into_iter().map(|(_, m)| m).collect();
    assert!(sent.contains(&PeerMessage::Vote(record.last_vote.clone().unwrap())));
    let first = solo.maker.header(None, 1);
    let mut draft = solo.maker.draft(Some(&first), 2);
    draft.time_ms += 5;
    again.header(&solo.maker.sign(draft));
    assert!(again.said().votes().is_empty());
    assert_eq!(
        again.round(),
        2,
        "the locked QC of round 1 was in the record"
    );
}

/// A crash between the write and the send: nobody has the vote, and it counts all the same once the
/// others' arrive. The certificate that only this node could make is no foreign signature when it
/// comes back.
#[test]
fn s2_a_vote_that_was_written_and_never_sent_counts_after_the_restart() {
    let (solo, log) = voted_twice();
    let voted = log.recovered().safety.unwrap().last_vote.unwrap();
    let mut again = Solo::recover(solo.me(), log.recovered());
    let header = log.header(&voted.block_id).unwrap().clone();
    again.header(&header);
    let _ = again.said();
    let others = again.others();
    for voter in &others[..2] {
        again.vote(solo.maker.vote(*voter, &header));
    }
    assert_eq!(again.round(), 3, "its own vote and two more are a quorum");
    let qc = again.core.certificates.high_qc().clone();
    assert!(qc.votes.iter().any(|(voter, _)| voter.0 == solo.me()));
    let mut third = Solo::recover(solo.me(), log.recovered());
    third.give_qc(Qc::clone(&qc));
    let said = third.said();
    assert!(third.core.signs(), "{:?}", third.core.status().not_signing);
    assert!(!said.0.iter().any(|e| matches!(e, Effect::Alarm(_))));
    assert_eq!(third.round(), 3);
}

#[test]
fn s2_a_restarted_node_resends_its_timeout_and_does_not_vote_in_that_round() {
    let mut solo = Solo::follower([1]);
    solo.advance_ms(1_000);
    let said = solo.said();
    let timeout = said.timeouts()[0].clone();
    let recovered = Recovered {
        safety: said.safety(),
        ..Recovered::default()
    };
    let mut again = Solo::recover(solo.me(), recovered);
    let sent: Vec<PeerMessage> = again.said().sends().into_iter().map(|(_, m)| m).collect();
    assert!(sent.contains(&PeerMessage::Timeout(timeout.clone())));
    let header = solo.maker.header(None, 1);
    again.header(&header);
    again.advance_ms(1_000);
    let said = again.said();
    assert!(said.votes().is_empty());
    assert_eq!(said.timeouts(), vec![timeout], "resent, not signed again");
}

/// Scenario 2: a leader that crashed after it proposed sends the same header.
#[test]
fn h2_a_restarted_leader_sends_the_header_that_it_signed() {
    let me = set(4).leader(Round(1)).0;
    let mut solo = Solo::new(me);
    solo.payload.work = true;
    solo.input(Input::PayloadChanged);
    let said = solo.said();
    let header = said.headers()[0].clone();
    let mut log = Log::default();
    for record in said.records() {
        log.append(record);
    }
    let mut again = Solo::recover(me, log.recovered());
    again.payload.work = true;
    again.now.wall_ms += 77;
    again.input(Input::PayloadChanged);
    let said = again.said();
    let mut headers = said.headers();
    headers.extend(said.sends().into_iter().filter_map(|(_, m)| match m {
        PeerMessage::Header(header) => Some(header),
        _ => None,
    }));
    assert!(!headers.is_empty());
    assert!(headers.iter().all(|h| h.id() == header.id()));
    assert!(headers.iter().all(|h| h.signature() == header.signature()));
}

/// Scenario 3: without its record a node follows, but signs nothing.
#[test]
fn s3_a_lost_or_damaged_record_means_no_signing() {
    let (solo, log) = voted_twice();
    let lost = Recovered {
        safety: None,
        ..log.recovered()
    };
    let damaged = Recovered {
        safety_damage: Some("checksum".into()),
        ..log.recovered()
    };
    for recovered in [lost, damaged] {
        let mut again = Solo::recover(solo.me(), recovered);
        assert!(again.core.status().not_signing.is_some());
        let chain = solo.maker.chain(1..=4);
        for header in &chain {
            again.header(header);
            again.qc(header);
            again.advance_ms(1_500);
        }
        let said = again.said();
        assert!(said.votes().is_empty() && said.timeouts().is_empty() && said.headers().is_empty());
        assert_eq!(
            said.committed_heights(),
            vec![1, 2, 3],
            "it follows the chain"
        );
    }
}

#[test]
fn s4_a_record_of_another_chain_key_or_epoch_means_no_signing() {
    let key = signer(ValidatorIndex(0)).0;
    let right = SafetyRecord::fresh(CHAIN, key, genesis_qc());
    let wrong = [
        SafetyRecord {
            chain_id: Digest([1; 32]),
            ..right.clone()
        },
        SafetyRecord {
            key_id: signer(ValidatorIndex(1)).0,
            ..right.clone()
        },
        SafetyRecord {
            epoch: Epoch(3),
            ..right.clone()
        },
    ];
    for record in wrong {
        let recovered = Recovered {
            safety: Some(record),
            ..Recovered::default()
        };
        assert!(
            Solo::recover(0, recovered)
                .core
                .status()
                .not_signing
                .is_some()
        );
    }
    let recovered = Recovered {
        safety: Some(right),
        ..Recovered::default()
    };
    assert!(
        Solo::recover(0, recovered)
            .core
            .status()
            .not_signing
            .is_none()
    );
}

/// Scenario 3: rolled back to an older copy. The log's own certificates give it away.
#[test]
fn s5_an_older_copy_of_the_record_is_found_at_start() {
    let (solo, log) = voted_twice();
    let second = solo.maker.chain([1, 2])[1].clone();
    let not_me = (0..4).find(|i| *i != solo.me()).unwrap();
    let qc = solo.maker.qc_without(&second, not_me);
    let old = SafetyRecord::fresh(CHAIN, signer(ValidatorIndex(solo.me())).0, genesis_qc());
    let recovered = Recovered {
        safety: Some(old),
        qcs: vec![qc],
        ..log.recovered()
    };
    let again = Solo::recover(solo.me(), recovered);
    assert!(
        again
            .core
            .status()
            .not_signing
            .unwrap()
            .contains("old copy")
    );
}

/// Scenarios 3 and 4: the same on the wire: a vote, a QC, a timeout, a TC or a header that this
/// key signed and this node does not know.
#[test]
fn s5_a_foreign_signature_of_the_own_key_stops_the_node() {
    let fresh = || Solo::follower([1, 2]);
    let me = fresh().me();
    let not_me = (0..4).find(|i| *i != me).unwrap();
    let first = fresh().maker.header(None, 1);
    let genesis = fresh().maker.genesis_qc();
    let stopped = |mut solo: Solo| {
        let alarms = solo.said().0.into_iter();
        let count = alarms
            .filter(|e| matches!(e, Effect::Alarm(Alarm::ForeignSignature { .. })))
            .count();
        assert_eq!(count, 1);
        assert!(solo.core.status().not_signing.is_some());
        solo.advance_ms(2_000);
        assert!(solo.said().timeouts().is_empty());
    };

    let mut solo = fresh();
    solo.vote(solo.maker.vote(me, &first));
    stopped(solo);

    let mut solo = fresh();
    solo.give_qc(solo.maker.qc_without(&first, not_me));
    stopped(solo);

    let mut solo = fresh();
    solo.timeout(solo.maker.timeout(me, 1, &genesis));
    stopped(solo);

    let mut solo = fresh();
    let mut who: Vec<u16> = (0..4).filter(|i| *i != not_me).collect();
    who.sort_unstable();
    let tc = solo.maker.tc(
        1,
        [(who[0], &genesis), (who[1], &genesis), (who[2], &genesis)],
    );
    solo.tc(tc);
    stopped(solo);

    let leader = set(4).leader(Round(1)).0;
    let mut solo = Solo::new(leader);
    solo.said();
    solo.header(&first);
    stopped(solo);

    // Its own words coming back are no reason to stop.
    let mut solo = fresh();
    solo.header(&first);
    let vote = solo.said().votes()[0].clone();
    solo.vote(vote);
    solo.give_qc(solo.maker.qc_without(&first, not_me));
    assert!(solo.core.status().not_signing.is_none());
}

#[test]
fn s1_the_record_is_written_in_the_turn_that_signs() {
    let mut solo = Solo::follower([1]);
    let first = solo.said();
    let first: Vec<_> = first.records().collect();
    assert!(
        matches!(first[..], [crate::Record::Safety(_)]),
        "the empty record comes before anything else"
    );
    solo.input(Input::Tick);
    assert!(
        solo.said().safety().is_none(),
        "nothing signed, nothing written"
    );
    solo.advance_ms(1_000);
    let said = solo.said();
    assert_eq!(said.safety().unwrap().highest_timeout_round, Round(1));
    assert_eq!(said.safety().unwrap().last_voted_round, Round(1));
}

#[test]
fn s1_the_record_round_trips_and_rejects_every_truncation() {
    let (_, log) = voted_twice();
    let mut record = log.recovered().safety.unwrap();
    let (leader, _) = (set(4).leader(Round(1)).0, ());
    let mut solo = Solo::new(leader);
    solo.payload.work = true;
    solo.input(Input::PayloadChanged);
    record.last_normal = solo.said().safety().unwrap().last_normal;
    assert!(record.last_normal.is_some());
    let bytes = record.to_bytes();
    assert_eq!(SafetyRecord::from_bytes(&bytes).unwrap(), record);
    for len in 0..bytes.len() {
        assert!(
            SafetyRecord::from_bytes(&bytes[..len]).is_err(),
            "{len} bytes"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(SafetyRecord::from_bytes(&longer).is_err());
    // A record from before there were commit votes.
    assert_eq!(record.last_commit_vote, None);
    let mut older = bytes[..bytes.len() - 1].to_vec();
    older[0] = 1;
    assert_eq!(SafetyRecord::from_bytes(&older).unwrap(), record);
    let mut other_version = bytes;
    other_version[0] = 3;
    assert!(SafetyRecord::from_bytes(&other_version).is_err());
}

#[test]
fn recovery_refuses_a_wrong_key_a_stranger_and_a_missing_header() {
    let set = set(4);
    let new = |me: u16, key: u16, recovered| {
        let key = Box::new(signer(ValidatorIndex(key)));
        HotStuff::new(config(&set, ValidatorIndex(me)), key, recovered).err()
    };
    let fresh = Recovered::default;
    assert!(matches!(
        new(1, 2, fresh()),
        Some(RecoverError::OtherKey { .. })
    ));
    assert!(matches!(
        new(5, 5, fresh()),
        Some(RecoverError::NotAMember(_))
    ));
    let gap = Recovered {
        committed: Some((Height(3), Digest([1; 32]))),
        ..fresh()
    };
    assert!(matches!(
        new(1, 1, gap),
        Some(RecoverError::CommittedHeaderMissing { .. })
    ));
    assert!(new(1, 1, fresh()).is_none());
}

#[test]
fn recovery_goes_on_from_the_committed_block() {
    let mut solo = Solo::leader_of_2();
    let chain = solo.maker.chain([1, 3, 4, 5]);
    let mut log = Log::default();
    solo.feed(&chain[..3]);
    for record in solo.said().records() {
        log.append(record);
    }
    let mut again = Solo::recover(solo.me(), log.recovered());
    let status = again.core.status();
    assert_eq!(status.committed_height, Height(2));
    assert_eq!(status.high_qc_round, Round(4));
    assert_eq!(status.round, Round(5));
    again.said();
    again.header(&chain[3]);
    assert_eq!(
        again.said().votes().len(),
        1,
        "headers above the commit were recovered too"
    );
    again.qc(&chain[3]);
    assert_eq!(
        again.said().committed_heights(),
        vec![3],
        "and height 2 is not committed twice"
    );
    let _: Qc = log.recovered().qcs[0].clone();
}

/// A log that ends inside a turn must look as if the node had stopped between two steps: each
/// prefix of the records can be recovered from, and the node signs. (The simulator found logs with
/// headers but no safety record, and with a certificate that the record knew nothing of.)
#[test]
fn s1_every_prefix_of_a_turns_records_is_a_sound_log() {
    let mut solo = Solo::leader_of_2();
    let chain = solo.maker.chain([1, 3, 4, 5]);
    let mut records = Vec::new();
    for header in &chain {
        solo.header(header);
        // With the own vote, the votes of two others make the QC: it names this node.
        for voter in solo.others().into_iter().take(2) {
            solo.vote(solo.maker.vote(voter, header));
        }
        solo.qc(header);
        solo.advance_ms(1_000);
        records.extend(solo.said().records().cloned());
    }
    let mut log = Log::default();
    for (i, record) in records.iter().enumerate() {
        log.append(record);
        let again = Solo::recover(solo.me(), log.recovered());
        let why = again.core.status().not_signing;
        assert_eq!(why, None, "after {} of {} records", i + 1, records.len());
    }
    assert!(records.len() > 12);
}
