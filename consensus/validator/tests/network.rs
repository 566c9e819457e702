//! Four validators in one process, with real sockets, disks and signatures: transfers commit,
//! states agree, a restarted validator goes on where it was, proofs convince an outsider.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddrV6, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use falconet_client::{Client, ClientConfig, Pool, PoolConfig, Wallet};
use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_crypto::keyfile;
use falconet_dataplane::{Channel, Event, PeerTarget, Stoq, StoqConfig, TrustedKeys};
use falconet_types::certificate::Vote;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::message::PeerMessage;
use falconet_types::receipt::Outcome;
use falconet_types::{Digest, Epoch, Round, ValidatorIndex};
use falconet_validator::Node;
use falconet_validator::config::{
    Config, HttpSection, LogSection, StoqSection, StoreSection, ThreadsSection,
};

const PATIENCE: Duration = Duration::from_secs(120);
const BALANCE: u64 = 1_000_000;

struct Network {
    dir: tempfile::TempDir,
    genesis: Genesis,
    stoq: Vec<SocketAddrV6>,
    nodes: Vec<Option<Node>>,
}

fn free_port() -> SocketAddrV6 {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    SocketAddrV6::new(
        Ipv6Addr::LOCALHOST,
        socket.local_addr().unwrap().port(),
        0,
        0,
    )
}

fn rich() -> KeyPair {
    KeyPair::from_seed(Scheme::Falcon512, &[9; 32])
}

impl Network {
    fn create(n: usize) -> Self {
        Self::with(n, Params::default())
    }

    fn with(n: usize, params: Params) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rich();
        let mut validators = Vec::new();
        for i in 0..n {
            let key = KeyPair::generate(Scheme::Falcon1024);
            keyfile::write(&dir.path().join(format!("{i}.key")), &key).unwrap();
            validators.push(GenesisValidator {
                name: format!("validator-{i}"),
                key: key.public().clone(),
                weight: 1,
                owner: None,
                address: None,
            });
        }
        let genesis = Genesis {
            name: "test".into(),
            time_ms: 1_700_000_000_000,
            application: ApplicationKind::Ledger,
            params,
            validators,
            stake: StakeParams::default(),
            accounts: vec![GenesisAccount {
                id: key.public().id(),
                balance: BALANCE,
                key: Some(key.public().clone()),
            }],
        };
        let text = serde_json::to_vec(&genesis).unwrap();
        std::fs::write(dir.path().join("genesis.json"), text).unwrap();
        let stoq = (0..n).map(|_| free_port()).collect();
        Self {
            dir,
            genesis,
            stoq,
            nodes: (0..n).map(|_| None).collect(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn start(&mut self, i: usize) {
        let peers: BTreeMap<String, SocketAddrV6> = (0..self.stoq.len())
            .filter(|j| *j != i)
            .map(|j| (format!("validator-{j}"), self.stoq[j]))
            .collect();
        let config = Config {
            genesis: self.path().join("genesis.json"),
            key: self.path().join(format!("{i}.key")),
            data: self.path().join(format!("data-{i}")),
            stoq: StoqSection::new(self.stoq[i]),
            http: HttpSection {
                listen: SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0),
            },
            peers,
            xdp: None,
            threads: ThreadsSection { verify: 1, net: 1 },
            store: StoreSection::default(),
            log: LogSection::default(),
        };
        self.nodes[i] = Some(Node::start(&config, Path::new("config.toml")).unwrap());
    }

    fn stop(&mut self, i: usize) {
        self.nodes[i].take().expect("it runs").stop();
    }

    /// `GET path` of a validator's HTTP API.
    fn get(&self, i: usize, path: &str) -> serde_json::Value {
        let addr = self.nodes[i].as_ref().expect("it runs").http_addr();
        let mut stream = TcpStream::connect(addr).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        serde_json::from_str(body).expect("JSON")
    }

    fn client(&self, i: usize) -> Client {
        let key = self.genesis.validators[i].key.clone();
        let config = ClientConfig::new(self.stoq[i], key, self.genesis.chain_id());
        Client::connect(&config).unwrap()
    }
}

fn logs() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}

