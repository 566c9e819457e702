//! Where a local network lives: a fresh directory, or one that holds a network already.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, bail};
use falconet_bench::accounts::accounts_for_rate;
use falconet_bench::cluster::{BASE_PORT, HTTP_PORT_OFFSET, Testnet, TestnetSpec};
use falconet_bench::progress::OnProgress;
use falconet_bench::run::LoadKind;
use falconet_types::Scheme;

use crate::output;

use super::Args;
use super::screen::Screen;

/// Validators unless said otherwise.
const VALIDATORS: usize = 4;

/// A network's directory, kept from others while this lives.
pub struct Place {
    /// The network.
    pub testnet: Testnet,
    /// True when its chain has not begun yet.
    pub fresh_chain: bool,
    /// True when nobody asked to keep it.
    temporary: bool,
    dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes or opens the network that the arguments ask for.
    pub fn prepare(args: &Args, screen: &Screen, bars: OnProgress<'_>) -> anyhow::Result<Self> {
        let temporary = args.dir.is_none();
        let dir = args.dir.clone().unwrap_or_else(fresh_dir);
        let lock = lock(&dir)?;
        let fresh_chain = !Testnet::exists(&dir);
        let testnet = if fresh_chain {
            create(args, &dir, bars)?
        } else {
            reuse(args, &dir, screen)?
        };
        Ok(Self {
            testnet,
            fresh_chain,
            temporary,
            dir,
            _lock: lock,
        })
    }

    /// Removes a directory that nobody asked to keep; after a failure its logs stay.
    pub fn leave(&self, success: bool, screen: &Screen) {
        if !self.temporary {
            return;
        }
        if !success {
            screen.line(&format!(
                "the network's files and logs are in {}",
                self.dir.display()
            ));
        } else if let Err(error) = fs::remove_dir_all(&self.dir) {
            screen.line(&format!("cannot remove {}: {error}", self.dir.display()));
        } else {
            // Beside the directory, see `lock`.
            let _ = fs::remove_file(lock_path(&self.dir));
        }
    }
}

/// The number of validators that there will be.
pub fn validators(args: &Args) -> anyhow::Result<usize> {
    match &args.dir {
        Some(dir) if Testnet::exists(dir) => Ok(Testnet::open(dir)?.validators().len()),
        _ => Ok(args.validators.unwrap_or(VALIDATORS)),
    }
}

fn create(args: &Args, dir: &Path, bars: OnProgress<'_>) -> anyhow::Result<Testnet> {
    let load = args
        .scheme
        .unwrap_or(LoadKind::Transfers(Scheme::Falcon1024));
    let validators = args.validators.unwrap_or(VALIDATORS);
    let spec = TestnetSpec {
        validators,
        scheme: match load {
            LoadKind::Transfers(scheme) => scheme,
            LoadKind::Opaque => Scheme::Falcon1024,
        },
        application: load.application(),
        params: output::params(&args.params)?,
        base_port: base_port(args.base_port, validators),
        accounts: accounts_for_rate(args.load),
        ..TestnetSpec::new("testnet")
    };
    Ok(Testnet::create(dir, &spec, bars)?)
}

fn reuse(args: &Args, dir: &Path, screen: &Screen) -> anyhow::Result<Testnet> {
    let testnet = Testnet::open(dir)?;
    let validators = testnet.validators();
    let shown = dir.display();
    if args
        .validators
        .is_some_and(|wanted| wanted != validators.len())
    {
        bail!(
            "{shown} holds a network of {} validators; leave out --validators, or choose another \
             --dir",
            validators.len()
        );
    }
    if args
        .scheme
        .is_some_and(|wanted| wanted != LoadKind::of(&testnet))
    {
        bail!(
            "{shown} holds a network for {}; leave out --scheme, or choose another --dir",
            LoadKind::of(&testnet)
        );
    }
    if !args.params.is_empty() && output::params(&args.params)? != testnet.genesis().params {
        bail!(
            "{shown} holds a network with other parameters; leave out --param, or choose another --dir"
        );
    }
    screen.line(&format!("continuing the chain in {shown}"));
    Ok(testnet)
}

/// Moves the network to free ports when somebody listens on its own by now: another network may
/// have started since they were chosen.
pub fn settle_ports(args: &Args, testnet: &mut Testnet, screen: &Screen) -> anyhow::Result<()> {
    let validators = testnet.validators();
    let mut ports = validators.iter().map(|v| (v.stoq.port(), v.http.port()));
    let first = validators.first().map(|v| v.stoq.port());
    // In namespaces the addresses are others, see `Namespaces`.
    let is_here = validators.iter().all(|v| v.stoq.ip().is_loopback());
    let wanted = args.base_port.filter(|port| *port != 0);
    if wanted.is_some() && (wanted != first || !is_here) {
        testnet.assign_ports(wanted)?;
    } else if !is_here {
        testnet.assign_ports(None)?;
    } else if wanted.is_none() && !ports.all(|(stoq, http)| free(stoq, http)) {
        testnet.assign_ports(None)?;
        screen.line("others listen on the ports of this network: it moves to free ones");
    }
    Ok(())
}

/// The first port to count from; nothing for any free ports.
fn base_port(wanted: Option<u16>, validators: usize) -> Option<u16> {
    match wanted {
        Some(0) => None,
        Some(port) => Some(port),
        None => {
            let count = u16::try_from(validators)
                .unwrap_or(u16::MAX)
                .min(HTTP_PORT_OFFSET);
            let all =
                (BASE_PORT..BASE_PORT + count).all(|port| free(port, port + HTTP_PORT_OFFSET));
            all.then_some(BASE_PORT)
        }
    }
}

fn free(stoq: u16, http: u16) -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, stoq)).is_ok()
        && TcpListener::bind((Ipv6Addr::LOCALHOST, http)).is_ok()
}

/// A directory for this process alone, on a disk (temporary directories are often in memory, and
/// then syncing to disk means nothing).
fn fresh_dir() -> PathBuf {
    let var = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let state = var("XDG_STATE_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir);
    state
        .join("falconet")
        .join(format!("testnet-{}", process::id()))
}

/// The lock file lies beside the directory, so that an empty directory stays empty.
fn lock_path(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    dir.with_file_name(name)
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = lock_path(dir);
    let cannot = || format!("cannot create {}; choose another --dir", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(cannot)?;
    }
    let file = File::create(&path).with_context(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another testnet is running in {}; stop it, or choose another --dir",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}
