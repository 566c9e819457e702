//! A chain of validator processes on this machine, each of which a test may start, stop and kill.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use falconet_client::{Client, ClientConfig, Wallet};
use falconet_crypto::keyfile;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::{AccountId, ChainId, KeyPair, Scheme, TxId};
use falconet_validator::config::{
    Config, HttpSection, LogSection, StoqSection, StoreSection, ThreadsSection,
};
use serde_json::Value;

use crate::harness::{Running, free_ports, wait_for};

/// What each account owns at genesis.
pub const BALANCE: u64 = 1_000_000;
/// Lines of each log that a failed test prints.
const LOG_LINES: usize = 30;

/// Networks of several processes take turns: two at once on a small machine only slow each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for this test's turn.
pub fn turn() -> MutexGuard<'static, ()> {
    // A test that failed while it had its turn leaves nothing that could disturb the next.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chain with its validators.
pub struct Network {
    dir: tempfile::TempDir,
    /// The genesis document.
    pub genesis: Genesis,
    /// Keys of the funded accounts.
    pub accounts: Vec<KeyPair>,
    nodes: Vec<Node>,
    store: StoreSection,
    _turn: MutexGuard<'static, ()>,
}

struct Node {
    stoq: u16,
    http: u16,
    running: Option<Running>,
}

impl Network {
    /// Writes keys, genesis and configurations. Nothing runs yet.
    pub fn new(validators: usize, accounts: usize, scheme: Scheme) -> Self {
        Self::with_params(validators, accounts, scheme, Params::default())
    }

    /// The same with parameters of consensus.
    pub fn with_params(validators: usize, accounts: usize, scheme: Scheme, params: Params) -> Self {
        let store = StoreSection::default();
        Self::with(validators, accounts, scheme, params, store)
    }

    /// The same with parameters of consensus and of storage.
    pub fn with(
        validators: usize,
        accounts: usize,
        scheme: Scheme,
        params: Params,
        store: StoreSection,
    ) -> Self {
        Self::growing(validators, 0, accounts, scheme, params, store)
    }

    /// The same with nodes beside the validators of genesis, which may become validators.
    pub fn growing(
        validators: usize,
        others: usize,
        accounts: usize,
        scheme: Scheme,
        params: Params,
        store: StoreSection,
    ) -> Self {
        let turn = turn();
        let dir = tempfile::tempdir().unwrap();
        let key = |kind: u8, index: usize| {
            let mut seed = [kind; 32];
            seed[0] = u8::try_from(index).expect("few");
            KeyPair::from_seed(scheme, &seed)
        };
        let keys: Vec<KeyPair> = (0..validators + others).map(|i| key(1, i)).collect();
        let accounts: Vec<KeyPair> = (0..accounts).map(|i| key(2, i)).collect();
        let mut funded: Vec<GenesisAccount> = accounts
            .iter()
            .map(|key| GenesisAccount {
                id: key.public().id(),
                balance: BALANCE,
                key: Some(key.public().clone()),
            })
            .collect();
        funded.sort_by_key(|account| account.id);
        let genesis = Genesis {
            name: "test".into(),
            time_ms: now_ms(),
            application: ApplicationKind::Ledger,
            params,
            validators: keys[..validators]
                .iter()
                .enumerate()
                .map(|(i, key)| GenesisValidator {
                    name: name(i),
                    key: key.public().clone(),
                    weight: 1,
                    owner: accounts.get(i).map(|key| key.public().id()),
                    address: None,
                })
                .collect(),
            stake: StakeParams::default(),
            accounts: funded,
        };
        let text = serde_json::to_string_pretty(&genesis).unwrap();
        fs::write(dir.path().join("genesis.json"), text).unwrap();
        let nodes: Vec<Node> = keys
            .iter()
            .map(|_| {
                let [stoq, http] = free_ports();
                Node {
                    stoq,
                    http,
                    running: None,
                }
            })
            .collect();
        let network = Self {
            dir,
            genesis,
            accounts,
            nodes,
            store,
            _turn: turn,
        };
        for (i, key) in keys.iter().enumerate() {
            let home = network.home(i);
            fs::create_dir(&home).unwrap();
            keyfile::write(&home.join("validator.key"), key).unwrap();
            fs::write(home.join("config.toml"), network.config(i).to_string()).unwrap();
        }
        network
    }

