//! What a stranger may send: refused with its own code at the door, counted, and the validator
//! goes on.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use falconet_client::{Client, ClientError};
use falconet_dataplane::{Channel, Event, PeerTarget, Stoq, StoqConfig};
use falconet_types::message::{Admission, kind};
use falconet_types::receipt::Outcome;
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::{Digest, KeyPair, Scheme};

use crate::harness::PATIENCE;
use crate::network::{BALANCE, Network, now_ms};

/// A stranger's key: no account on the chain.
fn stranger() -> KeyPair {
    KeyPair::from_seed(Scheme::Falcon512, &[0x77; 32])
}

/// A good transfer of account 0, changed and signed.
fn signed(network: &Network, change: impl FnOnce(&mut Transaction)) -> Vec<u8> {
    let key = &network.accounts[0];
    let mut tx = Transaction {
        scheme: key.scheme(),
        chain_id: network.chain_id(),
        sender: key.public().id(),
        nonce: 1000,
        valid_until_ms: now_ms() + 600_000,
        fee: 1,
        body: Body::Transfer {
            to: network.account(1),
            amount: 1,
        },
    };
    change(&mut tx);
    tx.sign(key).bytes().to_vec()
}

fn pay(amount: u64) -> impl FnOnce(&mut Transaction) {
    move |tx| {
        let Body::Transfer { to, .. } = tx.body else {
            unreachable!("a transfer")
        };
        tx.body = Body::Transfer { to, amount };
    }
}

/// Everything that a door refuses, with the outcome that says why.
fn refused(network: &Network) -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let good = signed(network, |_| {});
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let end = good.len();
    let signature = end - Scheme::Falcon512.signature_len();
    let unknown = Transaction {
        scheme: Scheme::Falcon512,
        chain_id: network.chain_id(),
        sender: stranger().public().id(),
        nonce: 1,
        valid_until_ms: now_ms() + 600_000,
        fee: 1,
        body: Body::Transfer {
            to: network.account(1),
            amount: 1,
        },
    };
    let replayed = network
        .wallet_from(0, 1)
        .transfer(network.account(1), 1)
        .bytes()
        .to_vec();
    let other_chain = |tx: &mut Transaction| tx.chain_id = Digest([9; 32]);
    let below_the_window = |tx: &mut Transaction| tx.nonce = 0;
    vec![
        (
            "a changed amount",
            flipped(signature - 8),
            Outcome::BadSignature,
        ),
        (
            "a changed nonce in the signature",
            flipped(signature + 5),
            Outcome::BadSignature,
        ),
        (
            "a changed coefficient",
            flipped(signature + 60),
            Outcome::BadSignature,
        ),
        (
            "another header byte of the signature",
            flipped(signature),
            Outcome::BadSignature,
        ),
        (
            "a tail that is not zero",
            flipped(end - 1),
            Outcome::BadSignature,
        ),
        (
            "nothing of the last byte",
            good[..end - 1].to_vec(),
            Outcome::Malformed,
        ),
        (
            "one byte more",
            [&good[..], &[0]].concat(),
            Outcome::Malformed,
        ),
        ("half of it", good[..end / 2].to_vec(), Outcome::Malformed),
        ("another version", flipped(0), Outcome::Malformed),
        (
            "an unknown scheme",
            [&[1, 9], &good[2..]].concat(),
            Outcome::Malformed,
        ),
        (
            "an unknown body",
            [&good[..2], &[9], &good[3..]].concat(),
            Outcome::Malformed,
        ),
        ("a reserved byte", flipped(3), Outcome::Malformed),
        (
            "another chain",
            signed(network, other_chain),
            Outcome::WrongChain,
        ),
        (
            "a time that has passed",
            signed(network, |tx| tx.valid_until_ms = 1),
            Outcome::Expired,
        ),
        ("a nonce that was used", replayed, Outcome::Replayed),
        (
            "a nonce below the window",
            signed(network, below_the_window),
            Outcome::Replayed,
        ),
        (
            "no account",
            unknown.sign(&stranger()).bytes().to_vec(),
            Outcome::UnknownSender,
        ),
        (
            "no fee",
            signed(network, |tx| tx.fee = 0),
            Outcome::FeeTooLow,
        ),
        (
            "more than there is",
            signed(network, pay(BALANCE + 1)),
            Outcome::InsufficientFunds,
        ),
        (
            "more than fits",
            signed(network, pay(u64::MAX)),
            Outcome::Overflow,
        ),
    ]
}