/// Every optional rule of consensus.
fn all_flags() -> Params {
    Params {
        optimistic_proposals: true,
        commit_votes: true,
        leader_reputation: true,
        ..Params::default()
    }
}

#[test]
fn transfers_commit_and_a_proof_convinces() {
    commit_and_prove(Params::default());
}

/// What commit votes make final is proven by the blocks after it, to whoever asks.
#[test]
fn transfers_commit_by_votes_and_a_proof_convinces() {
    commit_and_prove(all_flags());
}

fn commit_and_prove(params: Params) {
    logs();
    let mut network = Network::with(4, params);
    (0..4).for_each(|i| network.start(i));
    let mut wallet = Wallet::new(rich(), network.genesis.chain_id(), 1);
    let to = KeyPair::from_seed(Scheme::Falcon512, &[8; 32])
        .public()
        .id();
    let transfers: Vec<_> = (0..50).map(|i| wallet.transfer(to, i + 1)).collect();
    let mut client = network.client(1);
    let fates = client.submit_and_wait(&transfers, PATIENCE).unwrap();
    for fate in &fates {
        assert_eq!(
            fate.receipt().map(|r| r.outcome),
            Some(Outcome::Executed),
            "{fate:?}"
        );
    }
    let genesis = network.genesis.clone();
    let proven = loop {
        // The state of the block is named by a header three blocks later.
        match client.proof(transfers[7].id(), &genesis, PATIENCE) {
            Ok((_, proven)) => break proven,
            Err(falconet_client::ClientError::NoProof(_)) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(proven.tx_id, transfers[7].id());
    assert_eq!(proven.outcome, Outcome::Executed);
    (0..4).for_each(|i| network.stop(i));
}

#[test]
fn three_of_four_commit_and_the_fourth_catches_up() {
    catch_up(Params::default());
}

#[test]
fn with_all_flags_three_of_four_commit_and_the_fourth_catches_up() {
    catch_up(all_flags());
}

fn catch_up(params: Params) {
    logs();
    let mut network = Network::with(4, params);
    (0..3).for_each(|i| network.start(i));
    let mut wallet = Wallet::new(rich(), network.genesis.chain_id(), 1);
    let to = KeyPair::from_seed(Scheme::Falcon512, &[8; 32])
        .public()
        .id();
    let mut client = network.client(0);
    let first: Vec<_> = (0..20).map(|i| wallet.transfer(to, i + 1)).collect();
    client.submit_and_wait(&first, PATIENCE).unwrap();
    network.start(3);
    let second: Vec<_> = (0..20).map(|i| wallet.transfer(to, i + 1)).collect();
    let mut late = network.client(3);
    for fate in late.submit_and_wait(&second, PATIENCE).unwrap() {
        assert_eq!(
            fate.receipt().map(|r| r.outcome),
            Some(Outcome::Executed),
            "{fate:?}"
        );
    }
    // The fourth answers for what was committed before it came.
    network.stop(0);
    network.start(0);
    let third: Vec<_> = (0..20).map(|i| wallet.transfer(to, i + 1)).collect();
    let mut again = network.client(0);
    for fate in again.submit_and_wait(&third, PATIENCE).unwrap() {
        assert_eq!(
            fate.receipt().map(|r| r.outcome),
            Some(Outcome::Executed),
            "{fate:?}"
        );
    }
    (0..4).for_each(|i| network.stop(i));
}

/// The home of the sender stops in the middle of its submissions.
#[test]
fn submissions_survive_the_loss_of_their_home() {
    logs();
    let mut network = Network::create(4);
    (0..4).for_each(|i| network.start(i));
    let validators = network.stoq.iter().zip(&network.genesis.validators);
    let config = PoolConfig {
        genesis: None,
        validators: validators.map(|(addr, v)| (*addr, v.key.clone())).collect(),
        chain_id: network.genesis.chain_id(),
        fail_over_after: Duration::from_secs(1),
    };
    let mut pool = Pool::open(&config).unwrap();
    let mut wallet = Wallet::new(rich(), network.genesis.chain_id(), 1);
    let home = pool.home(&wallet.id());
    assert_eq!(pool.others(), 2);
    let to = Digest([3; 32]);
    for round in 0..3 {
        let transfers: Vec<_> = (0..20).map(|i| wallet.transfer(to, i + 1)).collect();
        let fates = std::thread::scope(|scope| {
            if round == 1 {
                scope.spawn(|| network.stop(home));
            }
            pool.submit_and_wait(&transfers, PATIENCE).unwrap()
        });
        for (fate, tx) in fates.iter().zip(&transfers) {
            let receipt = fate.receipt().expect("executed");
            assert_eq!(
                (receipt.tx_id, receipt.outcome),
                (tx.id(), Outcome::Executed)
            );
            assert!(round < 2 || receipt.lane.at() != home);
        }
    }
    let left = (0..4).filter(|i| *i != home);
    left.for_each(|i| network.stop(i));
}

/// The fourth validator never runs: the test speaks with its key, and says two things at once.
#[test]
fn an_equivocator_is_punished() {
    logs();
    let params = Params {
        epoch_heights: 1 << 40,
        ..Params::default()
    };
    let mut network = Network::with(4, params);
    (0..3).for_each(|i| network.start(i));
    let key = keyfile::read(&network.path().join("3.key")).unwrap();
    let chain = network.genesis.chain_id();
    let mut config = StoqConfig::new(free_port(), chain);
    config.identity = Some(Arc::new(key.clone()));
    config.trusted = TrustedKeys::new(network.genesis.validators.iter().map(|v| &v.key));
    let (stoq, events) = Stoq::bind(config).unwrap();
    let target = PeerTarget {
        addr: network.stoq[0],
        key: network.genesis.validators[0].key.clone(),
        persistent: true,
    };
    stoq.handle().connect(target).unwrap();
    let conn = loop {
        if let Event::Connected { conn, .. } = events.recv().unwrap() {
            break conn;
        }
    };
    let vote = |round: u64, byte: u8| {
        let (block, index) = (Digest([byte; 32]), ValidatorIndex(3));
        let (round, parent) = (Round(round), Round(round - 1));
        Vote::sign(Epoch::ZERO, round, block, parent, index, chain, &key)
    };
    // Rounds go on meanwhile, so it says so about the present one until somebody heard it.
    let punished = loop {
        let status = network.get(0, "/v1/status");
        let round = status["round"].as_u64().expect("a round");
        for byte in [1, 2] {
            let message = PeerMessage::Vote(vote(round, byte));
            let (kind, payload) = (message.kind(), message.payload());
            // An error means that a queue is full; the next turn of the loop says it again.
            let _ = stoq.handle().send(conn, Channel::Control, kind, payload);
        }
        let validators = network.get(1, "/v1/validators");
        if validators["offences"][0]["burned"].as_u64().is_some() {
            break validators;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let stake = network.genesis.stake.unit;
    let offender = network.genesis.validators[3].key.id().to_string();
    assert_eq!(punished["offences"][0]["validator"], offender);
    assert_eq!(punished["offences"][0]["burned"], stake / 20);
    let candidates = punished["candidates"].as_array().unwrap();
    for row in candidates {
        let guilty = row["validator"] == offender;
        let left = if guilty { stake - stake / 20 } else { stake };
        assert_eq!(row["stake"], left);
        assert_eq!(row["barred_until"].as_u64() > Some(0), guilty);
    }
    drop(events);
    stoq.shutdown();
    (0..3).for_each(|i| network.stop(i));
}