    /// A network whose validators all run.
    pub fn running(validators: usize, accounts: usize, scheme: Scheme) -> Self {
        let mut network = Self::new(validators, accounts, scheme);
        for i in 0..validators {
            network.start(i);
        }
        network
    }

    /// The configuration of a validator.
    pub fn config(&self, me: usize) -> Config {
        let others = (0..self.genesis.validators.len()).filter(|other| *other != me);
        Config {
            genesis: "../genesis.json".into(),
            key: "validator.key".into(),
            data: "data".into(),
            stoq: StoqSection::new(self.stoq(me)),
            http: HttpSection {
                listen: local(self.nodes[me].http),
            },
            peers: others
                .map(|other| (name(other), self.stoq(other)))
                .collect::<BTreeMap<_, _>>(),
            xdp: None,
            threads: ThreadsSection::default(),
            store: self.store.clone(),
            log: LogSection::default(),
        }
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Directory of a validator: `config.toml`, `validator.key`, `data/`.
    pub fn home(&self, i: usize) -> PathBuf {
        self.dir.path().join(name(i))
    }

    /// STOQ address of a validator.
    pub fn stoq(&self, i: usize) -> SocketAddrV6 {
        local(self.nodes[i].stoq)
    }

    /// HTTP address of a validator, as `--http` takes it.
    pub fn url(&self, i: usize) -> String {
        format!("http://{}", local(self.nodes[i].http))
    }

    /// The chain's identity.
    pub fn chain_id(&self) -> ChainId {
        self.genesis.chain_id()
    }

    /// Starts a validator and waits until it accepts connections.
    pub fn start(&mut self, i: usize) {
        self.start_with(i, &[]);
    }

    /// The same with more arguments for `falconet run`.
    pub fn start_with(&mut self, i: usize, arguments: &[&str]) {
        assert!(self.nodes[i].running.is_none());
        let running = Running::start_with(&self.home(i), "config.toml", &[], arguments);
        // The index is that of the epoch in which it starts.
        let (validator, rest) = running.ready.split_once(" ready: ").expect("it is ready");
        let known = validator.starts_with("validator ") || validator == "follower";
        assert!(known, "{}", running.ready);
        assert_eq!(
            rest,
            format!(
                "stoq {}, http {url}, metrics {url}/metrics",
                self.stoq(i),
                url = self.url(i)
            )
        );
        self.nodes[i].running = Some(running);
    }

    /// kill -9.
    pub fn kill(&mut self, i: usize) {
        self.nodes[i].running.take().expect("it runs").kill();
    }

    /// The process of a running validator.
    pub fn pid(&self, i: usize) -> u32 {
        self.nodes[i].running.as_ref().expect("it runs").pid()
    }

    /// Stops every running validator; each must end well.
    pub fn stop(&mut self) {
        let running: Vec<Running> = self
            .nodes
            .iter_mut()
            .filter_map(|node| node.running.take())
            .collect();
        for node in &running {
            node.terminate();
        }
        for node in running {
            node.ends_well();
        }
    }

    /// Indices of the validators that run.
    pub fn up(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].running.is_some())
            .collect()
    }

    /// A STOQ client of a validator.
    pub fn client(&self, i: usize) -> Client {
        Client::connect(&self.client_config(i)).unwrap()
    }

    /// How to connect to a validator.
    pub fn client_config(&self, i: usize) -> ClientConfig {
        let key = self.genesis.validators[i].key.clone();
        let mut config = ClientConfig::new(self.stoq(i), key, self.chain_id());
        config.connect_timeout = Duration::from_secs(60);
        config
    }

    /// A wallet of a funded account that has sent nothing yet.
    pub fn wallet(&self, account: usize) -> Wallet {
        self.wallet_from(account, 1)
    }

    /// A wallet of a funded account whose first transaction has this nonce.
    pub fn wallet_from(&self, account: usize, nonce: u64) -> Wallet {
        Wallet::new(self.accounts[account].clone(), self.chain_id(), nonce)
    }

    /// The key of a funded account, as a file in the network's directory.
    pub fn account_file(&self, account: usize) -> String {
        let name = format!("account-{account}.key");
        let path = self.dir.path().join(&name);
        if !path.exists() {
            keyfile::write(&path, &self.accounts[account]).unwrap();
        }
        name
    }

    /// Id of a funded account.
    pub fn account(&self, account: usize) -> AccountId {
        self.accounts[account].public().id()
    }

    /// `GET path`: status and body.
    pub fn get(&self, i: usize, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.url(i));
        answer(agent().get(url).call()).expect("the validator answers")
    }

    /// `GET path` of something that is not JSON.
    pub fn text(&self, i: usize, path: &str) -> String {
        let url = format!("{}{path}", self.url(i));
        let answer = agent().get(url).call().expect("the validator answers");
        answer.into_body().read_to_string().expect("text")
    }

    /// SIGHUP.
    pub fn hang_up(&self, i: usize) {
        self.nodes[i].running.as_ref().expect("it runs").hang_up();
    }

    /// `POST /v1/transactions` with raw bytes: status and body. As every client does, it asks again
    /// while the validator is busy, which on a machine that has other work anybody may be.
    pub fn post(&self, i: usize, tx: &[u8]) -> (u16, Value) {
        const BUSY: u16 = 503;
        wait_for("a validator that is not busy", || {
            let (status, body) = self.try_post(i, tx).expect("the validator answers");
            (status != BUSY).then_some((status, body))
        })
    }

    /// The same, for requests after which the validator may break the connection.
    pub fn try_post(&self, i: usize, tx: &[u8]) -> Option<(u16, Value)> {
        let request = agent().post(format!("{}/v1/transactions", self.url(i)));
        answer(request.content_type("application/octet-stream").send(tx))
    }

    /// Where a transaction stands, as a validator sees it; nothing while it is unknown there.
    pub fn committed(&self, i: usize, id: TxId) -> Option<Value> {
        let (status, body) = self.get(i, &format!("/v1/transactions/{id}"));
        (status == 200 && body["status"] == "committed").then_some(body)
    }

    /// Balance of an account; `None` when it does not exist.
    pub fn balance(&self, i: usize, id: AccountId) -> Option<u64> {
        let (status, body) = self.get(i, &format!("/v1/accounts/{id}"));
        (status == 200).then(|| body["balance"].as_u64().expect("a number"))
    }

    /// Waits until every running validator has executed the highest block that any of them had
    /// committed, and compares their states there. Returns that height.
    #[track_caller]
    pub fn agree(&self) -> u64 {
        let status = |i: usize| self.get(i, "/v1/status").1;
        let number = |value: &Value, field: &str| value[field].as_u64().expect("a number");
        let up = self.up();
        let height = up
            .iter()
            .map(|i| number(&status(*i), "height"))
            .max()
            .expect("one runs");
        let commitments: Vec<(String, String)> = up
            .iter()
            .map(|i| {
                wait_for(&format!("validator {i} to execute height {height}"), || {
                    let status = status(*i);
                    (number(&status, "executed_height") >= height).then_some(())
                });
                let (_, block) = self.get(*i, &format!("/v1/blocks/{height}"));
                let text = |field: &str| block[field].as_str().expect("a text").to_owned();
                (text("id"), text("state_commitment"))
            })
            .collect();
        for (i, other) in up.iter().zip(&commitments) {
            assert_eq!(*other, commitments[0], "validator {i} at height {height}");
        }
        for i in up {
            let status = status(i);
            assert_eq!(
                status["evidence"], 0,
                "nobody signed two different things: {status}"
            );
            let signs = status["follower"] != true;
            assert_eq!(status["signing"], signs, "{status}");
        }
        height
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for i in 0..self.nodes.len() {
            let log = fs::read_to_string(self.home(i).join("config.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!(
                "--- the last of validator {i}'s log ---\n{}",
                tail.join("\n")
            );
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(since.as_millis()).expect("fits")
}

fn name(i: usize) -> String {
    format!("validator-{i}")
}

/// An address on this machine.
pub fn local(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into()
}

fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<(u16, Value)> {
    let mut answer = answer.ok()?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_vec().ok()?;
    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
