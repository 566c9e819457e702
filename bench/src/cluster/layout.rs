//! The directory of a local network.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_crypto::hash;
use falconet_crypto::keyfile::{self, KeyFileError};
use falconet_types::ChainId;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisError, GenesisValidator, Params, StakeParams,
};
use falconet_types::validators::VALIDATORS_MAX;
use serde::{Deserialize, Serialize};

use super::ports::{self, Addresses};
use crate::accounts::{self, AccountsError, LoadAccounts};
use crate::files;
use crate::load::Target;
use crate::progress::{OnProgress, Progress};

/// Balance of the account for people.
pub const FAUCET_BALANCE: u64 = 1_000_000_000_000;
const MANIFEST: &str = "testnet.json";
const MANIFEST_VERSION: u32 = 1;
const FILE_MODE: u32 = 0o644;

/// What a local network is made of.
#[derive(Debug, Clone)]
pub struct TestnetSpec {
    /// Name in genesis.
    pub name: String,
    /// Number of validators.
    pub validators: usize,
    /// Scheme of the load accounts and of the faucet. Validators always have FALCON-1024.
    pub scheme: Scheme,
    /// What the chain executes.
    pub application: ApplicationKind,
    /// Consensus parameters.
    pub params: Params,
    /// First port; without one, ports that are free.
    pub base_port: Option<u16>,
    /// Number of load accounts; ignored when the application is opaque.
    pub accounts: usize,
}

impl TestnetSpec {
    /// Four validators with a ledger and 64 FALCON-1024 load accounts, on free ports.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            validators: 4,
            scheme: Scheme::Falcon1024,
            application: ApplicationKind::Ledger,
            params: Params::default(),
            base_port: None,
            accounts: accounts::accounts_for_rate(0),
        }
    }
}

/// Why a directory cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum TestnetError {
    /// Too few or too many.
    #[error("{0} validators asked for; choose between 1 and {VALIDATORS_MAX}")]
    Validators(usize),
    /// The ports do not fit.
    #[error(
        "ports from {base} do not fit {validators} validators: STOQ takes {base} upwards, HTTP \
         the same plus {}; choose a smaller --base-port, or none for free ports",
        ports::HTTP_PORT_OFFSET
    )]
    Ports {
        /// First port.
        base: u16,
        /// Number of validators.
        validators: usize,
    },
    /// Something is there.
    #[error("{} exists and is not empty; open it as it is, remove it, or choose another --dir", .0.display())]
    NotEmpty(PathBuf),
    /// No network there.
    #[error("{} holds no local network (no {MANIFEST}); create one there first", .0.display())]
    Absent(PathBuf),
    /// The description cannot be used.
    #[error("{} is not valid ({reason}); remove the directory and create the network again", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// Load accounts.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
}

/// What `testnet.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// The chain, hexadecimal.
    pub chain_id: String,
    /// Scheme of the accounts: `falcon512` or `falcon1024`.
    pub scheme: String,
    /// Number of load accounts.
    pub accounts: usize,
    /// Their seed, hexadecimal.
    pub accounts_seed: String,
    /// Where the validators listen.
    pub validators: Vec<ManifestValidator>,
}

/// One validator in `testnet.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestValidator {
    /// Its name in genesis and the name of its directory.
    pub name: String,
    /// STOQ address.
    pub stoq: SocketAddrV6,
    /// HTTP address.
    pub http: SocketAddrV6,
}

/// The files and addresses of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorFiles {
    /// Its index.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its key file.
    pub key: PathBuf,
    /// Its durable data.
    pub data: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// STOQ address.
    pub stoq: SocketAddrV6,
    /// HTTP address.
    pub http: SocketAddrV6,
}

/// The directory of a local network.
#[derive(Debug, Clone)]
pub struct Testnet {
    dir: PathBuf,
    manifest: Manifest,
    genesis: Genesis,
    chain_id: ChainId,
    scheme: Scheme,
    /// I/O backend in the configurations; without one each validator chooses.
    backend: Option<String>,
    /// Devices whose pinned filters the validators look after, one for each; empty for none.
    filtered: Vec<String>,
}

