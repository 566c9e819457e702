//! Nodes beside the validators of `falconet testnet`, which follow them.

use std::fs::{self, File};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use falconet_bench::cluster::Testnet;
use falconet_crypto::keyfile;
use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::{KeyPair, Scheme};
use falconet_validator::config::{
    Config, HttpSection, LogSection, StoqSection, StoreSection, ThreadsSection,
};
use rustix::process::{Pid, Signal, kill_process};

use super::screen::Screen;
use crate::parent;

/// Running followers; ended when dropped.
pub struct Followers(Vec<Child>);

impl Followers {
    /// Starts `count` of them in directories beside the validators', each with a key of its own.
    pub fn start(
        testnet: &Testnet,
        exe: &Path,
        count: usize,
        screen: &Screen,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            count <= FOLLOWERS_MAX,
            "a validator serves {FOLLOWERS_MAX} followers; ask for fewer"
        );
        let mut followers = Self(Vec::with_capacity(count));
        for index in 0..count {
            let home = testnet.dir().join(format!("follower-{index}"));
            let http = prepare(testnet, &home)
                .with_context(|| format!("cannot prepare {}", home.display()))?;
            let log = File::options()
                .create(true)
                .append(true)
                .open(home.join("follower.log"))
                .context("cannot write a follower's log")?;
            let child = Command::new(exe)
                .args(["run", "--config"])
                .arg(home.join("falconet.toml"))
                .envs(parent::to_be_followed())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .context("cannot start a follower")?;
            followers.0.push(child);
            screen.line(&format!("follower {index}: http://{http}/v1/status"));
            if index == 0 && testnet.genesis().params.epoch_heights > 0 {
                screen.line(&format!(
                    "make it a validator: falconet validators join --config {} --name follower-0 \
                     --key {} --http http://{}",
                    home.join("falconet.toml").display(),
                    testnet.faucet_path().display(),
                    testnet.validators()[0].http,
                ));
            }
        }
        Ok(followers)
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for child in &self.0 {
            // An error means that it has ended already.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Writes key and configuration; the HTTP address. What a directory holds already stays: the
/// addresses may stand on the chain by now.
fn prepare(testnet: &Testnet, home: &Path) -> anyhow::Result<SocketAddrV6> {
    fs::create_dir_all(home)?;
    let key = home.join("validator.key");
    if !key.exists() {
        // As the validators', of whom it may become one.
        keyfile::write(&key, &KeyPair::generate(Scheme::Falcon1024))?;
    }
    let path = home.join("falconet.toml");
    let (stoq, http) = if path.exists() {
        let config = Config::load(&path)?;
        (config.stoq.listen, config.http.listen)
    } else {
        free_addresses()?
    };
    let validators = testnet.validators();
    let config = Config {
        genesis: "../genesis.json".into(),
        key: "validator.key".into(),
        data: "data".into(),
        stoq: StoqSection::new(stoq),
        http: HttpSection { listen: http },
        peers: validators
            .iter()
            .map(|v| (v.name.clone(), v.stoq))
            .collect(),
        xdp: None,
        threads: ThreadsSection::default(),
        store: StoreSection::default(),
        log: LogSection::default(),
    };
    fs::write(path, config.to_string())?;
    Ok(http)
}

/// Free a moment ago; a port that is taken since shows in the follower's log.
fn free_addresses() -> anyhow::Result<(SocketAddrV6, SocketAddrV6)> {
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let at = |port| SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
    let (udp, tcp) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
    Ok((at(udp.local_addr()?.port()), at(tcp.local_addr()?.port())))
}