#[test]
fn bad_transactions_are_refused_with_their_own_code_and_change_nothing() {
    let network = Network::running(4, 2, Scheme::Falcon512);
    let mut client = network.client(0);
    // Nonces 1 and 300: nonce 1 is used, and nonce 0 lies below the window of 256.
    for nonce in [1, 300] {
        let tx = network
            .wallet_from(0, nonce)
            .transfer(network.account(1), 1);
        client
            .submit_and_wait(std::slice::from_ref(&tx), PATIENCE)
            .unwrap();
    }
    network.agree();
    let balances = || [0, 1].map(|account| network.balance(0, network.account(account)).unwrap());
    let before = balances();

    for (what, bytes, outcome) in refused(&network) {
        // Over HTTP.
        let (status, body) = network.post(0, &bytes);
        if outcome == Outcome::Malformed {
            assert_eq!(status, 400, "{what}: {body}");
            assert_eq!(body["error"]["code"], "malformed", "{what}");
            assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        } else {
            assert_eq!(status, 422, "{what}: {body}");
            assert_eq!(body["admission"]["refused"], outcome.name(), "{what}");
        }
        // Over STOQ, between two good ones.
        let tag = client.submit_bytes(&[bytes.into()]).unwrap();
        let results = client.wait_for_results(tag, PATIENCE).unwrap();
        assert_eq!(results, [Admission::Refused(outcome)], "{what}");
    }
    assert_eq!(balances(), before, "nothing of it was executed");

    let tx = network.wallet_from(0, 301).transfer(network.account(1), 1);
    client
        .submit_and_wait(std::slice::from_ref(&tx), PATIENCE)
        .unwrap();
    network.agree();
    assert_eq!(balances(), [before[0] - 2, before[1] + 1]);
}

#[test]
fn an_account_without_a_registered_key_must_register_it_first() {
    let network = Network::running(1, 1, Scheme::Falcon512);
    let key = stranger();
    let account = key.public().id();
    let mut client = network.client(0);
    let mut submit = |tx: &SignedTransaction| {
        client
            .submit_and_wait(std::slice::from_ref(tx), PATIENCE)
            .unwrap()[0]
    };
    submit(&network.wallet(0).transfer(account, 1000));
    assert_eq!(network.balance(0, account), Some(1000));
    let mut wallet = falconet_client::Wallet::new(key, network.chain_id(), 1);
    let too_early = submit(&wallet.transfer(network.account(0), 1));
    let refused = falconet_client::Fate::NotAdmitted(Admission::Refused(Outcome::UnknownKey));
    assert_eq!(too_early, refused);
    assert_eq!(
        submit(&wallet.register_key()).receipt().unwrap().outcome,
        Outcome::Executed
    );
    let paid = submit(&wallet.transfer(network.account(0), 1));
    assert_eq!(paid.receipt().unwrap().outcome, Outcome::Executed);
}

#[test]
fn bad_requests_over_http_are_answered_with_a_code() {
    let network = Network::running(1, 1, Scheme::Falcon512);
    let unknown = "0".repeat(64);
    for (path, status, code) in [
        ("/v1/transactions/xyz".to_owned(), 400, "bad_id"),
        (
            format!("/v1/transactions/{unknown}"),
            404,
            "unknown_transaction",
        ),
        ("/v1/accounts/xyz".to_owned(), 400, "bad_id"),
        (format!("/v1/accounts/{unknown}"), 404, "unknown_account"),
        ("/v1/blocks/-1".to_owned(), 400, "bad_height"),
        ("/v1/blocks/99999999".to_owned(), 404, "unknown_block"),
        ("/nowhere".to_owned(), 404, "no_route"),
    ] {
        let (found, body) = network.get(0, &path);
        assert_eq!(
            (found, &body["error"]["code"]),
            (status, &code.into()),
            "{path}: {body}"
        );
    }
    // A body without bound is not read: refused, or the connection is closed while it is sent.
    let status = network.try_post(0, &[0; 1 << 20]).map(|(status, _)| status);
    assert!(matches!(status, None | Some(413)), "{status:?}");
    assert_eq!(network.get(0, "/livez").0, 200);
}