impl Testnet {
    /// Makes keys, genesis and configurations in a directory that is absent or empty. The
    /// description is written last, so a directory with one is complete.
    pub fn create(
        dir: &Path,
        spec: &TestnetSpec,
        progress: OnProgress<'_>,
    ) -> Result<Self, TestnetError> {
        let count = spec.validators;
        if count == 0 || count > VALIDATORS_MAX {
            return Err(TestnetError::Validators(count));
        }
        let addresses = addresses(spec.base_port, count)?;
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(TestnetError::NotEmpty(dir.to_owned()));
        }
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let time_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);

        let mut validators = Vec::with_capacity(count);
        let mut listed = Vec::with_capacity(count);
        for (index, at) in addresses.iter().enumerate() {
            let name = format!("validator-{index}");
            let home = dir.join(&name);
            fs::create_dir_all(&home).map_err(|e| io_error("create", &home, e))?;
            let key = KeyPair::generate(Scheme::Falcon1024);
            keyfile::write(&home.join("validator.key"), &key)?;
            validators.push(GenesisValidator {
                name: name.clone(),
                key: key.public().clone(),
                weight: 1,
                owner: None,
                address: None,
            });
            listed.push(ManifestValidator {
                name,
                stoq: at.stoq,
                http: at.http,
            });
            let (done, total) = (index as u64 + 1, count as u64);
            progress(Progress::Step {
                what: "making validator keys",
                done,
                total,
            });
        }

        let ledger = spec.application == ApplicationKind::Ledger;
        let faucet_path = dir.join("faucet.key");
        let faucet = ledger
            .then(|| faucet(&faucet_path, spec.scheme))
            .transpose()?;
        for validator in &mut validators {
            // Whoever has the faucet decides about the stake.
            validator.owner = faucet.as_ref().map(|account| account.id);
        }
        // The seed only keeps apart networks that share a cache directory.
        let first_key = validators[0].key.id();
        let seed = hash::hash(
            "falconet/testnet-seed",
            &[first_key.as_ref(), &time_ms.to_le_bytes()],
        );
        let mut funded = Vec::new();
        if ledger {
            let accounts = LoadAccounts::generate(
                spec.scheme,
                spec.accounts,
                seed.as_bytes(),
                Some(&dir.join("load")),
                progress,
            )?;
            funded = accounts.genesis_accounts(accounts::BALANCE);
            funded.extend(faucet);
            funded.sort_by_key(|account| account.id);
        }
        let genesis = Genesis {
            name: spec.name.clone(),
            time_ms,
            application: spec.application,
            params: spec.params.clone(),
            validators,
            stake: StakeParams::default(),
            accounts: funded,
        };
        genesis.check()?;
        let chain_id = genesis.chain_id();
        let path = dir.join("genesis.json");
        let json = serde_json::to_vec_pretty(&genesis).expect("genesis is plain data");
        files::replace(&path, &json, FILE_MODE).map_err(|e| io_error("write", &path, e))?;
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            chain_id: chain_id.to_string(),
            scheme: spec.scheme.to_string(),
            accounts: if ledger { spec.accounts } else { 0 },
            accounts_seed: seed.to_string(),
            validators: listed,
        };
        let testnet = Self {
            dir: dir.to_owned(),
            manifest,
            genesis,
            chain_id,
            scheme: spec.scheme,
            backend: None,
            filtered: Vec::new(),
        };
        testnet.write_addresses()?;
        Ok(testnet)
    }

    /// Opens a directory that [`Testnet::create`] made.
    pub fn open(dir: &Path) -> Result<Self, TestnetError> {
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TestnetError::Absent(dir.to_owned()));
            }
            Err(error) => return Err(io_error("read", &path, error)),
        };
        let invalid = |reason: String| TestnetError::Manifest {
            path: path.clone(),
            reason,
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if manifest.version != MANIFEST_VERSION {
            return Err(invalid(format!("unknown version {}", manifest.version)));
        }
        let scheme = manifest
            .scheme
            .parse()
            .map_err(|error| invalid(format!("{error}")))?;
        let genesis = Genesis::load(&dir.join("genesis.json"))?;
        let chain_id = genesis.chain_id();
        if chain_id.to_string() != manifest.chain_id {
            return Err(invalid("genesis.json is of another chain".into()));
        }
        let names = genesis.validators.iter().map(|v| &v.name);
        if !names.eq(manifest.validators.iter().map(|v| &v.name)) {
            return Err(invalid(
                "its validators are not those of genesis.json".into(),
            ));
        }
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            genesis,
            chain_id,
            scheme,
            backend: None,
            filtered: Vec::new(),
        })
    }

    /// Whether a directory holds a network.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(MANIFEST).exists()
    }

    /// Moves the validators to other ports and rewrites their configurations.
    pub fn assign_ports(&mut self, base_port: Option<u16>) -> Result<(), TestnetError> {
        let addresses = addresses(base_port, self.manifest.validators.len())?;
        for (validator, at) in self.manifest.validators.iter_mut().zip(addresses) {
            (validator.stoq, validator.http) = (at.stoq, at.http);
        }
        self.write_addresses()
    }

    /// Moves the validators to these addresses, STOQ and HTTP, and rewrites their configurations.
    ///
    /// # Panics
    /// When there are not as many as validators.
    pub fn assign_addresses(
        &mut self,
        listens: &[(SocketAddrV6, SocketAddrV6)],
    ) -> Result<(), TestnetError> {
        assert_eq!(listens.len(), self.manifest.validators.len());
        for (validator, at) in self.manifest.validators.iter_mut().zip(listens) {
            (validator.stoq, validator.http) = *at;
        }
        self.write_addresses()
    }

    /// Chooses how the validators' datagrams travel (`[stoq] backend` of their configurations) and
    /// rewrites these.
    pub fn assign_backend(&mut self, backend: Option<&str>) -> Result<(), TestnetError> {
        self.backend = backend.map(str::to_owned);
        self.write_addresses()
    }

    /// Gives each validator the care of the filter of a device (`[xdp]` of its configuration), or
    /// with none of no filter, and rewrites the configurations.
    ///
    /// # Panics
    /// When there are devices, and not as many as validators.
    pub fn assign_filters(&mut self, devices: Vec<String>) -> Result<(), TestnetError> {
        assert!(devices.is_empty() || devices.len() == self.manifest.validators.len());
        self.filtered = devices;
        self.write_addresses()
    }

    /// Removes what the validators stored and logged: the next start begins at genesis, with the same keys.
    /// Only for networks of which nothing else is left running or stored anywhere: a validator
    /// that forgets what it signed may contradict itself.
    pub fn wipe_data(&self) -> Result<(), TestnetError> {
        for validator in self.validators() {
            for (result, path) in [
                (fs::remove_dir_all(&validator.data), &validator.data),
                (fs::remove_file(&validator.log), &validator.log),
            ] {
                match result {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error("remove", path, error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Genesis.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The chain.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// Scheme of the accounts.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The genesis file.
    #[must_use]
    pub fn genesis_path(&self) -> PathBuf {
        self.dir.join("genesis.json")
    }

    /// The key file of the funded account for people; absent when the application is opaque.
    #[must_use]
    pub fn faucet_path(&self) -> PathBuf {
        self.dir.join("faucet.key")
    }

    /// Where the load generator keeps keys and transfers.
    #[must_use]
    pub fn load_dir(&self) -> PathBuf {
        self.dir.join("load")
    }

    /// Number of load accounts.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.manifest.accounts
    }

    /// The load accounts that genesis funds.
    pub fn load_accounts(&self, progress: OnProgress<'_>) -> Result<LoadAccounts, TestnetError> {
        let seed: hash::Digest = self.manifest.accounts_seed.parse().map_err(|_| {
            let path = self.dir.join(MANIFEST);
            TestnetError::Manifest {
                path,
                reason: "accounts_seed is not a digest".into(),
            }
        })?;
        let cache = self.load_dir();
        let count = self.manifest.accounts;
        Ok(LoadAccounts::generate(
            self.scheme,
            count,
            seed.as_bytes(),
            Some(&cache),
            progress,
        )?)
    }

    /// The validators, in the order of their indices.
    #[must_use]
    pub fn validators(&self) -> Vec<ValidatorFiles> {
        let files = |(index, listed): (usize, &ManifestValidator)| {
            let dir = self.dir.join(&listed.name);
            ValidatorFiles {
                index,
                name: listed.name.clone(),
                config: dir.join("falconet.toml"),
                key: dir.join("validator.key"),
                data: dir.join("data"),
                log: dir.join("validator.log"),
                stoq: listed.stoq,
                http: listed.http,
                dir,
            }
        };
        self.manifest
            .validators
            .iter()
            .enumerate()
            .map(files)
            .collect()
    }

    /// The validators as targets of a load.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let keys = self.genesis.validators.iter().map(|v| v.key.clone());
        let addresses = self.manifest.validators.iter().map(|v| v.stoq);
        addresses
            .zip(keys)
            .map(|(addr, key)| Target { addr, key })
            .collect()
    }

    /// Writes all configurations, then the description.
    fn write_addresses(&self) -> Result<(), TestnetError> {
        for validator in self.validators() {
            let text = self.config_text(&validator);
            files::replace(&validator.config, text.as_bytes(), FILE_MODE)
                .map_err(|e| io_error("write", &validator.config, e))?;
        }
        let path = self.dir.join(MANIFEST);
        let json = serde_json::to_vec_pretty(&self.manifest).expect("plain data");
        files::replace(&path, &json, FILE_MODE).map_err(|e| io_error("write", &path, e))
    }

    fn config_text(&self, validator: &ValidatorFiles) -> String {
        let backend = match &self.backend {
            Some(backend) => format!("backend = \"{backend}\"\n"),
            None => String::new(),
        };
        let xdp = match self.filtered.get(validator.index) {
            Some(device) => format!("[xdp]\ndevice = \"{device}\"\n\n"),
            None => String::new(),
        };
        let mut text = format!(
            "# {}, made by `falconet testnet`. Paths are relative to this file.\n\
             genesis = \"../genesis.json\"\n\
             key = \"validator.key\"\n\
             data = \"data\"\n\n\
             [stoq]\n\
             listen = \"{}\"\n{backend}\n\
             [http]\n\
             listen = \"{}\"\n\n{xdp}\
             [peers]\n",
            validator.name, validator.stoq, validator.http
        );
        for peer in self
            .manifest
            .validators
            .iter()
            .filter(|peer| peer.name != validator.name)
        {
            let _ = writeln!(text, "{} = \"{}\"", peer.name, peer.stoq);
        }
        text
    }
}

fn addresses(base_port: Option<u16>, validators: usize) -> Result<Vec<Addresses>, TestnetError> {
    match base_port {
        Some(base) => {
            ports::counted(base, validators).ok_or(TestnetError::Ports { base, validators })
        }
        None => ports::free(validators)
            .map_err(|source| io_error("find free ports on", Path::new("[::1]"), source)),
    }
}

fn faucet(path: &Path, scheme: Scheme) -> Result<GenesisAccount, TestnetError> {
    let key = KeyPair::generate(scheme);
    keyfile::write(path, &key)?;
    Ok(GenesisAccount {
        id: key.public().id(),
        balance: FAUCET_BALANCE,
        key: Some(key.public().clone()),
    })
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> TestnetError {
    TestnetError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
