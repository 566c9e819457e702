//! The local configuration of one validator: addresses, paths, threads, logging. What must be
//! equal on every node lives in genesis instead.
//!
//! Paths are relative to the file that names them. Unknown keys are errors, so that a misspelt
//! setting cannot be ignored silently.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};

use falconet_dataplane::{Backend, DeviceName};
use falconet_ebpf::{Attach, Limits, PIN_ROOT};
use falconet_store::{SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use falconet_types::genesis::Genesis;
use serde::{Deserialize, Serialize};

/// Everything that `falconet run` needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The chain's genesis document.
    pub genesis: PathBuf,
    /// The validator's key file; locked while the validator runs.
    pub key: PathBuf,
    /// Directory of the durable data.
    pub data: PathBuf,
    /// The STOQ endpoint.
    pub stoq: StoqSection,
    /// The HTTP API.
    pub http: HttpSection,
    /// STOQ addresses of the other validators, by their names in genesis.
    #[serde(default)]
    pub peers: BTreeMap<String, SocketAddrV6>,
    /// The filter before the network stack; none without this section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<XdpSection>,
    /// Threads.
    #[serde(default)]
    pub threads: ThreadsSection,
    /// Durable storage.
    #[serde(default)]
    pub store: StoreSection,
    /// Logging.
    #[serde(default)]
    pub log: LogSection,
}

/// `[stoq]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoqSection {
    /// IPv6 address and UDP port.
    pub listen: SocketAddrV6,
    /// How datagrams travel between the kernel and the process.
    #[serde(default)]
    pub backend: IoBackend,
    /// The network device of backend `xdp`; without one, the device that has the address, or for
    /// `[::]` that of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// With backend `xdp`: how long the kernel polls the device for us instead of waiting for
    /// interrupts, microseconds; 0 leaves interrupts on.
    #[serde(default)]
    pub busy_poll_us: u32,
}

impl StoqSection {
    /// The best backend for an address.
    #[must_use]
    pub fn new(listen: SocketAddrV6) -> Self {
        Self {
            listen,
            backend: IoBackend::Auto,
            device: None,
            busy_poll_us: 0,
        }
    }
}

/// How datagrams travel between the kernel and the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoBackend {
    /// The best that the kernel permits without a device of its own: io_uring, else `mmsg`.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// `recvmmsg` and `sendmmsg` with segmentation offload.
    Mmsg,
    /// AF_XDP on one device, past the network stack; where that is impossible, as `auto`.
    Xdp,
}

impl IoBackend {
    pub(crate) fn choice(self) -> Backend {
        match self {
            Self::Auto => Backend::Auto,
            Self::IoUring => Backend::IoUring,
            Self::Mmsg => Backend::Mmsg,
            Self::Xdp => Backend::Xdp,
        }
    }
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    /// IPv6 address and TCP port.
    pub listen: SocketAddrV6,
}

/// `[xdp]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdpSection {
    /// The network device by which packets for the STOQ endpoint arrive.
    pub device: String,
    /// `auto`, `native`, `generic` or `tc`.
    #[serde(default)]
    pub mode: Attach,
    /// Directory of the filter's tables, on a BPF filesystem.
    #[serde(default = "default_pins")]
    pub pins: PathBuf,
    /// Budgets.
    #[serde(default)]
    pub limits: Limits,
}

fn default_pins() -> PathBuf {
    PIN_ROOT.into()
}

/// `[threads]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThreadsSection {
    /// Threads that verify signatures; 0 chooses from the number of cores.
    pub verify: usize,
    /// Network threads, each with its own socket and connections, at most 64; 0 chooses from the
    /// number of cores: one below eight cores, then one more for each eight, up to four.
    pub net: usize,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Size of a file of the log, bytes: 8 MiB to 1 GiB. History is deleted in whole files, so
    /// smaller ones keep less than is needed; larger ones are fewer.
    pub segment_bytes: u64,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

/// Cores that justify one more network thread; consensus and verification need the others.
const CORES_PER_NET_THREAD: usize = 8;

/// Network threads that are chosen by themselves; who wants more says so.
const NET_THREADS_CHOSEN_MAX: usize = 4;

impl ThreadsSection {
    /// The number of network threads to start.
    #[must_use]
    pub fn net_threads(&self) -> usize {
        if self.net > 0 {
            return self.net;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        net_threads_for(cores)
    }

    /// The number of verify threads to start.
    #[must_use]
    pub fn verify_threads(&self) -> usize {
        if self.verify > 0 {
            return self.verify;
        }
        // Network, core, store and execution have threads of their own.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores.saturating_sub(4).max(1)
    }
}

fn net_threads_for(cores: usize) -> usize {
    // From eight cores on there is one to spare for a second thread.
    let wanted = if cores < CORES_PER_NET_THREAD {
        1
    } else {
        cores / CORES_PER_NET_THREAD + 1
    };
    wanted.min(NET_THREADS_CHOSEN_MAX)
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,falconet_hotstuff=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Human,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One readable line an event.
    Human,
    /// One JSON object an event.
    Json,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}: {source}; check the path given by --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("configuration {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        message: String,
    },
    /// A named file does not exist.
    #[error("configuration {path}: {key} = {file:?} does not exist; create it or correct the path")]
    Missing {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The file that it names.
        file: PathBuf,
    },
    /// The peers do not fit genesis.
    #[error("configuration {path}: [peers] {message}")]
    Peers {
        /// The configuration file.
        path: PathBuf,
        /// What does not fit, and the remedy.
        message: String,
    },
}