/// A connection to validator 0 that may send anything.
fn raw(network: &Network, identity: Option<KeyPair>) -> (Stoq, crossbeam_channel::Receiver<Event>) {
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let mut config = StoqConfig::new(any, network.chain_id());
    config.identity = identity.map(Arc::new);
    let (stoq, events) = Stoq::bind(config).unwrap();
    let target = PeerTarget {
        addr: network.stoq(0),
        key: network.genesis.validators[0].key.clone(),
        persistent: false,
    };
    stoq.handle().connect(target).unwrap();
    (stoq, events)
}

/// Sends one frame to validator 0; true when it closed the connection for that.
fn closes_for(network: &Network, frame_kind: u8, payload: &[u8]) -> bool {
    let (stoq, events) = raw(network, None);
    loop {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Connected { conn, .. } => {
                let bytes = bytes::Bytes::copy_from_slice(payload);
                stoq.handle()
                    .send(conn, Channel::Client, frame_kind, bytes)
                    .unwrap();
                // What a healthy connection answers.
                let nothing = bytes::Bytes::from_static(&[0; 32]);
                let _ = stoq
                    .handle()
                    .send(conn, Channel::Client, kind::GET_PROOF, nothing);
            }
            Event::Frame { .. } => return false,
            Event::Closed { reason, .. } => {
                assert!(reason.code().is_some(), "closed with a reason: {reason}");
                return true;
            }
            Event::DialFailed { reason, .. } => panic!("not even connected: {reason}"),
            _ => {}
        }
    }
}

#[test]
fn frames_that_make_no_sense_close_the_connection_and_harm_nobody_else() {
    let network = Network::running(1, 2, Scheme::Falcon512);
    let mut honest = network.client(0);
    let mut wallet = network.wallet(0);
    for (frame_kind, payload) in [
        (kind::SUBMIT, &[][..]),
        (kind::SUBMIT, &[0; 8]),
        (kind::SUBMIT, &[0xff; 10]),
        (kind::SUBMIT, &[0xff; 1000]),
        (kind::RESULTS, &[0; 10]),
        (kind::GET_PROOF, &[0; 31]),
        (kind::VOTE, &[0; 100]),
        (kind::HEADER, &[0; 1000]),
        (255, b"what is this"),
    ] {
        assert!(
            closes_for(&network, frame_kind, payload),
            "kind {frame_kind}: {payload:?}"
        );
        let tx = wallet.transfer(network.account(1), 1);
        let fates = honest
            .submit_and_wait(std::slice::from_ref(&tx), PATIENCE)
            .unwrap();
        assert!(fates[0].receipt().is_some());
    }
    assert!(
        !closes_for(&network, kind::GET_PROOF, &[0; 32]),
        "a good frame closes nothing"
    );
}

#[test]
fn datagrams_that_are_no_quic_are_ignored() {
    let network = Network::running(1, 2, Scheme::Falcon512);
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    for len in [0, 1, 20, 1200, 1452] {
        for fill in [0x00, 0x40, 0xc0, 0xff] {
            socket.send_to(&vec![fill; len], network.stoq(0)).unwrap();
        }
    }
    let mut client = network.client(0);
    let tx = network.wallet(0).transfer(network.account(1), 1);
    let fates = client
        .submit_and_wait(std::slice::from_ref(&tx), PATIENCE)
        .unwrap();
    assert!(fates[0].receipt().is_some());
}

#[test]
fn a_client_of_another_chain_is_refused() {
    let network = Network::running(1, 1, Scheme::Falcon512);
    let mut config = network.client_config(0);
    config.chain_id = Digest([7; 32]);
    let error = Client::connect(&config).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("chain"), "{error}");
}

#[test]
fn a_validator_that_is_not_the_one_asked_for_is_refused() {
    let network = Network::running(1, 1, Scheme::Falcon512);
    let mut config = network.client_config(0);
    config.key = stranger().public().clone();
    config.connect_timeout = Duration::from_secs(5);
    assert!(Client::connect(&config).is_err());
}

#[test]
fn a_peer_whose_key_is_no_validators_is_refused() {
    let network = Network::running(1, 1, Scheme::Falcon512);
    let (_stoq, events) = raw(&network, Some(stranger()));
    loop {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::DialFailed { .. } | Event::Closed { .. } => break,
            Event::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let status = network.get(0, "/v1/status").1;
    assert_eq!(
        status["peers"].as_array().unwrap().len(),
        1,
        "only itself: {status}"
    );
}
