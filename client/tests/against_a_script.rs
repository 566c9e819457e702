//! The client against a STOQ endpoint that answers by a script: what a validator may answer, in
//! an order that a real one would rarely produce.

use std::net::SocketAddrV6;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use falconet_client::{
    Client, ClientConfig, ClientError, ClientEvent, Fate, Hub, Pool, PoolConfig, Wallet,
};
use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_dataplane::{Channel, CloseCode, Event, Limits, Stoq, StoqConfig, StoqHandle};
use falconet_types::genesis::{ApplicationKind, Genesis, GenesisValidator, Params, StakeParams};
use falconet_types::message::{Admission, ClientMessage, kind};
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::transaction::SignedTransaction;
use falconet_types::{ChainId, Digest, Height, Seq, TxId, ValidatorIndex};

/// Longer than any step takes; passing it is a failure, not a measurement.
const LONG: Duration = Duration::from_secs(60);
const CHAIN: ChainId = Digest([1; 32]);

/// What the script does with a message.
enum Do {
    Answer(ClientMessage),
    AnswerRaw(u8, Bytes),
    Close,
}

struct Scripted {
    stoq: Option<Stoq>,
    addr: SocketAddrV6,
    key: Arc<KeyPair>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    fn start(script: impl FnMut(ClientMessage) -> Vec<Do> + Send + 'static) -> Self {
        let key = Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[7; 32]));
        Self::start_at("[::1]:0".parse().unwrap(), key, script)
    }

    fn start_at(
        addr: SocketAddrV6,
        key: Arc<KeyPair>,
        mut script: impl FnMut(ClientMessage) -> Vec<Do> + Send + 'static,
    ) -> Self {
        let mut config = StoqConfig::new(addr, CHAIN);
        config.identity = Some(key.clone());
        config.limits = Limits {
            redial_delay_min: Duration::from_millis(5),
            ..Limits::default()
        };
        let (stoq, events) = Stoq::bind(config).unwrap();
        let (addr, handle) = (stoq.local_addr(), stoq.handle());
        let thread = std::thread::spawn(move || {
            for event in events {
                if let Event::Frame {
                    conn,
                    channel,
                    kind,
                    payload,
                    ..
                } = event
                {
                    assert_eq!(channel, Channel::Client);
                    let message = ClientMessage::parse(kind, &payload).unwrap();
                    for step in script(message) {
                        step.carry_out(&handle, conn);
                    }
                }
            }
        });
        Self {
            stoq: Some(stoq),
            addr,
            key,
            thread: Some(thread),
        }
    }

    fn config(&self) -> ClientConfig {
        ClientConfig::new(self.addr, self.key.public().clone(), CHAIN)
    }

    fn stop(&mut self) {
        if let Some(stoq) = self.stoq.take() {
            stoq.shutdown();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

impl Do {
    fn carry_out(self, handle: &StoqHandle, conn: falconet_dataplane::ConnId) {
        match self {
            Self::Answer(message) => {
                handle
                    .send(conn, Channel::Client, message.kind(), message.payload())
                    .unwrap();
            }
            Self::AnswerRaw(kind, payload) => {
                handle.send(conn, Channel::Client, kind, payload).unwrap();
            }
            Self::Close => handle
                .close(conn, CloseCode::Shutdown, "as the script says")
                .unwrap(),
        }
    }
}

fn transfers(count: u64) -> Vec<SignedTransaction> {
    let key = KeyPair::from_seed(Scheme::Falcon512, &[3; 32]);
    let mut wallet = Wallet::new(key, CHAIN, 1);
    (0..count)
        .map(|i| wallet.transfer(Digest([2; 32]), i))
        .collect()
}

fn receipt(tx: &Bytes, outcome: Outcome) -> Receipt {
    Receipt {
        tx_id: SignedTransaction::parse(tx.clone()).unwrap().id(),
        height: Height(5),
        lane: ValidatorIndex(0),
        seq: Seq(1),
        index: 0,
        outcome,
    }
}

fn executed(txs: &[Bytes]) -> ClientMessage {
    ClientMessage::Receipts(
        txs.iter()
            .map(|tx| receipt(tx, Outcome::Executed))
            .collect(),
    )
}

fn results(tag: u64, results: Vec<Admission>) -> Do {
    Do::Answer(ClientMessage::Results { tag, results })
}

/// Accepts and executes everything.
fn willing(message: ClientMessage) -> Vec<Do> {
    match message {
        ClientMessage::Submit { tag, txs } => {
            vec![
                results(tag, vec![Admission::Accepted; txs.len()]),
                Do::Answer(executed(&txs)),
            ]
        }
        ClientMessage::GetProof(tx_id) => {
            vec![Do::Answer(ClientMessage::Proof {
                tx_id,
                proof: Bytes::new(),
            })]
        }
        other => panic!("a client does not send {other:?}"),
    }
}

#[test]
fn many_transactions_in_several_frames_get_their_receipts() {
    let validator = Scripted::start(willing);
    let mut client = Client::connect(&validator.config()).unwrap();
    // 798 bytes each: more than one frame's 256 KiB.
    let txs = transfers(700);
    let fates = client.submit_and_wait(&txs, LONG).unwrap();
    assert_eq!(fates.len(), txs.len());
    for (tx, fate) in txs.iter().zip(&fates) {
        assert_eq!(fate.receipt().unwrap().tx_id, tx.id());
    }
    assert_eq!(
        client.poll(Duration::ZERO).unwrap(),
        None,
        "every event was used"
    );
}

#[test]
fn refusals_and_busy_are_told_apart() {
    let mut offers = 0;
    let validator = Scripted::start(move |message| {
        let ClientMessage::Submit { tag, txs } = message else {
            panic!("{message:?}")
        };
        offers += 1;
        if offers > 1 {
            assert_eq!(txs.len(), 1, "only the busy one comes again");
            let failed = receipt(&txs[0], Outcome::InsufficientFunds);
            return vec![
                results(tag, vec![Admission::Accepted]),
                Do::Answer(ClientMessage::Receipts(vec![failed])),
            ];
        }
        let mixed = vec![
            Admission::Refused(Outcome::BadSignature),
            Admission::Busy { retry_after_ms: 1 },
            Admission::Duplicate,
            Admission::Accepted,
        ];
        // The receipt overtakes the results.
        vec![Do::Answer(executed(&txs[3..])), results(tag, mixed)]
    });
    let mut client = Client::connect(&validator.config()).unwrap();
    let txs = transfers(4);
    let fates = client.submit_and_wait(&txs, LONG).unwrap();
    assert_eq!(
        fates[0],
        Fate::NotAdmitted(Admission::Refused(Outcome::BadSignature))
    );
    assert_eq!(
        fates[1].receipt().unwrap().outcome,
        Outcome::InsufficientFunds
    );
    assert_eq!(fates[2], Fate::NotAdmitted(Admission::Duplicate));
    assert_eq!(fates[3].receipt().unwrap().outcome, Outcome::Executed);
}

#[test]
fn events_arrive_without_waiting_for_them() {
    let validator = Scripted::start(willing);
    let mut client = Client::connect(&validator.config()).unwrap();
    let txs = transfers(2);
    let tag = client.submit(&txs).unwrap();
    let Some(ClientEvent::Results {
        tag: answered,
        results,
    }) = client.poll(LONG).unwrap()
    else {
        panic!("results come first")
    };
    assert_eq!((answered, results.len()), (tag, 2));
    // One of two receipts is waited for, the other is kept.
    assert_eq!(
        client.wait_for_receipt(txs[1].id(), LONG).unwrap().tx_id,
        txs[1].id()
    );
    assert_eq!(
        client
            .wait_for_receipt(txs[0].id(), Duration::ZERO)
            .unwrap()
            .tx_id,
        txs[0].id()
    );
}

#[test]
fn a_lost_connection_is_said_and_made_again() {
    let mut seen = 0;
    let validator = Scripted::start(move |message| {
        seen += 1;
        if seen == 1 {
            vec![Do::Close]
        } else {
            willing(message)
        }
    });
    let mut client = Client::connect(&validator.config()).unwrap();
    let txs = transfers(1);
    let error = client.submit_and_wait(&txs, LONG).unwrap_err();
    assert!(
        matches!(&error, ClientError::Disconnected { reason } if reason.contains("script")),
        "{error}"
    );
    assert!(!client.is_connected());
    assert!(matches!(
        client.submit(&txs),
        Err(ClientError::NotConnected)
    ));
    client.wait_connected(LONG).unwrap();
    assert!(
        client.submit_and_wait(&txs, LONG).unwrap()[0]
            .receipt()
            .is_some()
    );
}

#[test]
fn garbage_from_a_validator_ends_the_connection_not_the_client() {
    for (kind, payload) in [
        (kind::RESULTS, &b"short"[..]),
        (kind::RECEIPTS, &[0xff; 8][..]),
        (200, &b""[..]),
        (kind::GET_PROOF, &[0; 32][..]),
    ] {
        let validator =
            Scripted::start(move |_| vec![Do::AnswerRaw(kind, Bytes::from_static(payload))]);
        let mut client = Client::connect(&validator.config()).unwrap();
        client.submit(&transfers(1)).unwrap();
        match client.poll(LONG).unwrap() {
            Some(ClientEvent::Disconnected {
                reason,
                was_connected: true,
            }) => {
                assert_eq!(reason.code(), Some(CloseCode::BadFrame), "kind {kind}");
            }
            other => panic!("kind {kind}: {other:?}"),
        }
    }
}

#[test]
fn the_wrong_key_and_the_wrong_chain_are_named() {
    let validator = Scripted::start(willing);
    let other = KeyPair::from_seed(Scheme::Falcon1024, &[8; 32]);
    let wrong_key = ClientConfig {
        key: other.public().clone(),
        ..validator.config()
    };
    let error = Client::connect(&wrong_key).unwrap_err().to_string();
    assert!(error.contains("does not prove the expected key"), "{error}");

    let wrong_chain = ClientConfig {
        chain_id: Digest([9; 32]),
        ..validator.config()
    };
    let error = Client::connect(&wrong_chain).unwrap_err().to_string();
    assert!(error.contains("another chain"), "{error}");
}

#[test]
fn a_validator_that_is_not_there_is_an_error_with_a_remedy() {
    let mut validator = Scripted::start(willing);
    let config = ClientConfig {
        connect_timeout: Duration::from_millis(200),
        ..validator.config()
    };
    validator.stop();
    let error = Client::connect(&config).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("check that it runs"), "{error}");
}

#[test]
fn proofs_are_verified_and_lies_found() {
    let genesis = Genesis {
        name: "test".into(),
        time_ms: 1,
        application: ApplicationKind::Ledger,
        params: Params::default(),
        validators: vec![GenesisValidator {
            name: "validator-0".into(),
            key: KeyPair::from_seed(Scheme::Falcon512, &[4; 32])
                .public()
                .clone(),
            weight: 1,
            owner: None,
            address: None,
        }],
        stake: StakeParams::default(),
        accounts: vec![],
    };
    let lie = TxId::from([6; 32]);
    let validator = Scripted::start(move |message| match message {
        ClientMessage::GetProof(tx_id) if tx_id == lie => {
            let proof = Bytes::from_static(b"trust me");
            vec![Do::Answer(ClientMessage::Proof { tx_id, proof })]
        }
        other => willing(other),
    });
    let mut client = Client::connect(&validator.config()).unwrap();
    let error = client.proof(lie, &genesis, LONG).unwrap_err();
    assert!(
        matches!(error, ClientError::BadProof { id, .. } if id == lie),
        "{error}"
    );
    let unknown = TxId::from([5; 32]);
    let error = client.proof(unknown, &genesis, LONG).unwrap_err();
    assert!(
        matches!(error, ClientError::NoProof(id) if id == unknown),
        "{error}"
    );
}

#[test]
fn a_hub_keeps_validators_apart() {
    let first = Scripted::start(willing);
    let key = Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[9; 32]));
    let second = Scripted::start_at("[::1]:0".parse().unwrap(), key, |message| {
        let ClientMessage::Submit { tag, txs } = message else {
            panic!("{message:?}")
        };
        vec![results(
            tag,
            vec![Admission::Busy { retry_after_ms: 9 }; txs.len()],
        )]
    });
    let mut hub = Hub::open(CHAIN).unwrap();
    let a = hub.dial(first.addr, first.key.public()).unwrap();
    let b = hub.dial(second.addr, second.key.public()).unwrap();
    let deadline = Some(std::time::Instant::now() + LONG);
    while !(hub.is_connected(a) && hub.is_connected(b)) {
        assert!(matches!(
            hub.poll(deadline).unwrap(),
            Some((_, ClientEvent::Connected))
        ));
    }
    let txs: Vec<Bytes> = transfers(1).iter().map(|tx| tx.bytes().clone()).collect();
    // One tag on two connections.
    hub.submit(a, 1, &txs).unwrap();
    hub.submit(b, 1, &txs).unwrap();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        match hub.poll(deadline).unwrap() {
            Some((link, ClientEvent::Results { tag: 1, results })) => answers.push((link, results)),
            Some((_, ClientEvent::Receipts(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    answers.sort_by_key(|(link, _)| *link);
    assert_eq!(answers[0], (a, vec![Admission::Accepted]));
    assert_eq!(answers[1], (b, vec![Admission::Busy { retry_after_ms: 9 }]));
}

/// A pool over two validators, the home of the wallet's sender first, and a payment.
fn pool(home: &Scripted, other: &Scripted) -> (Pool, SignedTransaction) {
    pool_with(home, other, Duration::from_millis(300))
}

fn pool_with(
    home: &Scripted,
    other: &Scripted,
    fail_over_after: Duration,
) -> (Pool, SignedTransaction) {
    let payer = KeyPair::from_seed(Scheme::Falcon512, &[3; 32]);
    let mut wallet = Wallet::new(payer, CHAIN, 1);
    let tx = wallet.transfer(Digest([2; 32]), 1);
    let mut validators = [home, other];
    let place = usize::from(wallet.id().0[0] % 2);
    if place == 1 {
        validators.reverse();
    }
    let config = PoolConfig {
        genesis: None,
        validators: validators
            .iter()
            .map(|v| (v.addr, v.key.public().clone()))
            .collect(),
        chain_id: CHAIN,
        fail_over_after,
    };
    let pool = Pool::open(&config).unwrap();
    assert_eq!(pool.home(&wallet.id()), place);
    (pool, tx)
}

/// A second validator.
fn second(script: impl FnMut(ClientMessage) -> Vec<Do> + Send + 'static) -> Scripted {
    let key = Arc::new(KeyPair::from_seed(Scheme::Falcon1024, &[8; 32]));
    Scripted::start_at("[::1]:0".parse().unwrap(), key, script)
}

fn answer(tag: u64, admission: Admission) -> Do {
    let results = vec![admission];
    Do::Answer(ClientMessage::Results { tag, results })
}

#[test]
fn a_silent_home_is_passed_over() {
    let home = Scripted::start(|message| match message {
        ClientMessage::Submit { tag, .. } => vec![answer(tag, Admission::Accepted)],
        other => willing(other),
    });
    let other = second(willing);
    let (mut pool, tx) = pool(&home, &other);
    let fates = pool.submit_and_wait(&[tx], LONG).unwrap();
    assert_eq!(fates[0].receipt().unwrap().outcome, Outcome::Executed);
}

/// Its connection stands, and the pool would wait for its receipt for an hour: only the silence tells.
#[test]
fn a_home_that_answers_nothing_at_all_is_passed_over() {
    let (said, heard) = std::sync::mpsc::channel();
    let home = Scripted::start(move |message| match message {
        ClientMessage::Submit { .. } => {
            said.send(()).unwrap();
            Vec::new()
        }
        other => willing(other),
    });
    let other = second(willing);
    let (mut pool, tx) = pool_with(&home, &other, Duration::from_secs(3_600));
    // Both are connected, so that the home is asked first.
    pool.idle(Duration::from_millis(500)).unwrap();
    let fates = pool.submit_and_wait(&[tx], LONG).unwrap();
    assert_eq!(fates[0].receipt().unwrap().outcome, Outcome::Executed);
    assert!(heard.try_iter().count() <= 1, "silent, it was asked again");
}

#[test]
fn a_home_that_hangs_up_is_passed_over() {
    let home = Scripted::start(|message| match message {
        ClientMessage::Submit { .. } => vec![Do::Close],
        other => willing(other),
    });
    let other = second(willing);
    let (mut pool, tx) = pool(&home, &other);
    let fates = pool.submit_and_wait(&[tx], LONG).unwrap();
    assert_eq!(fates[0].receipt().unwrap().outcome, Outcome::Executed);
}

#[test]
fn a_busy_home_is_asked_again_after_its_hint_and_then_passed_over() {
    let (said, heard) = std::sync::mpsc::channel();
    let home = Scripted::start(move |message| match message {
        ClientMessage::Submit { tag, .. } => {
            said.send(std::time::Instant::now()).unwrap();
            vec![answer(tag, Admission::Busy { retry_after_ms: 50 })]
        }
        other => willing(other),
    });
    let other = second(willing);
    let (mut pool, tx) = pool(&home, &other);
    // Both are connected, so that the home is asked first.
    std::thread::sleep(Duration::from_millis(500));
    let fates = pool.submit_and_wait(&[tx], LONG).unwrap();
    assert_eq!(fates[0].receipt().unwrap().outcome, Outcome::Executed);
    let asked: Vec<_> = heard.try_iter().collect();
    assert!(asked.len() <= 3, "asked {} times", asked.len());
    for pair in asked.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(50));
    }
}