impl Config {
    /// Reads a configuration, resolves its paths, and checks that the files exist.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        if let Some(device) = &config.stoq.device {
            device
                .parse::<DeviceName>()
                .map_err(|error| ConfigError::Parse {
                    path: path.to_owned(),
                    message: format!("stoq.device = {device:?}: {error}"),
                })?;
        }
        let segment_bytes = config.store.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            return Err(ConfigError::Parse {
                path: path.to_owned(),
                message: format!(
                    "store.segment_bytes = {segment_bytes}: between {SEGMENT_BYTES_MIN} and \
                     {SEGMENT_BYTES_MAX} are allowed"
                ),
            });
        }
        let base = path.parent().unwrap_or(Path::new("."));
        for file in [&mut config.genesis, &mut config.key, &mut config.data] {
            *file = base.join(&*file);
        }
        for (key, file) in [("genesis", &config.genesis), ("key", &config.key)] {
            if !file.exists() {
                return Err(ConfigError::Missing {
                    path: path.to_owned(),
                    key,
                    file: file.clone(),
                });
            }
        }
        Ok(config)
    }

    /// Checks that `[peers]` names every other validator of genesis and nobody else; of a node that
    /// is no validator (`me` is `None`), at least one.
    pub fn check_peers(
        &self,
        path: &Path,
        genesis: &Genesis,
        me: Option<&str>,
    ) -> Result<(), ConfigError> {
        let refuse = |message: String| {
            Err(ConfigError::Peers {
                path: path.to_owned(),
                message,
            })
        };
        for name in self.peers.keys() {
            if !genesis.validators.iter().any(|v| v.name == *name) {
                return refuse(format!(
                    "names {name:?}, which is no validator in {}; remove it or correct the name",
                    self.genesis.display()
                ));
            }
        }
        let Some(me) = me else {
            // A follower needs somebody to follow, and more than one against silence.
            return if self.peers.is_empty() {
                refuse("is empty; a node that follows needs addresses of validators".into())
            } else {
                Ok(())
            };
        };
        for validator in genesis.validators.iter().filter(|v| v.name != me) {
            if !self.peers.contains_key(&validator.name) {
                return refuse(format!(
                    "lacks an address for validator {0:?}; add {0:?} = \"[address]:port\"",
                    validator.name
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Config {
    /// The configuration as a TOML file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).expect("a configuration is valid TOML"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        genesis = "genesis.json"
        key = "validator.key"
        data = "data"
        [stoq]
        listen = "[::1]:26600"
        [http]
        listen = "[::1]:26700"
        [peers]
        validator-1 = "[::1]:26601"
    "#;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        for file in ["genesis.json", "validator.key"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn a_written_configuration_reads_back() {
        let config: Config = toml::from_str(GOOD).unwrap();
        assert_eq!(
            toml::from_str::<Config>(&config.to_string()).unwrap(),
            config
        );
        load(GOOD).unwrap();
    }

    #[test]
    fn network_threads_follow_the_cores_unless_set() {
        let chosen: Vec<usize> = [1, 2, 7, 8, 15, 16, 24, 128].map(net_threads_for).into();
        assert_eq!(chosen, [1, 1, 1, 2, 2, 3, 4, 4]);
        let set = ThreadsSection {
            net: 3,
            ..ThreadsSection::default()
        };
        assert_eq!(set.net_threads(), 3);
    }

    #[test]
    fn backends_are_chosen_by_name() {
        let with = |lines: &str| GOOD.replace("[http]", &format!("{lines}\n[http]"));
        let config = load(&with("backend = \"xdp\"\ndevice = \"eth0\"")).unwrap();
        assert_eq!(config.stoq.backend, IoBackend::Xdp);
        assert_eq!(config.stoq.device.as_deref(), Some("eth0"));
        let error = load(&with("backend = \"dpdk\"")).unwrap_err();
        assert!(error.to_string().contains("dpdk"), "{error}");
        let error = load(&with("device = \"no/device\"")).unwrap_err();
        assert!(error.to_string().contains("stoq.device"), "{error}");
    }

    #[test]
    fn a_filter_needs_no_more_than_a_device() {
        let text = GOOD.replace("[peers]", "[xdp]\ndevice = \"eth0\"\n[peers]");
        let xdp = load(&text).unwrap().xdp.unwrap();
        assert_eq!((xdp.mode, xdp.limits), (Attach::Auto, Limits::default()));
        assert_eq!(xdp.pins, Path::new(PIN_ROOT));
        assert!(load(&text.replace("device", "devise")).is_err());
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!(
            toml::from_str::<Config>(&config.to_string()).unwrap(),
            config
        );
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = load(&GOOD.replace("[peers]", "[threads]\nverfy = 2\n[peers]")).unwrap_err();
        assert!(error.to_string().contains("verfy"), "{error}");
    }

    #[test]
    fn bad_addresses_are_named() {
        let error = load(&GOOD.replace("[::1]:26600", "127.0.0.1:26600")).unwrap_err();
        assert!(error.to_string().contains("listen"), "{error}");
    }

    #[test]
    fn missing_files_are_named() {
        let error = load(&GOOD.replace("genesis.json", "nowhere.json")).unwrap_err();
        assert!(error.to_string().contains("nowhere.json"), "{error}");
    }
}
